"""One connection to a server, from its greeting to its end: commands, streams, native batches. No retries.

After any exception the connection is useless, because answers to what was sent may still arrive: abandon it.
Exceptions are InvokeError for what the server refused and OSError for the rest.

A connection asks for the server's headers only where they are of use: whoever has one report to send saves the round
trip. Servers before BitBake 2.8 never answer the question, which is a SilentHeadersError.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from shardhash_bitbake import batch
from shardhash_bitbake.channel import Channel
from shardhash_bitbake.errors import InvokeError, ProtocolError, SilentHeadersError

GREETING = b"OEHASHEQUIV 1.1"
HEADERS_WITHIN = 0.8
"""Seconds that a server gets to answer with its headers. A slow one taken for an old one loses only speed."""
HEADER_LIMIT = 64
GUESSES_OFFER = ("shardhash-guess", "1")
MOST_GUESSED = 1000
"""Tasks in one request for guesses."""
VARIANTS = 4
"""Guesses for a task that a server gives at most."""
BLOCK = 16384
"""Hashes in one request of a native batch."""
JSON_BLOCK = 5000
"""The same, of up to 128 digits, of a batch in JSON, of which servers take 768 KiB."""
_REFUSAL = b'{"invoke-error"'
_ANSWER_SIZE = 100
"""Bytes that a question and its answer take, about."""

Pair = tuple[str, str]
"""Method and taskhash."""


class Connection:
    """A connection that greets with its first request."""

    def __init__(self, channel: Channel, *, ask_headers: bool) -> None:
        self._channel = channel
        self._mode: str | None = None
        self.asked_headers = ask_headers
        self.native = False
        """Whether the server offers native batches..."""
        self.guesses = False
        """...and guesses."""
        channel.send_lines([GREETING, b"needs-headers: " + (b"true" if ask_headers else b"false"), b""])
        if ask_headers:
            self._receive_headers()

    def _receive_headers(self) -> None:
        for number in range(HEADER_LIMIT + 1):
            try:
                line = self._channel.receive_line(None if number else HEADERS_WITHIN)
            except TimeoutError:
                if number:
                    raise
                raise SilentHeadersError("the server does not answer with its headers") from None
            if not line:
                return
            tag, colon, value = line.decode("utf-8", "replace").partition(":")
            if not colon:
                raise ProtocolError(f"the server sent {line[:80]!r} where a header line is expected")
            offer = tag.strip().lower(), value.strip()
            self.native = self.native or offer == batch.OFFER
            self.guesses = self.guesses or offer == GUESSES_OFFER
        raise ProtocolError(f"the server sent more than {HEADER_LIMIT} header lines")

    def invoke(self, request: object) -> Any:
        """The answer to one command."""
        return self.invoke_all([request])[0]

    def invoke_all(self, requests: Sequence[object]) -> list[Any]:
        """The answers to several commands, which are sent at once."""
        messages = [json.dumps(request).encode() for request in requests]
        self._channel.begin(sum(map(len, messages)) + _ANSWER_SIZE * len(messages))
        self._enter(None)
        for message in messages:
            self._channel.send_message(message)
        return [_unwrap(self._channel.receive_message()) for _ in messages]

    def guess(self, method: str, tasks: Sequence[Pair]) -> list[tuple[list[Pair], bool]]:
        """For each (PN, task) the (taskhash, unihash) of its last reports, newest first, and whether these are all."""
        if not self.guesses:
            return [([], False) for _ in tasks]
        blocks = [tasks[at : at + MOST_GUESSED] for at in range(0, len(tasks), MOST_GUESSED)]
        found: list[tuple[list[Pair], bool]] = []
        answers = self.invoke_all([{"guess": {"method": method, "tasks": block}} for block in blocks])
        for block, answer in zip(blocks, answers):
            complete = isinstance(answer, dict) and answer.get("complete") is True
            for item in _list(answer, "guesses", len(block)):
                variants = _variants(item)
                found.append((variants, complete and len(variants) < VARIANTS))
        return found

    # -- questions -----------------------------------------------------------------------------------------------

    def get(self, pairs: Sequence[Pair]) -> list[str | None]:
        """The unihash of each (method, taskhash), or None."""
        self._channel.begin(_ANSWER_SIZE * len(pairs))
        if not self.native:
            lines = [f"{method} {taskhash}".encode() for method, taskhash in pairs]
            return [_unihash(answer) for answer in self._stream("get-stream", lines)]
        answers: list[str | None] = [None] * len(pairs)
        for (method, digests), places in _group(pairs).items():
            found = self._get_native(method, [pairs[place][1] for place in places], frames=digests)
            for place, unihash in zip(places, found):
                answers[place] = unihash
        return answers

    def _get_native(self, method: str, taskhashes: list[str], *, frames: bool) -> list[str | None]:
        self._enter(None)
        frames = frames and self._channel.binary
        blocks = _blocks(taskhashes, frames=frames)
        found: list[str | None] = []
        for block in blocks:
            if frames:
                self._channel.send_frame(batch.encode_request(batch.GET, method, block))
            else:
                self._send({"get-batch": {"method": method, "taskhashes": block}})
        for block in blocks:
            answer = self._channel.receive_message()
            if frames and not answer.startswith(b"{"):
                found += batch.decode_unihashes(answer, len(block))
            else:
                found += [_check_unihash(item) for item in _list(_unwrap(answer), "unihashes", len(block))]
        return found

    def exists(self, unihashes: Sequence[str]) -> list[bool]:
        """Whether each is the unihash of some task."""
        self._channel.begin(_ANSWER_SIZE * len(unihashes))
        if not self.native:
            return [_truth(answer) for answer in self._stream("exists-stream", [text.encode() for text in unihashes])]
        self._enter(None)
        frames = self._channel.binary and all(map(batch.is_hash, unihashes))
        blocks = _blocks(unihashes, frames=frames)
        for block in blocks:
            if frames:
                self._channel.send_frame(batch.encode_request(batch.EXISTS, "", block))
            else:
                self._send({"exists-batch": {"unihashes": list(block)}})
        found: list[bool] = []
        for block in blocks:
            answer = self._channel.receive_message()
            if frames and not answer.startswith(b"{"):
                found += batch.decode_exists(answer, len(block))
            else:
                found += [item is True for item in _list(_unwrap(answer), "exists", len(block))]
        return found

    def _stream(self, command: str, lines: list[bytes]) -> Iterable[bytes]:
        self._enter(command)
        self._channel.send_lines(lines)
        return [self._channel.receive_line() for _ in lines]

    def _enter(self, mode: str | None) -> None:
        """Enter the stream mode of a command, or (None) command mode.

        The answer is awaited before lines follow: lines under way to a server that refuses would make its kernel
        throw the refusal away.
        """
        if self._mode == mode:
            return
        if self._mode is not None:
            self._channel.send_lines([b"END"])
            line = self._channel.receive_line()
            if line != b"ok":
                raise ProtocolError(f"the server answered END by {line[:80]!r}; expected 'ok'")
            self._mode = None
        if mode is not None:
            self._send({mode: None})
            answer = _unwrap(self._channel.receive_message())
            if answer != "ok":
                raise ProtocolError(f"the server answered {mode} by {str(answer)[:80]!r}; expected 'ok'")
            self._mode = mode

    def _send(self, request: object) -> None:
        self._channel.send_message(json.dumps(request).encode())

    def close(self) -> None:
        """Leave in good order. Not after a failure."""
        self._channel.close()

    def abandon(self) -> None:
        """Close without a word."""
        self._channel.abandon()


def _blocks(hashes: Sequence[str], *, frames: bool) -> list[Sequence[str]]:
    """The hashes of each request."""
    size = BLOCK if frames else JSON_BLOCK
    return [hashes[at : at + size] for at in range(0, len(hashes), size)]


def _group(pairs: Sequence[Pair]) -> dict[tuple[str, bool], list[int]]:
    """The places of pairs, by method and by whether the taskhash fits into a frame; about 0.4 us a pair."""
    groups: dict[tuple[str, bool], list[int]] = {}
    for place, (method, taskhash) in enumerate(pairs):
        groups.setdefault((method, batch.is_hash(taskhash)), []).append(place)
    return groups


def _unwrap(message: bytes) -> Any:
    """The value of an answer. Raises InvokeError if it is a refusal."""
    try:
        answer = json.loads(message)
    except ValueError:
        raise ProtocolError(f"the server sent {message[:80]!r} where JSON is due") from None
    if isinstance(answer, dict) and isinstance(answer.get("invoke-error"), dict):
        raise InvokeError(str(answer["invoke-error"].get("message", "refused without a reason")))
    return answer


def _list(answer: object, key: str, count: int) -> list[Any]:
    items = answer.get(key) if isinstance(answer, dict) else None
    if not isinstance(items, list) or len(items) != count:
        raise ProtocolError(f"the server answered a batch of {count} without {count} {key}")
    return items


def _variants(item: object) -> list[Pair]:
    """The (taskhash, unihash) of one task."""
    try:
        pairs = [(taskhash, unihash or taskhash) for taskhash, unihash in item]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        pairs = [("", "")]
    if not all(batch.is_hash(taskhash) and batch.is_hash(unihash) for taskhash, unihash in pairs):
        raise ProtocolError(f"the server sent {str(item)[:80]!r} where pairs of taskhash and unihash are due")
    return pairs


def _unihash(line: bytes) -> str | None:
    """The unihash in a line of a stream, None for an empty one."""
    if line.startswith(_REFUSAL):
        _unwrap(line)
    return _check_unihash(line.decode("utf-8", "replace") or None)


def _check_unihash(unihash: str | None) -> str | None:
    if unihash is not None and not batch.is_hash(unihash):
        raise ProtocolError(f"the server sent {str(unihash)[:80]!r} where a unihash of 64 hex digits is due")
    return unihash


def _truth(line: bytes) -> bool:
    if line.startswith(_REFUSAL):
        _unwrap(line)
    if line not in (b"true", b"false"):
        raise ProtocolError(f"the server sent {line[:80]!r} where true or false is due")
    return line == b"true"

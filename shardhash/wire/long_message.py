"""Long requests, read as they come in: none of their parts, nor their end, takes longer than a short request.

A request is long by its outhash_siginfo texts, or it is refused: without them it has at most `MOST_REST` bytes. It is
read a block at a time:

1. A block ends where neither a character nor an escape is cut in two, so it can be looked at by itself.
2. Its quotes, but for those that are escaped, tell whether its end is inside a text.
3. A block that lies wholly within one text belongs to a long one. That is taken out of the request, from its opening to
   its closing quote, and kept as a LongText if its key is outhash_siginfo. Any other is cut off there: no other field
   takes as much, and those that are never refused for their length take its beginning.
4. At the end what is left is parsed as any request, with the name of a text where one was taken out, and the texts are
   put back.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from typing import Any

import orjson

from shardhash.errors import InvalidRequestError, LimitError
from shardhash.wire import jsontext
from shardhash.wire.framing import ValueCount, count_signs, without_escapes
from shardhash.wire.long_text import PART, LongText, character_end
from shardhash.wire.rows import SIGINFO

BLOCK = 16 * 1024
"""Bytes of a block, about; so a text of twice as many is always taken out."""
MOST_REST = 3 << 18
"""Bytes of a request without its long texts: 1,600 reports, or 11,000 hashes, which take 2 ms."""
_KEY = re.compile(rb'"' + SIGINFO.encode() + rb'"\s*:\s*\Z')
_WHOLE_KEY = re.compile(rb'"token"\s*:\s*\Z')
"""Of a text of which no beginning may pass for it."""
_LONGEST_KEY = 64
_NAME = secrets.token_hex(16)
_ESCAPE = 6
"""Bytes of the longest escape, backslash-u-XXXX."""
_HIGH = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}")


class LongMessage:
    """One request. Feed it all of its bytes, in any pieces; what it holds is `size` bytes, about."""

    def __init__(self, most: int, most_values: int) -> None:
        """`most`: bytes of the whole; `most_values`: JSON values of what is left of it."""
        self.size = 0
        self._most = most
        self._most_values = most_values
        self._signs = 0
        self._values: ValueCount | None = None
        """Only if there are more signs of values than that, some of which may be in texts."""
        self._buffer = bytearray()
        self._rest = bytearray()
        self._inside = False
        """Whether the end of `_rest` is inside a text, whose opening quote is at `_opened`."""
        self._opened = 0
        self._texts: list[LongText] = []
        self._parts: list[bytes] | None = None
        """Of the long text that is open."""
        self._cut_off = False
        """Whether one is open that is not kept."""

    def feed(self, data: bytes) -> None:
        """Take some bytes. Raises LimitError and InvalidRequestError."""
        self.size += len(data)
        if self.size > self._most:
            raise LimitError(f"a message is longer than {self._most} bytes", "message")
        self._buffer += data
        start = 0
        while len(self._buffer) - start > BLOCK + _ESCAPE:
            end = _safe_end(self._buffer, start, start + BLOCK)
            self._take(bytes(self._buffer[start:end]))
            start = end
        del self._buffer[:start]

    def finish(self) -> Any:
        """The JSON value. Raises as `feed`."""
        self._take(bytes(self._buffer))
        message = jsontext.decode(bytes(self._rest))
        if self._texts and isinstance(message, dict):
            self._put_back(message)
        return message

    def _take(self, block: bytes) -> None:
        plain = without_escapes(block)
        if self._parts is not None or self._cut_off:
            end = plain.find(b'"')
            if self._parts is not None:
                _append(self._parts, _decode(block if end < 0 else block[:end]))
            if end < 0:
                return
            self._close()
            block, plain = block[end:], plain[end:]
        elif self._inside and b'"' not in plain:
            self._open(block)
            return
        self._count_values(plain)
        quotes = plain.count(b'"')
        if quotes:
            self._inside ^= bool(quotes & 1)
            self._opened = len(self._rest) + plain.rfind(b'"')
        self._keep(block)

    def _count_values(self, plain: bytes) -> None:
        """Count those of a block that is about to be kept."""
        if self._values is None:
            self._signs += count_signs(plain)
            if self._signs <= self._most_values:
                return
            self._values = ValueCount(self._most_values)
            self._values.add(without_escapes(bytes(self._rest)))
        self._values.add(plain, inside=self._inside)

    def _keep(self, block: bytes) -> None:
        self._rest += block
        if len(self._rest) > MOST_REST:
            what = f"without the {SIGINFO} of reports"
            raise InvalidRequestError(f"a request has at most {MOST_REST >> 10} KiB {what}; send it as several")

    def _open(self, block: bytes) -> None:
        """A block lies wholly within the text that is open."""
        key_begins = max(0, self._opened - _LONGEST_KEY)
        if _WHOLE_KEY.search(self._rest, key_begins, self._opened):
            self._keep(block)
            return
        if not _KEY.search(self._rest, key_begins, self._opened):
            self._cut_off = True
            return
        begin = self._opened + 1
        self._parts = [_decode(bytes(self._rest[begin:])), _decode(block)]
        self._rest[begin:] = _name(len(self._texts)).encode()

    def _close(self) -> None:
        if self._parts is not None:
            self._texts.append(LongText(self._parts))
        self._parts, self._cut_off = None, False

    def _put_back(self, message: dict[str, Any]) -> None:
        """Put the texts where they were: into a row, a report, or the objects of a list."""
        names = {_name(number): text for number, text in enumerate(self._texts)}
        rows: list[Any] = [message]  # an answer is a row itself
        for arguments in message.values():
            if not isinstance(arguments, dict):
                continue
            rows.append(arguments)
            for value in arguments.values():
                if isinstance(value, list):
                    rows += value
        for row in rows:  # 0.1 us each, and there are as many as `MOST_REST` holds
            if type(row) is dict and type(name := row.get(SIGINFO)) is str and name in names:
                row[SIGINFO] = names[name]


def text_parts(data: bytes, start: int, end: int) -> Iterator[bytes]:
    """The UTF-8 of a JSON text without its quotes, `data` from `start` to `end`, in parts of which each takes 0.1 ms.

    Raises InvalidRequestError.
    """
    while end - start > BLOCK + _ESCAPE:
        part_end = _safe_end(data, start, start + BLOCK)
        yield _decode(data[start:part_end])
        start = part_end
    yield _decode(data[start:end])


def _name(number: int) -> str:
    return f"{_NAME}{number}"


def _append(parts: list[bytes], part: bytes) -> None:
    if len(parts[-1]) + len(part) <= PART:
        parts[-1] += part
    else:
        parts.append(part)


def _decode(part: bytes) -> bytes:
    """The UTF-8 of a part of a text. Half a surrogate pair becomes U+FFFD, as in any reported text."""
    try:
        text: str = orjson.loads(b'"%b"' % part)
    except orjson.JSONDecodeError:
        try:
            text = json.loads('"' + part.decode() + '"')
        except ValueError as error:
            raise InvalidRequestError(f"a request must be JSON in UTF-8: in {SIGINFO}: {error}") from None
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").encode()
    return text.encode()


def _safe_end(data: bytes | bytearray, start: int, end: int) -> int:
    """The last place up to `end`, which is inside, that cuts neither a character nor an escape nor a pair of them.

    `start` is such a place.
    """
    last = data.rfind(b"\\", max(start, end - _ESCAPE), end)
    if last < 0:
        return character_end(data, end)
    first = _run_start(data, start, last)
    if first == start:  # nothing but backslashes, of which each two are an escape
        return start + (end - start) // 2 * 2 if last == end - 1 else start + (last - start) // 2 * 2
    high = first - _ESCAPE
    if high >= start and _HIGH.match(data, high) and (high - _run_start(data, start, high)) % 2 == 0:
        return high if high > start else first  # else the pair would be cut in two
    return first


def _run_start(data: bytes | bytearray, start: int, last: int) -> int:
    """Where the backslashes begin that end at `last`."""
    return start + len(data[start : last + 1].rstrip(b"\\"))

"""Inputs of an enemy: conversations that are nearly right, from a seed.

Lines of recorded conversations (tests/conformance) are the corpus. They are cut, repeated, swapped and changed, and
mixed with values that broke programs before.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from shardhash.wire.batch import EXISTS, GET, Batch, encode_request
from shardhash.wire.commands import COMMANDS
from shardhash.wire.framing import encode_json

CORPUS = Path(__file__).parent.parent / "conformance"
HASH = "ab" * 32
NASTY_TEXTS = (
    "", " ", "\0", "\n", "\r\n", "a b", "\u2028", "\ud800", "é€😀", "x" * 2000, HASH, HASH.upper(), HASH[:-1],
    "@all", "@none", "-1", "1e999", "null", "END", "ok", "../../etc/passwd", "%s%n", "{}", "'; drop table users; --",
)  # fmt: skip
NASTY_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1 << 63, 1 << 70, 1.5, 1e308, [], {}, [[]], [None], {"": ""}, [[[[[[[[]]]]]]]],
)  # fmt: skip
NASTY_LINES = (
    b"", b"\r", b"\0", b"\xff\xfe", b"[" * 300, b'{"a":' * 200, b"\xed\xa0\x80", b"NaN", b"9" * 4000, b'"', b"{",
    b'{"chunk-stream": null}', b'{"chunk-stream": 1}', b"END", b"OEHASHEQUIV 1.1", b"GET / HTTP/1.1",
    b"needs-headers: true",
)  # fmt: skip
FIELDS = (
    "method", "taskhash", "outhash", "unihash", "all", "with_unihash", "where", "mark", "max_age_seconds", "username",
    "token", "permissions", "reports", "taskhashes", "unihashes", "owner", "PN", "PV", "PR", "task", "outhash_siginfo",
)  # fmt: skip


def corpus() -> list[bytes]:
    """What clients sent in the recorded conversations."""
    lines = []
    for path in sorted(CORPUS.glob("*.jsonl")):
        for text in path.read_text().splitlines():
            event = json.loads(text)
            if "send" in event:
                lines.append(event["send"].encode())
            elif "send_json" in event:
                lines.append(json.dumps(event["send_json"]).encode())
    return lines


class Inputs:
    """An endless supply of conversations; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self._corpus = [line for line in corpus() if len(line) < 5000]

    def lines(self) -> bytes:
        """A conversation over a line transport."""
        parts = self._hello()
        for _ in range(self.dice.randint(0, 8)):
            parts.append(self._line())
        end = b"" if self.dice.random() < 0.1 else b"\n"
        return b"\n".join(parts) + end

    def messages(self) -> list[str | bytes]:
        """A conversation over a WebSocket."""
        hello = [part.decode(errors="replace") for part in self._hello()]
        return [*hello, *(self._message() for _ in range(self.dice.randint(0, 8)))]

    def _message(self) -> str | bytes:
        return self.frame() if self.dice.random() < 0.3 else self._line().decode(errors="replace")

    def frame(self) -> bytes:
        """A binary message, often not quite a batch."""
        count = self.dice.choice((0, 1, 2, 50))
        op = self.dice.choice((GET, EXISTS))
        frame = encode_request(Batch(op, self.dice.choice(("", "m", "é")), self.dice.randbytes(32 * count)))
        return frame if self.dice.random() < 0.4 else self._broken(frame)

    def cut(self, data: bytes) -> list[bytes]:
        """Data in pieces."""
        places = sorted(self.dice.randint(0, len(data)) for _ in range(self.dice.randint(0, 6)))
        return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]

    def answer(self) -> bytes:
        """Something that a hostile server says."""
        kind = self.dice.random()
        if kind < 0.3:
            return self._value_text() + b"\n"
        if kind < 0.5:
            return encode_json(self._value_text() * self.dice.choice((1, 1, 50)))
        if kind < 0.7:
            return self.dice.choice((b"null\n", b"\n", b'"ok"\n', b"ok\n", HASH.encode() + b"\n", b'{"alive": true}\n'))
        return self._broken(self._line()) + b"\n"

    def _hello(self) -> list[bytes]:
        if self.dice.random() < 0.05:
            return [self._line()]
        headers = [b"needs-headers: " + self.dice.choice((b"true", b"false", b"TRUE", b"", b"1"))]
        headers += [b"x: y"] * self.dice.choice((0, 0, 0, 1, 70))
        return [b"OEHASHEQUIV 1.1", *headers, b""]

    def _line(self) -> bytes:
        kind = self.dice.random()
        if kind < 0.35:
            return self.dice.choice(self._corpus)
        if kind < 0.65:
            return self._request()
        if kind < 0.75:
            return b"%s %s" % (self.dice.choice((b"m", b"", b"m x")), self.dice.choice((HASH.encode(), b"t", b"\xff")))
        if kind < 0.85:
            return self._broken(self.dice.choice(self._corpus))
        if kind < 0.9:
            return self._chunked()
        return self.dice.choice(NASTY_LINES)

    def _chunked(self) -> bytes:
        text = self._request()
        size = self.dice.choice((1, 3, 100))
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        return b"\n".join((b'{"chunk-stream": null}', *pieces, b""))

    def _request(self) -> bytes:
        name = self.dice.choice(list(COMMANDS))
        fields = {field: self._value() for field in FIELDS if self.dice.random() < 0.4}
        return self._dump({name: fields if self.dice.random() < 0.9 else self._value()})

    def _value_text(self) -> bytes:
        return self._dump({field: self._value() for field in self.dice.sample(FIELDS, 4)})

    def _value(self) -> Any:
        kind = self.dice.random()
        if kind < 0.5:
            return self.dice.choice((HASH, "m", "t", *NASTY_TEXTS))
        if kind < 0.8:
            return self.dice.choice(NASTY_VALUES)
        if kind < 0.9:
            return [self.dice.choice((HASH, "t", None, 7)) for _ in range(self.dice.randint(0, 5))]
        return {self.dice.choice(FIELDS): self.dice.choice((HASH, "m", None, 7))}

    def _dump(self, value: Any) -> bytes:
        return json.dumps(value).encode()

    def _broken(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(self.dice.randint(1, 4)):
            at = self.dice.randint(0, len(changed))
            match self.dice.randint(0, 3):
                case 0:
                    changed[at:at] = self.dice.randbytes(self.dice.randint(1, 5))
                case 1:
                    del changed[at : at + self.dice.randint(1, 5)]
                case 2:
                    changed[at : at + 1] = bytes([self.dice.randint(0, 255)])
                case _:
                    changed += changed[: self.dice.randint(0, 200)]
        return bytes(changed).replace(b"\n", b" ")

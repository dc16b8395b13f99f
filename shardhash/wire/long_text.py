"""Long texts: an outhash_siginfo of megabytes, which nothing handles in one go.

A message of eight megabytes takes 30 ms to parse, and as long to make again for a worker or a client; meanwhile an
event loop answers nobody. So such a text stays UTF-8 in parts of `PART` bytes from where it comes in to where it lies
on the disk, and back. Reading it out of a request: long_message.py. Between coordinator and worker: link/messages.py.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import orjson

PART = 64 * 1024
"""Bytes of a part, about; making JSON of it takes 0.1 ms."""


ITEMS = 500
"""Items of a long list in a piece; 0.2 ms for users."""


class LongText:
    """A text as UTF-8 in parts, none of which cuts a character in two. Its length is in bytes."""

    __slots__ = ("_size", "parts")

    def __init__(self, parts: Sequence[bytes]) -> None:
        self.parts = parts
        self._size = sum(map(len, parts))

    def __len__(self) -> int:
        return self._size

    def __str__(self) -> str:
        return b"".join(self.parts).decode("utf-8", "replace")

    def __eq__(self, other: object) -> bool:
        return str(self) == str(other) if isinstance(other, LongText | str) else NotImplemented

    def __hash__(self) -> int:
        return hash(str(self))

    def __repr__(self) -> str:
        return f"LongText of {self._size} bytes"


Text: TypeAlias = str | LongText


def plain(text: Text | None) -> str | None:
    """A text in one piece, for who cannot do with parts."""
    return str(text) if isinstance(text, LongText) else text


def cut_parts(data: bytes, more: bool, size: int = PART) -> tuple[list[bytes], bytes]:
    """UTF-8 in parts, and what is left over: bytes of an incomplete part if `more` is to come, else none."""
    parts = []
    start = 0
    while len(data) - start > size:
        end = character_end(data, start + size)
        parts.append(data[start:end])
        start = end
    rest = data[start:]
    return (parts, rest) if more or not rest else ([*parts, rest], b"")


def character_end(data: bytes | bytearray, end: int) -> int:
    """The last place up to `end`, which is inside, where no character is cut in two."""
    for back in range(4):
        if data[end - back] & 0xC0 != 0x80:
            return end - back
    return end  # no UTF-8


class LongList:
    """A list of an answer that is made JSON, and let go, `ITEMS` at a time: of 20,000 users each would take 10 ms."""

    __slots__ = ("items",)

    def __init__(self, items: list[Any]) -> None:
        self.items = items


def long_list(items: list[Any]) -> list[Any] | LongList:
    """A list of an answer, which may be long; it belongs to the answer from now on."""
    return LongList(items) if len(items) > ITEMS else items


def dumps(value: object, put: Callable[[Any], object], option: int | None = None) -> bytes:
    """JSON in which `put` gives what stands for a long text, or list; called in their order."""

    def default(other: Any) -> object:
        if type(other) is LongText or type(other) is LongList:
            return put(other)
        raise TypeError

    return orjson.dumps(value, default, option)


_MARK = secrets.token_hex(16)
_QUOTED_MARK = f'"{_MARK}"'.encode()


class JsonPieces:
    """The JSON of a value, in pieces if it holds anything long; none cuts a character in two. To be gone through once.

    A long list holds no long texts.
    """

    def __init__(self, value: object, option: int | None = None) -> None:
        self._texts: list[LongText | LongList] = []
        self._option = option
        self._encoded = dumps(value, self._put, option)
        self.left = sum(len(text) for text in self._texts if isinstance(text, LongText))
        """Bytes of long texts that were not given yet."""

    @property
    def whole(self) -> bytes | None:
        """All of it, if there is no long text in it."""
        return None if self._texts else self._encoded

    def __iter__(self) -> Iterator[bytes]:
        first, *rest = self._encoded.split(_QUOTED_MARK) if self._texts else [self._encoded]
        yield first
        for text, behind in zip(self._texts, rest, strict=True):
            if isinstance(text, LongList):
                yield from self._pieces_of(text)
                yield behind
                continue
            yield b'"'
            for part in text.parts:
                self.left -= len(part)
                yield orjson.dumps(part.decode("utf-8", "replace"))[1:-1]
            yield b'"' + behind

    def _pieces_of(self, whole: LongList) -> Iterator[bytes]:
        items = whole.items
        begin = b"["
        for start in range(0, len(items), ITEMS):
            end = min(start + ITEMS, len(items))
            piece = begin + orjson.dumps(items[start:end], option=self._option)[1:-1]
            items[start:end] = [None] * (end - start)
            yield piece
            begin = b","
        yield b"]"

    def _put(self, text: LongText | LongList) -> str:
        self._texts.append(text)
        return _MARK

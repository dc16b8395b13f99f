"""Pages: a long list as an answer of a worker, which each side encodes and decodes some at a time.

It travels as a `LongText` whose parts are JSON lists: a message of four megabytes takes 20 ms to decode.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orjson import dumps, loads

from shardhash.wire.long_text import LongText

FULL = 64 << 10
"""Bytes from which on a page is full; 0.5 ms to decode."""


class Pages:
    """A list that is added to, and encoded as it grows."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._items: list[bytes] = []
        self._size = 0

    def add(self, item: Any) -> bool:
        """Add an item; whether a page is full by it, after which others should run."""
        encoded = dumps(item)
        self._items.append(encoded)
        self._size += len(encoded)
        return self._size >= FULL and self._end_page()

    def text(self) -> LongText:
        """All of it."""
        if self._items or not self._parts:
            self._end_page()
        return LongText(self._parts)

    def _end_page(self) -> bool:
        self._parts.append(b"[" + b",".join(self._items) + b"]")
        self._items, self._size = [], 0
        return True


def pages_of(text: LongText) -> Iterator[list[Any]]:
    """The items, a page at a time."""
    for part in text.parts:
        yield loads(part)

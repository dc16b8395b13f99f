"""Progress of a long stream: one line on a terminal, written over and over."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

INTERVAL = 0.2
"""Seconds between two writings of the line."""
STEP = 500
"""Items between two looks at the clock; a look at every one would take as long as the item."""

_T = TypeVar("_T")


class Progress:
    """Counts what passes through `follow`. Says nothing unless `stream` is a terminal, or it is told to be `loud`."""

    def __init__(self, stream: TextIO, what: str, *, loud: bool = False) -> None:
        self._stream = stream
        self._what = what
        self._shown = loud or stream.isatty()

    def follow(self, items: Iterable[_T]) -> Iterator[_T]:
        """The same items."""
        began = said = time.monotonic()
        count = 0
        for count, item in enumerate(items, 1):
            yield item
            if count % STEP == 0 and (now := time.monotonic()) - said >= INTERVAL:
                said = now
                self._say(count, now - began)
        self._say(count, time.monotonic() - began)
        if self._shown:
            self._stream.write("\n")

    def _say(self, count: int, seconds: float) -> None:
        if self._shown:
            self._stream.write(f"\r{count:,} {self._what}, {count / max(seconds, 1e-9):,.0f} a second   ")
            self._stream.flush()

"""Ahead: changes that are made a slice at a time, each while some before it are still being written.

Those that wait for the same fsync share a group commit: a slice is small, so that lookups go between, and on a slow
disk a commit for each would take most of the time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Self

AHEAD = 4
"""Changes that may be under way: 1,000 mappings of a removal."""


class Ahead:
    """Counts what the changes of some slices did. Leave it with all of them durable, or by an error."""

    def __init__(self) -> None:
        self.count = 0
        self._under_way: deque[asyncio.Future[int]] = deque()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while self._under_way and kind is None:
                self.count += await self._under_way.popleft()
        finally:
            for change in self._under_way:  # each is made, or not, but nobody waits for it
                change.cancel()

    async def add(self, change: asyncio.Future[int] | None) -> None:
        """A change, made by `Writer.write`, or None for a slice in which there is nothing to change; others run."""
        await asyncio.sleep(0)
        if change is not None:
            self._under_way.append(change)
            while len(self._under_way) > AHEAD:
                self.count += await self._under_way.popleft()

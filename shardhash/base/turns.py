"""Turns: tasks that have much to do run a slice at a time, one of them a tick of the event loop.

A task that has little to do never waits here. So whoever asks little is answered within a slice or two, however many
others ask much.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import AsyncIterator, Iterable
from itertools import islice
from time import perf_counter
from typing import TypeVar

SLICE = 0.001
"""Seconds that a task runs before it lets others run."""
SORTED_AT_ONCE = 1000
"""Texts that are sorted before others run; 0.5 ms."""
_T = TypeVar("_T")


class Turns:
    """Who waits for the next turn, first come first served. Use from one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._scheduled = False
        self.tick = 0
        """The number of a tick of the event loop in which slices begin; slices of an earlier tick are over."""
        self._ticking = False

    def next(self) -> asyncio.Future[None]:
        """Wait for a turn."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.append(future)
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._grant)
        return future

    def begin_tick(self) -> None:
        """Have `tick` grow in the next tick of the event loop. One callback does for all slices of a tick."""
        if not self._ticking:
            self._ticking = True
            asyncio.get_running_loop().call_soon(self._end_tick)

    def _end_tick(self) -> None:
        self.tick += 1
        self._ticking = False

    def _grant(self) -> None:
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():  # its task was cancelled
                future.set_result(None)
                break
        self._scheduled = bool(self._waiting)
        if self._scheduled:
            asyncio.get_running_loop().call_soon(self._grant)


class Slice:
    """What one task has used of its slice. It begins anew whenever the task waited for anything."""

    __slots__ = ("_began", "_tick", "_turns")

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._tick = -1
        self._began = 0.0

    @property
    def used(self) -> bool:
        """Whether it is used up; wait for `turn` then."""
        if self._tick != self._turns.tick:  # the task waited since then
            self._turns.begin_tick()
            self._tick = self._turns.tick
            self._began = perf_counter()
            return False
        return perf_counter() - self._began > SLICE

    def turn(self) -> asyncio.Future[None]:
        """Let others run."""
        return self._turns.next()

    async def renew(self) -> None:
        """Let others run; the next slice begins with what comes first, and not with the second."""
        while self.used:
            await self.turn()


async def in_order(texts: Iterable[str], at_once: int = SORTED_AT_ONCE) -> AsyncIterator[str]:
    """The texts, sorted; others run in between."""
    rest = iter(texts)
    runs: list[list[str]] = []
    while some := list(islice(rest, at_once)):
        some.sort()
        runs.append(some)
        await asyncio.sleep(0)
    async for text in with_rests(heapq.merge(*runs), at_once):
        yield text


async def with_rests(items: Iterable[_T], at_once: int) -> AsyncIterator[_T]:
    """The items; between so many of them others run."""
    for number, item in enumerate(items):
        if number and number % at_once == 0:
            await asyncio.sleep(0)
        yield item

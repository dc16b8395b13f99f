"""Wakeup: one task sleeps, others wake it, many times, at the least cost.

An asyncio.Event asks for the running loop at each wait, which on Python 3.11 is a system call (a check for forks);
at tens of thousands of wake-ups a second that is 5 % of a coordinator.
"""

from __future__ import annotations

import asyncio
import contextlib


class Wakeup:
    """Any task may wake; one task waits. A wake while nobody waits is remembered; several count as one."""

    __slots__ = ("_loop", "_waiter", "_woken")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._woken = False
        self._waiter: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Wake the waiting task, or the next one that waits."""
        self._woken = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Return once `wake` was called since the last return."""
        while not self._woken:
            self._waiter = self._loop.create_future()
            await self._waiter
        self._woken = False

    async def wait_for(self, seconds: float) -> None:
        """The same, or return after so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.wait()

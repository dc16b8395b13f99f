"""The end of the day: what is answered without the workers is then forgotten, so that they learn what is asked for.

A worker notes the day on which a mapping was last asked for (shard/worker/asking.py). Answers at hand are forgotten
when a day ends (UTC): each is asked of the worker once a day, and while it is at hand it was asked for that day.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import time

DAY = 86_400.0
LONGEST_WAIT = 60.0
"""Seconds after which the clock is looked at again: it may be set, and a machine may sleep."""


class EndOfDay:
    """Calls `ended` soon after each end of a day, until it is cancelled. Use from one event loop."""

    def __init__(self, ended: Callable[[], None], clock: Callable[[], float] = time) -> None:
        """`clock` gives seconds since 1970 UTC."""
        self._ended = ended
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._day = clock() // DAY
        self._timer = self._loop.call_later(self._wait(), self.look)

    def look(self) -> None:
        """Look at the clock, and wait for the next time."""
        day = self._clock() // DAY
        if day != self._day:
            self._day = day
            self._ended()
        self._timer.cancel()
        self._timer = self._loop.call_later(self._wait(), self.look)

    def cancel(self) -> None:
        """End it."""
        self._timer.cancel()

    def _wait(self) -> float:
        return min(DAY - self._clock() % DAY, LONGEST_WAIT)

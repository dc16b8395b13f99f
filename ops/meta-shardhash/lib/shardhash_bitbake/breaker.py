"""A circuit breaker: a server that failed is left alone for a while, so that a dead one costs a build nothing.

    closed --failure--> open, for a time that doubles with each failure in a row
    open --time over--> one caller tries; the others still fail at once until it has succeeded

The state lies in memory that forked processes share: what one task learns, all tasks of the build know. Races between
them are harmless; at worst two of them try.
"""

from __future__ import annotations

import mmap
import random
import struct
import time
from collections.abc import Callable

from shardhash_bitbake.errors import BreakerOpenError

FIRST_HOLD = 1.0
LONGEST_HOLD = 60.0
"""Seconds that a server is left alone after the first failure, and at most."""

_STATE = struct.Struct("<dII")  # until (of the monotonic clock), failures in a row, whether a warning was given


class Breaker:
    """Says whether a server may be asked. Shared with all processes that are forked from here on."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, chance: Callable[[], float] = random.random
    ) -> None:
        self._clock = clock
        self._chance = chance
        self._page = mmap.mmap(-1, _STATE.size)

    def check(self, trial: float) -> None:
        """Raise BreakerOpenError while the server is left alone.

        When the time is over the caller is the one that tries, and has `trial` seconds to say `worked` or `failed`.
        """
        until, failures, warned = self._state()
        if not failures:
            return
        now = self._clock()
        if now < until:
            raise BreakerOpenError(f"it failed a short time ago and is asked again in {until - now:.0f} s")
        self._set(now + trial, failures, warned)

    def failed(self) -> None:
        """The server did not answer as it should."""
        _, failures, warned = self._state()
        hold = min(FIRST_HOLD * 2 ** min(failures, 30), LONGEST_HOLD) * (0.75 + 0.5 * self._chance())
        self._set(self._clock() + hold, failures + 1, warned)

    def worked(self) -> None:
        """The server answered."""
        _, failures, warned = self._state()
        if failures:
            self._set(0.0, 0, warned)

    @property
    def open(self) -> bool:
        """Whether the last try failed."""
        return self._state()[1] > 0

    def should_warn(self) -> bool:
        """Whether this is the first warning since `forget_warning`."""
        until, failures, warned = self._state()
        self._set(until, failures, 1)
        return not warned

    def forget_warning(self) -> None:
        """A build begins: it may warn once."""
        until, failures, _ = self._state()
        self._set(until, failures, 0)

    def _state(self) -> tuple[float, int, int]:
        until, failures, warned = _STATE.unpack(self._page[:])
        return until, failures, warned

    def _set(self, until: float, failures: int, warned: int) -> None:
        self._page[:] = _STATE.pack(until, failures, warned)

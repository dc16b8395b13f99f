"""A circuit breaker: a server that failed is left alone for a while, so that a dead one costs a script nothing.

    closed --a call fails to connect, or runs into a limit of time--> open, for a time that doubles with each failure
    open --time over--> one call tries, once; the others still fail at once until it has succeeded

The state lies in memory that forked processes share: what one child learns, all know. Races between them are harmless;
at worst two of them try. (The BitBake layer has one like it: that must not need this package.)
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Callable

from shardhash.errors import BreakerOpenError

FIRST_HOLD = 1.0
LONGEST_HOLD = 60.0
"""Seconds that a server is left alone after the first failure, and at most; a quarter more or less, by chance."""

_STATE = struct.Struct("<dII")  # until (of the monotonic clock), failures in a row, whether a warning was given
_FAILURES = slice(8, 12)
_NONE = bytes(4)


def _chance() -> float:
    """From 0 to 1; importing random would take as long as a report."""
    return os.urandom(1)[0] / 255


class Breaker:
    """Says whether a server may be asked. Clients of one server may share it, and processes forked from here on."""

    def __init__(
        self,
        first_hold: float = FIRST_HOLD,
        longest_hold: float = LONGEST_HOLD,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = _chance,
    ) -> None:
        self._first_hold = first_hold
        self._longest_hold = longest_hold
        self._clock = clock
        self._chance = chance
        self._reason = "it failed in another process"
        self._page = mmap.mmap(-1, _STATE.size)

    @property
    def open(self) -> bool:
        """Whether the last try failed. Looked at thrice a call, so not by `_state`, which takes five times as long."""
        return self._page[_FAILURES] != _NONE

    def check(self, trial: float) -> None:
        """Raise BreakerOpenError while the server is left alone.

        When the time is over the caller is the one that tries, and has `trial` seconds to say `worked` or `failed`.
        """
        if not self.open:
            return
        until, failures, warned = self._state()
        now = self._clock()
        if now < until:
            raise BreakerOpenError(f"{self._reason}; it is asked again in {until - now:.1f} s at the earliest")
        self._set(now + trial, failures, warned)

    def failed(self, reason: str) -> None:
        """Leave the server alone: it did not answer, for this reason."""
        _, failures, warned = self._state()
        hold = min(self._first_hold * 2 ** min(failures, 30), self._longest_hold) * (0.75 + 0.5 * self._chance())
        self._reason = reason
        self._set(self._clock() + hold, failures + 1, warned)

    def gave_up(self) -> None:
        """The one who tried does not say what came of it: another one may try."""
        until, failures, warned = self._state()
        if failures:
            self._set(min(until, self._clock()), failures, warned)

    def worked(self) -> None:
        """The server answered."""
        if self.open:
            self._set(0.0, 0, 0)

    def should_warn(self) -> bool:
        """Whether this is the first warning since the server answered."""
        until, failures, warned = self._state()
        self._set(until, failures, 1)
        return not warned

    def _state(self) -> tuple[float, int, int]:
        until, failures, warned = _STATE.unpack(self._page[:])
        return until, failures, warned

    def _set(self, until: float, failures: int, warned: int) -> None:
        self._page[:] = _STATE.pack(until, failures, warned)

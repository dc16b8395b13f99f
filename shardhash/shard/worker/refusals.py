"""What the log says of a disk that refuses writes: once, then each minute with a count, and when it takes them again.

A full disk refuses each report, of thousands a minute; and while large texts are refused small records may still go.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

AGAIN = 60.0
"""Seconds between one error and the next."""
QUIET = 5.0
"""Seconds without a refusal before a write that goes well says anything."""

log = logging.getLogger(__name__)


class Refusals:
    """The refusals of one shard's disk; `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._count = 0
        self._said: float | None = None
        self._last = 0.0

    def refused(self, why: Exception, count: int = 1) -> None:
        """The disk refused this many changes."""
        self._count += count
        self._last = self._clock()
        if self._said is None:
            log.error("%s; lookups go on, and reports are refused until the disk takes writes again", why)
        elif self._last - self._said >= AGAIN:
            log.error("the disk still refuses writes, %d changes so far: %s", self._count, why)
        else:
            return
        self._said = self._last

    def went_well(self) -> None:
        """The disk took a write."""
        if self._said is not None and self._clock() - self._last >= QUIET:
            self.healed()

    def healed(self) -> None:
        """The disk takes all writes again."""
        log.info("the disk takes writes again; it refused %d changes", self._count)
        self._count, self._said = 0, None

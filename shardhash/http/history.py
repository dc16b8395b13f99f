"""History: what a server did over the last hour, a sample every few seconds, kept in memory.

A sample is what changed in the counters since the last one. One takes some 50 us, whoever watches.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import time
from typing import NamedTuple

from shardhash.base.figures import SECONDS
from shardhash.coordinator.counters import Counters

INTERVAL = 2.0
"""Seconds between samples."""
KEPT = 3600.0
"""Seconds of samples that are kept."""


class Sample(NamedTuple):
    """One moment; rates are per second over the interval before it. `at`: seconds since 1970 UTC.

    `hit_rate` is a percentage, None without a lookup. `p99` is milliseconds, None without a request: 99 of 100
    requests, and blocks of stream lines, were answered within it.
    """

    at: float
    lookups: float
    hit_rate: float | None
    p99: float | None
    reports: float
    reused: float
    connections: int


@dataclass(frozen=True, slots=True)
class _Totals:
    hits: int
    misses: int
    reports: int
    reused: int
    times: list[int]


class History:
    """The samples of a server. `clock` gives seconds since 1970 UTC."""

    def __init__(self, counters: Counters, clock: Callable[[], float] = time) -> None:
        self.samples: deque[Sample] = deque(maxlen=int(KEPT / INTERVAL))
        self._counters = counters
        self._clock = clock
        self._before = self._totals()
        self._at = clock()
        self._next: asyncio.Future[Sample | None] | None = None
        self._closed = False

    async def run(self) -> None:
        """Take samples until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            self.take()

    def take(self) -> Sample:
        """Take a sample now, and tell it to who waits for the next."""
        self._counters.look_at_builds()
        now, totals, before = self._clock(), self._totals(), self._before
        seconds = max(0.001, now - self._at)
        hits, misses = totals.hits - before.hits, totals.misses - before.misses
        counts = [count - earlier for count, earlier in zip(totals.times, before.times, strict=True)]
        p99 = quantile(0.99, SECONDS, counts)
        sample = Sample(
            round(now, 1),
            round((hits + misses) / seconds, 1),
            round(100 * hits / (hits + misses), 1) if hits + misses else None,
            None if p99 is None else round(p99 * 1000, 3),
            round((totals.reports - before.reports) / seconds, 1),
            round((totals.reused - before.reused) / seconds, 1),
            self._counters.connections.total(),
        )
        self._before, self._at = totals, now
        self.samples.append(sample)
        self._tell(sample)
        return sample

    def next(self) -> asyncio.Future[Sample | None]:
        """The next sample; None when the server goes down. Shielded: others wait for the same."""
        if self._next is None or self._next.done():
            self._next = asyncio.get_running_loop().create_future()
            if self._closed:
                self._next.set_result(None)
        return asyncio.shield(self._next)

    def close(self) -> None:
        """Wake everyone who waits."""
        self._closed = True
        self._tell(None)

    def _tell(self, sample: Sample | None) -> None:
        if self._next is not None and not self._next.done():
            self._next.set_result(sample)

    def _totals(self) -> _Totals:
        counters = self._counters
        times = [sum(column) for column in zip(*(of.counts for of in counters.seconds.values()), strict=True)]
        times = times or [0] * (len(SECONDS) + 1)
        return _Totals(counters.hits, counters.misses, counters.reports_stored, counters.equivalences, times)


def quantile(part: float, bounds: Sequence[float], counts: Iterable[int]) -> float | None:
    """The value that `part` of the values are below, by a histogram of these bounds; None of no values.

    Within a bucket values are taken to be spread evenly; above the last bound they are taken to be at it.
    """
    counts = list(counts)
    wanted = part * sum(counts)
    if not wanted:
        return None
    below, low = 0, 0.0
    for bound, count in zip(bounds, counts, strict=False):
        if below + count >= wanted:
            return low + (bound - low) * (wanted - below) / count
        below, low = below + count, bound
    return low

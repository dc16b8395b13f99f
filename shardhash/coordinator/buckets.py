"""Token buckets: how much each of many may take in a time, with what it did not take before saved up for a while."""

from __future__ import annotations

import time
from collections.abc import Callable

MOST_KEYS = 20_000
"""Buckets that are kept; the one that was not used for longest goes, and is full when it comes back."""


class Buckets:
    """A bucket for each key. A rate is what flows in a second; a bucket holds what flows in `span` seconds.

    It may be overdrawn, by what flows in `debt` seconds: who drew last waits the longest, and no longer than that.
    """

    def __init__(
        self,
        span: float,
        debt: float,
        clock: Callable[[], float] = time.monotonic,
        most: int = MOST_KEYS,
    ) -> None:
        self._span = span
        self._debt = debt
        self._clock = clock
        self._most = most
        self._kept: dict[str, tuple[float, float]] = {}
        """By key what is left, and when; the last used last."""

    def __len__(self) -> int:
        return len(self._kept)

    def draw(self, key: str, rate: float, least: float, most: float) -> tuple[float, float]:
        """Take `least`, or more if it is there, up to `most`: what was taken, and the seconds to wait for it."""
        left, now = self._look(key, rate)
        drawn = max(least, min(most, left))
        left = max(left - drawn, -rate * self._debt)
        self._keep(key, left, now)
        return drawn, max(0.0, -left / rate)

    def give_back(self, key: str, rate: float, amount: float) -> None:
        """Return what was drawn and not used; less than nothing draws more."""
        left, now = self._look(key, rate)
        self._keep(key, max(min(left + amount, rate * self._span), -rate * self._debt), now)

    def wait(self, key: str, rate: float, amount: float) -> float:
        """Seconds until so much is there; 0 when it is."""
        return max(0.0, (amount - self._look(key, rate)[0]) / rate)

    def _look(self, key: str, rate: float) -> tuple[float, float]:
        now = self._clock()
        full = rate * self._span
        left, then = self._kept.get(key, (full, now))
        return min(full, left + (now - then) * rate), now

    def _keep(self, key: str, left: float, now: float) -> None:
        self._kept.pop(key, None)
        self._kept[key] = left, now
        if len(self._kept) > self._most:
            del self._kept[next(iter(self._kept))]

"""The clock of reports: its moments order them."""

from __future__ import annotations

import time


class Clock:
    """Microseconds since 1970 UTC, each later than all before: `created` orders reports and names locks."""

    def __init__(self) -> None:
        self._last = 0

    def __call__(self, count: int = 1, after: int = 0) -> int:
        """The first of `count` moments, a microsecond apart; all later than `after`."""
        first = max(self._last + 1, after + 1, time.time_ns() // 1000)
        self._last = first + count - 1
        return first

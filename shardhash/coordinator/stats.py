"""Request statistics, as get-stats shows them: how many, and how long they took in seconds."""

from __future__ import annotations

import math


class Stats:
    """Figures since the start or the last reset. A stream line counts as a request of its own."""

    def __init__(self) -> None:
        self._num = 0
        self._total = 0.0
        self._squares = 0.0
        self._max = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        """Count requests that were answered together, `seconds` after they were asked."""
        self._num += count
        self._total += seconds * count
        self._squares += seconds * seconds * count
        if seconds > self._max:  # a call less than max(): waves come as tens of thousands of blocks
            self._max = seconds

    def figures(self) -> dict[str, float]:
        """num, total_time, max_time, average and stdev (of the sample)."""
        average = self._total / self._num if self._num else 0.0
        spread = max(0.0, self._squares - self._num * average * average)
        return {
            "num": self._num,
            "total_time": self._total,
            "max_time": self._max,
            "average": average,
            "stdev": math.sqrt(spread / (self._num - 1)) if self._num > 1 else 0.0,
        }

    def reset(self) -> dict[str, float]:
        """Begin anew; the figures before."""
        before = self.figures()
        self.__init__()  # type: ignore[misc]  # all of its state begins anew
        return before

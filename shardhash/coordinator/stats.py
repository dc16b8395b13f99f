"""Request statistics, as get-stats shows them: how many, and how long they took in seconds."""

from __future__ import annotations

import math
from collections.abc import Iterable


class Stats:
    """Figures since the start or the last reset. A stream line counts as a request of its own."""

    def __init__(self) -> None:
        self.num = 0
        self.total = 0.0
        self.squares = 0.0
        self.max = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        """Count requests that were answered together, `seconds` after they were asked."""
        self.num += count
        self.total += seconds * count
        self.squares += seconds * seconds * count
        if seconds > self.max:  # a call less than max(): waves come as tens of thousands of blocks
            self.max = seconds

    def figures(self) -> dict[str, float]:
        """num, total_time, max_time, average and stdev (of the sample)."""
        average = self.total / self.num if self.num else 0.0
        spread = max(0.0, self.squares - self.num * average * average)
        return {
            "num": self.num,
            "total_time": self.total,
            "max_time": self.max,
            "average": average,
            "stdev": math.sqrt(spread / (self.num - 1)) if self.num > 1 else 0.0,
        }

    def take(self, others: Iterable[Stats]) -> None:
        """Take in what others counted."""
        for other in others:
            self.num += other.num
            self.total += other.total
            self.squares += other.squares
            self.max = max(self.max, other.max)

    def reset(self) -> dict[str, float]:
        """Begin anew; the figures before."""
        before = self.figures()
        self.__init__()  # type: ignore[misc]  # all of its state begins anew
        return before

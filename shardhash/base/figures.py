"""Figures: how often, how long, how much. Counted where things happen, read by whoever shows them.

Counting is a list item or an integer more, without locks: each figure is written by one thread. A reader in another
one may see a histogram whose sum is a moment ahead of its counts.
"""

from __future__ import annotations

import os
import resource
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds of histograms of times, seconds: from a lookup in memory to a disk that hangs."""
SIZES = (1.0, 10.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0, 30000.0, 100000.0)
"""Bounds of histograms of sizes: how many hashes or reports came together."""


class Histogram:
    """How many values were at most each of `bounds`, and how many above the last; and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float], counts: Sequence[int] = (), total: float = 0.0) -> None:
        self.bounds = bounds
        self.counts = list(counts) or [0] * (len(bounds) + 1)
        """Values above the bound before and not above this one; the last item counts those above all."""
        self.total = total

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def take(self, other: Histogram) -> None:
        """Take in what another one over the same bounds counted."""
        self.counts = [count + more for count, more in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)


class ProcessFigures(NamedTuple):
    """What a process uses. `memory` is resident, bytes; `started` seconds since 1970 UTC."""

    pid: int
    cpu_seconds: float
    memory: int
    descriptors: int
    most_descriptors: int
    started: float


class ShardFigures(NamedTuple):
    """Figures of a shard.

    `log_bytes`: written since the last snapshot. `syncs`: counts of a histogram over `SECONDS`, of what an fsync of the
    log took, and `sync_seconds` their sum. `snapshot_time`: when the newest snapshot began, seconds since 1970 UTC, 0
    without one; `snapshot_seconds`: what the last one of this process took, 0 before it.
    """

    mappings: int
    rows: int
    log_bytes: int
    syncs: list[int]
    sync_seconds: float
    snapshot_time: float
    snapshot_seconds: float
    process: ProcessFigures


_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


def read_process() -> ProcessFigures:
    """The figures of this process; takes 50 us. Zero where the system has no /proc."""
    times = os.times()
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        memory = int(_read("/proc/self/statm").split()[1]) * _PAGE
        descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # as below
        started = _boot_time() + int(_read("/proc/self/stat").rpartition(")")[2].split()[19]) / _TICKS
    except (OSError, IndexError, ValueError):
        memory, descriptors, started = 0, 0, 0.0
    return ProcessFigures(os.getpid(), times.user + times.system, memory, descriptors, most, started)


def _boot_time() -> int:
    """Seconds since 1970 UTC."""
    return next(int(line.split()[1]) for line in _read("/proc/stat").splitlines() if line.startswith("btime "))


def _read(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as file:  # noqa: PTH123  # a Path costs more than the reading
        return file.read()

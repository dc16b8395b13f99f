"""The whole of a server: what all of its coordinators did, as metrics, page and get-stats show it."""

from __future__ import annotations

from collections.abc import Sequence

from shardhash.base.figures import ProcessFigures
from shardhash.coordinator.callers import Caller
from shardhash.coordinator.counters import Counters
from shardhash.coordinator.stats import Stats


class Whole:
    """What this coordinator did: it is the only one."""

    def __init__(self, counters: Counters, stats: Stats) -> None:
        self.counters = counters
        self.processes: Sequence[tuple[str, ProcessFigures]] = ()
        """Names and figures of the other coordinators."""
        self.connected: Sequence[Caller] = ()
        """Callers of the other coordinators, as they were."""
        self._stats = stats

    async def look(self) -> None:
        """Bring the figures up to date."""

    async def stats(self) -> dict[str, float]:
        """The figures of get-stats."""
        return self._stats.figures()

    async def reset_stats(self) -> dict[str, float]:
        """Begin them anew; those before."""
        return self._stats.reset()

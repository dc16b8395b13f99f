"""The whole of a server with several coordinators: their figures, asked of each and added up."""

from __future__ import annotations

import asyncio

from shardhash.coordinator.counters import Counters
from shardhash.coordinator.services import Services
from shardhash.coordinator.stats import Stats
from shardhash.coordinator.whole import Whole
from shardhash.server.followers import Followers

LOOK_EVERY = 1.0
"""Seconds between looks for the history of the page."""


class WholeServer(Whole):
    """What the server's own coordinator and all followers did, which show this from now on."""

    def __init__(self, services: Services, followers: Followers) -> None:
        super().__init__(Counters(), Stats())
        self._own = services
        self._followers = followers
        followers.whole = self
        services.use_whole(self)

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY)

    async def look(self) -> None:
        """See Whole. Of one that does not answer, what it said last."""
        seen = await self._followers.look()
        ended, ended_stats = self._followers.sums_of_ended()
        self.counters.become([self._own.counters, ended, *(one.counters for _, one in seen)])
        self._stats = Stats()
        self._stats.take([self._own.stats, ended_stats, *(one.stats for _, one in seen)])
        self.processes = [(f"coordinator-{place}", one.process) for place, one in seen]
        self.connected = [caller for _, one in seen for caller in one.connected]

    async def stats(self) -> dict[str, float]:
        """See Whole."""
        await self.look()
        return self._stats.figures()

    async def reset_stats(self) -> dict[str, float]:
        """See Whole."""
        before = await self.stats()
        self._own.stats.reset()
        self._followers.sums_of_ended()[1].reset()
        await self._followers.tell("reset-stats")
        return before

"""Followers: the links of further coordinators, each with a number that no later one gets.

A follower that dies has perhaps asked several workers for parts of one report. Its report lock must not go to another
before what it asked elsewhere is done, or known never to be: so locks of a follower outlive its link, until the server,
which has asked every worker (`Drained`), says so (`ReleaseFollower`). The server's own link ends with the server, and
all that it holds with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from shardhash.link.follower_operations import Drained, ReleaseFollower
from shardhash.shard.state.transaction import Transaction
from shardhash.shard.worker.report_locks import ReportLocks
from shardhash.shard.worker.report_operations import ReportOperations


class Followers:
    """The links of followers to one worker. `write` makes a change behind all that were asked for before."""

    def __init__(
        self,
        locks: ReportLocks,
        reports: ReportOperations,
        write: Callable[[Callable[[Transaction], None]], asyncio.Future[None]],
    ) -> None:
        self._locks = locks
        self._reports = reports
        self._write = write
        self._here: dict[int, asyncio.Event] = {}

    def join(self, number: int) -> None:
        """A link of this follower begins."""
        self._here[number] = asyncio.Event()
        self._reports.shared = True

    def left(self, number: int) -> None:
        """It has ended, and nothing is carried out for it any more but what is on its way to the log."""
        self._here.pop(number).set()

    async def drained(self, asked: Drained) -> None:
        """Wait until nothing of a follower that has ended is under way here."""
        if (here := self._here.get(asked.follower)) is not None:
            await here.wait()
        if self._reports.packing:
            await asyncio.wait(list(self._reports.packing))
        await self._write(_nothing)

    def release(self, asked: ReleaseFollower) -> None:
        """Its locks are free, and its places in queues are given up."""
        self._locks.drop(asked.follower)


def _nothing(_change: Transaction) -> None:
    pass

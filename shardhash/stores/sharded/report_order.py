"""Report order: what happens between a report and its acknowledgement.

Reports that share (method, outhash) behave as if made one after the other; different ones run side by side and
share messages. Keyed by that pair, the worker that owns slot(outhash) gives the turn:

1. slot(outhash): wait for the turn; the index holds the taskhash, durably; it names the other taskhashes, oldest first.
2. Their mappings, oldest first, give the unihash; else upstream; else the client's own.
3. slot(taskhash): one log record stores row and mapping, each if absent; the mapping in force is the acknowledgement.
4. slot(outhash): the turn ends, whatever happened.

Most reports are of an outhash that is new. Those take two steps, or one when one worker owns both slots, and travel in
rounds with all others (rounds.py): the turn is free and there is no other taskhash, so the client's unihash it is. The
rest go one by one: they wait for turns, and a round must not wait for anyone.

A crash between 1 and 3 leaves an index item without a row. It says nothing, because step 2 asks for taskhashes that
have a *row* of this outhash; the client's retry completes it. So does a report whose client went away; it goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from itertools import count
from typing import Any

from shardhash.link import operations
from shardhash.link.worker_link import Turn, WorkerLink
from shardhash.stores.interface import Otherwise
from shardhash.stores.sharded.report_rounds import Rounds
from shardhash.wire.hashes import SLOTS, shard_of, slot_of, to_key
from shardhash.wire.rows import Report


class Clock:
    """Microseconds since 1970 UTC, each later than all before: `created` orders reports and names turns."""

    def __init__(self) -> None:
        self._last = 0

    def __call__(self, count: int = 1) -> int:
        """The first of `count` moments, a microsecond apart."""
        first = max(self._last + 1, time.time_ns() // 1000)
        self._last = first + count - 1
        return first


class Reports:
    """Carries reports out over the links of all shards."""

    def __init__(self, links: Sequence[WorkerLink], clock: Clock) -> None:
        self._clock = clock
        rounds = [Rounds(link) for link in links]
        self._rounds = [rounds[shard_of(slot, len(links))] for slot in range(SLOTS)]
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    def link_of(self, hash_text: str) -> WorkerLink:
        """The link to the shard that owns a hash."""
        return self.rounds_of(hash_text).link

    def rounds_of(self, hash_text: str) -> Rounds:
        """The rounds of the shard that owns a hash."""
        return self._rounds[slot_of(to_key(hash_text))]

    def report(
        self, reports: Sequence[Report], otherwise: Otherwise | None = None, created: int | None = None
    ) -> asyncio.Future[list[bytes]]:
        """The unihashes in force, once all reports are durable. `created`: microseconds, now unless given."""
        future: asyncio.Future[list[bytes]] = self._loop.create_future()
        if not reports:
            future.set_result([])
        together = _Together(future, len(reports))
        for place, (report, number) in enumerate(zip(reports, count(self._clock(len(reports))), strict=False)):
            under_way = _UnderWay(self, together, place, report, number if created is None else created, number)
            under_way.begin(otherwise)
        return future

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run what a report waits for beside everything else."""
        task = self._loop.create_task(work)
        self._tasks.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._tasks.discard)

    async def oldest(
        self, method: str, outhash: str, other_than: str, *, mapped: bool, page: list[tuple[int, str]] | None = None
    ) -> tuple[str, str] | None:
        """(taskhash, unihash or "") of the oldest row of an outhash, and with `mapped` of the oldest with a mapping.

        `other_than`: a taskhash to pass over. `page`: the first page of the index, when it is at hand.
        """
        index = self.link_of(outhash)
        if page is None:
            page = await index.request("page", method, outhash, other_than, None)
        while page:
            unihashes = await self._equivalents(method, outhash, [taskhash for _, taskhash in page], mapped)
            for (_, taskhash), unihash in zip(page, unihashes, strict=True):
                if unihash is not None:
                    return taskhash, unihash
            page = await index.request("page", method, outhash, other_than, page[-1])
        return None

    async def _equivalents(self, method: str, outhash: str, taskhashes: list[str], mapped: bool) -> list[str | None]:
        by_link: dict[WorkerLink, list[int]] = {}
        for position, taskhash in enumerate(taskhashes):
            by_link.setdefault(self.link_of(taskhash), []).append(position)
        answers: list[str | None] = [None] * len(taskhashes)
        parts = await asyncio.gather(
            *(
                link.request("equivalents", method, outhash, [taskhashes[i] for i in positions], mapped)
                for link, positions in by_link.items()
            )
        )
        for positions, unihashes in zip(by_link.values(), parts, strict=True):
            for position, unihash in zip(positions, unihashes, strict=True):
                answers[position] = unihash
        return answers


class _Together:
    """Reports that were made together and are acknowledged together."""

    __slots__ = ("_future", "_left", "_unihashes")

    def __init__(self, future: asyncio.Future[list[bytes]], count: int) -> None:
        self._future = future
        self._left = count
        self._unihashes = [b""] * count

    def finish(self, place: int, unihash: str) -> None:
        """One of them is stored; with the last one, all are."""
        self._unihashes[place] = bytes.fromhex(unihash)
        self._left -= 1
        if not self._left and not self._future.done():  # a caller whose client went away has cancelled it
            self._future.set_result(self._unihashes)

    def fail(self, error: BaseException) -> None:
        """One of them failed; the others go on, but nobody waits for them."""
        if not self._future.done():
            self._future.set_exception(error)


class _UnderWay:
    """A report between request and acknowledgement: what is done when each of its steps is answered.

    Nothing waits for it in a task of its own unless it goes alone; at tens of thousands a second tasks would be half
    of what a report costs here.
    """

    __slots__ = ("_created", "_index", "_number", "_otherwise", "_place", "_report", "_reports", "_rows", "_together")

    def __init__(
        self, reports: Reports, together: _Together, place: int, report: Report, created: int, number: int
    ) -> None:
        """`place` is its place among those made together; `number` names its turn."""
        self._reports = reports
        self._together = together
        self._place = place
        self._report = report
        self._created = created
        self._number = number
        self._index = reports.rounds_of(report.outhash)
        self._rows = reports.rounds_of(report.taskhash)
        self._otherwise: Otherwise | None = None

    def begin(self, otherwise: Otherwise | None) -> None:
        """Ask the first step."""
        if self._index is self._rows and otherwise is None:
            step = [operations.REPORT, self._number, self._created, *self._report]
            self._index.add(step, self._weight(), self._reported, self._failed)
        else:
            self._otherwise = otherwise
            step = [operations.INDEX, self._number, self._created, *self._report[:3]]
            self._index.add(step, 0, self._indexed, self._failed)

    def _weight(self) -> int:
        return sum(map(len, filter(None, self._report)))  # 0.4 us

    def _reported(self, unihash: str | None) -> None:
        if unihash is None:
            self._reports.run(self._go_alone())
        else:
            self._together.finish(self._place, unihash)

    def _indexed(self, first: bool | None) -> None:
        if not first:
            self._reports.run(self._go_alone())
            return
        self._index.link.hold_turn(self._turn())
        if self._otherwise is None:
            self._commit(None)
        else:
            self._reports.run(self._decide([]))

    async def _go_alone(self) -> None:
        try:
            page = await self._index.link.take_turn(self._turn())
        except Exception as error:  # noqa: BLE001  # a bug too is told to who waits for the report
            self._failed(error)
        else:
            await self._decide(page)

    async def _decide(self, page: list[tuple[int, str]]) -> None:
        """Find the unihash, while the turn is held, and store it."""
        method, outhash, taskhash = self._report.method, self._report.outhash, self._report.taskhash
        try:
            found = await self._reports.oldest(method, outhash, taskhash, mapped=True, page=page) if page else None
            if found is not None:
                self._commit(found[1])
            else:
                upstream = await self._otherwise(self._report) if self._otherwise is not None else None
                self._commit(None if upstream is None else upstream.hex())
        except Exception as error:  # noqa: BLE001  # a bug too is told to who waits for the report
            self._failed(error)

    def _commit(self, unihash: str | None) -> None:
        report = self._report if unihash is None else self._report._replace(unihash=unihash)
        step = [operations.COMMIT, self._number, self._created, *report]
        self._rows.add(step, self._weight(), self._committed, self._failed)

    def _committed(self, unihash: str) -> None:
        self._index.link.release_turn(self._turn())
        self._together.finish(self._place, unihash)

    def _failed(self, error: BaseException) -> None:
        self._index.link.release_turn(self._turn())  # it may hold it, or wait in the queue
        self._together.fail(error)

    def _turn(self) -> Turn:
        report = self._report
        return report.method, report.outhash, report.taskhash, self._created, self._number

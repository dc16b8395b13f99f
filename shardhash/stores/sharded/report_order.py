"""Report order: what happens between a report and its acknowledgement.

Reports that share (method, outhash) behave as if made one after the other; different ones run side by side and share
messages. The worker that owns slot(outhash) keeps the *report lock* of that pair:

1. slot(outhash): wait for the lock; the index holds the taskhash, durably; it names the outhash's taskhashes, oldest
   first.
2. Their mappings, oldest first, give the unihash; else upstream; else the client's own.
3. slot(taskhash): one log record stores row and mapping, each if absent; the mapping in force is the acknowledgement.
4. slot(outhash): the lock ends, whatever happened.

Most reports are of an outhash that is new. Those take two steps, or one when one worker owns both slots, and travel in
rounds with all others (report_rounds.py): the lock is free and there is no other taskhash, so the client's unihash it
is.

A report of a known outhash takes one step as well, if one worker owns both slots and the row of the oldest taskhash: it
can tell the unihash by itself. The others form a *line*, behind which later ones of the outhash wait, too. All that are
in it when its lock is granted go together: they share the lock, the index write and the question of step 2. The oldest
row with a mapping gives all of them their unihash; without one, the first report is stored alone, and what it got is
the unihash of the rest, just as if they had come one by one.

Several coordinators share one clock, yet a report that was made first may come second. Who gets the lock is told so
(`Granted.newest`), and takes a later time for row and item (`Retime`): times follow the order of the locks.

A crash between 1 and 3 leaves an index item without a row. It says nothing, because step 2 asks for taskhashes that
have a *row* of this outhash; the client's retry completes it. So does a report whose client went away; it goes on. A
report that the disk refused leaves such an item, too; the item gets the time of the next report of this taskhash
(`Retime`), so that nothing remembers the refused one.

After a sweep an outhash may have a hundred thousand rows without a mapping, and after a removal during reports as many
items without a row. Whoever walked past them tells the index (`Skip`). When a row gets a mapping again, the worker that
stores it names its outhashes, and the index forgets what it was told (`Unskip`) before that is acknowledged. A row that
is stored for an old item comes with a new time of the item (`Retime`), behind what is skipped.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence, Set, Sized
from typing import Any

from shardhash.base.tasks import BackgroundTasks
from shardhash.errors import InternalError, ServerFaultError, UnavailableError
from shardhash.link.operations import (
    PAGE,
    Equivalents,
    IndexStep,
    Item,
    Lock,
    Outhash,
    Page,
    Skip,
    Stored,
    StoreStep,
    Unskip,
)
from shardhash.link.worker_link import WorkerLink
from shardhash.stores.interface import Otherwise
from shardhash.stores.sharded.clock import Clock
from shardhash.stores.sharded.report_rounds import Rounds
from shardhash.stores.sharded.report_times import make_later, retime
from shardhash.stores.sharded.together import Together
from shardhash.wire.hashes import ShardMap, slot_of_text
from shardhash.wire.rows import Report

log = logging.getLogger(__name__)

MOST_TOGETHER = 100
"""Reports of one outhash that share a lock: what a worker does with them takes some milliseconds."""


class Reports:
    """Carries reports out over the links of all shards."""

    def __init__(
        self, links: Sequence[WorkerLink], clock: Clock, written: Callable[[str, str], None], *, alone: bool = True
    ) -> None:
        """`written` is told (method, taskhash) of each report that ends, before it is acknowledged.

        `alone`: no other coordinator reports here; only then `Skip` is used, for nobody waits until `Unskip` is done.
        """
        self.links = links
        self.written = written
        self.barred: set[Outhash] = set()
        """Outhashes that give no unihash to other tasks (quarantine.py)."""
        self._clock = clock
        self._alone = alone
        self._lines: dict[Outhash, list[_UnderWay]] = {}
        rounds = [Rounds(link, self._lines, self.barred) for link in links]
        self._rounds = [rounds[shard] for shard in ShardMap(len(links)).owners]
        self._loop = asyncio.get_running_loop()
        self._tasks = BackgroundTasks()

    async def close(self) -> None:
        """End what still runs; nobody waits for it any more."""
        await self._tasks.close()

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run what a report waits for beside everything else."""
        self._tasks.start(work, "a report")

    def link_of(self, hash_text: str) -> WorkerLink:
        """The link to the shard that owns a hash."""
        return self.rounds_of(hash_text).link

    def rounds_of(self, hash_text: str) -> Rounds:
        """The rounds of the shard that owns a hash."""
        return self._rounds[slot_of_text(hash_text)]

    def report(
        self, reports: Sequence[Report], otherwise: Otherwise | None = None, created: int | None = None
    ) -> asyncio.Future[list[bytes]]:
        """The unihashes in force, once all reports are durable. `created`: microseconds, now unless given."""
        future: asyncio.Future[list[bytes]] = self._loop.create_future()
        if not reports:
            future.set_result([])
        together, first = Together(future, len(reports)), self._clock(len(reports))
        for place, report in enumerate(reports):
            number = first + place
            _UnderWay(self, together, place, report, number if created is None else created, number).begin(otherwise)
        return future

    def stored(self, method: str, answer: Stored) -> str:
        """The unihash in force that a worker answered. Call it before that is acknowledged, unless it is a mere
        text."""
        if isinstance(answer, str):
            return answer
        unihash, revived = answer
        by_link: dict[WorkerLink, list[Outhash]] = {}
        for outhash in revived:
            by_link.setdefault(self.link_of(outhash), []).append((method, outhash))
        for link, outhashes in by_link.items():
            link.tell(Unskip(outhashes))
        return unihash

    async def oldest_row(self, method: str, outhash: str, *, mapped: bool) -> str | None:
        """The taskhash of the oldest row of an outhash, and with `mapped` of the oldest that has a mapping."""
        index = self.link_of(outhash)
        page = await index.request(Page(method, outhash, None, mapped))
        while page:
            unihashes = await self.equivalents(method, outhash, [taskhash for _, taskhash in page])
            for (_, taskhash), unihash in zip(page, unihashes, strict=True):
                if unihash or (unihash is not None and not mapped):
                    return taskhash
            page = await index.request(Page(method, outhash, page[-1], mapped))
        return None

    async def oldest_unihash(self, method: str, outhash: str, page: list[Item], own: Set[str]) -> str | None:
        """The mapping of the oldest row of an outhash that has one. `page`: the first of the index.

        The caller holds the report lock. Items without a mapping that it had to walk past are skipped from now on, up
        to the first of its `own` taskhashes, which get their rows now.
        """
        index = self.link_of(outhash)
        passed, upto, bare, foreign = 0, None, False, True
        found: str | None = None
        while page and found is None:
            unihashes = await self.equivalents(method, outhash, [taskhash for _, taskhash in page])
            for item, unihash in zip(page, unihashes, strict=True):
                if unihash:
                    found = unihash
                    break
                foreign = foreign and item[1] not in own
                if foreign:
                    passed, upto, bare = passed + 1, item, bare or unihash is None
            if found is None:
                page = await index.request(Page(method, outhash, page[-1], mapped=True))
        if upto is not None and passed >= PAGE and self._alone:
            index.tell(Skip(method, outhash, upto, bare))
        return found

    async def equivalents(self, method: str, outhash: str, taskhashes: Sequence[str]) -> list[str | None]:
        """`Equivalents`, asked of each taskhash's own shard."""
        by_link: dict[WorkerLink, list[int]] = {}
        for position, taskhash in enumerate(taskhashes):
            by_link.setdefault(self.link_of(taskhash), []).append(position)
        answers: list[str | None] = [None] * len(taskhashes)
        parts = await asyncio.gather(
            *(
                link.request(Equivalents(method, outhash, [taskhashes[i] for i in positions]))
                for link, positions in by_link.items()
            )
        )
        for positions, unihashes in zip(by_link.values(), parts, strict=True):
            for position, unihash in zip(positions, unihashes, strict=True):
                answers[position] = unihash
        return answers

    # ---------------------------------------------------------------------------------------------- lines

    def join_line(self, report: _UnderWay) -> None:
        """Join the queue of an outhash: its reports share one lock, and are carried out together."""
        line = self._lines.get(report.outhash)
        if line is not None:
            line.append(report)
            return
        self._lines[report.outhash] = [report]
        self._tasks.start(self._run_line(report.outhash), "reports of one outhash")

    async def _run_line(self, outhash: Outhash) -> None:
        line = self._lines[outhash]
        try:
            while line:
                together = line[:MOST_TOGETHER]
                del line[: len(together)]
                await self._go_together(outhash, together)
        finally:
            del self._lines[outhash]
            for report in line:  # the server stops
                report.failed(UnavailableError("the server is shutting down"))

    async def _go_together(self, outhash: Outhash, together: list[_UnderWay]) -> None:
        """Carry out reports of one outhash. Each gets a result or an error, whatever happens."""
        index = self.link_of(outhash[1])
        lock = Lock(*outhash, [report.item for report in together], together[0].number)
        try:
            granted = await index.lock(lock)
            try:
                if granted.newest:
                    await make_later(index, outhash, together, granted, self._clock)
                await self._retime(index, outhash, together, granted.older)
                own = {report.item[1] for report in together}
                if outhash in self.barred:
                    await asyncio.gather(*(report.store(None) for report in together))
                else:
                    unihash = await self.oldest_unihash(*outhash, granted.page, own)
                    await self._store(together, unihash)
            finally:
                index.release(lock)
        except ServerFaultError as error:
            _fail_all(together, error)
        except asyncio.CancelledError:
            _fail_all(together, UnavailableError("the server is shutting down"))
            raise
        except Exception as bug:
            log.exception("internal error in a report; this is a bug")
            _fail_all(together, InternalError(f"internal error in a report: {bug!r}; this is a bug, see the log"))

    async def _retime(self, index: WorkerLink, outhash: Outhash, together: list[_UnderWay], older: list[str]) -> None:
        """Give the present time to items whose report the disk refused before and which is repeated now."""
        if not older:
            return
        rows = await self.equivalents(*outhash, older)
        refused = {taskhash for taskhash, row in zip(older, rows, strict=True) if row is None}
        await retime(index, outhash, [report for report in together if report.item[1] in refused])

    async def _store(self, together: list[_UnderWay], unihash: str | None) -> None:
        """Store reports under a unihash; without one, the first that can be stored gives it."""
        rest = iter(together)
        while unihash is None and (first := next(rest, None)) is not None:
            try:
                proposed = await first.ask_upstream()
            except Exception as bug:  # noqa: BLE001  # told to who waits for this report; the others have their own
                first.failed(bug)
            else:
                unihash = await first.store(proposed)
        await asyncio.gather(*(report.store(unihash) for report in rest))

    def unskip_all(self) -> None:
        """A worker ended, perhaps before it could tell which rows have a mapping again."""
        for link in self.links:
            link.tell(Unskip([]))


class _UnderWay:
    """A report between request and acknowledgement: a state machine, driven by the answers to its steps.

    Nothing waits for it in a task of its own unless it joins a line; at tens of thousands a second tasks would be half
    of what a report costs here.
    """

    __slots__ = ("_index", "_otherwise", "_place", "_report", "_reports", "_rows", "_together", "created", "number")

    def __init__(
        self, reports: Reports, together: Together, place: int, report: Report, created: int, number: int
    ) -> None:
        """`place` is its place among those made together; `number` names its lock."""
        self.number = number
        self._reports = reports
        self._together = together
        self._place = place
        self._report = report
        self.created = created
        self._index = reports.rounds_of(report.outhash)
        self._rows = reports.rounds_of(report.taskhash)
        self._otherwise: Otherwise | None = None

    @property
    def outhash(self) -> Outhash:
        """The (method, outhash) that names its queue."""
        return self._report.method, self._report.outhash

    @property
    def made_here(self) -> bool:
        """Whether its time is that at which it came in, and not given."""
        return self.created == self.number

    @property
    def item(self) -> Item:
        """Its item of the index."""
        return self.created, self._report.taskhash

    def begin(self, otherwise: Otherwise | None) -> None:
        """Ask the first step."""
        if self._index is self._rows and otherwise is None:
            step: StoreStep = ("report", self.number, self.created, *self._report)
            self._index.add(step, self._weight(), self._reported, self._locked_failed)
        else:
            self._otherwise = otherwise
            report = self._report
            index: IndexStep = ("index", self.number, self.created, report.method, report.taskhash, report.outhash)
            self._index.add(index, 0, self._indexed, self._locked_failed)

    def _weight(self) -> int:
        texts: tuple[Sized | None, ...] = self._report
        return sum(map(len, filter(None, texts)))  # 0.4 us

    def _reported(self, answer: Stored | None) -> None:
        if answer is None:
            self._reports.join_line(self)
        elif isinstance(answer, str):  # as nearly always; 0.2 us less
            self._reports.written(self._report.method, self._report.taskhash)
            self._together.finish(self._place, answer)
        else:
            self._finish(answer)

    def _indexed(self, first: bool | None) -> None:
        if not first:
            self._reports.join_line(self)
            return
        self._index.link.hold(self._lock())
        if self._otherwise is None:
            self._commit(None)
        else:
            self._reports.run(self._decide())

    async def _decide(self) -> None:
        """Ask the upstream, while the lock is held, and store the report."""
        try:
            self._commit(await self.ask_upstream())
        except Exception as error:  # noqa: BLE001  # a bug too is told to who waits for the report
            self._locked_failed(error)

    def _commit(self, unihash: str | None) -> None:
        self._rows.add(self._step(unihash), self._weight(), self._committed, self._locked_failed)

    def _committed(self, answer: Stored) -> None:
        self._index.link.release(self._lock())
        self._finish(answer)

    def _locked_failed(self, error: BaseException) -> None:
        self._index.link.release(self._lock())  # it may hold it: the answer may have been late
        self.failed(error)

    def failed(self, error: BaseException) -> None:
        """It is not stored."""
        self._reports.written(self._report.method, self._report.taskhash)
        self._together.fail(error)

    def _finish(self, answer: Stored) -> None:
        self._reports.written(self._report.method, self._report.taskhash)
        self._together.finish(self._place, self._reports.stored(self._report.method, answer))

    async def ask_upstream(self) -> str | None:
        """The unihash that the upstream has for its outhash, if there is one."""
        if self._otherwise is None or self.outhash in self._reports.barred:
            return None
        upstream = await self._otherwise(self._report)
        return None if upstream is None else upstream.hex()

    async def store(self, unihash: str | None) -> str | None:
        """Store it, in the lock of its line, under this unihash or its own; the one in force, None if it failed."""
        answered: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

        def done(answer: Stored) -> None:
            self._finish(answer)
            answered.set_result(answer if isinstance(answer, str) else answer[0])

        def failed(error: BaseException) -> None:
            self.failed(error)
            if not answered.done():
                answered.set_result(None)

        self._rows.add(self._step(unihash), self._weight(), done, failed)
        return await answered

    def _step(self, unihash: str | None) -> StoreStep:
        report = self._report if unihash is None else self._report._replace(unihash=unihash)
        return ("commit", self.number, self.created, *report)

    def _lock(self) -> Lock:
        return Lock(self._report.method, self._report.outhash, [self.item], self.number)


def _fail_all(reports: list[_UnderWay], error: Exception) -> None:
    for report in reports:
        report.failed(error)

"""The router: the Store over worker processes. Which shard is asked what; the links carry it there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from typing import Any, TypeAlias, TypeVar

from shardhash.base.entry_kinds import CONFIG, GC_MARK, USER
from shardhash.base.tasks import BackgroundTasks
from shardhash.errors import InternalError, InvokeError, ServerFaultError, ShardhashError
from shardhash.link import operations as op
from shardhash.link.operation import Operation
from shardhash.link.worker_link import WorkerLink
from shardhash.stores.answers import ANSWER_CACHE, Answers
from shardhash.stores.end_of_day import EndOfDay
from shardhash.stores.foreign_rows import created_of, report_of
from shardhash.stores.interface import CollectionStatus, EntryChanged, Health, Otherwise
from shardhash.stores.sharded.clock import Clock
from shardhash.stores.sharded.collector import ShardedCollector
from shardhash.stores.sharded.entries import list_entries
from shardhash.stores.sharded.explorer import ShardedExplorer
from shardhash.stores.sharded.gathering import all_of
from shardhash.stores.sharded.imports import Imports
from shardhash.stores.sharded.lookup_rounds import Lookups
from shardhash.stores.sharded.mark_pages import pages
from shardhash.stores.sharded.others import NONE, Others
from shardhash.stores.sharded.quarantine import ShardedQuarantine, mark_barred
from shardhash.stores.sharded.report_order import Reports
from shardhash.stores.sharded.shard_health import health_of
from shardhash.wire.batch import Found
from shardhash.wire.hashes import DIGEST_SIZE, Buffer, Key, to_text
from shardhash.wire.imports import ImportedMapping, ImportedRow
from shardhash.wire.rows import Columns, Report, Where

_T = TypeVar("_T")
log = logging.getLogger(__name__)

Left: TypeAlias = Callable[[], bool]
"""Whether nobody waits for a removal any more."""


class Router:
    """A Store whose hashes lie in workers, one link each; shard 0 also keeps users and settings."""

    remote = False
    lapsed = False

    def __init__(self, links: Sequence[WorkerLink], answer_cache: int = ANSWER_CACHE, others: Others = NONE) -> None:
        """`answer_cache`: bytes that answers may take which are kept at hand, 0 for none.

        `others`: the other coordinators of the same workers, which are told what they must know.
        """
        self.removals = 0
        """Removals under way."""
        self._others = others
        self._links = links
        self._clock = Clock()
        self._lookups = Lookups(links)
        self._answers = Answers(answer_cache, unknown=others.alone)
        self._reports = Reports(links, self._clock, self._answers.written, alone=others.alone)
        self._imports = Imports(self._reports, self._clock)
        self.explorer = ShardedExplorer(links, self._reports)
        self.quarantine = ShardedQuarantine(
            links, self._reports, self.explorer, self._forget_until_done, self.take_mappings, self._discard, self._bar
        )
        self.collector = ShardedCollector(
            links, self._reports, self._forget_answers, self._forget_until_done, self._remove_by, self._unindex
        )
        self._end_of_day = EndOfDay(self._answers.forget)
        self._collection = asyncio.Lock()
        self._removals = BackgroundTasks()
        for link in links:
            link.reconnected = self._worker_replaced

    # ------------------------------------------------------------------------------------------- questions

    async def lookup(self, method: str, digests: Buffer) -> Found:
        """See Store."""
        found = self._answers.find(method, digests)
        if found is None:
            asked = self._answers.asked()
            found = await self._lookups.get(method, digests)
            self._answers.remember(method, digests, found, asked)
        return found

    def find(self, method: str, digests: Buffer) -> Found | None:
        """See Store."""
        return self._answers.find(method, digests)

    async def lookup_keys(self, method: str, taskhashes: Sequence[Key]) -> list[bytes | None]:
        """See Store."""
        by_link: dict[WorkerLink, list[str]] = {}
        for text in map(to_text, taskhashes):
            by_link.setdefault(self._reports.link_of(text), []).append(text)
        parts = await asyncio.gather(*(link.request(op.Unihashes(method, texts)) for link, texts in by_link.items()))
        found: dict[str, str | None] = {}
        for texts, unihashes in zip(by_link.values(), parts, strict=True):
            found.update(zip(texts, unihashes, strict=True))
        answers = [found[to_text(taskhash)] for taskhash in taskhashes]
        return [None if unihash is None else bytes.fromhex(unihash) for unihash in answers]

    async def exists(self, digests: Buffer) -> bytes:
        """See Store."""
        if self._answers.exist(digests):
            return b"\1" * (len(digests) // DIGEST_SIZE)
        asked = self._answers.asked()
        status = await self._lookups.exists(digests)
        self._answers.remember_existing(digests, status, asked)
        return status

    async def get_row(self, method: str, taskhash: str) -> Columns | None:
        """See Store."""
        return await self._reports.link_of(taskhash).request(op.OldestRow(method, taskhash))

    async def get_outhash(self, method: str, outhash: str, _taskhash: str, with_unihash: bool) -> Columns | None:
        """See Store."""
        if with_unihash and (method, outhash) in self._reports.barred:
            return None
        while (found := await self._reports.oldest_row(method, outhash, mapped=with_unihash)) is not None:
            row = await self._reports.link_of(found).request(op.ReadRow(method, found, outhash, with_unihash))
            if row is not None:
                return row
            # It was removed in between: look again.
        return None

    # --------------------------------------------------------------------------------------------- reports

    def report(self, reports: Sequence[Report], otherwise: Otherwise | None = None) -> Awaitable[list[bytes]]:
        """See Store."""
        return self._reports.report(reports, otherwise)

    async def report_equiv(self, method: str, taskhash: str, unihash: bytes) -> bytes:
        """See Store."""
        try:
            answer = await self._reports.link_of(taskhash).request(op.Map(method, taskhash, unihash.hex()))
        finally:
            self._answers.written(method, taskhash)
        return bytes.fromhex(self._reports.stored(method, answer))

    async def store_row(self, row: Columns) -> None:
        """See Store."""
        report = report_of(row)
        # The mapping first: as a mere report, the row would get the unihash of its local equivalents.
        await self.report_equiv(report.method, report.taskhash, bytes.fromhex(report.unihash))
        await self._reports.report([report], None, created=created_of(row))

    async def take_mappings(self, mappings: Sequence[ImportedMapping]) -> list[str]:
        """See TakesImports."""
        try:
            return await self._imports.take_mappings(mappings)
        finally:
            for mapping in mappings:
                self._answers.written(mapping.method, mapping.taskhash)

    async def take_rows(self, rows: Sequence[ImportedRow]) -> list[str]:
        """See TakesImports."""
        return await self._imports.take_rows(rows)

    # -------------------------------------------------------------------------------------------- removals

    async def remove(self, where: Where) -> int:
        """See Store."""
        return await self._forgetting(
            lambda left: self._remove_rows(lambda job: op.RemoveMatching(job, dict(where)), left)
        )

    async def _discard(self, rows: Sequence[tuple[str, str, str]]) -> int:
        """Remove rows one by one, and the mappings of their taskhashes; how many went of both."""
        by_link: dict[WorkerLink, list[tuple[str, str, str]]] = {}
        for row in rows:
            by_link.setdefault(self._reports.link_of(row[1]), []).append(row)
        return await self._remove_by(
            lambda job: [self._remove_from(link, op.RemoveRows(job, some), _nobody) for link, some in by_link.items()]
        )

    async def clean_unused(self, max_age_seconds: int) -> int:
        """See Store."""
        before = self._clock() - max_age_seconds * 1_000_000
        return await self._forgetting(lambda left: self._remove_rows(lambda job: op.Clean(job, before), left))

    async def _forgetting(self, removal: Callable[[Left], Coroutine[Any, Any, int]]) -> int:
        """The result of a removal. A caller who leaves ends it, once the workers did what they were asked to.

        Until then no answer is at hand.
        """
        result: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._removals.start(self._remove(removal(result.cancelled), result), "a removal")
        return await result

    async def _forget_answers(self) -> None:
        """Have workers asked for everything once more, by all coordinators."""
        self._answers.forget()
        await self._others.tell("forget")

    async def _forget_until_done(self, removal: Coroutine[Any, Any, int]) -> int:
        """The same of a removal that goes to its end, whoever leaves."""
        return await self._forgetting(lambda _: removal)

    async def _remove(self, removal: Coroutine[Any, Any, int], result: asyncio.Future[int]) -> None:
        error: Exception | None = None
        count = 0
        self.removals += 1
        try:
            with self._answers.removing():
                await self._others.tell("begin-removal")
                try:
                    count = await removal
                except ShardhashError as refusal:
                    error = refusal
                except Exception as bug:
                    log.exception("internal error in a removal; this is a bug")
                    error = InternalError(f"internal error in a removal: {bug!r}; this is a bug, see the log")
        finally:
            self.removals -= 1
        await self._others.tell("end-removal")
        if result.done():  # the caller went away
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(count)

    @property
    def barred(self) -> Collection[op.Outhash]:
        """Outhashes that give no unihash to other tasks."""
        return self._reports.barred

    async def _bar(self, outhashes: Sequence[op.Outhash], *, barred: bool) -> None:
        """Have all coordinators know of these whether they are. Others run meanwhile: these may be a part of many."""
        mark_barred(self._reports.barred, outhashes, barred=barred)
        await asyncio.gather(self._others.tell("bar", outhashes, barred), asyncio.sleep(0))

    async def _remove_rows(self, make: Callable[[str], op.RemoveMatching | op.Clean], left: Left) -> int:
        """Remove rows from all shards; how many went."""
        return await self._remove_by(lambda job: [self._remove_from(link, make(job), left) for link in self._links])

    async def _remove_by(self, make: Callable[[str], list[Coroutine[Any, Any, int]]]) -> int:
        """Remove rows by what is asked of each shard for a job; how many went.

        1. Every shard watches which outhashes have reports from now on.
        2. Each shard removes a part at a time, and names the index items of the rows that went.
        3. The shards of those outhashes delete the items, but not where a report had the lock since 1: its row may be
           back. An item that stays says nothing.
        4. Every shard stops to watch, and forgets the removal if it ended half way.
        """
        job = secrets.token_hex(8)
        try:
            await self._ask_all(op.Watch(job))
            return sum(await all_of(make(job)))
        finally:
            with contextlib.suppress(ServerFaultError):  # a watch ends with the link as well
                await self._ask_all(op.Unwatch(job))

    async def _remove_from(
        self, link: WorkerLink, removal: op.RemoveMatching | op.Clean | op.RemoveRows | op.Sweep, left: Left
    ) -> int:
        count, done = 0, False
        while not done and not left():
            removed = await link.request(removal)
            count += removed.rows
            done = removed.done
            await self._unindex(removal.job, removed.unindex)
        return count

    async def _unindex(self, job: str, gone: list[tuple[str, op.Pairs]]) -> None:
        by_link: dict[tuple[WorkerLink, str], op.Pairs] = {}
        for method, pairs in gone:
            for pair in pairs:
                by_link.setdefault((self._reports.link_of(pair[0]), method), []).append(pair)
        await all_of(_ask(link, op.Unindex(job, method, pairs)) for (link, method), pairs in by_link.items())

    # ------------------------------------------------------------------------------------ garbage collection

    async def gc_mark(self, marks: Sequence[tuple[str, Where]]) -> list[int]:
        """See Store. Shard 0 is told first: its mark is the one that counts after a crash."""
        counts: list[int] = []
        async with self._collection:
            for some in pages(marks):
                page = asyncio.ensure_future(self._mark_some(some))
                try:
                    counts += await asyncio.shield(page)
                except asyncio.CancelledError:
                    await asyncio.wait([page])  # no other collection begins while the workers are at it
                    raise
        return counts

    async def _mark_some(self, marks: list[tuple[str, Where]]) -> list[int]:
        await self._links[0].request(op.SetEntry(CONFIG, GC_MARK, marks[0][0]))
        parts = await self._ask_all(op.SetMarks(marks))
        return list(map(sum, zip(*parts, strict=True)))

    async def gc_status(self) -> CollectionStatus:
        """See Store."""
        parts = await self._ask_all(op.Status())
        keep = sum(part[0] for part in parts)
        return CollectionStatus(keep, sum(part[1] for part in parts) - keep, parts[0][2] or None)

    async def gc_sweep(self, mark: str) -> int:
        """See Store.

        Every shard sweeps while the mark is current everywhere, then shard 0 forgets the mark: from there on the
        sweep has happened. Until then it can be asked again, after any crash.
        """
        return await self._forgetting(lambda left: self._sweep(mark, left))

    async def _sweep(self, mark: str, left: Left) -> int:
        async with self._collection:
            if not mark or await self.get_entry(CONFIG, GC_MARK) != mark:
                raise InvokeError(f"'{mark}' is not the current mark. Refusing to sweep")
            job = secrets.token_hex(8)
            try:
                count = sum(await all_of(self._remove_from(link, op.Sweep(job, mark), left) for link in self._links))
            finally:
                with contextlib.suppress(ServerFaultError):
                    await self._ask_all(op.Unwatch(job))
            if not left():
                await self.set_entry(CONFIG, GC_MARK, None)
                await self._spread_mark(None)
        return count

    async def reconcile(self) -> None:
        """Give every shard the current mark of shard 0; after a start, since a crash may have come between."""
        async with self._collection:
            await self._spread_mark(await self.get_entry(CONFIG, GC_MARK))
        await self.quarantine.load()

    async def _spread_mark(self, mark: str | None) -> None:
        await all_of(_ask(link, op.SetEntry(CONFIG, GC_MARK, mark)) for link in self._links[1:])

    # ---------------------------------------------------------------------------------------------- entries

    async def usage(self) -> dict[str, int]:
        """See Store."""
        parts = await self._ask_all(op.Counts())
        return {
            "unihashes_v3": sum(part["mappings"] for part in parts),
            "outhashes_v2": sum(part["rows"] for part in parts),
            "users": parts[0]["users"],
            "config": parts[0]["config"],
        }

    async def health(self) -> Health:
        """See Store."""
        return Health(await asyncio.gather(*map(health_of, self._links)))

    async def get_entry(self, kind: str, name: str) -> Any:
        """See Store."""
        return await self._links[0].request(op.GetEntry(kind, name))

    async def list_entries(self, kind: str) -> dict[str, Any]:
        """See Store."""
        return await list_entries(self._links[0], kind)

    async def set_entry(self, kind: str, name: str, value: Any) -> None:
        """See Store."""
        await self._links[0].request(op.SetEntry(kind, name, value))
        if kind == USER:
            await self._others.tell("follow", kind, name)

    async def settled(self) -> None:
        """See Store. There are no other servers."""

    async def close(self) -> None:
        """End the reports and removals that still run; nobody waits for them any more."""
        self._end_of_day.cancel()
        await self._removals.close()
        await self._reports.close()

    def _worker_replaced(self) -> None:
        self._answers.forget()
        self._reports.unskip_all()

    async def backfilled(self) -> int:
        """See Store. There is no upstream."""
        return 0

    def follow_entries(self, changed: EntryChanged) -> None:
        """See Store. Nobody else writes here."""

    async def snapshot(self) -> None:
        """See Store."""
        await self._ask_all(op.Snapshot())

    async def _ask_all(self, operation: Operation[_T]) -> list[_T]:
        """The results of an operation on every shard."""
        return await all_of(_ask(link, operation) for link in self._links)


async def _ask(link: WorkerLink, operation: Operation[_T]) -> _T:
    """The result of an operation; a link that gave up refuses it only here, among the others."""
    return await link.request(operation)


def _nobody() -> bool:
    """Nobody has left."""
    return False

"""The service: carries out the operations of the link (link/operations.py) on one shard."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import compress, groupby
from time import perf_counter
from typing import Any

from shardhash.base.entry_kinds import CONFIG, GC_MARK
from shardhash.base.figures import ShardFigures, read_process
from shardhash.errors import StorageError
from shardhash.link import operations as op
from shardhash.link.collection_operations import (
    BeginCollection,
    ChooseDoomed,
    EndCollection,
    KeepUnihashes,
    KeepUsed,
    ShowDoomed,
    TakeDoomed,
)
from shardhash.link.follower_operations import Drained, ReleaseFollower
from shardhash.link.import_operations import TakeMappings, TakeRows
from shardhash.link.operation import Operation
from shardhash.link.pages import Pages
from shardhash.link.search_operations import ChooseRows, CountSaved, FindDiverging, FindRows, GuessUnihashes
from shardhash.shard.state.selection import columns, find_named, joined, names_mappings, oldest_row, select_mappings
from shardhash.shard.state.transaction import Transaction
from shardhash.shard.storage.recovery import AnyShard
from shardhash.shard.storage.snapshot_job import SnapshotJob
from shardhash.shard.worker.ahead import Ahead
from shardhash.shard.worker.asking import Asking
from shardhash.shard.worker.collecting import Collecting
from shardhash.shard.worker.followers import Followers
from shardhash.shard.worker.guessing import Guessing
from shardhash.shard.worker.import_operations import ImportOperations
from shardhash.shard.worker.removals import Removals
from shardhash.shard.worker.report_locks import ReportLocks
from shardhash.shard.worker.report_operations import ReportOperations
from shardhash.shard.worker.row_texts import RowTexts
from shardhash.shard.worker.searches import Searches
from shardhash.shard.worker.writer import Writer
from shardhash.wire import batch
from shardhash.wire.hashes import DIGEST_SIZE, Buffer, to_key
from shardhash.wire.long_text import LongText
from shardhash.wire.rows import Columns, Where

MARKS_PAGE = 500
"""Marks of one group commit, 1 ms."""
MANY_METHODS = 32
"""Methods from which on a group commit has fewer marks, if each is looked for in each method."""
PART = 8192
"""Hashes that are looked up in one go; 2.6 ms."""
FOLLOWED_PART = 1024
"""The same while a collection is told of each, which takes as long again. `asking.AT_ONCE` keeps up with twice this."""
SNAPSHOT_REST = 5
"""How many times as long as a chunk of a snapshot took the worker then rests from it: a snapshot takes a sixth of a
processor, 20 seconds for 500,000 reports, and lookups the rest."""


class Service:
    """The operations of one shard. Each returns its result, or an awaitable of it."""

    def __init__(self, shard: AnyShard, writer: Writer) -> None:
        self._shard = shard
        self._table = shard.table
        self._writer = writer
        self._write = writer.write
        self._alone = writer.alone
        self._locks = ReportLocks()
        self.asking = asking = Asking(shard.table)
        self.reports = reports = ReportOperations(shard, writer, self._locks, asking)
        self.removals = removals = Removals(shard, writer, self._locks, reports)
        self.followers = followers = Followers(self._locks, reports, writer.write)
        imports = ImportOperations(shard, writer, asking)
        searches = Searches(shard, asking)
        self._texts = RowTexts(shard)
        self.collecting = collecting = Collecting(shard, writer, asking)
        self._snapshot_lock = asyncio.Lock()
        self._snapshot_seconds = 0.0
        self.operations: dict[type[Operation[Any]], Callable[..., Any]] = dict(
            [
                op.Lock.by_link(reports.lock),
                op.Release.by_link(reports.release),
                op.Round.by_link(reports.round),
                op.Page.by(reports.page),
                op.Skip.by(reports.skip),
                op.Unskip.by(reports.unskip),
                op.Retime.by(reports.retime),
                op.Equivalents.by(reports.equivalents),
                op.Map.by(reports.map),
                TakeMappings.by(imports.take_mappings),
                TakeRows.by(imports.take_rows),
                op.Unihashes.by(self.unihashes),
                op.ReadRow.by(self.read_row),
                op.OldestRow.by(self.oldest_row),
                op.Counts.by(self.counts),
                op.Figures.by(self.figures),
                FindRows.by(searches.find),
                ChooseRows.by(searches.choose),
                op.RemoveRows.by(removals.remove_rows),
                op.DropMappings.by(removals.drop_mappings),
                FindDiverging.by(searches.diverging),
                CountSaved.by(searches.saved),
                GuessUnihashes.by(Guessing(shard.table).guess),
                op.Watch.by(removals.watch),
                op.RemoveMatching.by(removals.remove),
                op.Clean.by(removals.clean),
                op.Unindex.by(removals.unindex),
                op.Unwatch.by(removals.unwatch),
                op.SetMarks.by(self.set_marks),
                op.Sweep.by(removals.sweep),
                op.Status.by(self.status),
                BeginCollection.by(collecting.begin),
                KeepUnihashes.by(collecting.keep),
                KeepUsed.by(collecting.keep_used),
                ChooseDoomed.by(collecting.choose),
                ShowDoomed.by(collecting.show),
                TakeDoomed.by(collecting.take),
                EndCollection.by(collecting.end),
                op.GetEntry.by(self.get_entry),
                op.ListEntries.by(self.list_entries),
                op.SetEntry.by(self.set_entry),
                op.Snapshot.by(self.snapshot),
                Drained.by(followers.drained),
                ReleaseFollower.by(followers.release),
            ]
        )

    def begin(self, link: object, kind: type[Operation[Any]], arguments: list[Any]) -> Any:
        """Start an operation: its result, or an awaitable of it."""
        operation = kind.decode(arguments)
        carry_out = self.operations[kind]
        return carry_out(link, operation) if kind.of_a_link else carry_out(operation)

    def lookup(self, frame: Buffer, head: bytes = b"") -> bytes:
        """The answer to a batch frame, behind a head."""
        self.asking.look_at_clock()
        asked = batch.decode_request(frame)
        if asked.op == batch.EXISTS:
            return batch.encode_exists(self._exist(asked.digests), head)
        return batch.encode_found(self._find(asked.method, asked.digests), head)

    def is_long(self, frame: Buffer) -> bool:
        """Whether a batch frame is to be answered in parts."""
        return len(frame) > 2 * self._part(batch.op_of(frame)) * DIGEST_SIZE

    def _part(self, kind: int) -> int:
        """Hashes that are looked up in one go: existence is looked up in each method, and in all rare ones at once."""
        times = len(self._table.scanned) + bool(self._table.rare) if kind == batch.EXISTS else 1
        return max(1, (FOLLOWED_PART if self.asking.followed else PART) // max(1, times))

    async def lookup_in_parts(self, frame: Buffer, head: bytes) -> bytes:
        """The same of lookups of many clients that came together, between which the event loop goes on."""
        self.asking.look_at_clock()
        asked = batch.decode_request(frame)
        found: list[batch.Found] = []
        exist: list[bytes] = []
        start = 0
        while start < len(asked.digests):
            size = self._part(asked.op) * DIGEST_SIZE  # a collection may begin meanwhile
            digests = asked.digests[start : start + size]
            start += size
            if asked.op == batch.EXISTS:
                exist.append(self._exist(digests))
            else:
                found.append(self._find(asked.method, digests))
            await asyncio.sleep(0)
        if asked.op == batch.EXISTS:
            return batch.encode_exists(b"".join(exist), head)
        return batch.encode_found(batch.Found.join(found), head)

    def _find(self, method: str, digests: Buffer) -> batch.Found:
        found = self._table.lookup(method, digests)
        if (part := self._table.methods.get(method)) is not None and part.aside > self.asking.most:
            self.asking.make_room(method, part, len(found.digests) // DIGEST_SIZE)
        return found

    def _exist(self, digests: Buffer) -> bytes:
        status = self._table.exists(digests)
        self.asking.found_existing(len(digests) // DIGEST_SIZE)
        return status

    def drop_link(self, link: object) -> None:
        """The server's own link is gone: its locks are free, and removals, which it alone makes, are over."""
        self._locks.drop(link)
        self.removals.drop()
        self.collecting.drop()

    # ------------------------------------------------------------------------------------------- questions

    def unihashes(self, asked: op.Unihashes) -> list[str | None]:
        """Lookups of taskhashes of any form."""
        keys = [to_key(taskhash) for taskhash in asked.taskhashes]
        found = [self._table.unihash(asked.method, key) for key in keys]
        for key in compress(keys, found):
            self.asking.put_aside(asked.method, key)
        return [None if unihash is None else unihash.hex() for unihash in found]

    def read_row(self, asked: op.ReadRow) -> Columns | Awaitable[Columns] | None:
        """One outhash row."""
        method, key = asked.method, to_key(asked.taskhash)
        row = self._table.row(method, key, to_key(asked.outhash))
        if row is None or (asked.joined and self._table.unihash(method, key) is None):
            return None
        if asked.joined:
            self.asking.put_aside(method, key)
        found = columns(method, key, row, self._texts.begin)
        return self._texts.whole(joined(self._table, method, key, found) if asked.joined else found)

    def oldest_row(self, asked: op.OldestRow) -> Columns | Awaitable[Columns] | None:
        """The oldest row of a taskhash that has a mapping."""
        method, key = asked.method, to_key(asked.taskhash)
        row = oldest_row(self._table, method, key)
        if row is None or self._table.unihash(method, key) is None:
            return None
        self.asking.put_aside(method, key)
        return self._texts.whole(joined(self._table, method, key, columns(method, key, row, self._texts.begin)))

    def counts(self, _asked: op.Counts) -> dict[str, int]:
        """How much there is of everything."""
        return self._table.counts()

    def figures(self, _asked: op.Figures) -> ShardFigures:
        """Figures of the shard."""
        counts, syncs = self._table.counts(), self._writer.sync_seconds
        return ShardFigures(
            counts["mappings"],
            counts["rows"],
            self._shard.log_bytes,
            list(syncs.counts),
            syncs.total,
            self._shard.snapshot_time / 1_000_000,
            self._snapshot_seconds,
            read_process(),
        )

    # ------------------------------------------------------------------------------------ garbage collection

    async def set_marks(self, asked: op.SetMarks) -> list[int]:
        """Make marks current and set them.

        A mark is current before mappings are looked for: one that is stored meanwhile carries it, and one that was
        stored before is found. A whole sstate cache is marked by unihash, one by one and by the million, so those
        that name their mappings share group commits; one that has to look through the table has its own.
        """
        counts: list[int] = []
        for (mark, named), some in groupby(asked.marks, key=lambda one: (one[0], names_mappings(one[1]))):
            await self._write(partial(Transaction.set_entry, kind=CONFIG, name=GC_MARK, value=mark))
            wheres = [where for _, where in some]
            if named:
                page = MARKS_PAGE
                if any("unihash" not in where for where in wheres):  # each is looked for in each method
                    page = max(1, MARKS_PAGE * MANY_METHODS // max(MANY_METHODS, len(self._table.methods)))
                for start in range(0, len(wheres), page):
                    counts += await self._write(partial(self._mark_named, mark, wheres[start : start + page]))
            else:
                counts += [await self._mark_found(mark, where) for where in wheres]
        return counts

    def _mark_named(self, mark: str, wheres: list[Where], change: Transaction) -> list[int]:
        return [
            sum([change.set_mark(mark, method, taskhashes) for method, taskhashes in found])
            for found in find_named(self._table, wheres)
        ]

    async def _mark_found(self, mark: str, where: Where) -> int:
        async with Ahead() as ahead:
            for method, taskhashes in select_mappings(self._table, where):
                change = partial(Transaction.set_mark, mark=mark, method=method, taskhashes=taskhashes)
                await ahead.add(self._write(change) if taskhashes else None)
        return ahead.count

    def status(self, _asked: op.Status) -> tuple[int, int, str]:
        """Mappings that carry the current mark (no mark, when none is current), all mappings, the mark."""
        mark = self._table.current_mark()
        mappings = self._table.counts()["mappings"]
        return self._table.mark_counts[mark] if mark else mappings - self._table.mark_counts.total(), mappings, mark

    # ---------------------------------------------------------------------------------------------- entries

    def get_entry(self, asked: op.GetEntry) -> Any:
        """One entry."""
        return self._table.entries.get(asked.kind, {}).get(asked.key)

    async def list_entries(self, asked: op.ListEntries) -> LongText:
        """All entries of a kind."""
        entries, pages = self._table.entries.get(asked.kind, {}), Pages()
        for name in list(entries):
            value = entries.get(name)
            if value is not None and pages.add((name, value if asked.values else None)):
                await asyncio.sleep(0)
        return pages.text()

    def set_entry(self, asked: op.SetEntry) -> Awaitable[None]:
        """Set an entry."""
        return self._write(lambda change: change.set_entry(asked.kind, asked.key, asked.value))

    # -------------------------------------------------------------------------------------------- snapshots

    async def snapshot(self, _asked: op.Snapshot) -> None:
        """Write a snapshot, a chunk at a time between lookups; one at a time."""
        if not self._shard.durable:
            raise StorageError("the server keeps everything in memory; there is nowhere to write a snapshot")
        async with self._snapshot_lock:
            await self.asking.note()
            self.asking.days_written = True
            # By the writer, since the log rotates, which must not happen while it is written or synced.
            job: SnapshotJob = await self._alone(self._shard.begin_snapshot)
            beside = partial(asyncio.get_running_loop().run_in_executor, None)
            started = began = perf_counter()
            try:
                while job.step():
                    # While keys are copied, writes wait.
                    rest = 0 if self._table.copies.under_way else SNAPSHOT_REST
                    await asyncio.sleep(rest * (perf_counter() - began))
                    began = perf_counter()
                await beside(job.seal)  # the fsync takes time and no processor
                began = perf_counter()
                while await beside(job.seal):
                    await asyncio.sleep(SNAPSHOT_REST * (perf_counter() - began))
                    began = perf_counter()
            except BaseException:
                job.abandon()
                self.asking.days_written = False
                raise
            self._snapshot_seconds = perf_counter() - started

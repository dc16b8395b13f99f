"""The service: carries out the operations of the link (operations.py) on one shard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from functools import partial
from itertools import groupby
from time import perf_counter
from typing import Any, TypeAlias

from shardhash.errors import ProtocolError, StorageError
from shardhash.link import operations
from shardhash.link.operations import GC_MARK
from shardhash.shard.state.packing import pack_item
from shardhash.shard.state.selection import (
    columns,
    find_named,
    joined,
    names_mappings,
    select_mappings,
    select_rows,
    select_unmarked,
    select_unused,
)
from shardhash.shard.state.transaction import RowFields, Transaction
from shardhash.shard.storage.recovery import AnyShard, SnapshotJob
from shardhash.shard.worker.report_locks import Place, ReportLocks
from shardhash.shard.worker.writer import Writer
from shardhash.wire import batch
from shardhash.wire.hashes import Buffer, Key, to_key, to_text
from shardhash.wire.rows import Columns, Where

_OF_A_LINK = frozenset(("turn", "round", "release"))
"""Operations that are told which link asks."""

Pairs: TypeAlias = list[tuple[str, str]]
Sweep: TypeAlias = AsyncIterator[tuple[int, str, Pairs]]
"""What a removal did, slice by slice: entries gone, and the (outhash, taskhash) of the rows gone from a method."""

MARKS_PAGE = 2000
"""Marks of one group commit, a few milliseconds of work."""
SNAPSHOT_REST = 5
"""How many times as long as a chunk of a snapshot took the worker then rests from it: a snapshot takes a sixth of a
processor, 10 seconds for 500,000 reports, and lookups the rest."""
UNINDEX_PAGE = 20_000
"""Rows whose index items one answer to ``remove`` or ``clean`` names; about 3 MB of JSON."""


class Service:
    """The operations of one shard. Public methods named op_X carry out operation X.

    An operation returns its result, or an awaitable of it.
    """

    def __init__(self, shard: AnyShard, writer: Writer) -> None:
        self._shard = shard
        self._table = shard.table
        self._write = writer.write
        self._turns = ReportLocks()
        self._loop = asyncio.get_running_loop()
        self._jobs: dict[str, Sweep] = {}
        self._unindexing = 0
        self._snapshot_lock = asyncio.Lock()
        self._operations: dict[str, Callable[..., Any]] = {
            name.removeprefix("op_"): getattr(self, name) for name in dir(self) if name.startswith("op_")
        }

    def begin(self, link: object, operation: str, arguments: list[Any]) -> Any:
        """Start an operation: its result, or an awaitable of it. ProtocolError for one that is unknown."""
        start = self._operations.get(operation)
        if start is None:
            raise ProtocolError(f"operation {operation!r} is not known to this worker")
        return start(link, *arguments) if operation in _OF_A_LINK else start(*arguments)

    def lookup(self, frame: Buffer, head: bytes = b"") -> bytes:
        """The answer to a batch frame, behind a head."""
        asked = batch.decode_request(frame)
        if asked.op == batch.EXISTS:
            return batch.encode_exists(self._table.exists(asked.digests), head)
        return batch.encode_found(self._table.lookup(asked.method, asked.digests), head)

    def drop_link(self, link: object) -> None:
        """A link is gone: its turns are free."""
        self._turns.drop(link)

    # --------------------------------------------------------------------------------------------- reports

    def op_round(self, link: object, steps: list[list[Any]]) -> Awaitable[list[Any]] | list[Any]:
        """Do the steps of many reports in one group commit; null for those that have to wait for a turn.

        Most reports are of a new outhash, whose turn is free. It is held while that is written: who comes later must
        be later in the index, too.
        """
        answers: list[str | bool | None] = [None] * len(steps)
        todo: list[tuple[int, list[Any]]] = []
        ending: list[tuple[Place, int]] = []
        holding: list[tuple[Place, int]] = []
        for position, step in enumerate(steps):
            kind, number, _, method, _, outhash = step[:6]
            if kind != operations.COMMIT:
                place = (method, outhash)
                if self._turns.busy(place) or self._table.has_index(method, to_key(outhash)):
                    continue
                self._turns.take(place, link, number, _nothing)
                (ending if kind == operations.REPORT else holding).append((place, number))
            todo.append((position, step))
        if not todo:
            return answers

        def change(transaction: Transaction) -> list[str | bool | None]:
            for position, step in todo:
                answers[position] = self._do_step(transaction, *step)
            return answers

        def written(future: asyncio.Future[Any]) -> None:
            failed = future.cancelled() or future.exception() is not None
            for place, number in ending + holding if failed else ending:
                self._turns.release(place, link, number)

        result = self._write(change)
        result.add_done_callback(written)
        return result

    def _do_step(
        self,
        transaction: Transaction,
        kind: str,
        _number: int,
        created: int,
        method: str,
        taskhash: str,
        outhash: str,
        unihash: str = "",
        *rest: Any,
    ) -> str | bool:
        if kind == operations.INDEX:
            transaction.insert_index(method, outhash, taskhash, created)
            return True
        *details, siginfo = rest
        row = RowFields(method, taskhash, outhash, created, *details)
        reference = 0
        if siginfo is not None and not transaction.has_row(method, to_key(taskhash), to_key(outhash)):
            reference = self._shard.put_siginfo(siginfo)
        indexed = kind == operations.REPORT
        return transaction.insert_row(row, reference, bytes.fromhex(unihash), indexed=indexed).hex()

    def op_turn(
        self, link: object, method: str, outhash: str, taskhash: str, created: int, number: int
    ) -> Awaitable[list[tuple[int, str]]]:
        """Take the turn and make the index item durable; the first page of the other taskhashes.

        The item comes before the row: an item without a row says nothing (`op_equivalents` looks at rows), while
        a row without an item would be a report half done. The place in the queue is taken at once, so that turns come
        in the order of `number`.
        """
        turn: asyncio.Future[None] = self._loop.create_future()
        self._turns.take((method, outhash), link, number, lambda: _grant(turn))
        indexed = None
        if self._unindexing or not self._table.indexed(method, to_key(outhash), to_key(taskhash)):
            indexed = self._write(lambda change: change.insert_index(method, outhash, taskhash, created))
        return self._wait_for_turn(turn, indexed, link, method, outhash, taskhash, number)

    async def _wait_for_turn(
        self,
        turn: asyncio.Future[None],
        indexed: asyncio.Future[None] | None,
        link: object,
        method: str,
        outhash: str,
        taskhash: str,
        number: int,
    ) -> list[tuple[int, str]]:
        try:
            if indexed is not None:
                await indexed
        except StorageError:
            self._turns.release((method, outhash), link, number)
            raise
        await turn
        return self._page(method, outhash, taskhash, b"", operations.PAGE)

    def op_release(self, link: object, turns: list[tuple[str, str, int]]) -> None:
        """End turns."""
        for method, outhash, number in turns:
            self._turns.release((method, outhash), link, number)

    def op_page(self, method: str, outhash: str, taskhash: str, after: tuple[int, str] | None) -> list[tuple[int, str]]:
        """A later page of the other taskhashes of an outhash."""
        start = b"" if after is None else pack_item(after[0], to_key(after[1]))
        size = operations.PAGE if after is None else operations.LATER_PAGE
        return self._page(method, outhash, taskhash, start, size)

    def _page(self, method: str, outhash: str, taskhash: str, start: bytes, size: int) -> list[tuple[int, str]]:
        items = self._table.candidates(method, to_key(outhash), size, start)
        return [(created, text) for created, key in items if (text := to_text(key)) != taskhash]

    def op_equivalents(self, method: str, outhash: str, taskhashes: list[str], mapped: bool) -> list[str | None]:
        """Which of these taskhashes have a row of this outhash, and with which unihash."""
        return [self._equivalent(method, to_key(outhash), to_key(taskhash), mapped) for taskhash in taskhashes]

    def _equivalent(self, method: str, outhash: Key, taskhash: Key, mapped: bool) -> str | None:
        unihash = self._table.unihash(method, taskhash)
        if (mapped and unihash is None) or self._table.row(method, taskhash, outhash) is None:
            return None
        return unihash.hex() if unihash is not None else ""

    def op_map(self, method: str, taskhash: str, unihash: str) -> asyncio.Future[str]:
        """Insert a mapping unless there is one."""
        return self._write(lambda change: change.insert_mapping(method, taskhash, bytes.fromhex(unihash)).hex())

    # ------------------------------------------------------------------------------------------- questions

    def op_unihashes(self, method: str, taskhashes: list[str]) -> list[str | None]:
        """Lookups of taskhashes of any form."""
        found = [self._table.unihash(method, to_key(taskhash)) for taskhash in taskhashes]
        return [None if unihash is None else unihash.hex() for unihash in found]

    def op_row(self, method: str, taskhash: str, outhash: str, with_mapping: bool) -> Columns | None:
        """One outhash row."""
        key = to_key(taskhash)
        row = self._table.row(method, key, to_key(outhash))
        if row is None or (with_mapping and self._table.unihash(method, key) is None):
            return None
        found = columns(method, key, row, self._shard.get_siginfo)
        return joined(self._table, method, key, found) if with_mapping else found

    def op_oldest(self, method: str, taskhash: str) -> Columns | None:
        """The oldest row of a taskhash that has a mapping."""
        key = to_key(taskhash)
        rows = self._table.rows(method, key)
        if not rows or self._table.unihash(method, key) is None:
            return None
        return joined(self._table, method, key, columns(method, key, rows[0], self._shard.get_siginfo))

    def op_counts(self) -> dict[str, int]:
        """How much there is of everything."""
        return self._table.counts()

    # -------------------------------------------------------------------------------------------- removals

    async def op_remove(self, job: str, where: Where) -> dict[str, Any]:
        """Remove what matches, some of it a call."""
        return await self._work(job, lambda: self._removal(where))

    async def op_clean(self, job: str, before: int) -> dict[str, Any]:
        """Remove unused rows, some of them a call."""
        return await self._work(job, lambda: self._delete_rows(select_unused(self._table, before), unused=True))

    def op_watch(self, job: str) -> None:
        """A removal begins: see `op_unindex`."""
        self._turns.watch(job)

    def op_unwatch(self, job: str) -> None:
        """A removal is over."""
        self._turns.unwatch(job)

    async def op_unindex(self, job: str, method: str, pairs: Pairs) -> None:
        """Delete index items of rows that are gone.

        Where a report had the turn since the removal began, its row may have come back, so the items stay: one
        without a row does no harm. While this is being written, `op_turn` does not trust the table.
        """
        self._unindexing += 1
        try:
            await self._write(
                lambda change: change.delete_index(
                    method, [pair for pair in pairs if self._turns.quiet(job, (method, pair[0]))]
                )
            )
        finally:
            self._unindexing -= 1

    async def _work(self, job: str, begin: Callable[[], Sweep]) -> dict[str, Any]:
        sweep = self._jobs.pop(job, None) or begin()
        count, names, unindex = 0, 0, {}  # type: tuple[int, int, dict[str, Pairs]]
        async for gone, method, pairs in sweep:
            count += gone
            if pairs:
                unindex.setdefault(method, []).extend(pairs)
                names += len(pairs)
            if names >= UNINDEX_PAGE:
                self._jobs[job] = sweep
                return {"count": count, "unindex": list(unindex.items()), "done": False}
        return {"count": count, "unindex": list(unindex.items()), "done": True}

    async def _removal(self, where: Where) -> Sweep:
        async for gone in self._delete_mappings(select_mappings(self._table, where)):
            yield gone, "", []
        async for step in self._delete_rows(select_rows(self._table, where, self._shard.get_siginfo)):
            yield step

    async def _delete_mappings(self, slices: Iterator[tuple[str, list[Key]]]) -> AsyncIterator[int]:
        for method, taskhashes in slices:
            yield await self._write_some(
                taskhashes, partial(Transaction.delete_mappings, method=method, taskhashes=taskhashes)
            )

    async def _delete_rows(self, slices: Iterator[tuple[str, Pairs]], *, unused: bool = False) -> Sweep:
        for method, pairs in slices:
            delete = partial(Transaction.delete_rows, method=method, pairs=pairs, unused=unused)
            gone = await self._write_some(pairs, delete)
            yield gone, method, [(outhash, taskhash) for taskhash, outhash in pairs]

    async def _write_some(self, found: Iterable[object], change: Callable[[Transaction], int]) -> int:
        if not found:
            await asyncio.sleep(0)  # a slice without a match costs 1 ms; lookups go first
            return 0
        count: int = await self._write(change)
        return count

    # ------------------------------------------------------------------------------------ garbage collection

    async def op_marks(self, marks: list[tuple[str, Where]]) -> list[int]:
        """Make marks current and set them.

        A mark is current before mappings are looked for: one that is stored meanwhile carries it, and one that was
        stored before is found. A whole sstate cache is marked by unihash, one by one and by the million, so those
        that name their mappings share group commits; one that has to look through the table has its own.
        """
        counts: list[int] = []
        for (mark, named), some in groupby(marks, key=lambda one: (one[0], names_mappings(one[1]))):
            await self._write(partial(Transaction.set_entry, kind="config", name=GC_MARK, value=mark))
            wheres = [where for _, where in some]
            if named:
                for start in range(0, len(wheres), MARKS_PAGE):
                    counts += await self._write(partial(self._mark_named, mark, wheres[start : start + MARKS_PAGE]))
            else:
                counts += [await self._mark_found(mark, where) for where in wheres]
        return counts

    def _mark_named(self, mark: str, wheres: list[Where], change: Transaction) -> list[int]:
        return [
            sum([change.set_mark(mark, method, taskhashes) for method, taskhashes in found])
            for found in find_named(self._table, wheres)
        ]

    async def _mark_found(self, mark: str, where: Where) -> int:
        count = 0
        for method, taskhashes in select_mappings(self._table, where):
            count += await self._write_some(
                taskhashes, partial(Transaction.set_mark, mark=mark, method=method, taskhashes=taskhashes)
            )
        return count

    async def op_sweep(self, mark: str) -> int:
        """Delete all mappings without the mark."""
        return sum([gone async for gone in self._delete_mappings(select_unmarked(self._table, mark))])

    def op_status(self) -> tuple[int, int, str]:
        """Mappings that carry the current mark (no mark, when none is current), all mappings, the mark."""
        mark = self._table.current_mark()
        mappings = self._table.counts()["mappings"]
        return self._table.mark_counts[mark] if mark else mappings - self._table.mark_counts.total(), mappings, mark

    # ---------------------------------------------------------------------------------------------- entries

    def op_get(self, kind: str, name: str) -> Any:
        """One entry."""
        return self._table.entries.get(kind, {}).get(name)

    def op_list(self, kind: str) -> dict[str, Any]:
        """All entries of a kind."""
        return self._table.entries.get(kind, {})

    def op_set(self, kind: str, name: str, value: Any) -> Awaitable[None]:
        """Set an entry."""
        return self._write(lambda change: change.set_entry(kind, name, value))

    # -------------------------------------------------------------------------------------------- snapshots

    async def op_snapshot(self) -> None:
        """Write a snapshot, a chunk at a time between lookups; one at a time."""
        if not self._shard.durable:
            raise StorageError("the server keeps everything in memory; there is nowhere to write a snapshot")
        async with self._snapshot_lock:
            # Within the writer, since the log rotates, which must not happen while it is synced.
            job: SnapshotJob = await self._write(lambda _: self._shard.begin_snapshot())
            try:
                began = perf_counter()
                while job.step():
                    await asyncio.sleep(SNAPSHOT_REST * (perf_counter() - began))
                    began = perf_counter()
                await asyncio.get_running_loop().run_in_executor(None, job.seal)
            except BaseException:
                job.abandon()
                raise


def _grant(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


def _nothing() -> None:
    """A turn that was free needs no word when it is granted."""

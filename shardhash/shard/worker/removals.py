"""Removals on one shard: what `remove`, `clean`, `unindex` and a collection delete, a slice at a time.

A removal begins on every shard with `watch`, is asked for until it is done, and ends with `unwatch` or with the link;
all that it keeps between two questions is one `Removal`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeAlias

from shardhash.link import operations as op
from shardhash.link.operations import Pairs
from shardhash.shard.state.selection import ROWS, SLICE, select_mappings, select_rows, select_unmarked, select_unused
from shardhash.shard.state.transaction import Transaction
from shardhash.shard.storage.recovery import AnyShard
from shardhash.shard.worker.report_locks import Place, ReportLocks
from shardhash.shard.worker.report_operations import ReportOperations
from shardhash.shard.worker.writer import Writer
from shardhash.wire.hashes import Key, to_key
from shardhash.wire.rows import Where

_Slices: TypeAlias = AsyncIterator[tuple[int, str, Pairs]]
"""What a removal did, slice by slice: entries gone, and the (outhash, taskhash) of the rows gone from a method."""

UNINDEX_PAGE = 2_500
"""Rows whose index items one answer names; the coordinator sorts them by shard in 3 ms."""

PAGE_TIME = 0.25
"""Seconds after which the coordinator is answered, which ends the removal if nobody waits for it any more."""


class Removal:
    """One removal of all shards, as this shard knows it."""

    __slots__ = ("slices", "used")

    def __init__(self, used: set[Place] | None) -> None:
        self.used = used
        """The outhashes that had a report since the watch began; None if the watch was lost with a worker."""
        self.slices: _Slices | None = None
        """What is left to do here."""


class Removals:
    """The removals that are under way."""

    def __init__(self, shard: AnyShard, writer: Writer, locks: ReportLocks, reports: ReportOperations) -> None:
        self._shard = shard
        self._table = shard.table
        self._write = writer.write
        self._locks = locks
        self._reports = reports
        self._removals: dict[str, Removal] = {}

    def drop(self) -> None:
        """The link is gone, and with it whoever removed."""
        self._removals.clear()
        self._locks.unwatch_all()

    def watch(self, asked: op.Watch) -> None:
        """A removal begins: see `unindex`."""
        self._removals[asked.job] = Removal(self._locks.watch(asked.job))

    def unwatch(self, asked: op.Unwatch) -> None:
        """A removal is over."""
        self._removals.pop(asked.job, None)
        self._locks.unwatch(asked.job)

    async def remove(self, asked: op.RemoveMatching) -> op.Removed:
        """Remove what matches, some of it a call."""
        return await self._go_on(asked.job, lambda: self._remove_matching(asked.where))

    async def remove_rows(self, asked: op.RemoveRows) -> op.Removed:
        """Remove these rows and the mappings of their taskhashes."""
        return await self._go_on(asked.job, lambda: self._remove_named(asked.named))

    async def _remove_named(self, named: list[tuple[str, str, str]]) -> _Slices:
        by_method: dict[str, list[tuple[str, str]]] = {}
        for method, taskhash, outhash in named:
            by_method.setdefault(method, []).append((taskhash, outhash))
        slices = [
            (method, pairs[start : start + ROWS])
            for method, pairs in by_method.items()
            for start in range(0, len(pairs), ROWS)
        ]
        keys = ((method, [to_key(taskhash) for taskhash, _ in pairs]) for method, pairs in slices)
        async for gone in self._delete_mappings(keys):
            yield gone, "", []
        async for step in self._delete_rows(iter(slices)):
            yield step

    async def drop_mappings(self, asked: op.DropMappings) -> int:
        """Delete mappings that are still these."""
        count = 0
        for start in range(0, len(asked.mappings), SLICE):
            count += await self._write(partial(_drop, asked.mappings[start : start + SLICE]))
        return count

    async def clean(self, asked: op.Clean) -> op.Removed:
        """Remove unused rows, some of them a call."""
        return await self._go_on(
            asked.job, lambda: self._delete_rows(select_unused(self._table, asked.before), unused=True)
        )

    async def unindex(self, asked: op.Unindex) -> None:
        """Delete index items of rows that are gone.

        Where a report had the lock since the removal began, its row may have come back, so the items stay: one
        without a row does no harm.
        """
        self._reports.unindexing += 1
        try:
            for start in range(0, len(asked.pairs), ROWS):
                pairs = asked.pairs[start : start + ROWS]
                await self._write(partial(self._delete_items, asked.job, asked.method, pairs))
        finally:
            self._reports.unindexing -= 1

    def _delete_items(self, job: str, method: str, pairs: Pairs, transaction: Transaction) -> None:
        removal = self._removals.get(job)
        if removal is None or removal.used is None:
            return
        used = removal.used
        transaction.delete_index(method, [pair for pair in pairs if (method, pair[0]) not in used])

    async def sweep(self, asked: op.Sweep) -> op.Removed:
        """Delete mappings without the mark, some of them a call."""
        return await self._go_on(asked.job, lambda: self._sweep(asked.mark))

    async def _sweep(self, mark: str) -> _Slices:
        async for gone in self._delete_mappings(select_unmarked(self._table, mark)):
            yield gone, "", []

    async def _go_on(self, job: str, begin: Callable[[], _Slices]) -> op.Removed:
        removal = self._removals.get(job)
        if removal is None:  # a worker ended in between, and the watch with it
            removal = self._removals[job] = Removal(None)
        if removal.slices is None:
            removal.slices = begin()
        count, names, unindex = 0, 0, {}  # type: tuple[int, int, dict[str, Pairs]]
        ends = time.monotonic() + PAGE_TIME
        async for gone, method, pairs in removal.slices:
            count += gone
            if pairs:
                unindex.setdefault(method, []).extend(pairs)
                names += len(pairs)
            # While keys are copied, which goes on at once, writes wait.
            if names >= UNINDEX_PAGE or (time.monotonic() > ends and not self._table.copies.under_way):
                return op.Removed(count, list(unindex.items()), done=False)
        removal.slices = None
        return op.Removed(count, list(unindex.items()), done=True)

    async def _remove_matching(self, where: Where) -> _Slices:
        async for gone in self._delete_mappings(select_mappings(self._table, where)):
            yield gone, "", []
        async for step in self._delete_rows(select_rows(self._table, where, self._siginfo_is)):
            yield step

    def _siginfo_is(self, reference: int, text: str) -> bool:
        """Whether a siginfo is this. No more of it is unpacked than the text has."""
        return self._shard.get_siginfo(reference, len(text.encode("utf-8", "surrogatepass")) + 1) == text

    async def _delete_mappings(self, slices: Iterator[tuple[str, list[Key]]]) -> AsyncIterator[int]:
        for method, taskhashes in slices:
            delete = partial(Transaction.delete_mappings, method=method, taskhashes=taskhashes)
            yield await write_some(self._write, taskhashes, delete)

    async def _delete_rows(self, slices: Iterator[tuple[str, Pairs]], *, unused: bool = False) -> _Slices:
        for method, pairs in slices:
            delete = partial(Transaction.delete_rows, method=method, pairs=pairs, unused=unused)
            gone = await write_some(self._write, pairs, delete)
            yield gone, method, [(outhash, taskhash) for taskhash, outhash in pairs]


def _drop(mappings: Iterable[tuple[str, str, str]], transaction: Transaction) -> int:
    by_method: dict[str, list[Key]] = {}
    for method, taskhash, unihash in mappings:
        key = to_key(taskhash)
        found = transaction.unihash(method, key)
        if found is not None and found.hex() == unihash:
            by_method.setdefault(method, []).append(key)
    return sum(transaction.delete_mappings(method, keys) for method, keys in by_method.items())


async def write_some(
    write: Callable[[Callable[[Transaction], Any]], asyncio.Future[Any]],
    found: Iterable[object],
    change: Callable[[Transaction], int],
) -> int:
    """Make a change of what was found in a slice, if anything was; how many it changed."""
    if not found:
        await asyncio.sleep(0)  # a slice without a match costs 1 ms; lookups go first
        return 0
    count: int = await write(change)
    return count

"""Removals on one shard: what `remove`, `clean`, `unindex` and a collection delete, a slice at a time.

A removal begins on every shard with `watch`, is asked for until it is done, and ends with `unwatch` or with the link;
all that it keeps between two questions is one `Removal`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeAlias

from shardhash.link import operations as op
from shardhash.link.operations import Pairs
from shardhash.shard.state.selection import ROWS, SLICE, select_mappings, select_rows, select_unmarked, select_unused
from shardhash.shard.state.transaction import Transaction
from shardhash.shard.storage.recovery import AnyShard
from shardhash.shard.worker.ahead import Ahead
from shardhash.shard.worker.report_locks import Place, ReportLocks
from shardhash.shard.worker.report_operations import ReportOperations
from shardhash.shard.worker.writer import Writer
from shardhash.wire.hashes import Key, to_key
from shardhash.wire.rows import Where

_Slices: TypeAlias = Iterator[tuple[asyncio.Future[int] | None, str, Pairs]]
"""What a removal does, slice by slice: a change that is being written, which tells how many entries go (None if none
does), and the (outhash, taskhash) of the rows that go from a method."""

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

    def _remove_named(self, named: list[tuple[str, str, str]]) -> _Slices:
        by_method: dict[str, list[tuple[str, str]]] = {}
        for method, taskhash, outhash in named:
            by_method.setdefault(method, []).append((taskhash, outhash))
        slices = [
            (method, pairs[start : start + ROWS])
            for method, pairs in by_method.items()
            for start in range(0, len(pairs), ROWS)
        ]
        yield from self._delete_mappings(
            (method, [to_key(taskhash) for taskhash, _ in pairs]) for method, pairs in slices
        )
        yield from self._delete_rows(iter(slices))

    async def drop_mappings(self, asked: op.DropMappings) -> int:
        """Delete mappings that are still these."""
        async with Ahead() as ahead:
            for start in range(0, len(asked.mappings), SLICE):
                await ahead.add(self._write(partial(_drop, asked.mappings[start : start + SLICE])))
        return ahead.count

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
            async with Ahead() as ahead:
                for start in range(0, len(asked.pairs), ROWS):
                    pairs = asked.pairs[start : start + ROWS]
                    await ahead.add(self._write(partial(self._delete_items, asked.job, asked.method, pairs)))
        finally:
            self._reports.unindexing -= 1

    def _delete_items(self, job: str, method: str, pairs: Pairs, transaction: Transaction) -> int:
        removal = self._removals.get(job)
        if removal is None or removal.used is None:
            return 0
        used = removal.used
        pairs = [pair for pair in pairs if (method, pair[0]) not in used]
        transaction.delete_index(method, pairs)
        return len(pairs)

    async def sweep(self, asked: op.Sweep) -> op.Removed:
        """Delete mappings without the mark, some of them a call."""
        return await self._go_on(asked.job, lambda: self._delete_mappings(select_unmarked(self._table, asked.mark)))

    async def _go_on(self, job: str, begin: Callable[[], _Slices]) -> op.Removed:
        removal = self._removals.get(job)
        if removal is None:  # a worker ended in between, and the watch with it
            removal = self._removals[job] = Removal(None)
        if removal.slices is None:
            removal.slices = begin()
        names, unindex = 0, {}  # type: tuple[int, dict[str, Pairs]]
        ends = time.monotonic() + PAGE_TIME
        async with Ahead() as ahead:  # what is asked for is done when it is answered: the removal may end with that
            for change, method, pairs in removal.slices:
                await ahead.add(change)
                if pairs:
                    unindex.setdefault(method, []).extend(pairs)
                    names += len(pairs)
                # While keys are copied, which goes on at once, writes wait.
                if names >= UNINDEX_PAGE or (time.monotonic() > ends and not self._table.copies.under_way):
                    break
            else:
                removal.slices = None
        return op.Removed(ahead.count, list(unindex.items()), done=removal.slices is None)

    def _remove_matching(self, where: Where) -> _Slices:
        yield from self._delete_mappings(select_mappings(self._table, where))
        yield from self._delete_rows(select_rows(self._table, where, self._siginfo_is))

    def _siginfo_is(self, reference: int, text: str) -> bool:
        """Whether a siginfo is this. No more of it is unpacked than the text has."""
        return self._shard.get_siginfo(reference, len(text.encode("utf-8", "surrogatepass")) + 1) == text

    def _delete_mappings(self, slices: Iterator[tuple[str, list[Key]]]) -> _Slices:
        for method, taskhashes in slices:
            delete = partial(Transaction.delete_mappings, method=method, taskhashes=taskhashes)
            yield self._write(delete) if taskhashes else None, "", []

    def _delete_rows(self, slices: Iterator[tuple[str, Pairs]], *, unused: bool = False) -> _Slices:
        for method, pairs in slices:
            delete = partial(Transaction.delete_rows, method=method, pairs=pairs, unused=unused)
            yield (self._write(delete) if pairs else None), method, [(outhash, taskhash) for taskhash, outhash in pairs]


def _drop(mappings: Iterable[tuple[str, str, str]], transaction: Transaction) -> int:
    by_method: dict[str, list[Key]] = {}
    for method, taskhash, unihash in mappings:
        key = to_key(taskhash)
        found = transaction.unihash(method, key)
        if found is not None and found.hex() == unihash:
            by_method.setdefault(method, []).append(key)
    return sum(transaction.delete_mappings(method, keys) for method, keys in by_method.items())

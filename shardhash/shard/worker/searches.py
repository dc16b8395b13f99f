"""Searches on one shard, beside lookups: one at a time, in slices of a fraction of a millisecond, with rests."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from itertools import count
from time import perf_counter
from typing import Generic, TypeVar

from shardhash.base.turns import with_rests
from shardhash.link.pages import Pages
from shardhash.link.search_operations import (
    Choice,
    ChooseRows,
    ChosenRows,
    CountSaved,
    Diverging,
    FindDiverging,
    FindRows,
    FoundRows,
)
from shardhash.shard.state import search
from shardhash.shard.state.search import Hit
from shardhash.shard.storage.recovery import AnyShard
from shardhash.shard.worker.asking import Asking
from shardhash.shard.worker.row_texts import RowTexts
from shardhash.wire.hashes import to_text
from shardhash.wire.search import BUDGET, MOST_OUTHASHES, MOST_RECIPES

REST = 9
"""How many times as long as a slice took the worker then rests from it: a search takes a tenth of a processor."""
DESCRIBED_AT_ONCE = 200
"""Rows of an answer that are described in one go; 1.5 ms."""
DIVERGING_AT_ONCE = DESCRIBED_AT_ONCE // MOST_OUTHASHES
SHORT = 0.002
"""Seconds of searching that need no rest: what names its hashes is found at once."""
_T = TypeVar("_T")


class Searches:
    """What `Service` does for the operations of searching."""

    def __init__(self, shard: AnyShard, asking: Asking) -> None:
        self._texts = RowTexts(shard)
        self._asking = asking
        self._table = shard.table
        self._one = asyncio.Lock()

    async def find(self, asked: FindRows) -> FoundRows:
        """The newest rows that match, and how many match in all."""
        newest = _Newest[Hit](asked.limit)
        complete = True
        async with self._one:
            await self._asking.note()  # rows tell when they were last asked for
            async for hits in self._slices(search.find(self._table, asked.search, asked.taskhashes)):
                if hits is None:
                    complete = False
                    break
                for hit in hits:
                    newest.add(hit.created, hit)
        if not asked.whole:
            rests = with_rests(newest.items(), DESCRIBED_AT_ONCE)
            return FoundRows(newest.count, [search.describe(self._table, hit) async for hit in rests], complete)
        rows = []
        for hit in newest.items():
            rows.append(await self._texts.finish(search.describe(self._table, hit, self._texts.begin)))
            await asyncio.sleep(0)  # a text may take half a millisecond
        return FoundRows(newest.count, rows, complete)

    async def choose(self, asked: ChooseRows) -> ChosenRows:
        """All rows that match, unless they are too many."""
        pages = Pages()
        count = 0
        async with self._one:
            async for hits in self._slices(search.find(self._table, asked.search, asked.taskhashes)):
                if hits is None or count > asked.limit:
                    return ChosenRows(Pages().text(), complete=False)
                for hit in hits:  # 100 at most
                    if hit.row is not None:
                        pages.add(self._choice(hit))
                        count += 1
        return ChosenRows(pages.text(), complete=True)

    def _choice(self, hit: Hit) -> Choice:
        assert hit.row is not None
        unihash = self._table.unihash(hit.method, hit.taskhash)
        return hit.method, to_text(hit.taskhash), to_text(hit.row.outhash), unihash.hex() if unihash else None

    async def diverging(self, asked: FindDiverging) -> Diverging:
        """The taskhashes whose newest outhash is newest, and how many there are by recipe."""
        newest = _Newest[list[Hit]](asked.limit)
        recipes: Counter[str] = Counter()
        complete = True
        async with self._one:
            async for tasks in self._slices(search.find_diverging(self._table, asked.search)):
                if tasks is None:
                    complete = False
                    break
                for hits in tasks:
                    newest.add(hits[-1].created, hits)
                    row = hits[-1].row
                    recipes[(row.details[1] if row is not None else None) or ""] += 1
        pages = Pages()
        async for hits in with_rests(newest.items(), DIVERGING_AT_ONCE):
            pages.add([search.describe(self._table, hit) for hit in hits])
        return Diverging(newest.count, pages.text(), recipes.most_common(MOST_RECIPES), complete)

    async def saved(self, asked: CountSaved) -> list[tuple[str | None, int, int]]:
        """Tasks that reused another's output, by recipe and week."""
        counts: Counter[tuple[str | None, int]] = Counter()
        async with self._one:
            async for some in self._slices(search.count_saved(self._table, asked.since)):
                if some is None:
                    break
                counts.update(some)
        return [(recipe, week, number) for (recipe, week), number in counts.items()]

    async def _slices(self, slices: Iterator[_T]) -> AsyncIterator[_T | None]:
        """The slices, with rests between them; None at the end when the budget was spent before the last."""
        copies = self._table.copies
        started = began = perf_counter()
        worked = 0.0
        for item in slices:
            yield item
            took = perf_counter() - began
            if copies.under_way:  # writes wait for that
                await asyncio.sleep(0)
            else:
                worked += took
                if worked > SHORT:
                    await asyncio.sleep(REST * took)
            began = perf_counter()
            if began - started > BUDGET:
                yield None
                return


class _Newest(Generic[_T]):
    """The newest of many items, and how many there were."""

    def __init__(self, most: int) -> None:
        self.count = 0
        self._most = most
        self._heap: list[tuple[int, int, _T]] = []
        self._numbers = count()

    def add(self, created: int, item: _T) -> None:
        """Keep an item while it is among the newest."""
        self.count += 1
        entry = (created, next(self._numbers), item)
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def items(self) -> list[_T]:
        """Those that were kept, newest first."""
        return [item for _, _, item in sorted(self._heap, reverse=True)]

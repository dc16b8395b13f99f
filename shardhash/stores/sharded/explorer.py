"""The explorer over worker processes: searches asked of the shards that can know, their answers put together."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

from shardhash.base.turns import with_rests
from shardhash.link import operations as op
from shardhash.link.search_operations import CountSaved, FindDiverging, FindRows, GuessUnihashes
from shardhash.link.worker_link import WorkerLink
from shardhash.stores.interface import DivergingTasks, FoundRows, Guesses
from shardhash.stores.sharded.report_order import Reports
from shardhash.wire.rows import Columns
from shardhash.wire.search import MOST_VARIANTS, WHOLE

_BY_TIME = itemgetter(0)
ASKED_AT_ONCE = 2000
"""Taskhashes of one request to a worker, which takes 1 ms to decode."""
GUESSED_AT_ONCE = 200
"""Tasks for which the guesses of all shards are put together before others run; 0.6 ms."""
MOST_OF_AN_OUTHASH = 20_000
"""Taskhashes of one outhash that are looked at. A task that leaves nothing behind shares its with many more."""


class ShardedExplorer:
    """An Explorer; see there."""

    notes_asking = True

    def __init__(self, links: Sequence[WorkerLink], reports: Reports) -> None:
        self._links = links
        self._reports = reports

    async def find(self, search: Mapping[str, Any], limit: int, *, whole: bool = False) -> FoundRows:
        """See Explorer."""
        places, complete = await self.places(search)
        parts = await asyncio.gather(
            *(link.request(FindRows(dict(search), taskhashes, limit, whole)) for link, taskhashes in places)
        )
        rows = [row for part in parts for row in part.rows]
        rows.sort(key=lambda row: row["created"] or "", reverse=True)
        return FoundRows(sum(part.total for part in parts), rows[:limit], complete and all(p.complete for p in parts))

    async def places(self, search: Mapping[str, Any]) -> tuple[list[tuple[WorkerLink, list[str] | None]], bool]:
        """Where to look, and whether that is everywhere."""
        if len(search.get("taskhash", "")) == WHOLE:
            return [(self._reports.link_of(search["taskhash"]), None)], True
        outhash, method = search.get("outhash", ""), search.get("method", "*")
        if len(outhash) != WHOLE or method.endswith("*"):
            return [(link, None) for link in self._links], True
        index = self._reports.link_of(outhash)
        by_link: dict[WorkerLink, list[str]] = {}
        count = 0
        page = await index.request(op.Page(method, outhash, None, mapped=False))
        while page and count < MOST_OF_AN_OUTHASH:
            count += len(page)
            for _, taskhash in page:
                by_link.setdefault(self._reports.link_of(taskhash), []).append(taskhash)
            page = await index.request(op.Page(method, outhash, page[-1], mapped=False))
        places: list[tuple[WorkerLink, list[str] | None]] = [
            (link, taskhashes[start : start + ASKED_AT_ONCE])
            for link, taskhashes in by_link.items()
            for start in range(0, len(taskhashes), ASKED_AT_ONCE)
        ]
        return places, not page

    async def read_row(self, method: str, taskhash: str, outhash: str) -> Columns | None:
        """See Explorer."""
        return await self._reports.link_of(taskhash).request(op.ReadRow(method, taskhash, outhash, joined=False))

    async def diverging(self, search: Mapping[str, Any], limit: int) -> DivergingTasks:
        """See Explorer."""
        parts = await asyncio.gather(*(link.request(FindDiverging(dict(search), limit)) for link in self._links))
        tasks: list[list[dict[str, Any]]] = []
        async for page in with_rests(chain.from_iterable(part.some() for part in parts), 1):
            tasks += page
        tasks.sort(key=lambda task: str(task[-1]["created"]), reverse=True)
        recipes: Counter[str] = Counter()
        for part in parts:
            recipes.update(dict(part.recipes))
        complete = all(part.complete for part in parts)
        return DivergingTasks(sum(part.total for part in parts), tasks[:limit], recipes.most_common(), complete)

    async def guess(self, method: str, tasks: Sequence[tuple[str, str]]) -> Guesses:
        """See Explorer. Rows lie by taskhash, so each shard may have some of a task; 2 us a task here."""
        operation = GuessUnihashes(method, list(tasks))
        parts = await asyncio.gather(*(link.request(operation) for link in self._links))
        of_tasks = zip(*[part.variants for part in parts], strict=True)
        guesses = [
            [(taskhash, unihash) for _, taskhash, unihash in heapq.nlargest(MOST_VARIANTS, chain(*found), _BY_TIME)]
            async for found in with_rests(of_tasks, GUESSED_AT_ONCE)
        ]
        return Guesses(guesses, all(part.complete for part in parts))

    async def saved(self, since: int) -> list[tuple[str | None, int, int]]:
        """See Explorer."""
        counts: Counter[tuple[str | None, int]] = Counter()
        for part in await asyncio.gather(*(link.request(CountSaved(since)) for link in self._links)):
            for recipe, week, number in part:
                counts[recipe, week] += number
        return sorted(((recipe, week, number) for (recipe, week), number in counts.items()), key=itemgetter(2))[::-1]

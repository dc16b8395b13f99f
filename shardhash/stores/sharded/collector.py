"""A collection over worker processes (wire/collecting.py); each has its own part of it (shard/worker/collecting.py)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from shardhash.errors import InvokeError
from shardhash.link import collection_operations as op
from shardhash.link.operation import Operation
from shardhash.link.operations import Pairs
from shardhash.link.worker_link import WorkerLink
from shardhash.stores.interface import Doomed, DoomedTasks, GoesOn, Taken
from shardhash.stores.sharded.report_order import Reports
from shardhash.wire.collecting import CollectedMapping
from shardhash.wire.hashes import Buffer

PLACES = 1 << 40
"""A place within all shards is the shard's number times this, and the place within it."""
_T = TypeVar("_T")
_Unindex = Callable[[str, list[tuple[str, Pairs]]], Awaitable[None]]
_RemoveBy = Callable[[Callable[[str], list[Coroutine[Any, Any, int]]]], Coroutine[Any, Any, int]]


class ShardedCollector:
    """A Collector; see there."""

    knows_asked = True

    def __init__(
        self,
        links: Sequence[WorkerLink],
        reports: Reports,
        forget_answers: Callable[[], Awaitable[None]],
        forgetting: Callable[[Coroutine[Any, Any, int]], Awaitable[int]],
        remove_by: _RemoveBy,
        unindex: _Unindex,
    ) -> None:
        """`forget_answers` has workers asked for everything once more; `forgetting`, `remove_by`, `unindex`: Router."""
        self._links = links
        self._reports = reports
        self._forget_answers = forget_answers
        self._forgetting = forgetting
        self._remove_by = remove_by
        self._unindex = unindex

    async def begin(self, name: str, goes_on: GoesOn) -> int:
        """See Collector. Answers at hand are forgotten once all workers follow what is asked for."""
        del goes_on  # there is no other server
        counts = await asyncio.gather(*(link.request(op.BeginCollection(name)) for link in self._links))
        await self._forget_answers()
        return sum(counts)

    async def keep(self, name: str, unihashes: Buffer) -> int:
        """See Collector."""
        return sum(await self._all(op.KeepUnihashes(name, bytes(unihashes).hex())))

    async def keep_used(self, name: str, day: int) -> int:
        """See Collector."""
        return sum(await self._all(op.KeepUsed(name, day)))

    async def choose(self, name: str) -> Doomed:
        """See Collector."""
        parts = await self._all(op.ChooseDoomed(name))
        mappings: Counter[str | None] = Counter()
        rows: Counter[str | None] = Counter()
        for part in parts:
            for recipe, count, of_rows in part.recipes:
                mappings[recipe] += count
                rows[recipe] += of_rows
        recipes = [(recipe, count, rows[recipe]) for recipe, count in mappings.most_common()]
        return Doomed(mappings.total(), rows.total(), sum(part.kept for part in parts), recipes)

    async def show(self, name: str, after: int, limit: int) -> DoomedTasks:
        """See Collector."""
        shard, place = divmod(after, PLACES)
        if shard >= len(self._links):
            return DoomedTasks([], None)
        page = _there(await self._links[shard].request(op.ShowDoomed(name, place, limit)))
        if page.next is not None:
            return DoomedTasks(page.tasks, shard * PLACES + page.next)
        return DoomedTasks(page.tasks, (shard + 1) * PLACES if shard + 1 < len(self._links) else None)

    async def take(self, name: str, mappings: Sequence[CollectedMapping]) -> Taken:
        """See Collector."""
        by_link: dict[WorkerLink, list[CollectedMapping]] = {}
        for mapping in mappings:
            by_link.setdefault(self._reports.link_of(mapping[1]), []).append(mapping)
        counts: Counter[str] = Counter()

        async def take_from(job: str, link: WorkerLink, some: list[CollectedMapping]) -> int:
            taken = _there(await link.request(op.TakeDoomed(name, some)))
            counts.update(mappings=taken.mappings, rows=taken.rows)
            await self._unindex(job, taken.unindex)
            return taken.mappings + taken.rows

        await self._forgetting(
            self._remove_by(lambda job: [take_from(job, link, some) for link, some in by_link.items()])
        )
        return Taken(counts["mappings"], counts["rows"])

    async def end(self, name: str) -> None:
        """See Collector."""
        await asyncio.gather(*(link.request(op.EndCollection(name)) for link in self._links))

    async def _all(self, operation: Operation[_T | None]) -> list[_T]:
        answers = await asyncio.gather(*(link.request(operation) for link in self._links))
        return [_there(answer) for answer in answers]


def _there(answer: _T | None) -> _T:
    if answer is None:
        raise InvokeError("the collection is over: a worker of the server started again. Nothing more is removed")
    return answer

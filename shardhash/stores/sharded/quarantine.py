"""Quarantine: mappings that are set aside, so that builds make their tasks again, and outhashes that equate nothing.

What a search chooses (wire/search.py) is set aside as follows; each step may be done twice, and a start goes on with
what a crash left half done (`load`):

1. Each shard that can know names the rows that match, and their mappings.
2. An outhash whose tasks are all among them is *barred*: from now on reports of it get their own unihash. One that
   other tasks have, too, is not: those stay good, and a task that leaves nothing behind shares its with thousands.
3. Shard 0 keeps, durably, what is set aside: entries of kind "quarantine-part", then the one of kind "quarantine" that
   makes them count.
4. The mappings go, unless they changed meanwhile. Lookups answer nothing for them from now on; rows stay.

A release puts the mappings back, each unless a build made another meanwhile, and then forgets the entries.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from shardhash.base.entry_kinds import QUARANTINE, QUARANTINE_PART
from shardhash.base.letting_go import let_go
from shardhash.base.turns import with_rests
from shardhash.errors import InvokeError, ShardhashError
from shardhash.link import operations as op
from shardhash.link.search_operations import ChooseRows
from shardhash.link.worker_link import WorkerLink
from shardhash.stores.interface import Chosen
from shardhash.stores.quarantines import (
    MOST,
    PART,
    Restore,
    entry_of,
    entry_or_refusal,
    newest_first,
    part_name,
    parts_of,
    restore_parts,
)
from shardhash.stores.sharded.entries import entry_names, list_entries
from shardhash.stores.sharded.explorer import ShardedExplorer
from shardhash.stores.sharded.gathering import all_of
from shardhash.stores.sharded.report_order import Reports

log = logging.getLogger(__name__)

LOOKED_AT_ONCE = 1000
"""Outhashes that are looked at here before others run; 0.5 ms."""
AT_ONCE = 50
"""Outhashes whose tasks are looked at at one time; 1 ms to begin."""

_Outhash: TypeAlias = tuple[str, str]
_Mapping: TypeAlias = tuple[str, str, str]
"""method, taskhash, unihash"""
_Forgetting: TypeAlias = Callable[[Coroutine[Any, Any, int]], Awaitable[int]]


class _Bar(Protocol):
    def __call__(self, outhashes: Sequence[_Outhash], *, barred: bool) -> Awaitable[None]: ...


class _Choice(NamedTuple):
    rows: int
    mappings: list[_Mapping]
    barred: list[_Outhash]
    shared: int


class ShardedQuarantine:
    """A Quarantine over worker processes; see there. `forgetting` runs a removal while no answer is at hand.

    `restore` puts mappings back, `discard` removes rows and mappings, `bar` bars outhashes, or no more, everywhere.
    """

    def __init__(
        self,
        links: Sequence[WorkerLink],
        reports: Reports,
        explorer: ShardedExplorer,
        forgetting: _Forgetting,
        restore: Restore,
        discard: Callable[[Sequence[tuple[str, str, str]]], Coroutine[Any, Any, int]],
        bar: _Bar,
    ) -> None:
        self._first = links[0]
        self._reports = reports
        self._explorer = explorer
        self._forgetting = forgetting
        self._restore = restore
        self._discard = discard
        self._bar = bar
        self._changes = asyncio.Lock()

    async def load(self) -> None:
        """Bar what is in quarantine, and go on with what a crash left half done; after a start."""
        entries = await list_entries(self._first, QUARANTINE)
        for name in await entry_names(self._first, QUARANTINE_PART):
            if name.partition(".")[0] in entries:
                await self._bar(await self._outhashes(name), barred=True)
            else:
                await self._set(QUARANTINE_PART, name, None)
        for name, entry in entries.items():
            if not entry["done"]:
                await self._forgetting(self._set_aside(name, entry))

    async def choose(self, search: Mapping[str, Any]) -> Chosen:
        """See Quarantine."""
        choice = await self._choose(search)
        chosen = _chosen(choice)
        let_go(choice.mappings, choice.barred)
        return chosen

    async def begin(self, search: Mapping[str, Any], note: Mapping[str, Any]) -> dict[str, Any]:
        """See Quarantine."""
        async with self._changes:
            choice = await self._choose(search)
            parts = parts_of(choice.mappings, choice.barred)
            entry = entry_of(note, _chosen(choice), len(parts), done=False)
            let_go(choice.mappings, choice.barred)
            name = entry["name"]
            kept = False
            try:
                for part in parts:  # all before the first is kept, which takes its time: reports come in meanwhile
                    await self._bar(part["outhashes"], barred=True)
                for number in range(len(parts)):
                    await self._set(QUARANTINE_PART, part_name(name, number), parts.pop(0))  # freed one by one
                await self._set(QUARANTINE, name, entry)
                kept = True
            finally:
                if not kept:
                    await self._give_up(entry)
            await self._forgetting(self._set_aside(name, entry))
            return entry | {"done": True}

    async def _give_up(self, entry: Mapping[str, Any]) -> None:
        """Forget a quarantine that cannot be kept. The entry goes first: it may be there, whatever was heard of it."""
        try:
            await self._forget(entry)
        except ShardhashError as error:
            log.warning("the rest of a quarantine that was not kept stays barred until the next start: %s", error)

    async def _forget(self, entry: Mapping[str, Any]) -> None:
        name = entry["name"]
        await self._set(QUARANTINE, name, None)
        for number in range(entry["parts"]):
            await self._set(QUARANTINE_PART, part_name(name, number), None)
        await self._bar_again()

    async def entries(self) -> list[dict[str, Any]]:
        """See Quarantine."""
        return newest_first(await list_entries(self._first, QUARANTINE))

    async def release(self, name: str) -> dict[str, Any]:
        """See Quarantine."""
        async with self._changes:
            entry = entry_or_refusal(await self._first.request(op.GetEntry(QUARANTINE, name)), name)
            released = await restore_parts(entry, self._get_part, self._restore)
            await self._forget(entry)
            return released

    async def discard(self, rows: Sequence[tuple[str, str, str]]) -> int:
        """See Quarantine."""
        return await self._forgetting(self._discard(rows))

    async def _bar_again(self) -> None:
        """Bar no more than the quarantines that are left name: two may name the same outhash."""
        left: set[_Outhash] = set()
        for name in await entry_names(self._first, QUARANTINE_PART):
            left.update(await self._outhashes(name))
        free = [o async for o in with_rests(list(self._reports.barred), LOOKED_AT_ONCE) if o not in left]
        for start in range(0, len(free), PART):
            await self._bar(free[start : start + PART], barred=False)
        let_go(left)

    async def _outhashes(self, name: str) -> list[_Outhash]:
        """Those that a part of a quarantine bars."""
        return [(method, outhash) for method, outhash in (await self._get_part(name) or {}).get("outhashes", ())]

    async def _set_aside(self, name: str, entry: Mapping[str, Any]) -> int:
        """Take the mappings of a quarantine away; how many went."""
        count = 0
        for number in range(entry["parts"]):
            part = await self._get_part(part_name(name, number))
            by_link: dict[WorkerLink, list[_Mapping]] = {}
            for method, taskhash, unihash in part["mappings"]:
                by_link.setdefault(self._reports.link_of(taskhash), []).append((method, taskhash, unihash))
            asked = [link.request(op.DropMappings(mappings)) for link, mappings in by_link.items()]
            count += sum(await asyncio.gather(*asked))
        await self._set(QUARANTINE, name, {**entry, "done": True})
        return count

    async def _choose(self, search: Mapping[str, Any]) -> _Choice:
        places, complete = await self._explorer.places(search)
        parts = await asyncio.gather(
            *(link.request(ChooseRows(dict(search), taskhashes, MOST)) for link, taskhashes in places)
        )
        count = 0
        tasks: dict[_Outhash, set[str]] = {}
        mappings: dict[_Mapping, None] = {}
        for part in parts:
            complete = complete and part.complete
            for some in part.some():
                count += len(some)
                for method, taskhash, outhash, unihash in some:
                    tasks.setdefault((method, outhash), set()).add(taskhash)
                    if unihash is not None:
                        mappings[method, taskhash, unihash] = None
                await asyncio.sleep(0)
        if not complete or count > MOST:
            raise InvokeError(f"more than {MOST} rows match, or the search was cut off: choose fewer at a time")
        whole = await self._all_chosen(tasks)
        chosen = zip(tasks, whole, strict=True)
        barred = [outhash async for outhash, every in with_rests(chosen, LOOKED_AT_ONCE) if every]
        shared = len(tasks) - len(barred)
        let_go(tasks)
        return _Choice(count, list(mappings), barred, shared)

    async def _all_chosen(self, tasks: Mapping[_Outhash, set[str]]) -> list[bool]:
        """For each outhash whether all tasks that have a row of it are these."""

        async def every(outhash: _Outhash, taskhashes: set[str]) -> bool:
            index = self._reports.link_of(outhash[1])
            page = await index.request(op.Page(*outhash, None, mapped=False))
            while page:
                others = [taskhash for _, taskhash in page if taskhash not in taskhashes]
                if others and any(row is not None for row in await self._reports.equivalents(*outhash, others)):
                    return False
                page = await index.request(op.Page(*outhash, page[-1], mapped=False))
            return True

        whole = [False] * len(tasks)
        todo = enumerate(tasks.items())

        async def look() -> None:
            for number, one in todo:
                whole[number] = await every(*one)

        await all_of(look() for _ in range(min(AT_ONCE, len(tasks))))
        return whole

    async def _get_part(self, name: str) -> Any:
        return await self._first.request(op.GetEntry(QUARANTINE_PART, name))

    async def _set(self, kind: str, name: str, value: Any) -> None:
        await self._first.request(op.SetEntry(kind, name, value))


def mark_barred(known: set[_Outhash], outhashes: Sequence[_Outhash], *, barred: bool) -> None:
    """Note among those that are known to be barred that these are, or are not any more."""
    (known.update if barred else known.difference_update)(outhashes)


def _chosen(choice: _Choice) -> Chosen:
    return Chosen(choice.rows, len(choice.mappings), len(choice.barred), choice.shared)

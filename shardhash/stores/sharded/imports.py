"""Imports into a running store: mappings and rows of another server, between reports and lookups.

Mappings go first, each unless there is one: a row that came before its mapping would get that of its local equivalents.
A row holds the report lock of its outhash like a report of it (report_order.py):

1. slot(outhash): wait for the lock; the index holds the taskhash, durably.
2. slot(taskhash): one log record stores the row, unless it is there and at least as old.
3. slot(outhash): where the item is of another time than the row, it gets that of the row.
4. The lock ends.

No row ever waits for a second lock while it holds one, so two imports at a time cannot block each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import count
from typing import TypeVar

from shardhash.base.turns import with_rests
from shardhash.link.import_operations import TakeMappings, TakeRows
from shardhash.link.operations import Lock, Outhash, Retime
from shardhash.link.worker_link import WorkerLink
from shardhash.stores.sharded.clock import Clock
from shardhash.stores.sharded.gathering import all_of
from shardhash.stores.sharded.report_order import Reports
from shardhash.wire.imports import ImportedMapping, ImportedRow
from shardhash.wire.rows import KNOWN

MAPPINGS_AT_ONCE = 1000
"""Mappings between which others are answered; 1 ms."""
AT_ONCE = 200
"""Outhashes whose rows are under way at one time."""
_T = TypeVar("_T")


class Imports:
    """Takes in what another server has collected, over the links of all shards."""

    def __init__(self, reports: Reports, clock: Clock) -> None:
        self._reports = reports
        self._clock = clock
        self._turn = asyncio.Lock()
        """Held while rows of one request are taken: those of many at one time would be too much for a slice."""

    async def take_mappings(self, mappings: Sequence[ImportedMapping]) -> list[str]:
        """Insert each unless there is one; "new", "known" or the unihash that is in force instead."""
        by_link: dict[WorkerLink, list[int]] = {}
        async for position, mapping in with_rests(enumerate(mappings), MAPPINGS_AT_ONCE):
            by_link.setdefault(self._reports.link_of(mapping.taskhash), []).append(position)
        parts = await all_of(
            link.request(TakeMappings([tuple[str, str, str](mappings[position]) for position in positions]))
            for link, positions in by_link.items()
        )
        answers = [""] * len(mappings)
        for positions, part in zip(by_link.values(), parts, strict=True):
            for position, answer in zip(positions, part, strict=True):
                if isinstance(answer, str):
                    answers[position] = answer
                else:
                    answers[position], older = answer
                    self._reports.stored(mappings[position].method, (mappings[position].unihash, older))
        return answers

    async def take_rows(self, rows: Sequence[ImportedRow]) -> list[str]:
        """Insert each unless it is there and at least as old; "new", "older" or "known"."""
        by_outhash: dict[Outhash, list[int]] = {}
        for position, row in enumerate(rows):
            by_outhash.setdefault((row.method, row.outhash), []).append(position)
        answers = [""] * len(rows)
        todo = zip(by_outhash.items(), count(self._clock(len(by_outhash))), strict=False)

        async def take() -> None:
            for (outhash, positions), number in todo:
                found = await self._take(outhash, [rows[position] for position in positions], number)
                for position, answer in zip(positions, found, strict=True):
                    answers[position] = answer

        async with self._turn:  # no task for each: to begin a thousand takes 4 ms
            await all_of(take() for _ in range(min(AT_ONCE, len(by_outhash))))
        return answers

    async def _take(self, outhash: Outhash, rows: list[ImportedRow], number: int) -> list[str]:
        """Take in the rows of one outhash."""
        index = self._reports.link_of(outhash[1])
        lock = Lock(*outhash, [(row.created, row.taskhash) for row in rows], number)
        granted = await index.lock(lock)
        try:
            by_link: dict[WorkerLink, list[int]] = {}
            for position, row in enumerate(rows):
                by_link.setdefault(self._reports.link_of(row.taskhash), []).append(position)
            parts = await all_of(
                link.request(TakeRows([tuple(rows[position]) for position in positions]))
                for link, positions in by_link.items()
            )
            answers = [""] * len(rows)
            items: list[tuple[int, str]] = []
            there = set(granted.older)
            for positions, part in zip(by_link.values(), parts, strict=True):
                for position, (answer, created) in zip(positions, part, strict=True):
                    answers[position] = answer
                    row = rows[position]
                    # An item that was there has the time of a row that was later, or none; one made now has ours.
                    same = answer == KNOWN and row.taskhash in there and created < row.created
                    if not same and (row.taskhash in there or created != row.created):
                        items.append((created, row.taskhash))
            if items:
                await index.request(Retime(*outhash, items))
        finally:
            index.release(lock)
        return answers

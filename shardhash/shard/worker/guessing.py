"""Guesses for builds: what tasks were mapped to when they were last reported (shard/state/recent_tasks.py)."""

from __future__ import annotations

import asyncio
from time import perf_counter

from shardhash.link.search_operations import GuessUnihashes, TaskVariants
from shardhash.shard.state.method_table import MethodTable
from shardhash.shard.state.recent_tasks import RecentTasks
from shardhash.shard.state.table import Table

BUDGET = 0.25
"""Seconds that a request spends on rows that were not looked at yet; the next one goes on."""
SLICE = 200
"""Tasks that are answered between one pause for lookups and the next: 0.5 ms."""


class Guessing:
    """What `Service` does for guesses."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._filling = False

    async def guess(self, asked: GuessUnihashes) -> TaskVariants:
        """The newest taskhashes of each task that have a mapping."""
        part = self._table.methods.get(asked.method)
        if part is None:
            return TaskVariants([[] for _ in asked.tasks], complete=True)
        if part.recent is None:
            part.recent = RecentTasks(self._table, asked.method)
        recent = part.recent
        try:
            await self._fill(recent)
        except BaseException:  # whoever asked is gone: nobody goes on with a copy of keys, for which writes wait
            recent.walk.close()
            part.recent = None
            raise
        variants: list[list[tuple[int, str, str | None]]] = []
        for start in range(0, len(asked.tasks), SLICE):
            variants += [_mapped(part, recent.find(*task)) for task in asked.tasks[start : start + SLICE]]
            await asyncio.sleep(0)
        return TaskVariants(variants, recent.complete)

    async def _fill(self, recent: RecentTasks) -> None:
        """Go on looking at rows, with rests as long as the work, unless somebody does already."""
        if recent.complete or self._filling:
            return
        self._filling = True
        try:
            began = start = perf_counter()
            for _ in recent.walk:
                now = perf_counter()
                if self._table.copies.under_way:  # writes wait for that
                    await asyncio.sleep(0)
                elif now - start > BUDGET:
                    break
                else:
                    await asyncio.sleep(now - began)
                began = perf_counter()
        finally:
            self._filling = False


def _mapped(part: MethodTable, found: list[tuple[int, bytes]]) -> list[tuple[int, str, str | None]]:
    variants: list[tuple[int, str, str | None]] = []
    for created, taskhash in found:
        unihash = part.mappings.get(taskhash)
        if unihash is not None:
            variants.append((created, taskhash.hex(), None if unihash == taskhash else unihash.hex()))
    return variants

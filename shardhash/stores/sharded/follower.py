"""The store of a follower: a coordinator beside the server's first one, over the same workers (ARCHITECTURE).

Lookups, questions and reports go to the workers over links of its own. Whatever takes mappings away, and collections
and quarantines, is asked of the first coordinator, at *home*: it has all followers forget their answers before it
acknowledges that. The steps of `shardhash gc` never come here (coordinator/far_collections.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

from shardhash.link.worker_link import WorkerLink
from shardhash.stores.interface import Chosen
from shardhash.stores.sharded.others import SOME
from shardhash.stores.sharded.quarantine import mark_barred
from shardhash.stores.sharded.router import Router
from shardhash.wire.rows import Where

Home: TypeAlias = Callable[..., Awaitable[Any]]
"""Asks the first coordinator: a name, and its arguments."""


class FollowerRouter(Router):
    """A Store; see there, and the module."""

    def __init__(self, links: Sequence[WorkerLink], answer_cache: int, home: Home) -> None:
        super().__init__(links, answer_cache, SOME)
        self._home = home
        self.quarantine = _QuarantineAtHome(home)  # type: ignore[assignment]  # a Quarantine as well

    def take(self, running: int, barred: Sequence[tuple[str, str]]) -> None:
        """Begin: so many removals run, and these outhashes are barred."""
        for _ in range(running):
            self._answers.begin_removal()
        self._reports.barred.update(barred)

    async def told(self, name: str, *arguments: Any) -> None:
        """Do what the first coordinator tells all others (others.py); it waits for that."""
        match name:
            case "begin-removal":
                self._answers.begin_removal()
            case "end-removal":
                self._answers.end_removal()
            case "forget":
                self._answers.forget()
            case "bar":
                mark_barred(self._reports.barred, arguments[0], barred=arguments[1])

    async def remove(self, where: Where) -> int:
        """See Store."""
        count: int = await self._home("store", "remove", dict(where))
        return count

    async def clean_unused(self, max_age_seconds: int) -> int:
        """See Store."""
        count: int = await self._home("store", "clean_unused", max_age_seconds)
        return count

    async def gc_mark(self, marks: Sequence[tuple[str, Where]]) -> list[int]:
        """See Store."""
        counts: list[int] = await self._home("store", "gc_mark", [(mark, dict(where)) for mark, where in marks])
        return counts

    async def gc_sweep(self, mark: str) -> int:
        """See Store."""
        count: int = await self._home("store", "gc_sweep", mark)
        return count

    async def snapshot(self) -> None:
        """See Store."""
        await self._home("store", "snapshot")


class _QuarantineAtHome:
    """A Quarantine; see there."""

    def __init__(self, home: Home) -> None:
        self._home = home

    async def choose(self, search: Mapping[str, Any]) -> Chosen:
        """See Quarantine."""
        chosen: Chosen = await self._home("quarantine", "choose", dict(search))
        return chosen

    async def begin(self, search: Mapping[str, Any], note: Mapping[str, Any]) -> dict[str, Any]:
        """See Quarantine."""
        entry: dict[str, Any] = await self._home("quarantine", "begin", dict(search), dict(note))
        return entry

    async def entries(self) -> list[dict[str, Any]]:
        """See Quarantine."""
        entries: list[dict[str, Any]] = await self._home("quarantine", "entries")
        return entries

    async def release(self, name: str) -> dict[str, Any]:
        """See Quarantine."""
        entry: dict[str, Any] = await self._home("quarantine", "release", name)
        return entry

    async def discard(self, rows: Sequence[tuple[str, str, str]]) -> int:
        """See Quarantine."""
        count: int = await self._home("quarantine", "discard", list(rows))
        return count

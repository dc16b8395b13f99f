"""Searches of a server whose rows lie in PostgreSQL: refused, for the database answers them itself, and better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from shardhash.errors import InvokeError
from shardhash.stores.interface import Chosen, DivergingTasks, FoundRows
from shardhash.wire.rows import Columns


class NoExplorer:
    """An Explorer that refuses; see there."""

    async def find(self, search: Mapping[str, Any], limit: int, *, whole: bool = False) -> FoundRows:
        """See Explorer."""
        _refuse(search, limit, whole)

    async def read_row(self, method: str, taskhash: str, outhash: str) -> Columns | None:
        """See Explorer."""
        _refuse(method, taskhash, outhash)

    async def diverging(self, search: Mapping[str, Any], limit: int) -> DivergingTasks:
        """See Explorer."""
        _refuse(search, limit)

    async def saved(self, since: int) -> list[tuple[str | None, int, int]]:
        """See Explorer."""
        _refuse(since)


class NoQuarantine:
    """A Quarantine that refuses; see there."""

    async def choose(self, search: Mapping[str, Any]) -> Chosen:
        """See Quarantine."""
        _refuse(search)

    async def begin(self, search: Mapping[str, Any], note: Mapping[str, Any]) -> dict[str, Any]:
        """See Quarantine."""
        _refuse(search, note)

    async def entries(self) -> list[dict[str, Any]]:
        """See Quarantine."""
        return []

    async def release(self, name: str) -> dict[str, Any]:
        """See Quarantine."""
        _refuse(name)

    async def discard(self, rows: Sequence[tuple[str, str, str]]) -> int:
        """See Quarantine."""
        _refuse(rows)


def _refuse(*_asked: object) -> NoReturn:
    raise InvokeError("this server keeps its rows in PostgreSQL and does not search them: ask the database, by SQL")

"""A collection of a server whose rows lie in PostgreSQL: refused; `gc-mark-stream` and `gc-sweep` do it there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from shardhash.errors import InvokeError
from shardhash.stores.interface import Doomed, DoomedTasks, Taken
from shardhash.wire.collecting import CollectedMapping
from shardhash.wire.hashes import Buffer


class NoCollector:
    """A Collector that refuses; see there."""

    knows_asked = False

    async def begin(self, name: str) -> int:
        """See Collector."""
        _refuse(name)

    async def keep(self, name: str, unihashes: Buffer) -> int:
        """See Collector."""
        _refuse(name, unihashes)

    async def keep_used(self, name: str, day: int) -> int:
        """See Collector."""
        _refuse(name, day)

    async def choose(self, name: str) -> Doomed:
        """See Collector."""
        _refuse(name)

    async def show(self, name: str, after: int, limit: int) -> DoomedTasks:
        """See Collector."""
        _refuse(name, after, limit)

    async def take(self, name: str, mappings: Sequence[CollectedMapping]) -> Taken:
        """See Collector."""
        _refuse(name, mappings)

    async def end(self, name: str) -> None:
        """See Collector."""


def _refuse(*_asked: object) -> NoReturn:
    raise InvokeError(
        "this server keeps its rows in PostgreSQL and does not note what is asked for: mark what a cache holds with"
        " `shardhash client gc-mark-stream` and sweep with `gc-sweep`"
    )

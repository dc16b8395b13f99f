"""A collection where none can be made: refused, in words that say why; `gc-mark-stream` and `gc-sweep` do it there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from shardhash.errors import InvokeError
from shardhash.stores.interface import Doomed, DoomedTasks, Taken
from shardhash.wire.collecting import CollectedMapping
from shardhash.wire.hashes import Buffer


class NoCollector:
    """A Collector that refuses; see there. `why` begins the refusal."""

    knows_asked = False

    def __init__(self, why: str) -> None:
        self._why = why

    async def begin(self, name: str) -> int:
        """See Collector."""
        self._refuse(name)

    async def keep(self, name: str, unihashes: Buffer) -> int:
        """See Collector."""
        self._refuse(name, unihashes)

    async def keep_used(self, name: str, day: int) -> int:
        """See Collector."""
        self._refuse(name, day)

    async def choose(self, name: str) -> Doomed:
        """See Collector."""
        self._refuse(name)

    async def show(self, name: str, after: int, limit: int) -> DoomedTasks:
        """See Collector."""
        self._refuse(name, after, limit)

    async def take(self, name: str, mappings: Sequence[CollectedMapping]) -> Taken:
        """See Collector."""
        self._refuse(name, mappings)

    async def end(self, name: str) -> None:
        """See Collector."""

    def _refuse(self, *_asked: object) -> NoReturn:
        raise InvokeError(
            f"{self._why}: mark what a cache holds with `shardhash client gc-mark-stream` and sweep with `gc-sweep`"
        )

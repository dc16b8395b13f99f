"""Collections of a further coordinator: the first one has them (collecting.py), and each step is passed on to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from shardhash.coordinator.callers import Caller
from shardhash.coordinator.collecting import Collections
from shardhash.stores.interface import Store
from shardhash.wire.collecting import Collect


class FarCollections(Collections):
    """See the module. `home` asks the first coordinator's `Collections`."""

    def __init__(self, store: Store, home: Callable[[Caller, Collect], Awaitable[Any]]) -> None:
        super().__init__(store)
        self._home = home
        self._last: tuple[str, Caller] | None = None
        """The collection of the last step here, and who made it."""

    async def collect(self, caller: Caller, request: Collect, _there: object = None) -> Any:
        """See Collections."""
        if request.step != "begin":
            self._last = (request.collection, caller)
        answer = await self._home(caller, request)
        if request.step == "begin":
            self._last = (answer["collection"], caller)
        return answer

    def has(self, name: str) -> bool:
        """Whether who made the last step of this collection is still connected here."""
        return self._last is not None and self._last[0] == name and not self._last[1].gone()

"""Entrances: an address that is open, the rules that hold there now, and who came in by it without logging in."""

from __future__ import annotations

from weakref import WeakSet

from shardhash.coordinator.bind import Bind
from shardhash.coordinator.callers import Caller


class Entrance:
    """One open address. `bind` has the rules of now."""

    def __init__(self, bind: Bind) -> None:
        self.bind = bind
        self._callers: WeakSet[Caller] = WeakSet()

    def caller(self) -> Caller:
        """A new anonymous caller."""
        caller = Caller(self.bind.anonymous, self.bind.read_only)
        self._callers.add(caller)
        return caller

    def set_rules(self, bind: Bind) -> None:
        """Other rules for the same address, which hold at once.

        Open connections of those who did not log in have the new permissions. Where nothing may be stored any more,
        connections that could are closed: their clients come again, by the new rules.
        """
        self.bind = bind
        for caller in list(self._callers):
            if bind.read_only and not caller.read_only:
                caller.revoke(f"{bind.address} is read-only now")
            elif caller.identity.username is None:
                caller.identity = bind.anonymous
                caller.identified()

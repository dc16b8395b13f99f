"""Quarantining: bad entries are set aside or deleted, and the audit trail says so."""

from __future__ import annotations

from dataclasses import asdict
from time import time
from typing import Any

from shardhash.base.timestamps import to_iso
from shardhash.coordinator import audit
from shardhash.coordinator.callers import Caller
from shardhash.coordinator.exploring import times_of
from shardhash.stores.interface import Store
from shardhash.wire import messages as m


class Quarantining:
    """Answers what is asked of quarantines and removals of chosen rows."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def quarantine(self, caller: Caller, request: m.Quarantine) -> Any:
        """Set aside what a search chooses; only count it for a preview."""
        search = times_of(request.where)
        if request.preview:
            return asdict(await self._store.quarantine.choose(search))
        note = {
            "where": request.where,
            "reason": request.reason,
            "user": caller.identity.username,
            "time": to_iso(int(time() * 1_000_000), "seconds"),
        }
        entry = await self._store.quarantine.begin(search, note)
        shown = _shown(entry)
        audit.record(caller, "quarantine", **{name: shown[name] for name in ("name", "where", "reason", "mappings")})
        return shown

    async def quarantines(self, _caller: Caller, _request: m.Quarantines) -> Any:
        """All that there are, the newest first."""
        return {"quarantines": [_shown(entry) for entry in await self._store.quarantine.entries()]}

    async def release(self, caller: Caller, request: m.Release) -> Any:
        """Put back what was set aside."""
        entry = await self._store.quarantine.release(request.name)
        audit.record(caller, "release", name=request.name, rows=entry["restored"])
        return {**_shown(entry), "restored": entry["restored"]}

    async def discard(self, caller: Caller, request: m.Discard) -> Any:
        """Remove these rows, and the mappings of their tasks."""
        count = await self._store.quarantine.discard(request.rows)
        audit.record(caller, "discard", asked=len(request.rows), rows=count, first=list(request.rows[0]))
        return {"count": count}


def _shown(entry: dict[str, Any]) -> dict[str, Any]:
    names = ("name", "where", "reason", "user", "time", "rows", "mappings", "outhashes", "shared")
    return {name: entry[name] for name in names}

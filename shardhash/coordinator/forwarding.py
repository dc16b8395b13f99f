"""Forwarding: how the reports stand that this server sends on, and what people do about refused ones."""

from __future__ import annotations

from typing import Any

from shardhash.base.timestamps import to_iso
from shardhash.coordinator import audit
from shardhash.coordinator.callers import Caller
from shardhash.errors import InvokeError
from shardhash.stores.interface import Forwarding, Forwards, Store
from shardhash.wire import messages as m


class ForwardingRequests:
    """Answers what is asked about forwarding."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def forwarding(self, _caller: Caller, request: m.Forwarding) -> Any:
        """Figures, and the newest reports that were refused or answered otherwise."""
        forwarding = self._find()
        health = forwarding.health()
        return {
            "waiting": health.waiting,
            "bytes": health.size,
            "limit": health.limit,
            "oldest": to_iso(int(health.oldest * 1_000_000), "seconds") if health.oldest else None,
            "trouble": health.trouble,
            "results": dict(health.results),
            "refused": {"count": health.refused, "rows": await forwarding.refused(request.limit)},
            "conflicts": {"count": health.conflicts_kept, "rows": await forwarding.conflicts(request.limit)},
        }

    async def forward_refused(self, caller: Caller, _request: m.ForwardRefused) -> Any:
        """Send the refused reports again."""
        count = await self._find().retry_refused()
        audit.record(caller, "forward-refused", rows=count)
        return {"count": count}

    async def drop_refused(self, caller: Caller, _request: m.DropRefused) -> Any:
        """Forget the refused reports."""
        count = await self._find().drop_refused()
        audit.record(caller, "drop-refused", rows=count)
        return {"count": count}

    def _find(self) -> Forwarding:
        forwarding = self._store.forwarding if isinstance(self._store, Forwards) else None
        if forwarding is None:
            raise InvokeError("this server sends no reports on; start it with --upstream ADDRESS --forward for that")
        return forwarding

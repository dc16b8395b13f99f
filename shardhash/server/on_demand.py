"""A server that was started on demand (edge/): it says where it is, and ends when nobody needs it.

Nobody needs it when no connection has been open for `Settings.idle` seconds, and nobody asked for its address. A
connection that is open and silent counts: a builder may be at a long task. (The limit `idle_time` closes silent ones
after hours, on every server.) While reports wait for the upstream it goes on for as long again, and no longer: they are
in the outbox, and the next start sends them.

Commands of its control socket, beside those of every server:

=========  ===========================================================================================================
address    ``{"addresses": [...], "upstream": ..., "pid": ...}``. The time until its end begins anew, so that whoever
           was told an address has that long to connect. No addresses: it is still starting.
status     the same, and how it does; the time goes on.
stop       ``{"done": true}``, then it stops in order.
=========  ===========================================================================================================

From the moment at which its end is decided, all of them are refused: then another one may be started once the lock of
the data directory is free.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from typing import Any

from shardhash.base.text import counted
from shardhash.base.timestamps import to_iso
from shardhash.coordinator.listeners import Listeners
from shardhash.server.control import Command
from shardhash.server.settings import Settings
from shardhash.stores.interface import ForwardingHealth, Forwards, Store
from shardhash.wire.address import Address

log = logging.getLogger(__name__)

LOOK_PAUSE = 1.0
"""Seconds between looks at an outbox that keeps the server from ending."""
STOPPING = {"error": "the server is stopping"}


class OnDemand:
    """What a server does besides serving when it was started on demand. `stop` is set when it is to end."""

    def __init__(self, settings: Settings, store: Store, listeners: Listeners, stop: asyncio.Event) -> None:
        assert settings.idle is not None
        self._idle = settings.idle
        upstream = settings.upstream
        self._upstream = None if upstream is None else " ".join(map(str, (upstream.address, *upstream.others)))
        self._store = store
        self._listeners = listeners
        self._stop = stop
        self._addresses: list[str] = []
        self._loop = asyncio.get_running_loop()
        self._asked = self._loop.time()
        self._since = time.time()

    def commands(self) -> dict[str, Command]:
        """See the head of the module."""
        return {"address": self._tell_address, "status": self._tell_status, "stop": self._end}

    async def end_when_idle(self, addresses: Sequence[Address]) -> None:
        """The server answers at these addresses now: set `stop` once nobody has needed it for long enough."""
        self._addresses = [str(address) for address in addresses]
        while (left := self._left()) > 0:  # noqa: ASYNC110  # time alone changes it
            await asyncio.sleep(left)
        waiting = self._waiting()
        reports = counted(waiting, "report waits", "reports wait")
        rest = f"; {reports} for the upstream, to be sent by the next start" if waiting else ""
        log.info("nobody was connected for %g s (--idle); stopping%s", self._idle, rest)
        self._stop.set()

    def _left(self) -> float:
        """Seconds until it is to be looked again whether the server is needed; 0 when it is not."""
        left = self._idle - self._quiet()
        if left <= 0 and self._waiting():
            left = min(LOOK_PAUSE, self._idle + left)
        return max(left, 0.0)

    def _waiting(self) -> int:
        """How many reports wait to be sent on."""
        forwarding = self._store.forwarding if isinstance(self._store, Forwards) else None
        return 0 if forwarding is None else forwarding.health().waiting

    def _quiet(self) -> float:
        return min(self._listeners.quiet(), self._loop.time() - self._asked)

    async def _tell_address(self) -> dict[str, Any]:
        if self._stop.is_set():
            return STOPPING
        self._asked = self._loop.time()
        return {"addresses": self._addresses, "upstream": self._upstream, "pid": os.getpid()}

    async def _tell_status(self) -> dict[str, Any]:
        if self._stop.is_set():
            return STOPPING
        health = await self._store.health()
        forwarding = None if health.upstream is None else health.upstream.forwarding
        return {
            "addresses": self._addresses,
            "upstream": self._upstream,
            "pid": os.getpid(),
            "since": to_iso(int(self._since * 1e6)),
            "connections": self._listeners.connected,
            "quiet": round(self._quiet(), 1),
            "idle": self._idle,
            "upstream_down": health.upstream is not None and health.upstream.down,
            "forwarding": None if forwarding is None else _state_of(forwarding),
        }

    async def _end(self) -> dict[str, Any]:
        log.info("stopping, as asked by the control socket")
        self._stop.set()
        return {"done": True}


def _state_of(found: ForwardingHealth) -> dict[str, Any]:
    return {"waiting": found.waiting, "refused": found.refused, "trouble": found.trouble}

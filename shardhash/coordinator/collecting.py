"""Collecting: the steps of a collection (wire/collecting.py), one at a time in a server, and the trail of it.

Where there are several coordinators, the first one has it; the others pass steps on (far_collections.py).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from time import monotonic
from typing import Any, TypeAlias

from shardhash.base.timestamps import DAY, from_iso
from shardhash.coordinator import audit
from shardhash.coordinator.callers import Caller
from shardhash.coordinator.exploring import as_json
from shardhash.errors import InvokeError
from shardhash.stores.interface import Store
from shardhash.wire.collecting import Collect
from shardhash.wire.hashes import join_digests

QUIET = 120.0
"""Seconds without a step after which somebody else may begin: the one before was killed, most likely."""
LONGEST_REST = 3600.0
"""Seconds without a step after which a collection is over."""


CallerThere: TypeAlias = Callable[[str], Awaitable[bool]]
"""Whether who made the last step of the collection of this name is still connected."""


class _Running:
    """The collection that is under way. `there`: asked of another coordinator, which has the caller's connection."""

    def __init__(self, caller: Caller, there: CallerThere | None) -> None:
        self.name = secrets.token_hex(8)
        self.caller = caller
        self.there = there
        self.mappings = 0
        self.rows = 0
        self.last = monotonic()
        self.timer: asyncio.TimerHandle | None = None

    async def caller_there(self) -> bool:
        """Whether who made the last step is still connected."""
        return not self.caller.gone() if self.there is None else await self.there(self.name)


class Collections:
    """Answers `collect`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._running: _Running | None = None

    async def collect(self, caller: Caller, request: Collect, there: CallerThere | None = None) -> Any:
        """One step. `there`: another coordinator has the caller's connection, and says this of it."""
        if request.step == "begin":
            return await self._begin(caller, there)
        running = self._running
        if running is None or running.name != request.collection:
            raise InvokeError("this collection is over: it ended, rested for an hour, or another one began")
        running.caller, running.there = caller, there  # a client whose connection broke goes on over another
        self._awake(running)
        if request.step == "end":
            await self._end(running)
            return {"mappings": running.mappings, "rows": running.rows}
        try:
            return await self._step(running, request)
        finally:
            self._awake(running)

    async def _step(self, running: _Running, request: Collect) -> Any:
        collector = self._store.collector
        match request.step:
            case "keep":
                digests = join_digests(request.unihashes)
                if digests is None:
                    raise InvokeError("collect: each of 'unihashes' must be 64 lowercase hex digits")
                answer: Any = {"count": await collector.keep(running.name, digests)}
            case "keep-used":
                answer = {"count": await collector.keep_used(running.name, _day_of(request.since))}
            case "choose":
                answer = as_json(await collector.choose(running.name))
            case "show":
                answer = as_json(await collector.show(running.name, request.after, request.limit))
            case _:
                taken = await collector.take(running.name, request.mappings)
                if not running.mappings and taken.mappings:
                    audit.record(running.caller, "collect", collection=running.name, begins=True)
                running.mappings += taken.mappings
                running.rows += taken.rows
                answer = as_json(taken)
        return answer

    async def _begin(self, caller: Caller, there: CallerThere | None) -> Any:
        while (before := self._running) is not None:
            connected = await before.caller_there()
            if self._running is not before:
                continue
            if connected and (quiet := monotonic() - before.last) < QUIET:
                who = before.caller.identity.username or "somebody"
                raise InvokeError(
                    f"a collection of {who} from {before.caller.peer} is under way, its last step {quiet:.0f} s ago;"
                    " there is one at a time"
                )
            await self._end(before)
        running = self._running = _Running(caller, there)
        self._awake(running)
        collector = self._store.collector
        try:
            mappings = await collector.begin(running.name, partial(self._goes_on, running))
        except BaseException:  # another server has one
            self._forget(running)
            raise
        return {"collection": running.name, "mappings": mappings, "asked": collector.knows_asked}

    async def _goes_on(self, running: _Running) -> bool:
        return self._running is running and await running.caller_there()

    async def _end(self, running: _Running) -> None:
        self._forget(running)
        await self._store.collector.end(running.name)
        if running.mappings:
            audit.record(
                running.caller, "collect", collection=running.name, mappings=running.mappings, rows=running.rows
            )

    def _forget(self, running: _Running) -> None:
        if self._running is running:
            self._running = None
        if running.timer is not None:
            running.timer.cancel()

    def _awake(self, running: _Running) -> None:
        running.last = monotonic()
        if self._running is not running:
            return
        if running.timer is not None:
            running.timer.cancel()
        running.timer = asyncio.get_running_loop().call_later(LONGEST_REST, self._rested, running)

    def _rested(self, running: _Running) -> None:
        """Nobody went on. What the workers keep of it goes when the next one begins, or with them."""
        if self._running is running:
            self._running = None
            if running.mappings:
                audit.record(
                    running.caller, "collect", collection=running.name, mappings=running.mappings, rows=running.rows
                )


def _day_of(since: str) -> int:
    try:
        return from_iso(since) // DAY
    except ValueError:
        raise InvokeError("'since' must be a day such as 2026-11-28") from None

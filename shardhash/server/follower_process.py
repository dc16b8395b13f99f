"""The process of a follower: a further coordinator, a child of the server (followers.py).

It gets one socket, to the server, by number, and is told everything over it. It ends at once when the server does, or
when one of its links drops: then a worker has ended, and whoever holds what from then on is for others to say.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import signal
import socket
import sys
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Any

import uvloop
from aiohttp import ClientSession, ClientTimeout, ClientWebSocketResponse, UnixConnector

from shardhash.base.figures import read_process
from shardhash.base.malloc import give_back, keep_buffers
from shardhash.base.parent import end_with_parent
from shardhash.base.tasks import BackgroundTasks
from shardhash.coordinator.callers import Caller
from shardhash.coordinator.counters import Counters
from shardhash.coordinator.far_collections import FarCollections
from shardhash.coordinator.far_users import FarUsers
from shardhash.coordinator.listeners import Listeners
from shardhash.coordinator.loads import Loads
from shardhash.coordinator.services import Services
from shardhash.coordinator.stats import Stats
from shardhash.coordinator.tls import ServerTls
from shardhash.coordinator.whole import Whole
from shardhash.errors import InternalError, ShardhashError
from shardhash.http.elsewhere import elsewhere
from shardhash.link import messages
from shardhash.link.peer import Peer
from shardhash.link.worker_link import WorkerLink
from shardhash.server.coordinator_process import open_log, prepare_process
from shardhash.server.followers import Prepare, Seen
from shardhash.server.listening import make_listeners, renewed, take_over
from shardhash.server.room_watch import watch_room
from shardhash.server.settings import Settings
from shardhash.stores.sharded.follower import FollowerRouter, Home
from shardhash.wire.collecting import Collect

log = logging.getLogger(__name__)


class _WholeAtHome(Whole):
    """The whole of the server, as the first coordinator knows it."""

    def __init__(self, services_stats: Stats, home: Home) -> None:
        super().__init__(Counters(), services_stats)
        self._home = home

    async def stats(self) -> dict[str, float]:
        figures: dict[str, float] = await self._home("stats", "read")
        return figures

    async def reset_stats(self) -> dict[str, float]:
        figures: dict[str, float] = await self._home("stats", "reset")
        return figures


class Follower:
    """All that a follower is, as it is told to become it."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self._stopping = False
        self._running = AsyncExitStack()
        self._background = BackgroundTasks()
        self._home: Peer | None = None
        self._listeners: Listeners | None = None

    async def serve(self, raw: socket.socket) -> None:
        """Do what the server asks until it ends, or says so."""
        self._home = await Peer.open(raw, self.answer, "the server")
        reading = asyncio.create_task(self._home.run())
        stopping = asyncio.create_task(self.stop.wait())
        await asyncio.wait([reading, stopping], return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            os._exit(1)  # nobody is left who could say what holds
        self._stopping = True
        await self._running.aclose()
        reading.cancel()

    async def answer(self, name: str, *arguments: Any) -> Any:
        """What the server asks."""
        match name:
            case "prepare":
                await self._prepare(*arguments)
            case "serve":
                await self._serve(*arguments)
            case "follow":
                await self._users.follow(*arguments)
            case "know":
                self._users.guesses.know(*arguments)
            case "reload":
                self._reload(*arguments)
            case "figures":
                return Seen(
                    self._services.counters,
                    self._services.stats,
                    read_process(),
                    [_plain(caller) for caller in self._services.connected],
                )
            case "collects":
                return self._collections.has(*arguments)
            case "reset-stats":
                self._services.stats.reset()
            case "stop":
                self.stop.set()
            case _:
                await self._store.told(name, *arguments)
        return None

    async def ask(self, *arguments: Any) -> Any:
        """Ask the server."""
        if self._home is None:
            raise InternalError("the server is not there yet")
        return await self._home.ask(*arguments)

    async def _prepare(self, told: Prepare) -> None:
        self._told = told
        open_log(told.settings)
        self._running.push_async_callback(self._background.close)
        links = []
        for shard, folder in enumerate(told.folders):
            link = WorkerLink(shard, told.settings.shard_timeout)
            connector = UnixConnector(f"/proc/self/fd/{folder}/link")
            session = ClientSession(connector=connector, timeout=ClientTimeout(total=None))
            await self._running.enter_async_context(session)
            address = f"http://worker/link?follower={told.number}"
            connected = await session.ws_connect(address, compress=0, max_msg_size=messages.MAX_MESSAGE)
            self._background.start(self._keep(link, connected), f"the link to shard {shard}")
            links.append(link)
        self._store = FollowerRouter(links, told.settings.answer_cache, self.ask)
        self._running.push_async_callback(self._store.close)

        async def of_users(name: str, *arguments: Any) -> Any:
            return await self.ask("users", name, *arguments)

        self._users = FarUsers(self._store, of_users)
        self._users.guesses.made_known = self._make_known
        self._running.push_async_callback(self._users.close)
        stats = Stats()
        self._services = Services(
            store=self._store, users=self._users, stats=stats, slow=told.settings.slow or math.inf
        )
        self._collections = FarCollections(self._store, self._collect)
        self._services.use_whole(_WholeAtHome(stats, self.ask), self._collections)

    def _make_known(self, group: str, username: str) -> None:
        self._background.start(self._tell_known(group, username), "telling the server who logged in")

    async def _tell_known(self, group: str, username: str) -> None:
        with suppress(ShardhashError):  # the server ends; or it is known here alone
            await self.ask("know", group, username)

    async def _collect(self, caller: Caller, request: Collect) -> Any:
        return await self.ask("collect", _plain(caller), request)

    async def _keep(self, link: WorkerLink, connected: ClientWebSocketResponse) -> None:
        try:
            await link.serve(connected)
        finally:
            if not self._stopping:
                os._exit(1)  # see the module

    async def _serve(self, removals: int, barred: list[tuple[str, str]]) -> None:
        self._store.take(removals, barred)
        settings, services = self._told.settings, self._services
        self._tls = None if settings.tls is None else ServerTls(settings.tls)
        loads = Loads(self._told.loads, self._told.place, settings.coordinators)
        self._listeners = listeners = make_listeners(settings, services, self._tls, elsewhere, loads)
        self._running.push_async_callback(listeners.close)
        for place, numbers in enumerate(self._told.listening):
            bind = self._told.settings.binds[place]  # with rules that may have been read again meanwhile
            await listeners.open(bind, [socket.socket(fileno=number) for number in numbers])
        if self._tls is not None:
            self._background.start(self._tls.watch(), "watching the files of TLS")
        if settings.data is not None:
            self._background.start(watch_room(settings.data, services.room), "watching the disk")
        self._background.start(give_back(), "giving memory back")
        gc.freeze()

    def _reload(self, settings: Settings) -> None:
        self._told = replace(self._told, settings=renewed(self._told.settings, settings))
        if self._listeners is not None:
            take_over(settings, self._listeners, self._tls, self._told.settings.coordinators)


def _plain(caller: Caller) -> Caller:
    """A caller without what belongs to this process."""
    return Caller(
        caller.identity, caller.read_only, caller.peer, caller.login, transport=caller.transport, since=caller.since
    )


async def run(raw: socket.socket) -> None:
    """Be a follower until the server ends or says so, or somebody ends this process in order."""
    follower = Follower()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, follower.stop.set)
    await follower.serve(raw)


def main() -> int:
    """Run a follower; its exit status."""
    raw = socket.socket(fileno=int(sys.argv[1]))
    raw.setblocking(False)
    end_with_parent(signal.SIGKILL)
    for number in (signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    prepare_process()
    keep_buffers()
    uvloop.run(run(raw))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Followers: the further coordinators of a server, each a child process; started, told things, counted, ended.

A follower (follower_process.py) inherits the listening sockets of the server and has links of its own to all workers.
The server's own coordinator is their *home*: what must be done once is asked there, and it tells the others.

- It dies: its clients connect again, to whichever coordinator accepts them. Once no worker has anything of it under way
  its report locks end, and another one is started.
- It does not answer what it is told within `TELL_LIMIT`: it is killed, since nothing may be acknowledged before.
- A worker dies: all followers are ended before another worker starts. So report locks that they held are over, and none
  of them answers by what the worker had not made durable.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from operator import itemgetter
from typing import Any

from shardhash.base.figures import ProcessFigures
from shardhash.base.tasks import BackgroundTasks
from shardhash.coordinator.callers import Caller
from shardhash.coordinator.collecting import Collections
from shardhash.coordinator.counters import Counters
from shardhash.coordinator.loads import Loads
from shardhash.coordinator.stats import Stats
from shardhash.coordinator.users import Users
from shardhash.coordinator.whole import Whole
from shardhash.errors import InternalError, ServerFaultError, ShardhashError
from shardhash.link.follower_operations import Drained, ReleaseFollower
from shardhash.link.peer import Peer
from shardhash.link.worker_link import WorkerLink
from shardhash.server.listening import renewed
from shardhash.server.settings import Settings
from shardhash.server.supervisor import Supervisor
from shardhash.stores.sharded.others import Others
from shardhash.stores.sharded.router import Router

log = logging.getLogger(__name__)

START_LIMIT = 60.0
"""Seconds until a follower that does not serve is given up."""
TELL_LIMIT = 5.0
"""Seconds within which a follower does what it is told."""
LOOK_LIMIT = 2.0
"""Seconds within which a follower says what it did."""
STOP_LIMIT = 8.0
"""Seconds that followers have for their last answers."""
LONGEST_PAUSE = 30.0
"""Seconds before a follower that keeps dying is started again."""
RETRY_PAUSE = 1.0
"""Seconds before workers are asked again to end what a follower left."""

STORE = frozenset(("remove", "clean_unused", "gc_mark", "gc_sweep", "snapshot"))
QUARANTINE = frozenset(("choose", "begin", "entries", "release", "discard"))
USERS = frozenset(("new", "take", "refresh_token", "set_permissions", "delete"))


@dataclass(frozen=True, slots=True)
class Prepare:
    """What a follower is told first. Descriptors are those that it inherited, in the order of shards and binds."""

    number: int
    settings: Settings
    folders: list[int]
    """Where the sockets of the workers are."""
    listening: list[list[int]]
    place: int
    loads: int


@dataclass(slots=True)
class Seen:
    """What a follower did."""

    counters: Counters
    stats: Stats
    process: ProcessFigures
    connected: list[Caller]


class _Follower:
    """One child process."""

    def __init__(self, place: int, process: asyncio.subprocess.Process, raw: socket.socket) -> None:
        self.place = place
        self.process = process
        self.raw = raw
        self.peer: Peer | None = None
        self.ended = asyncio.Event()
        self.seen: Seen | None = None

    async def wait(self) -> None:
        """Wait until it has ended."""
        await self.process.wait()
        self.ended.set()

    async def end(self) -> None:
        """Kill it unless it has ended, and wait for that."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.wait()


class Followers(Others):
    """All followers of a server. What they are told goes to those that serve."""

    def __init__(self, settings: Settings, supervisor: Supervisor, links: Sequence[WorkerLink]) -> None:
        super().__init__(alone=False)
        self._settings = settings
        self.loads = Loads.create(settings.coordinators)
        self._supervisor = supervisor
        self._links = links
        self._numbers = count(1)
        self._started: set[_Follower] = set()
        self._serving: set[_Follower] = set()
        self._background = BackgroundTasks()
        self._stop = asyncio.Event()
        self._all_serve = asyncio.Event()
        self._ended = (Counters(), Stats())
        """What followers counted that have ended."""
        self.whole: Whole
        supervisor.before_restart = self.end_all

    def reload(self, settings: Settings) -> None:
        """Have them take over settings that were read again, those that begin later too."""
        self._settings = renewed(self._settings, settings)
        self._background.start(self.tell("reload", settings), "telling coordinators other settings")

    def start(self, router: Router, users: Users, collections: Collections, listening: list[list[int]]) -> None:
        """Start them. `listening`: descriptors of the listening sockets of each bind."""
        self._router = router
        self._users = users
        self._collections = collections
        self._listening = listening
        users.guesses.made_known = self._make_known
        for place in range(1, self._settings.coordinators):
            self._background.start(self._keep(place), f"keeping coordinator {place}")

    def _make_known(self, group: str, username: str) -> None:
        for follower in self._serving:
            self._background.start(self._tell_known(follower, group, username), "telling a coordinator who logged in")

    async def _tell_known(self, follower: _Follower, group: str, username: str) -> None:
        with contextlib.suppress(TimeoutError, ShardhashError):  # one that does not hear of it does no harm
            async with asyncio.timeout(TELL_LIMIT):
                await self._ask(follower, "know", [(group, username)])

    async def serving(self) -> None:
        """Wait until all of them serve."""
        await self._all_serve.wait()

    async def close(self) -> None:
        """Let them give their last answers, and end."""
        self._stop.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_LIMIT):
                await asyncio.gather(
                    *(self._ask(follower, "stop") for follower in self._serving), return_exceptions=True
                )
                await asyncio.gather(*(follower.ended.wait() for follower in self._serving))
        await self.end_all()
        await self._background.close()

    async def end_all(self) -> None:
        """Kill all followers, and wait until they have ended."""
        await asyncio.gather(*(follower.end() for follower in list(self._started)))

    # ------------------------------------------------------------------------------------------------- telling

    async def tell(self, name: str, *arguments: Any) -> None:
        """See Others."""
        await asyncio.gather(*(self._tell(follower, name, arguments) for follower in list(self._serving)))

    async def _tell(self, follower: _Follower, name: str, arguments: tuple[Any, ...]) -> None:
        try:
            async with asyncio.timeout(TELL_LIMIT):
                await self._ask(follower, name, *arguments)
        except (TimeoutError, ShardhashError) as error:
            if not follower.ended.is_set():
                log.error("coordinator %d did not do what it was told (%s), and is killed", follower.place, error)
            await follower.end()

    async def _ask(self, follower: _Follower, name: str, *arguments: Any) -> Any:
        assert follower.peer is not None
        return await follower.peer.ask(name, *arguments)

    async def _answer(self, follower: _Follower, name: str, *arguments: Any) -> Any:
        """What a follower asks."""
        if name == "collect":
            caller, request = arguments
            return await self._collections.collect(caller, request, partial(self._collects, follower))
        if name == "know":
            group, username = arguments
            self._users.guesses.succeeded(username, group)
            return None
        method, *rest = arguments
        if name == "store" and method in STORE:
            return await getattr(self._router, method)(*rest)
        if name == "quarantine" and method in QUARANTINE:
            return await getattr(self._router.quarantine, method)(*rest)
        if name == "users" and method in USERS:
            return await getattr(self._users, method)(*rest)
        if name == "stats":
            return await (self.whole.reset_stats() if method == "reset" else self.whole.stats())
        raise InternalError(f"a follower asked for {name} {method}")

    async def _collects(self, follower: _Follower, name: str) -> bool:
        """Whether a follower still has the connection over which this collection is made."""
        with contextlib.suppress(TimeoutError, ShardhashError):
            async with asyncio.timeout(LOOK_LIMIT):
                return bool(await self._ask(follower, "collects", name))
        return False

    # ------------------------------------------------------------------------------------------------- figures

    async def look(self) -> list[tuple[int, Seen]]:
        """What each follower that answers did, by its place."""
        serving = list(self._serving)
        await asyncio.gather(*map(self._look_at, serving))
        return sorted(((one.place, one.seen) for one in serving if one.seen is not None), key=itemgetter(0))

    async def _look_at(self, follower: _Follower) -> None:
        with contextlib.suppress(TimeoutError, ShardhashError):
            async with asyncio.timeout(LOOK_LIMIT):
                follower.seen = await self._ask(follower, "figures")

    def sums_of_ended(self) -> tuple[Counters, Stats]:
        """What followers counted that have ended, as far as they told."""
        return self._ended

    def _count_ended(self, follower: _Follower) -> None:
        if follower.seen is not None:
            counters, stats = self._ended
            follower.seen.counters.connections.clear()
            counters.become([counters, follower.seen.counters])
            stats.take([follower.seen.stats])

    # ------------------------------------------------------------------------------------------------ one of them

    async def _keep(self, place: int) -> None:
        """Keep a follower running in this place."""
        loop, pause = asyncio.get_running_loop(), 0.0
        while not self._stop.is_set():
            for link in self._links:
                await link.connected.wait()
            number, began, why = next(self._numbers), loop.time(), "was ended, since a worker was"
            try:
                follower = await self._spawn(place)
            except OSError as error:
                log.error("coordinator %d cannot be started: %s; trying again", place, error)
                await asyncio.sleep(RETRY_PAUSE)
                continue
            try:
                why = await self._run(follower, number)
            except (TimeoutError, ShardhashError) as error:
                why = f"does not serve: {str(error) or 'it takes too long'}"
            except Exception:
                log.exception("internal error at coordinator %d; this is a bug", place)
                why = "was lost by an internal error"
            finally:
                await follower.end()
                self.loads.leave(place)
                self._started.discard(follower)
                self._serving.discard(follower)
                self._count_ended(follower)
            if self._stop.is_set():
                return
            log.error("coordinator %d %s; starting it again", place, why)
            await self._release(number)
            pause = 0.0 if loop.time() - began > LONGEST_PAUSE else min(LONGEST_PAUSE, pause * 2 or 0.05)
            await asyncio.sleep(pause)

    async def _spawn(self, place: int) -> _Follower:
        here, there = socket.socketpair()
        here.setblocking(False)
        folders = self._supervisor.folders()
        listening = [descriptor for descriptors in self._listening for descriptor in descriptors]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("NOTIFY_", "LISTEN_"))}
        with there:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "shardhash.server.follower_process", str(there.fileno())),
                pass_fds=[there.fileno(), self.loads.descriptor, *folders, *listening],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # Ctrl-C in a terminal is for the server, which ends them
            )
        follower = _Follower(place, process, here)
        self._started.add(follower)
        return follower

    async def _run(self, follower: _Follower, number: int) -> str:
        """Have a follower serve until it ends; how it ended."""
        answer = partial(self._answer, follower)
        follower.peer = peer = await Peer.open(follower.raw, answer, f"coordinator {follower.place}")
        settings = self._settings
        told = replace(settings, admin_user=None, admin_password=None)
        prepare = Prepare(
            number, told, self._supervisor.folders(), self._listening, follower.place, self.loads.descriptor
        )
        reading = asyncio.create_task(peer.run())
        try:
            async with asyncio.timeout(START_LIMIT):
                await peer.ask("prepare", prepare)
                self._serving.add(follower)  # and what is told from now on comes behind what it is asked here
                asked = [peer.ask("reload", self._settings)] if self._settings is not settings else []
                asked.append(peer.ask("know", self._users.guesses.known))
                asked.append(peer.ask("serve", self._router.removals, list(self._router.barred)))
                await asyncio.gather(*asked)  # in one go: a removal that began in between would be counted twice
            if len(self._serving) == self._settings.coordinators - 1:
                self._all_serve.set()
            log.info("coordinator %d serves, process %d", follower.place, follower.process.pid)
            await reading
            await follower.wait()
            status = follower.process.returncode
            return f"ended with status {status}" if (status or 0) >= 0 else f"was killed by signal {-(status or 0)}"
        finally:
            reading.cancel()
            await asyncio.wait([reading])

    async def _release(self, number: int) -> None:
        """End the report locks of a follower that has ended, once no worker has anything of it under way."""
        while True:
            try:
                await asyncio.gather(*(self._of(link, Drained(number)) for link in self._links))
                await asyncio.gather(*(self._of(link, ReleaseFollower(number)) for link in self._links))
            except ServerFaultError as error:
                log.warning("what a coordinator left cannot be ended yet: %s; trying again", error)
                await asyncio.sleep(RETRY_PAUSE)
            else:
                return

    async def _of(self, link: WorkerLink, operation: Drained | ReleaseFollower) -> None:
        await link.request(operation)

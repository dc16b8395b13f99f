"""The supervisor: keeps a worker running for each shard, and its link served."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import orjson
from aiohttp import ClientError, ClientSession, ClientTimeout, ClientWebSocketResponse, ClientWSTimeout, UnixConnector

from shardhash.base.tasks import BackgroundTasks
from shardhash.errors import DamagedShardError
from shardhash.link import messages
from shardhash.link.worker_link import WorkerLink
from shardhash.server.worker_processes import LONGEST_LINE, STOP_LIMIT, WorkerProcess

log = logging.getLogger(__name__)

HEARTBEAT = 20.0
"""Most seconds of silence before a worker is pinged; one that does not answer for half of it more is replaced."""
LOOKS = 10
"""Looks at a link in that time."""
LEAST_HEARTBEAT = 1.0
"""A worker that is merely busy shall not be taken for one that stands still."""
MAX_PAUSE = 30.0
"""Longest pause before a worker that keeps dying is started again, seconds."""
WATCH_PAUSE = 60.0
"""Seconds between log lines about a worker that does not end though it was killed."""
LOOK_PAUSE = 0.02
"""Seconds between looks at a killed worker whose end nobody is told of."""
CLOSE_LIMIT = ClientWSTimeout(ws_close=0.5)
"""How long a worker may take to confirm that its link ends."""
START_PAUSE = 1.0
"""Seconds before it is tried again to start a process for which there was no room."""


Tell: TypeAlias = Callable[[str], None]


def _tell_nobody(_text: str) -> None:
    """Pass on nothing."""


class Supervisor:
    """The worker processes of a server.

    `processes` are those that were started already, one a link; `start` makes another for a shard.
    """

    def __init__(
        self,
        links: Sequence[WorkerLink],
        processes: Sequence[WorkerProcess],
        start: Callable[[int], WorkerProcess],
        *,
        durable: bool,
        limit: float = 30.0,
        tell: Tell = _tell_nobody,
    ) -> None:
        """`limit`: seconds within which a worker that stands still is noticed, half a minute at most.

        `tell` gets each line of a worker that goes to the log.
        """
        self._tell = tell
        self._links = links
        self._processes = {link.shard: process for link, process in zip(links, processes, strict=True)}
        self._start_process = start
        self._durable = durable
        self._heartbeat = min(HEARTBEAT, max(LEAST_HEARTBEAT, limit / 1.5))
        self._background = BackgroundTasks()
        self.before_restart: Callable[[], Awaitable[None]] | None = None
        """Awaited when a worker has ended, before another one starts; to be set before the start."""
        self._stop = asyncio.Event()
        self._failure: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Serve all links; returns once every shard has recovered. DamagedShardError when one cannot."""
        self._failure = asyncio.get_running_loop().create_future()
        for link in self._links:
            self._background.start(self._keep(link), f"keeping a worker of shard {link.shard}")
        connected = asyncio.ensure_future(self._all_connected())
        try:
            first: list[asyncio.Future[None]] = [connected, self._failure]
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if self._failure.done():
                self._failure.result()
        finally:
            connected.cancel()
            self._failure.cancel()

    def folders(self) -> list[int]:
        """A descriptor of the folder of each worker's socket, for who shares the workers (`before_restart`)."""
        return [self._processes[link.shard].folder for link in self._links]

    async def _all_connected(self) -> None:
        await asyncio.gather(*(link.connected.wait() for link in self._links))

    async def stop(self) -> None:
        """Let every worker finish its writes and end; kill those that do not."""
        self._stop.set()
        processes = list(self._processes.values())
        for process in processes:
            process.ask_to_end()
        for ended, process in zip(
            await asyncio.gather(*(process.end() for process in processes)), processes, strict=True
        ):
            if not ended:
                log.error("worker process %d does not end, though it was killed; its disk hangs", process.pid)
        await self._background.close()

    async def _keep(self, link: WorkerLink) -> None:
        pause = 0.0
        while not self._stop.is_set():
            began = time.monotonic()
            process = self._processes[link.shard]
            try:
                why = await self._run_once(link, process)
                await self._make_sure_of_end(link, process)
            finally:
                process.discard()
            if self._stop.is_set():
                return
            lost = "" if self._durable else "; what it held in memory is lost"
            log.error("worker of shard %d %s%s; starting it again", link.shard, why, lost)
            link.lost(why)
            if self.before_restart is not None:
                await self.before_restart()
            pause = 0.0 if time.monotonic() - began > MAX_PAUSE else min(MAX_PAUSE, pause * 2 or 0.05)
            await asyncio.sleep(pause if pause > 0.05 else 0)
            self._processes[link.shard] = await self._start_again(link.shard)

    async def _start_again(self, shard: int) -> WorkerProcess:
        """Another process for a shard; tried until there is room for one (descriptors, memory, a full /tmp)."""
        while True:
            try:
                return self._start_process(shard)
            except OSError as error:
                log.error("no worker for shard %d can be started: %s; trying again", shard, error)
                await asyncio.sleep(START_PAUSE)

    async def _run_once(self, link: WorkerLink, process: WorkerProcess) -> str:
        """Serve a worker's link until it ends; how it ended."""
        why = "was lost"
        try:
            async with asyncio.TaskGroup() as tasks:  # a worker whose lines nobody reads would stand still one day
                tasks.create_task(_pass_on(link.shard, process, self._tell))
                why = await self._serve(link, process)
                link.lost(why)  # its limit of time begins now: the process may take long to end
                await self._wait_for_end(link, process)
        except* OSError as errors:  # no descriptor is left to watch it by
            why = f"could not be watched: {errors.exceptions[0]}"
        except* Exception:  # a shard without a keeper would be away for good
            log.exception("internal error at the worker of shard %d; this is a bug", link.shard)
            why = "was lost by an internal error"
        if process.status == messages.EXIT_DAMAGED and self._failure is not None and not self._failure.done():
            self._failure.set_exception(DamagedShardError(f"shard {link.shard} cannot start; the log says why"))
        return process.describe_end() or why

    async def _wait_for_end(self, link: WorkerLink, process: WorkerProcess) -> None:
        """Wait until a worker without a link has ended: its successor must not start while it may still write."""
        ended = await process.end(STOP_LIMIT if self._stop.is_set() else 0)
        while not ended and not self._stop.is_set():
            log.error(
                "worker process %d of shard %d does not end, though it was killed: its disk hangs; waiting for it",
                process.pid,
                link.shard,
            )
            ended = await process.end(WATCH_PAUSE)

    async def _make_sure_of_end(self, link: WorkerLink, process: WorkerProcess) -> None:
        """Kill a worker that could not be watched, and look now and then until it has ended."""
        if process.status is None:
            link.lost("is not watched")
            process.kill()
            while process.status is None:  # noqa: ASYNC110  # there was no descriptor to be told by
                await asyncio.sleep(LOOK_PAUSE)

    async def _serve(self, link: WorkerLink, process: WorkerProcess) -> str:
        ended = asyncio.create_task(process.wait())
        connector = UnixConnector(str(process.path))
        async with ClientSession(connector=connector, timeout=ClientTimeout(total=None)) as session:
            connecting = asyncio.create_task(_connect(session))
            listening: asyncio.Task[None] | None = None
            try:
                await asyncio.wait([ended, connecting], return_when=asyncio.FIRST_COMPLETED)
                if ended.done():
                    return "ended"
                socket_ = connecting.result()
                if self.before_restart is None:
                    process.connected()
                listening = asyncio.create_task(_close_when_silent(link, socket_, self._heartbeat))
                await link.serve(socket_)
                if not self._stop.is_set():
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(asyncio.shield(ended), 0.5)  # its exit status tells more
            except (OSError, ClientError) as error:
                return f"did not answer: {error}"
            finally:
                tasks: list[asyncio.Task[Any]] = [connecting, ended, *([] if listening is None else [listening])]
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                if not connecting.cancelled() and connecting.exception() is None:
                    await connecting.result().close()  # a link that ended by an error is open still
        return "dropped its link"


async def _pass_on(shard: int, process: WorkerProcess, tell: Tell) -> None:
    """Log what a worker says."""
    async with process.lines() as lines:
        await log_lines(shard, lines, tell)


async def log_lines(shard: int, lines: asyncio.StreamReader, tell: Tell = _tell_nobody) -> None:
    """Log lines of JSON, ``{"level": NAME, "text": TEXT}``, until they end; anything else as it is."""
    while True:
        try:
            line = await lines.readline()
        except ValueError:  # what is too long was thrown away
            log.warning("shard %d said a line of more than %d bytes", shard, LONGEST_LINE)
            continue
        if not line:
            return
        try:
            event = orjson.loads(line)
            log.log(logging.getLevelNamesMapping()[event["level"]], "shard %d: %s", shard, event["text"])
            tell(f"shard {shard}: {event['text']}")
        except (orjson.JSONDecodeError, KeyError, TypeError):
            log.warning("shard %d says: %s", shard, line.decode(errors="replace").rstrip())


async def _connect(session: ClientSession) -> ClientWebSocketResponse:
    """The link's WebSocket; waits for as long as the shard recovers. The link counts pongs itself."""
    return await session.ws_connect(
        "http://worker/link", autoping=False, compress=0, max_msg_size=messages.MAX_MESSAGE, timeout=CLOSE_LIMIT
    )


async def _close_when_silent(link: WorkerLink, socket: ClientWebSocketResponse, heartbeat: float) -> None:
    """Close a link on which nothing arrives, not even a pong, for one and a half heartbeats.

    Only time in which this process looked counts. When it was late itself, answers may have come in that it has not
    read yet: what overloads the coordinator must not cost a healthy worker its life.
    """
    loop, look = asyncio.get_running_loop(), heartbeat / LOOKS
    silent, heard = 0.0, link.heard
    while silent < 1.5 * heartbeat:
        began = loop.time()
        await asyncio.sleep(look)
        silent += min(loop.time() - began, 2 * look)
        if link.heard != heard:
            silent, heard = 0.0, link.heard
        elif silent >= heartbeat:
            with contextlib.suppress(TimeoutError, ClientError, OSError):
                async with asyncio.timeout(look):  # a worker that stands still may not read it, either
                    await socket.ping()
    await socket.close()

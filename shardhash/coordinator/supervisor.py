"""The supervisor: starts the worker of each shard, and again when it dies; keeps its link served.

A worker is a process of its own (shard/worker.py). It gets a listening unix socket, bound here under a private folder
and unlinked as soon as the link is connected, and a pipe as its standard input, which closes when the coordinator is
gone, however it died.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from pathlib import Path

import orjson
from aiohttp import ClientError, ClientSession, ClientTimeout, ClientWebSocketResponse, UnixConnector

from shardhash.coordinator.links import WorkerLink
from shardhash.errors import ConfigError
from shardhash.shard import protocol

log = logging.getLogger(__name__)

HEARTBEAT = 20.0
"""Seconds between pings on a link; a worker that does not answer for half of it more is killed and started again."""
STOP_LIMIT = 10.0
"""Seconds that a worker has for its last writes before it is killed."""
MAX_PAUSE = 30.0
"""Longest pause before a worker that keeps dying is started again, seconds."""


class Supervisor:
    """The worker processes of a server. `arguments` of a worker come behind ``python -m shardhash.shard.worker``."""

    def __init__(self, links: Sequence[WorkerLink], arguments: Sequence[str], *, durable: bool) -> None:
        self._links = links
        self._arguments = list(arguments)
        self._durable = durable
        self._processes: dict[int, Process] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()
        self._failure: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Start all workers; returns once every shard has recovered. ConfigError when one cannot."""
        self._failure = asyncio.get_running_loop().create_future()
        self._tasks = [asyncio.create_task(self._keep(link)) for link in self._links]
        connected = asyncio.ensure_future(self._all_connected())
        try:
            first: list[asyncio.Future[None]] = [connected, self._failure]
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if self._failure.done():
                self._failure.result()
        finally:
            connected.cancel()
            self._failure.cancel()

    async def _all_connected(self) -> None:
        await asyncio.gather(*(link.connected.wait() for link in self._links))

    async def stop(self) -> None:
        """Let every worker finish its writes and end; kill what does not."""
        self._stop.set()
        processes = list(self._processes.values())
        for process in processes:
            if process.stdin is not None:
                process.stdin.close()
        await asyncio.gather(*(_end(process) for process in processes))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def process_ids(self) -> list[int]:
        """The process of each shard, in order of shards."""
        return [self._processes[link.shard].pid for link in self._links if link.shard in self._processes]

    async def _keep(self, link: WorkerLink) -> None:
        pause = 0.0
        while not self._stop.is_set():
            began = time.monotonic()
            why = await self._run_once(link)
            if self._stop.is_set():
                return
            lost = "" if self._durable else "; what it held in memory is lost"
            log.error("worker of shard %d %s%s; starting it again", link.shard, why, lost)
            link.lost(why)
            pause = 0.0 if time.monotonic() - began > MAX_PAUSE else min(MAX_PAUSE, pause * 2 or 0.05)
            await asyncio.sleep(pause if pause > 0.05 else 0)

    async def _run_once(self, link: WorkerLink) -> str:
        """Start a worker and serve its link until it ends; how it ended."""
        with tempfile.TemporaryDirectory(prefix="shardhash-") as folder:
            path = Path(folder) / "link"
            process = await self._spawn(link.shard, path)
            self._processes[link.shard] = process
            output = asyncio.create_task(self._read_output(link.shard, process))
            try:
                why = await self._serve(link, path, process)
            finally:
                await _end(process, at_once=True)
                await output
        status = process.returncode
        if status == protocol.EXIT_DAMAGED and self._failure is not None and not self._failure.done():
            self._failure.set_exception(ConfigError(f"shard {link.shard} cannot start; the log says why"))
        return _describe(status) or why

    async def _spawn(self, shard: int, path: Path) -> Process:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with listener:
            listener.bind(str(path))
            listener.listen()
            numbers = ["--shard", str(shard), "--listen-fd", str(listener.fileno())]
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "shardhash.shard.worker",
                *numbers,
                *self._arguments,
                stdin=PIPE,
                stdout=PIPE,
                pass_fds=[listener.fileno()],
                start_new_session=True,  # Ctrl-C in a terminal is for the coordinator, which ends the workers
            )

    async def _serve(self, link: WorkerLink, path: Path, process: Process) -> str:
        ended = asyncio.create_task(process.wait())
        connector = UnixConnector(str(path))
        async with ClientSession(connector=connector, timeout=ClientTimeout(total=None)) as session:
            connecting = asyncio.create_task(_connect(session))
            try:
                await asyncio.wait([ended, connecting], return_when=asyncio.FIRST_COMPLETED)
                if ended.done():
                    return "ended"
                socket_ = connecting.result()
                path.unlink(missing_ok=True)  # noqa: ASYNC240  # a name in a private folder, gone at once
                await link.serve(socket_)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(ended), 0.5)  # its exit status tells more
            except (OSError, ClientError) as error:
                return f"did not answer: {error}"
            finally:
                connecting.cancel()
                ended.cancel()
                await asyncio.gather(connecting, ended, return_exceptions=True)
        return "dropped its link"

    async def _read_output(self, shard: int, process: Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            try:
                event = orjson.loads(line)
                log.log(logging.getLevelNamesMapping()[event["level"]], "shard %d: %s", shard, event["text"])
            except (orjson.JSONDecodeError, KeyError, TypeError):
                log.warning("shard %d says: %s", shard, line.decode(errors="replace").rstrip())


async def _connect(session: ClientSession) -> ClientWebSocketResponse:
    """The link's WebSocket; waits for as long as the shard recovers."""
    return await session.ws_connect(
        "http://worker/link", heartbeat=HEARTBEAT, compress=0, max_msg_size=protocol.MAX_MESSAGE
    )


def _describe(status: int | None) -> str:
    if status is None or status == 0:
        return ""
    return f"ended with status {status}" if status > 0 else f"was killed by {signal.Signals(-status).name}"


async def _end(process: Process, *, at_once: bool = False) -> None:
    if process.returncode is not None:
        return
    try:
        await asyncio.wait_for(process.wait(), 0 if at_once else STOP_LIMIT)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

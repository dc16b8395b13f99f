"""Control: what the command line asks a running server, over a unix socket in its data directory.

The socket DIR/control is for the user of the server alone, and reaches the server also from another container that has
the directory. A request is a line of JSON, ``{"command": "snapshot"}``. So is the answer, once that is done:
``{"done": true}``; or, at once when it cannot be done, ``{"error": TEXT}``, which a line that is no request gets, too.
A server that was started on demand knows more commands (on_demand.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from shardhash.base.tasks import BackgroundTasks
from shardhash.errors import ShardhashError
from shardhash.shard.storage.layout import CONTROL
from shardhash.stores.interface import Store

log = logging.getLogger(__name__)

LONGEST_REQUEST = 4096
"""Bytes of a line."""
RETRY_PAUSE = 10.0
"""Seconds before a disk that took no socket is asked again."""


Command: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
"""Carries out a command, and gives the answer."""


async def write_snapshots(store: Store) -> dict[str, Any]:
    """The command ``snapshot``."""
    try:
        await store.snapshot()
    except ShardhashError as error:
        log.error("no snapshot was written: %s", error)
        return {"error": str(error)}
    log.info("a snapshot of every shard is written and verified")
    return {"done": True}


@asynccontextmanager
async def control_socket(directory: Path | None, commands: Mapping[str, Command]) -> AsyncIterator[None]:
    """Answer these commands on the control socket meanwhile. If the disk refuses to hold it, serve anyway and retry."""
    if directory is None:
        yield
        return
    control = _Control(directory, commands)
    if not await control.open():
        log.warning("no control socket in %s yet: `shardhash snapshot` cannot reach this server", directory)
    background = BackgroundTasks()
    background.start(control.keep_open(), "opening the control socket")
    try:
        yield
    finally:
        await background.close()
        control.close()


def _bind(directory: Path) -> socket.socket:
    """A listening socket, for its owner alone. The caller holds the lock: whatever has the name is of nobody."""
    with contextlib.suppress(FileNotFoundError):
        (directory / CONTROL).unlink()
    folder = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mask = os.umask(0o177)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # By its descriptor, since a path may be longer than the 107 bytes that the kernel takes.
        listener.bind(f"/proc/self/fd/{folder}/{CONTROL}")
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(mask)
        os.close(folder)
    return listener


class _Control:
    """The control socket, and the commands that it answers."""

    def __init__(self, directory: Path, commands: Mapping[str, Command]) -> None:
        self._directory = directory
        self._commands = commands
        self._server: asyncio.AbstractServer | None = None

    async def open(self) -> bool:
        """Listen, if the disk lets us; whether it did."""
        try:
            listener = _bind(self._directory)
        except OSError as error:
            log.debug("no control socket: %s", error)
            return False
        self._server = await asyncio.start_unix_server(self.answer, sock=listener, limit=LONGEST_REQUEST)
        return True

    async def keep_open(self) -> None:
        """Retry until the socket listens."""
        while self._server is None:
            await asyncio.sleep(RETRY_PAUSE)
            if await self.open():
                log.info("the control socket in %s answers now", self._directory)

    def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            with contextlib.suppress(OSError):
                (self._directory / CONTROL).unlink()
            self._server.close()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        with contextlib.suppress(ConnectionError):
            try:
                value = await self._carry_out(_request_of(await reader.readline()))
            except ValueError as error:
                value = {"error": str(error)}
            writer.write(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))
            await writer.drain()
        writer.close()

    async def _carry_out(self, command: str) -> dict[str, Any]:
        if command not in self._commands:
            return {"error": f"this server does not know the command {command!r}; is it an older one?"}
        return await self._commands[command]()


def _request_of(line: bytes) -> str:
    """The command of a request. ValueError for a line that is none, or too long."""
    try:
        command = orjson.loads(line)["command"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise ValueError("this is not a request to a shardhash server") from None
    if not isinstance(command, str):
        raise ValueError("a command must be text")
    return command

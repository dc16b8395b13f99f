"""Worker processes: how one is started, told to end, and waited for.

A worker (shard/worker/process.py) gets a listening unix socket, bound here under a private folder and unlinked as soon
as the link is connected, and a pipe as its standard input, which closes when the coordinator is gone, however it died.

Imports nothing that takes long: a server starts its workers first, and what it needs itself is loaded meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

STOP_LIMIT = 10.0
"""Seconds that a worker has for its last writes before it is killed."""
KILL_LIMIT = 5.0
"""Seconds that a killed worker has to end. One whose disk hangs does not end before the disk answers."""
LONGEST_LINE = 1 << 20
"""Bytes of a line that a worker may say."""
NO_CERTIFICATES = {"SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull}
"""A worker speaks no TLS; reading the system's certificates would be a fifth of its start."""


class WorkerProcess:
    """One worker process. `arguments` come behind ``python -m shardhash.shard.worker.process``.

    `held` are descriptors that stay open until it has ended, whatever becomes of this process: the lock.
    """

    def __init__(self, shard: int, arguments: Sequence[str], held: Sequence[int] = ()) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="shardhash-")
        self._folder_fd = os.open(self._folder.name, os.O_PATH | os.O_DIRECTORY)
        # By its descriptor, since TMPDIR may be longer than the 107 bytes that the kernel takes.
        self.path = Path(f"/proc/self/fd/{self._folder_fd}/link")
        """The socket that it answers on."""
        self._killed = False
        self._given_back = False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(self.path))
            listener.listen()
            numbers = ["--shard", str(shard), "--listen-fd", str(listener.fileno())]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "shardhash.shard.worker.process", *numbers, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[listener.fileno(), *held],
                env=os.environ | NO_CERTIFICATES,
                start_new_session=True,  # Ctrl-C in a terminal is for the coordinator, which ends the workers
            )
        self._ended: asyncio.Future[None] | None = None

    @property
    def folder(self) -> int:
        """The descriptor of the folder of its socket."""
        return self._folder_fd

    @property
    def pid(self) -> int:
        """Its process number."""
        return self._process.pid

    def connected(self) -> None:
        """The link is made; nobody else is to use its socket."""
        self.path.unlink(missing_ok=True)

    @asynccontextmanager
    async def lines(self) -> AsyncIterator[asyncio.StreamReader]:
        """What it says, a line of JSON each (shard/worker/process.py)."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(LONGEST_LINE)
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), self._process.stdout)
        try:
            yield reader
        finally:
            transport.close()  # uvloop leaves it open at its end

    async def wait(self) -> None:
        """Wait until it has ended."""
        if self._ended is None:
            descriptor = os.pidfd_open(self._process.pid)  # first, for it may fail
            self._ended = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().add_reader(descriptor, self._has_ended, descriptor, self._ended)
        await asyncio.shield(self._ended)

    def ask_to_end(self) -> None:
        """Close its standard input: it finishes its writes and ends."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()

    async def end(self, limit: float = STOP_LIMIT) -> bool:
        """Wait until it has ended, killing it after `limit` seconds; whether it ended within KILL_LIMIT of that."""
        if self.status is not None:
            return True
        try:
            await asyncio.wait_for(self.wait(), limit)
        except TimeoutError:
            self.kill()
            try:
                await asyncio.wait_for(self.wait(), KILL_LIMIT)
            except TimeoutError:
                return False
        return True

    def discard(self) -> None:
        """Release its descriptors and its socket. If it still runs, kill it, and wait for its end up to KILL_LIMIT."""
        if self._process.poll() is None and not self._killed:
            self.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(KILL_LIMIT)
        self.ask_to_end()
        if not self._given_back:
            self._given_back = True
            os.close(self._folder_fd)
            self._folder.cleanup()

    def kill(self) -> None:
        """Kill it, unless it has ended by itself or by somebody else; nobody waits."""
        if self.status is None:
            self._killed = True
            self._process.kill()

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def describe_end(self) -> str:
        """How it ended, in words; "" when it ended in order."""
        status = self.status
        if not status:
            return ""
        if self._killed and status == -signal.SIGKILL:
            return "did not answer, and was killed by the server"
        return f"ended with status {status}" if status > 0 else f"was killed by {signal.Signals(-status).name}"

    def _has_ended(self, descriptor: int, ended: asyncio.Future[None]) -> None:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
        self._process.poll()
        if not ended.done():
            ended.set_result(None)

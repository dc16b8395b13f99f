"""Real servers for tests: `python -m shardhash serve` as a process, on free ports."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psutil

ROOT = Path(__file__).parent.parent
START_LIMIT = 60.0
"""Seconds until a server that does not answer has failed; many tests may start servers at one time."""
STOP_LIMIT = 30.0
"""Seconds until a server that does not stop has failed."""
IN_MEMORY = ("--memory", "--workers", "2")


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        port: int = some.getsockname()[1]
        return port


def run_shardhash(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with no settings of the machine's environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SHARDHASH_", "HASHSERVER_"))}
    return subprocess.run(
        [sys.executable, "-m", "shardhash", *arguments],
        env=kept | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class ServerLog:
    """What a server writes to standard error, a whole line at a time.

    A file of its own: pytest's `capfd` empties its file at each look, and loses a line that is written meanwhile.
    """

    def __init__(self) -> None:
        self.file: Final = tempfile.TemporaryFile("ab+")  # noqa: SIM115  # closed by `end`
        self._place = 0  # bytes that were read
        self._all: bytes | None = None  # of a server that has ended

    def read(self) -> str:
        """What was written since the last look."""
        lines = self._text()[self._place :]
        lines = lines[: lines.rfind(b"\n") + 1]
        self._place += len(lines)
        return lines.decode()

    def wait_for(self, *words: str) -> str:
        """What is written since the last look, until a line has one of these words."""
        seen = ""
        until = time.monotonic() + START_LIMIT
        while not any(word in seen for word in words):
            assert time.monotonic() < until, f"the server did not say {words}, but:\n{seen}"
            time.sleep(0.01)
            seen += self.read()
        return seen

    def end(self) -> None:
        """When its server has ended: write it to standard error, which pytest shows for a test that fails."""
        if self._all is None:
            self._all = self._text()
            self.file.close()
            sys.stderr.write(self._all.decode(errors="replace"))

    def _text(self) -> bytes:
        if self._all is not None:
            return self._all
        return os.pread(self.file.fileno(), os.fstat(self.file.fileno()).st_size, 0)


class ServerProcess:
    """A server that answers on `addresses`, one for each of `binds`, in their order; `listening` if others give them.

    Its log is shown when it has ended. Leaving its context stops it, and fails if it does not stop in order.
    """

    def __init__(
        self,
        *arguments: str,
        binds: Sequence[str] = ("127.0.0.1:0",),
        environment: Mapping[str, str] | None = None,
        listening: int | None = None,
    ) -> None:
        command = [sys.executable, "-m", "shardhash", "serve", *arguments]
        for bind in binds:
            command += ["--bind", bind]
        self.log: Final = ServerLog()
        self.process = subprocess.Popen(
            command,
            env=_environment() | dict(environment or {}),
            stdout=subprocess.PIPE,
            stderr=self.log.file,
            text=True,
            encoding="utf-8",
        )
        self.addresses = self._wait_until_it_listens(len(binds) if listening is None else listening)

    @property
    def address(self) -> str:
        """The first address."""
        return self.addresses[0]

    def children(self, argument: str) -> list[psutil.Process]:
        """Its living processes that were started with this argument."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):  # one that was killed is a child until the server has taken note
                if argument in child.cmdline():
                    found.append(child)
        return found

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop, and wait; its exit status. Does no harm twice."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self._wait()

    def kill(self) -> None:
        """End it as a crash would: the coordinator at once, its workers when they notice."""
        self.process.kill()
        self._wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        was_running = self.process.poll() is None
        status = self.stop()
        if kind is None and was_running:
            assert status == 0, f"the server ended with status {status}"

    def _wait(self) -> int:
        assert self.process.stdout is not None
        try:
            return self.process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the server did not end within {STOP_LIMIT:g} s") from None
        finally:
            self.process.stdout.close()
            self.log.end()

    def _wait_until_it_listens(self, count: int) -> list[str]:
        assert self.process.stdout is not None
        watchdog = threading.Timer(START_LIMIT, self.process.kill)
        watchdog.start()
        try:
            # Ends early, with fewer lines, if the server does.
            lines = [line for _, line in zip(range(count), self.process.stdout, strict=False)]
        finally:
            watchdog.cancel()
        addresses = [line.removeprefix("listening on ").strip() for line in lines if line.startswith("listening on ")]
        if len(addresses) != count:
            self.process.kill()
            raise AssertionError(f"the server ended with status {self._wait()} and said {lines}\n{self.log.read()}")
        return addresses


def _environment() -> dict[str, str]:
    """The environment without settings of servers and credentials, and with the package of this checkout.

    One coordinator, unless a test wants several, however many cores there are.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SHARDHASH_", "HASHSERVER_"))}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "SHARDHASH_COORDINATORS": "1"}

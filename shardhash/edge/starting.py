"""Finding the server of a data directory, or starting it: however many try at one time, there is one server.

1. Whoever wants one takes the lock DIR/starting, and holds it until the server listens. It is a lock of those who
   start, beside the server's own (shard/directory/lock.py), and no descriptor of it is in the server.
2. A server that runs is asked for its address (server/on_demand.py). Its answer promises that it stays for a while.
3. Something that listens at the socket, when no server runs, is a service manager that starts one when it is
   connected to: it is, and 2. is tried again.
4. If nobody holds the directory, a server is started, and tells its address once it listens.
5. If somebody does, and does not answer, it is starting, because who began that was killed, or stopping: it is waited
   for.

What a server that was killed left behind is in nobody's way: locks end with their processes, and a socket at which
nobody listens is replaced.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from shardhash.base.owners import describe
from shardhash.edge.daemon import begin_daemon
from shardhash.errors import ConfigError, StartError
from shardhash.shard.directory.control import ask
from shardhash.shard.directory.lock import is_locked, read_holder
from shardhash.shard.directory.manifest import make_directory
from shardhash.shard.storage.filesystem import OsFileSystem
from shardhash.shard.storage.layout import EDGE_LOG, STARTING

START_LIMIT = 120.0
"""Seconds until a server that does not listen, or does not end, has failed. One with much data takes long to start."""
ANSWER_LIMIT = 5.0
"""Seconds that a server has to answer a command."""
TELL_AFTER = 2.0
"""Seconds of waiting before something is said about it."""
LISTENING = "listening on "
"""What a server prints before its address."""
_PAUSE = 0.02
_TAIL = 16 * 1024
"""Bytes at the end of a log in which to look for why a server did not start."""
_HELLO = b"OEHASHEQUIV 1.1\nneeds-headers: true\n\n"

Tell: TypeAlias = Callable[[str], None]
"""Says something about the progress."""
Serve: TypeAlias = Callable[[], int]
"""Serves, and returns the exit status."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that listens. `started`: whether it was not there before."""

    address: str
    upstream: str | None
    pid: int
    started: bool = False


def find(directory: Path) -> Running | None:
    """The server that runs for a data directory and was started on demand, if it listens. Raises ConfigError."""
    answer = ask(directory, "address", ANSWER_LIMIT)
    return _running(answer) if answer and answer.get("addresses") else None


def find_or_start(
    directory: Path, socket_path: Path | None, upstream: str | None, prepare: Callable[[], Serve], tell: Tell
) -> Running:
    """The server of a data directory. If there is none, what `prepare` returns is one, in a process of its own.

    `socket_path`: where a service manager may listen for it. Raises ConfigError, StartError.
    """
    patience = _Patience(tell, directory / EDGE_LOG)
    make_directory(OsFileSystem(), directory)
    with _starting(directory, patience):
        while True:
            answer = ask(directory, "address", ANSWER_LIMIT)
            if answer and answer.get("addresses"):
                return _running(answer)
            _refuse_others(directory, answer)
            if answer is None and socket_path is not None and _wake(socket_path):
                patience.wait(f"something listens at {socket_path}, and no server of {directory} answers yet")
            elif answer is None and not is_locked(directory):
                return _start(directory, upstream, prepare(), patience)
            else:
                patience.wait(_taken(directory))


def stop(directory: Path, tell: Tell) -> bool:
    """End the server of a data directory and wait for that; False when there is none. Raises as `find_or_start`."""
    patience = _Patience(tell, directory / EDGE_LOG)
    found = told = False
    while directory.is_dir():
        answer = ask(directory, "stop", ANSWER_LIMIT)
        if answer is None and not is_locked(directory):
            break
        _refuse_others(directory, answer)
        found, told = True, told or answer is not None
        patience.wait(f"the server of {directory} is stopping" if told else _taken(directory))
    return found


def _running(answer: dict[str, Any], started: bool = False) -> Running:
    return Running(answer["addresses"][0], answer.get("upstream"), answer.get("pid", 0), started)


def _refuse_others(directory: Path, answer: dict[str, Any] | None) -> None:
    """Raise ConfigError when the answer is of a server that `shardhash edge` has not started."""
    if answer is not None and "does not know the command" in answer.get("error", ""):
        raise ConfigError(
            f"{directory} is in use by a server that was not started by `shardhash edge`; stop that one, use its"
            " address, or give another --data"
        )


def _taken(directory: Path) -> str:
    return f"{directory} is in use by {read_holder(directory) or 'a process'}, which does not answer (yet)"


class _Patience:
    """Waits a little at a time, says so after a while, and raises StartError in the end."""

    def __init__(self, tell: Tell, log: Path) -> None:
        self._tell = tell
        self._began = time.monotonic()
        self._told = False
        self.log = log

    @property
    def left(self) -> float:
        """Seconds."""
        return self._began + START_LIMIT - time.monotonic()

    def wait(self, what: str) -> None:
        """Wait for a moment."""
        self.look(what)
        time.sleep(_PAUSE)

    def look(self, what: str) -> None:
        """Say it, if that is due, or give up."""
        if self.left < 0:
            raise StartError(f"gave up after {START_LIMIT:g} s: {what}; its log: {self.log}")
        if not self._told and time.monotonic() - self._began > TELL_AFTER:
            self._told = True
            self._tell(f"waiting: {what}")


@contextmanager
def _starting(directory: Path, patience: _Patience) -> Iterator[None]:
    """Hold the lock of those who start the server of a directory."""
    path = directory / STARTING
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot use the data directory {directory}: {describe(error, path)}") from None
    try:
        while not _lock(descriptor):
            patience.wait(f"another process starts the server of {directory}")
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wake(path: Path) -> bool:
    """Whether somebody listens at a socket; then connect to it, so that a server is started, and wait for that."""
    try:
        node = os.open(path, os.O_PATH | os.O_CLOEXEC)  # whose name may be longer than the kernel takes
    except OSError:
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(ANSWER_LIMIT)
            try:
                connection.connect(f"/proc/self/fd/{node}")
            except OSError:
                return False  # what a dead server left
            with contextlib.suppress(OSError):
                connection.sendall(_HELLO)
                connection.recv(1)
            return True
    finally:
        os.close(node)


def _start(directory: Path, upstream: str | None, serve: Serve, patience: _Patience) -> Running:
    begun = _size(patience.log)
    try:
        process, reader = begin_daemon(serve, patience.log)
    except OSError as error:
        raise ConfigError(f"no server can be started for {directory}: {describe(error, patience.log)}") from None
    said = b""
    try:
        while not said.endswith(b"\n"):
            patience.look(f"the server of {directory} is starting, as process {process}")
            if not select.select([reader], [], [], min(0.1, max(patience.left, 0.0)))[0]:
                continue
            part = os.read(reader, 65536)
            if not part:
                raise _ended(process, patience.log, begun)
            said += part
    finally:
        os.close(reader)
    return Running(said.decode().splitlines()[0].removeprefix(LISTENING), upstream, process, started=True)


def _ended(process: int, log: Path, begun: int) -> StartError:
    """Why a server ended, from what it added to its log; a log that began anew meanwhile is read from its beginning."""
    _, status = os.waitpid(process, 0)
    with contextlib.suppress(OSError), log.open("rb") as file:
        size = _size(log)
        file.seek(max(begun if begun <= size else 0, size - _TAIL))
        lines = file.read().decode(errors="replace").splitlines()
        why = [line.split(" ERROR ", 1)[1].partition(": ")[2] for line in lines if " ERROR " in line] or lines[-3:]
        code = os.waitstatus_to_exitcode(status)
        return StartError("the server did not start: " + "; ".join(why[-3:]) + f" (its log: {log})", max(code, 1))
    return StartError(f"the server did not start, and its log {log} cannot be read", 1)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0

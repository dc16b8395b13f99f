"""Packing of many siginfo texts: in processes beside this one, since that is what an import spends most of its time on.

2 KB take 40 us to compress, three times what all else about a row takes. Batches go round the processes in turn, and
each holds one at a time, so that neither side of a pipe can wait for the other. They end when their pipe does, also
when this process was killed.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TypeAlias

from shardhash.errors import StorageError
from shardhash.shard.storage.siginfo import pack_siginfo

WORTH_IT = 8 << 20
"""Characters from which on processes are started, which takes half a second."""

Then: TypeAlias = Callable[[list[bytes]], None]


class Packers:
    """Packs batches of texts and gives each to what it was submitted with, in the order of submission."""

    def __init__(self, processes: int) -> None:
        self._wanted = processes
        self._seen = 0
        self._idle: deque[Connection] = deque()
        self._busy: deque[tuple[Connection, Then]] = deque()
        self._processes: list[BaseProcess] = []

    def submit(self, texts: list[str], then: Then) -> None:
        """Pack these texts; earlier batches may be handed over meanwhile."""
        self._seen += sum(map(len, texts))
        if self._seen > WORTH_IT and not self._processes and self._wanted > 1:
            self._start()
        if not self._processes:
            then([pack_siginfo(text) for text in texts])
            return
        if not self._idle:
            self._take()
        connection = self._idle.popleft()
        try:
            connection.send(texts)
        except OSError as error:
            raise _ended() from error
        self._busy.append((connection, then))

    def drain(self) -> None:
        """Hand over all that was submitted."""
        while self._busy:
            self._take()

    def close(self) -> None:
        """End the processes."""
        for connection in [*self._idle, *(connection for connection, _ in self._busy)]:
            connection.close()
        for process in self._processes:
            process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would take along the database and the locks
        for _ in range(self._wanted):
            ours, theirs = context.Pipe()
            process = context.Process(target=_pack_batches, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._idle.append(ours)
            self._processes.append(process)

    def _take(self) -> None:
        connection, then = self._busy.popleft()
        try:
            packed = connection.recv()
        except (EOFError, OSError) as error:
            raise _ended() from error
        self._idle.append(connection)
        then(packed)


def _ended() -> StorageError:
    return StorageError("a process that compresses texts was ended (was memory short?); nothing was changed, try again")


def _pack_batches(connection: Connection) -> None:
    """What a process does until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that reads answers it, and closes the pipe
    try:
        while True:
            connection.send([pack_siginfo(text) for text in connection.recv()])
    except (EOFError, OSError):
        pass

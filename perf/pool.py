"""Builders spread over a few processes, which all begin a run at one barrier, when every one of them is connected.

Connecting, putting questions together and seeding are not part of a run's time. The time of a run is that from the
first builder's first question to the last builder's last answer, by the machine's monotonic clock, which the processes
share.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import uvloop

from perf.builders import CLIENTS, Builder
from perf.reporters import BatchReporter, Reporter
from perf.servers import Server, busy_seconds, peak_memory
from perf.workload import WrongAnswerError

READY_LIMIT = 120.0
"""Seconds that a process may take to connect its builders, and to reach the barrier."""
PROGRESS = 0.05
"""Seconds between two looks at how far the builders are."""

KINDS: dict[str, tuple[type[Builder[Any]], str]] = {
    **CLIENTS,
    "report": (Reporter, "tcp"),
    "report-batch": (BatchReporter, "ws"),
}
"""All that can fill a pool, and the kind of address that each takes."""

Progress = Callable[[float], None]
"""Takes the part, 0 to 1, that is done."""


class Workload(Protocol):
    """What is asked, the same in every process."""

    def steps(self, builder: int | None = None) -> Any:
        """What a builder asks, in the form that its kind takes; for None only their number counts."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run: all steps of all builders."""

    seconds: float
    steps: np.ndarray[Any, np.dtype[np.float64]]
    """Seconds that each step of each builder took."""
    cpu: dict[str, float]
    """Seconds of CPU by role, the builders' processes as client."""
    others: float
    """Part, 0 to 1, of the machine's CPU that went elsewhere meanwhile: a figure with much of it says little."""


@dataclass(slots=True)
class Pool:
    """`builders` of a kind of client on the workload, over `processes`. A context; raises WrongAnswerError."""

    server: Server
    client: str
    workload: Workload
    builders: int
    processes: int
    _done: Any = None
    _size: int = 0
    _pipes: list[Connection] = field(default_factory=list)
    _children: list[Any] = field(default_factory=list)

    def __enter__(self) -> Self:
        # Each is a fork of a process that has imported all this and done nothing else: at once there, and clean.
        context = get_context("forkserver")
        context.set_forkserver_preload(["__main__", __name__])
        processes = min(self.processes, self.builders)
        barrier = context.Barrier(processes)
        self._done = context.RawArray("q", processes)
        self._size = self.builders * len(self.workload.steps())
        address = self._address()
        for index in range(processes):
            ours, theirs = context.Pipe()
            mine = range(index, self.builders, processes)
            arguments = (theirs, barrier, self._done, index, self.client, address, self.workload, mine)
            child = context.Process(target=_process, args=arguments, daemon=True)
            child.start()
            theirs.close()
            self._pipes.append(ours)
            self._children.append(child)
        try:
            self._collect(None)
        except BaseException:
            self._end()
            raise
        return self

    def _address(self) -> str:
        """The server's address of the kind that the client takes; its only one as it is."""
        addresses = self.server.addresses
        return addresses.get(KINDS[self.client][1]) or next(iter(addresses.values()))

    def run(self, progress: Progress | None = None) -> Run:
        """All builders ask all their steps once."""
        before, machine, start = self.server.cpu(), busy_seconds(), time.perf_counter()
        self._done[:] = [0] * len(self._done)
        for pipe in self._pipes:
            pipe.send("run")
        parts = self._collect(progress)
        after, machine, elapsed = self.server.cpu(), busy_seconds() - machine, time.perf_counter() - start
        cpu = {role: after[role] - before[role] for role in after}
        cpu["client"] = sum(part[2] for part in parts)
        seconds = max(part[1] for part in parts) - min(part[0] for part in parts)
        others = max(0.0, machine - sum(cpu.values())) / (elapsed * (os.cpu_count() or 1))
        return Run(seconds, np.concatenate([np.frombuffer(part[3]) for part in parts]), cpu, others)

    def pids(self) -> list[int]:
        """The builders' processes."""
        return [child.pid for child in self._children]

    def peak(self) -> float:
        """MiB that the builders' processes held at most."""
        return sum(peak_memory(child.pid) for child in self._children)

    def _collect(self, progress: Progress | None) -> list[Any]:
        """What each process has to say; progress is shown while they work."""
        answers: list[Any] = []
        for pipe in self._pipes:
            while not pipe.poll(PROGRESS if progress else READY_LIMIT):
                if progress:
                    progress(sum(self._done) / self._size)
            try:
                answer = pipe.recv()
            except EOFError:
                raise RuntimeError("a process of builders ended") from None
            if isinstance(answer, Exception):
                raise answer
            answers.append(answer)
        return answers

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for child in self._children:
            child.join(5)
            if child.is_alive():
                child.kill()
                child.join()


def _process(pipe: Connection, barrier: Barrier, done: Any, index: int, *work: Any) -> None:
    """The life of a process of builders: connect, then a run whenever the pipe says so, until it closes."""
    try:
        uvloop.run(_serve(pipe, barrier, done, index, *work))
    except (EOFError, KeyboardInterrupt):
        pass
    except Exception as error:  # noqa: BLE001  # whatever it is, the parent has to know
        barrier.abort()
        pipe.send(error if isinstance(error, WrongAnswerError | OSError) else RuntimeError(repr(error)))


async def _serve(
    pipe: Connection,
    barrier: Barrier,
    done: Any,
    index: int,
    client: str,
    address: str,
    workload: Workload,
    numbers: range,
) -> None:
    kind, _ = KINDS[client]
    addresses = address.split()  # of several servers, if there are several
    builders = [kind(addresses[number % len(addresses)], workload.steps(number)) for number in numbers]
    await asyncio.gather(*(builder.connect() for builder in builders))
    gc.freeze()  # what is ready now need not be looked at while the clock runs
    pipe.send("ready")
    while await asyncio.to_thread(pipe.recv) == "run":  # beside the loop, which keeps the connections alive
        times = [array("d") for _ in builders]
        barrier.wait(READY_LIMIT)
        cpu, start = time.process_time(), time.perf_counter()
        await asyncio.gather(*(_build(*each, done, index) for each in zip(builders, times, strict=True)))
        end, cpu = time.perf_counter(), time.process_time() - cpu
        pipe.send((start, end, cpu, b"".join(map(bytes, times))))


async def _build(builder: Builder[Any], times: array[float], done: Any, index: int) -> None:
    """One builder asks all its steps."""
    clock = time.perf_counter
    for number in range(len(builder.steps)):
        start = clock()
        await builder.ask(number)
        times.append(clock() - start)
        done[index] += 1

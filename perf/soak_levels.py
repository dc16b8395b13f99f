"""What a server takes during a soak, and whether it ends at the level of the first minute."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil

from perf.servers import Server
from perf.soak_model import WrongAnswerError

FIRST = 60.0
"""Seconds whose level counts, or a half of the soak if that is shorter."""
SETTLE = 20.0
"""Seconds in which it may come back to that level at the end."""
THREADS = 2 + min(32, (os.cpu_count() or 1) + 4)
"""Threads of a process at most: its own, one that syncs or looks at passwords, and those of asyncio's pool. One of a
pool begins when more is done at one time than ever before, and stays: in a soak whose first minute is not over before
its last begins, that may be at any time."""


@dataclass
class Level:
    """What all processes of a server take: MiB of memory and disk, descriptors, threads; tasks of the coordinator."""

    memory: float
    disk: float
    descriptors: int
    threads: int
    tasks: int

    def __str__(self) -> str:
        return (
            f"{self.memory:.0f} MiB, {self.disk:.1f} MiB on disk, {self.descriptors} descriptors,"
            f" {self.threads} threads, {self.tasks} tasks"
        )


class Levels:
    """The levels of a server so far."""

    def __init__(self, server: Server, data: Path) -> None:
        self._server = server
        self._data = data
        self._began = time.monotonic()
        self._seen: list[tuple[float, Level]] = []

    @property
    def last(self) -> str:
        """The last level, in words."""
        return str(self._seen[-1][1]) if self._seen else ""

    def processes(self) -> list[psutil.Process]:
        """The coordinator and the workers that there are now."""
        coordinator = psutil.Process(self._server.roles["coordinator"][0])
        return [coordinator, *coordinator.children()]

    async def look(self) -> None:
        """Take a level, unless a worker is just being killed."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._seen.append((time.monotonic() - self._began, await self._level()))

    async def check(self) -> Level:
        """The level at the end. Raises WrongAnswerError when it does not come back to that of the beginning."""
        first = [level for when, level in self._seen if when <= min(FIRST, self._seen[-1][0] / 2 + 5.0)]
        short = self._seen[-1][0] < 2 * FIRST
        most = Level(
            max(level.memory for level in first) * 1.1 + 16,
            max(level.disk for level in first) * 1.2 + 8,
            max(level.descriptors for level in first),
            len(self.processes()) * THREADS if short else max(level.threads for level in first),
            max(level.tasks for level in first),
        )
        until = time.monotonic() + SETTLE
        while True:
            with contextlib.suppress(psutil.NoSuchProcess):
                now = await self._level()
                if all(getattr(now, name) <= getattr(most, name) for name in vars(now)):
                    return now
                if time.monotonic() > until:
                    raise WrongAnswerError(f"at the end it takes {now}; at the beginning it may have taken {most}")
            await asyncio.sleep(0.5)

    async def _level(self) -> Level:
        disk = sum(map(_size, _files(self._data))) / 2**20
        found = Level(0.0, disk, 0, 0, await self._tasks())
        for process in self.processes():
            found.memory += process.memory_full_info().pss / 2**20
            found.descriptors += process.num_fds()
            found.threads += process.num_threads()
        return found

    async def _tasks(self) -> int:
        address = self._server.addresses["ws"].replace("ws://", "http://")
        async with aiohttp.ClientSession() as session, session.get(f"{address}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return int(float(next(line for line in lines if line.startswith("shardhash_tasks ")).split()[1]))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # a snapshot made it go
        return 0


def _files(folder: Path) -> list[Path]:
    return [Path(where, name) for where, _, names in os.walk(folder) for name in names if Path(where, name).is_file()]

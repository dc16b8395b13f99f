"""Reporters: each a connection of its own that reports one task after the other, as the workers of a build do.

The next report is made when the last one is acknowledged, and every acknowledgement is checked. The reports of every
run are new; all follow from their number, so that any process can ask for them later.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson

from perf.builders import HELLO, Builder
from perf.workload import Step
from shardhash.wire.address import parse_address

METHOD = "oe.sstatesig.OEOuthashBasic"
LOOKUPS = 10_000
"""Lookups in a step of those that ask for what was reported."""


@dataclass(frozen=True, slots=True)
class Series:
    """What one reporter reports in each run: `count` tasks, each with an outhash of its own."""

    reporter: int
    count: int

    def __len__(self) -> int:
        return self.count

    def taskhash(self, run: int, number: int) -> bytes:
        """The taskhash of a report, and its unihash."""
        return sha256(b"task %d %d %d" % (self.reporter, run, number)).digest()

    def report(self, run: int, number: int) -> tuple[bytes, dict[str, str]]:
        """The request, and the answer that is due. The row is as full as BitBake fills it, without siginfo."""
        taskhash = self.taskhash(run, number).hex()
        due = {"taskhash": taskhash, "method": METHOD, "unihash": taskhash}
        outhash = sha256(taskhash.encode()).hexdigest()
        row = {"outhash": outhash, "PN": f"recipe-{number % 997}", "PV": "1.0", "PR": "r0", "task": "do_compile"}
        return orjson.dumps({"report": due | row}) + b"\n", due


@dataclass(frozen=True, slots=True)
class Reports:
    """The workload of reporters: `count` reports of each in each run."""

    count: int

    def steps(self, builder: int | None = None) -> Series:
        """What a reporter reports."""
        return Series(builder or 0, self.count)


@dataclass(frozen=True, slots=True)
class Reported:
    """The workload of builders that ask for all that `reporters` reported in `runs` runs."""

    reports: Reports
    reporters: int
    runs: int

    def steps(self, builder: int | None = None) -> list[Step]:  # noqa: ARG002  # all ask the same
        """Batches of lookups, each of them known."""
        each = [
            series.taskhash(run, number)
            for series in map(self.reports.steps, range(self.reporters))
            for run in range(self.runs)
            for number in range(series.count)
        ]
        parts = [b"".join(each[start : start + LOOKUPS]) for start in range(0, len(each), LOOKUPS)]
        return [Step(METHOD, part, part, None) for part in parts]


class Reporter(Builder[Series]):
    """Reports over raw TCP or a unix socket."""

    async def connect(self) -> None:
        address = parse_address(self.address)
        loop = asyncio.get_running_loop()
        if address.kind == "unix":
            self._transport, self._answers = await loop.create_unix_connection(_Lines, address.path)
        else:
            self._transport, self._answers = await loop.create_connection(_Lines, address.host, address.port)
        self._run = -1
        self._transport.write(HELLO)

    async def ask(self, number: int) -> None:
        if number == 0:
            self._run += 1
        request, due = self.steps.report(self._run, number)
        self._transport.write(request)
        answer = await self._answers.receive()
        if answer != due:
            raise self.wrong(number, due, answer)

    async def close(self) -> None:
        self._transport.close()


class _Lines(asyncio.Protocol):
    """One answer at a time, a line of JSON."""

    def __init__(self) -> None:
        self._part = b""
        self._waiter: asyncio.Future[Any] | None = None

    async def receive(self) -> Any:
        """The next answer; raises ConnectionError when the connection ends."""
        self._waiter = asyncio.get_running_loop().create_future()
        return await self._waiter

    def data_received(self, data: bytes) -> None:
        self._part += data
        if self._part.endswith(b"\n") and self._waiter is not None and not self._waiter.done():
            line, self._part = self._part, b""
            self._waiter.set_result(orjson.loads(line))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(exc or ConnectionResetError("the server closed the connection"))

"""Reporters: each a connection of its own that reports one task after the other, as the workers of a build do.

The next report is made when the last one is acknowledged, and every acknowledgement is checked. Some report a batch of
tasks at once instead, by shardhash's own client. The reports of every run are new; all follow from their number, so
that any process can ask for them later.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson

from perf.builders import HELLO, Builder
from perf.workload import Step
from shardhash.client import create_async_client
from shardhash.wire.address import parse_address

METHOD = "oe.sstatesig.OEOuthashBasic"
BATCH = 100
"""Reports in a batch."""
OTHERS = 1_000_000
"""Number of the first reporter of batches."""
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

    def report(self, run: int, number: int) -> tuple[dict[str, str], dict[str, str]]:
        """A report, and the answer that is due. The row is as full as BitBake fills it, without siginfo."""
        digest = self.taskhash(run, number)
        taskhash, outhash = digest.hex(), digest[::-1].hex()
        due = {"taskhash": taskhash, "method": METHOD, "unihash": taskhash}
        row = {"outhash": outhash, "PN": f"recipe-{number % 997}", "PV": "1.0", "PR": "r0", "task": "do_compile"}
        return due | row, due


@dataclass(frozen=True, slots=True)
class Batches:
    """What one reporter reports in each run: a series, `BATCH` tasks at once."""

    series: Series

    def __len__(self) -> int:
        return self.series.count // BATCH

    def reports(self, run: int, number: int) -> list[dict[str, str]]:
        """The reports of a batch; each task is its own unihash."""
        return [self.series.report(run, place)[0] for place in range(number * BATCH, (number + 1) * BATCH)]


@dataclass(frozen=True, slots=True)
class Reports:
    """The workload of reporters: `count` reports of each in each run."""

    count: int

    def steps(self, builder: int | None = None) -> Series:
        """What a reporter reports."""
        return Series(builder or 0, self.count)


@dataclass(frozen=True, slots=True)
class BatchedReports:
    """The workload of reporters: `batches` of each in each run; none of what `Reports` reports is among them."""

    batches: int

    def steps(self, builder: int | None = None) -> Batches:
        """What a reporter reports."""
        return Batches(Series(OTHERS + (builder or 0), self.batches * BATCH))


@dataclass(frozen=True, slots=True)
class Reported:
    """The workload of builders that ask for all that `reporters` reported in one run."""

    reports: BatchedReports
    reporters: int

    def steps(self, builder: int | None = None) -> list[Step]:  # noqa: ARG002  # all ask the same
        """Batches of lookups, each of them known."""
        each = [
            batches.series.taskhash(0, number)
            for batches in map(self.reports.steps, range(self.reporters))
            for number in range(batches.series.count)
        ]
        parts = [b"".join(each[start : start + LOOKUPS]) for start in range(0, len(each), LOOKUPS)]
        return [Step(METHOD, part, part, None) for part in parts]


def count_of(steps: Any) -> int:
    """Lookups in what a builder asks in a run, or reports in what a reporter does."""
    if isinstance(steps, Batches):
        return len(steps) * BATCH
    return len(steps) if isinstance(steps, Series) else sum(map(len, steps))


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
        row, due = self.steps.report(self._run, number)
        self._transport.write(orjson.dumps({"report": row}) + b"\n")
        answer = await self._answers.receive()
        if answer != due:
            raise self.wrong(number, due, answer)

    async def close(self) -> None:
        self._transport.close()


class BatchReporter(Builder[Batches]):
    """Reports batches over a WebSocket, by shardhash's own client."""

    async def connect(self) -> None:
        self._client = await create_async_client(self.address)
        self._run = -1

    async def ask(self, number: int) -> None:
        if number == 0:
            self._run += 1
        reports = self.steps.reports(self._run, number)
        unihashes = await self._client.report_unihash_batch(reports)
        if unihashes != [row["unihash"] for row in reports]:
            raise self.wrong(number, [row["unihash"] for row in reports], unihashes)

    async def close(self) -> None:
        await self._client.close()


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

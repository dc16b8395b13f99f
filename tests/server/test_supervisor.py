"""Workers that do not end though they are killed, as on a disk that hangs."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest

from shardhash.errors import UnavailableError
from shardhash.link import operations as op
from shardhash.link.worker_link import WorkerLink
from shardhash.server import supervisor, worker_processes
from shardhash.server.supervisor import Supervisor
from shardhash.server.worker_processes import WorkerProcess

LIMIT = 30.0
SHORT = 0.2
ARGUMENTS = ("--shards", "1")


class HungProcess(WorkerProcess):
    """Stands still, and only `answer` ends it."""

    def __init__(self) -> None:
        super().__init__(0, ARGUMENTS)
        self.did_not_end = asyncio.Event()

    def hang(self) -> None:
        """Do nothing any more."""
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """It does not help."""
        self._killed = True

    async def end(self, limit: float = SHORT) -> bool:
        """With less patience."""
        ended = await super().end(min(limit, SHORT))
        if not ended:
            self.did_not_end.set()
        return ended

    async def answer(self) -> None:
        """The disk answers: the kill takes effect."""
        self._process.kill()
        await self.wait()


@pytest.fixture
async def hung(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HungProcess]:
    monkeypatch.setattr(worker_processes, "KILL_LIMIT", SHORT)
    monkeypatch.setattr(supervisor, "LEAST_HEARTBEAT", SHORT)
    process = HungProcess()
    yield process
    await process.answer()
    process.discard()


async def test_a_stop_does_not_wait_for_a_worker_that_cannot_be_killed(
    hung: HungProcess, caplog: pytest.LogCaptureFixture
) -> None:
    link = WorkerLink(0, LIMIT)
    keeper = Supervisor([link], [hung], lambda shard: WorkerProcess(shard, ARGUMENTS), durable=False)
    await keeper.start()
    hung.hang()
    async with asyncio.timeout(LIMIT):
        await keeper.stop()
    assert hung.status is None
    assert f"worker process {hung.pid} does not end, though it was killed" in caplog.text


async def test_requests_get_their_limit_and_no_successor_begins_before_a_killed_worker_has_ended(
    hung: HungProcess, caplog: pytest.LogCaptureFixture
) -> None:
    link = WorkerLink(0, SHORT)
    started = asyncio.Event()

    def start(shard: int) -> WorkerProcess:
        started.set()
        return WorkerProcess(shard, ARGUMENTS)

    keeper = Supervisor([link], [hung], start, durable=False, limit=SHORT)
    await keeper.start()
    try:
        hung.hang()
        with pytest.raises(UnavailableError, match="shard 0"):
            await link.request(op.Counts())
        async with asyncio.timeout(LIMIT):
            await hung.did_not_end.wait()
        await asyncio.sleep(0)
        assert "its disk hangs; waiting for it" in caplog.text
        assert not started.is_set()
        await hung.answer()
        async with asyncio.timeout(LIMIT):
            await started.wait()
            await link.connected.wait()
            assert (await link.request(op.Counts()))["rows"] == 0
    finally:
        await keeper.stop()

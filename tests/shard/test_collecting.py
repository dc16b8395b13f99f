"""A collection on one shard, and what is acknowledged and asked for while it begins, and while it ends too early."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shardhash.link import operations as op
from shardhash.link.collection_operations import BeginCollection, TakeDoomed
from shardhash.shard.storage.memory import MemoryShard
from shardhash.shard.worker.service import Service
from shardhash.shard.worker.writer import Writer
from shardhash.wire import batch
from shardhash.wire.batch import Batch

TASK, OUT = "a1" * 32, "0e" * 32
TICKS = 50


@asynccontextmanager
async def serving() -> AsyncIterator[Service]:
    shard = MemoryShard()
    writer = Writer(shard, wait_for_sync=False)
    writer._wait_for_sync = True  # as with files
    writing = asyncio.create_task(writer.run())
    yield Service(shard, writer)
    writer.stop()
    await writing
    shard.table.check()


@pytest.mark.parametrize("again", [False, True])
async def test_what_was_decided_before_the_begin_is_acknowledged_before_it(
    monkeypatch: pytest.MonkeyPatch, *, again: bool
) -> None:
    """Reports tell as they are decided: nobody would keep what is acknowledged later."""
    async with serving() as service:
        if again:
            await service.reports.map(op.Map("m", TASK, TASK))
        decided, goes_on = asyncio.Event(), asyncio.Event()

        async def slow() -> None:
            decided.set()
            await goes_on.wait()

        monkeypatch.setattr(service._writer, "_sync", slow)
        place: tuple[Any, ...] = ("commit", 1, 1, "m", TASK, OUT, TASK, None, None, None, None, None, None)
        reported = service.reports.round(object(), op.Round([place]))
        assert isinstance(reported, asyncio.Future)
        await decided.wait()
        begun = asyncio.ensure_future(service.collecting.begin(BeginCollection("c")))
        for _ in range(TICKS):
            await asyncio.sleep(0)
        assert service.asking.followed
        assert not begun.done()
        goes_on.set()
        assert await begun == 1
        assert reported.done()
        monkeypatch.undo()


@pytest.mark.parametrize("link_goes", [False, True])
async def test_what_is_asked_for_while_a_removal_ends_too_early_comes_back(
    monkeypatch: pytest.MonkeyPatch, *, link_goes: bool
) -> None:
    """The collection is over before the removal is durable: by its end, or since the link went."""
    async with serving() as service:
        collecting = service.collecting
        await service.reports.map(op.Map("m", TASK, TASK))
        service.asking.note_now()
        await collecting.begin(BeginCollection("c"))
        taking = asyncio.ensure_future(collecting.take(TakeDoomed("c", [("m", TASK, TASK)])))

        async def early() -> None:
            monkeypatch.undo()
            collecting.drop()
            if link_goes:
                taking.cancel()
            await asyncio.sleep(0)
            service.lookup(batch.encode_request(Batch(batch.GET, "m", bytes.fromhex(TASK))))

        monkeypatch.setattr(service._writer, "_sync", early)
        await asyncio.wait([taking])
        assert taking.cancelled() is link_goes
        await asyncio.gather(*collecting._pages)
        assert service._table.unihash("m", bytes.fromhex(TASK)) == bytes.fromhex(TASK)
        await asyncio.sleep(0)
        assert not service.asking.followed

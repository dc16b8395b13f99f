"""The worker's end of the link, in this process: what ends it, and what does not."""

from __future__ import annotations

import asyncio
import os
import sys
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import WSMsgType
from aiohttp.test_utils import TestClient, TestServer

from shardhash.base import turns
from shardhash.link import messages
from shardhash.link import operations as op
from shardhash.link.worker_options import WorkerOptions
from shardhash.shard.storage.memory import MemoryShard
from shardhash.shard.worker import process
from shardhash.shard.worker.service import Service
from shardhash.shard.worker.writer import Writer

LIMIT = 30.0


def _encode(item: list[Any]) -> bytes:
    (message,) = messages.encode_messages([item], lambda _: None)
    return message


async def test_an_answer_that_cannot_be_sent_ends_the_link(caplog: pytest.LogCaptureFixture) -> None:
    """A link whose sender had ended would take requests and answer none."""
    shard = MemoryShard()
    writer = Writer(shard, wait_for_sync=False)
    writing = asyncio.create_task(writer.run())
    service = Service(shard, writer)
    service.operations[op.Counts] = lambda _: object()
    async with TestClient(TestServer(process._application(service))) as client, asyncio.timeout(LIMIT):
        link = await client.ws_connect("/link")
        await link.send_bytes(_encode([1, *op.Unihashes("m", ["t"]).encode()]))
        assert messages.decode_json((await link.receive()).data) == [[1, [None]]]
        await link.send_bytes(_encode([2, *op.Counts().encode()]))
        assert (await link.receive()).type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.CLOSING)
    assert "internal error on the link; this is a bug" in caplog.text
    writer.stop()
    await writing


async def test_an_answer_that_is_too_long_is_refused_in_words(capfd: pytest.CaptureFixture[str]) -> None:
    sent: asyncio.Queue[bytes] = asyncio.Queue()

    class Socket:
        async def send_bytes(self, message: bytes) -> None:
            sent.put_nowait(message)

    link: Any = process.Link(Socket(), None)  # type: ignore[arg-type]  # what the sender uses of them
    link._refuse_long([7, "x"])
    sender = asyncio.create_task(link._send())
    answers = messages.decode_json(await sent.get())
    sender.cancel()
    assert answers == [[7, None, "internal", "the answer is too long for the link; ask for less at once"]]
    assert "too long" in capfd.readouterr().out


def test_a_worker_knows_that_its_server_has_ended_before_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's word of a server's end reaches only those that have asked for it."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert not process.input_has_ended()
        os.close(writing)
        assert process.input_has_ended()


async def test_noting_much_does_not_delay_the_sync_at_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    shard = MemoryShard()
    writer = Writer(shard, wait_for_sync=False)
    service = Service(shard, writer)
    notes, syncs = asyncio.Event(), asyncio.Event()

    async def note_for_ever() -> None:
        notes.set()
        await asyncio.Event().wait()

    async def nothing() -> None:
        await asyncio.Event().wait()

    def sync_soon() -> None:
        if notes.is_set():
            syncs.set()

    monkeypatch.setattr(process, "TICK", 0.001)
    monkeypatch.setattr(process, "use_huge_pages", nothing)
    monkeypatch.setattr(service.asking, "note_sometimes", note_for_ever)
    monkeypatch.setattr(writer, "sync_soon", sync_soon)
    options = WorkerOptions(shards=1, sync="interval")
    tasks = [asyncio.create_task(work) for work in process._background(options, shard, writer, service)]
    async with asyncio.timeout(LIMIT):
        await syncs.wait()
    assert not any(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


@pytest.mark.parametrize("count", [1, 25])
async def test_others_run_between_the_many_operations_of_messages(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Of one, and of many that are there at one time."""
    monkeypatch.setattr(turns, "SLICE", 0.0)
    shard = MemoryShard()
    writer = Writer(shard, wait_for_sync=False)
    writing = asyncio.create_task(writer.run())
    service = Service(shard, writer)
    begun = 0

    def unihashes(_asked: op.Unihashes) -> list[str | None]:
        nonlocal begun
        begun += 1
        return [None]

    service.operations[op.Unihashes] = unihashes
    items = [[number, *op.Unihashes("m", ["t"]).encode()] for number in range(1, 51)]
    async with TestClient(TestServer(process._application(service))) as client, asyncio.timeout(LIMIT):
        link = await client.ws_connect("/link")
        for start in range(0, 50, 50 // count):
            (message,) = messages.encode_messages(items[start : start + 50 // count], lambda _: None)
            await link.send_bytes(message)
        seen, answered = [0], list[int]()
        while begun < 50:
            await asyncio.sleep(0)
            seen.append(begun)
        while len(answered) < 50:
            answered += [number for number, _ in messages.decode_json((await link.receive()).data)]
    assert max(after - before for before, after in pairwise(seen)) == 1
    assert answered == list(range(1, 51))
    writer.stop()
    await writing

"""Links and what is asked over all of them, while workers come and go."""

from __future__ import annotations

import asyncio
import contextlib
import os
from functools import partial

import pytest

from shardhash.errors import UnavailableError
from shardhash.link.worker_link import WorkerLink
from shardhash.server import supervisor
from shardhash.server.supervisor import Supervisor
from shardhash.server.worker_processes import WorkerProcess
from shardhash.stores.sharded.router import Router

H = "1" * 64
ARGUMENTS = ("--shards", "1")
LIMIT = 30.0


async def test_a_sweep_that_fails_somewhere_is_over_everywhere_before_another_collection_begins() -> None:
    """Else it would go on among the marks of the next one, and take what they keep."""
    links = [WorkerLink(shard, LIMIT) for shard in range(2)]
    router = Router(links)
    sweep = asyncio.create_task(router.gc_sweep("M"))
    await settle()
    links[0]._settle(1, "M", None)
    await settle()
    links[0].give_up("gone")
    await settle()
    assert not sweep.done()
    links[1]._settle(1, 7, None)
    with pytest.raises(UnavailableError):
        await sweep


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def starter(*failures: OSError) -> tuple[list[OSError], partial[WorkerProcess]]:
    left = list(failures)

    def start(shard: int) -> WorkerProcess:
        if left:
            raise left.pop()
        return WorkerProcess(shard, ARGUMENTS)

    return left, partial(start)


async def test_a_worker_for_which_there_is_no_room_is_started_when_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "START_PAUSE", 0.0)
    link, first = WorkerLink(0, LIMIT), WorkerProcess(0, ARGUMENTS)
    left, start = starter(OSError(24, "Too many open files"), OSError(28, "No space left on device"))
    keeper = Supervisor([link], [first], start, durable=False)
    try:
        await keeper.start()
        first._process.kill()
        assert await link.request("counts") == {"mappings": 0, "rows": 0, "index": 0, "users": 0, "config": 0}
        await first.wait()
        assert await link.request("unihashes", "m", [H]) == [None]
        assert not left
    finally:
        await keeper.stop()


async def test_a_turn_that_was_given_up_is_not_asked_again_of_the_next_worker() -> None:
    """Nobody would ever release it there."""
    link, first = WorkerLink(0, LIMIT), WorkerProcess(0, ARGUMENTS)
    keeper = Supervisor([link], [first], starter()[1], durable=False)
    try:
        await keeper.start()
        held = ("m", H, H, 1, 1)
        await link.take_turn(held)
        waits = asyncio.create_task(link.take_turn(("m", H, H, 2, 2)))
        await link.request("counts")
        first._process.kill()
        await first.wait()
        waits.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waits
        async with asyncio.timeout(LIMIT):
            link.release_turn(held)
            await link.take_turn(("m", H, H, 3, 3))
    finally:
        await keeper.stop()


async def test_a_worker_that_cannot_be_watched_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process takes a descriptor to be watched by, and many clients may hold all there are."""
    link, first = WorkerLink(0, LIMIT), WorkerProcess(0, ARGUMENTS)
    keeper = Supervisor([link], [first], starter()[1], durable=False)
    pidfd_open = os.pidfd_open

    def refuse(_pid: int) -> int:
        monkeypatch.setattr(os, "pidfd_open", pidfd_open)
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    try:
        async with asyncio.timeout(LIMIT):
            await keeper.start()
            assert await link.request("unihashes", "m", [H]) == [None]
    finally:
        await keeper.stop()

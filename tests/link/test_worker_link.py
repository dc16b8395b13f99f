"""Links and what is asked over all of them, while workers come and go."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import WSMessage, WSMsgType

from shardhash.base import turns
from shardhash.errors import InternalError, UnavailableError
from shardhash.link import messages
from shardhash.link import operations as op
from shardhash.link.operation import Operation
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
    links[1]._settle(1, [7, [], True], None)
    await settle()
    links[1]._settle(2, None, None)  # the sweep's end
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
        assert await link.request(op.Counts()) == {"mappings": 0, "rows": 0, "index": 0, "users": 0, "config": 0}
        await first.wait()
        assert await link.request(op.Unihashes("m", [H])) == [None]
        assert not left
    finally:
        await keeper.stop()


async def test_a_lock_that_was_given_up_is_not_asked_again_of_the_next_worker() -> None:
    """Nobody would ever release it there."""
    link, first = WorkerLink(0, LIMIT), WorkerProcess(0, ARGUMENTS)
    keeper = Supervisor([link], [first], starter()[1], durable=False)
    try:
        await keeper.start()
        held = op.Lock("m", H, [(1, H)], 1)
        await link.lock(held)
        waits = asyncio.create_task(link.lock(op.Lock("m", H, [(2, H)], 2)))
        await link.request(op.Counts())
        first._process.kill()
        await first.wait()
        waits.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waits
        async with asyncio.timeout(LIMIT):
            link.release(held)
            await link.lock(op.Lock("m", H, [(3, H)], 3))
    finally:
        await keeper.stop()


@pytest.mark.parametrize("asked_again", [True, False])
async def test_released_locks_go_with_what_is_asked_next_or_by_themselves(asked_again: bool) -> None:
    """Before it, so that whoever asks next finds them free; in one message, however many there are."""
    link, first = WorkerLink(0, LIMIT), WorkerProcess(0, ARGUMENTS)
    keeper = Supervisor([link], [first], starter()[1], durable=False)
    try:
        await keeper.start()
        held = [op.Lock("m", f"{number:064x}", [(number, H)], number) for number in range(1, 4)]
        for lock in held:
            await link.lock(lock)
        for lock in held:
            link.release(lock)
        assert len(link._released) == 3
        if asked_again:
            waiting = link.request(op.Counts())
            operations = [item[1] for item in link._requests]
            assert operations == ["release", "counts"]
            await waiting
        async with asyncio.timeout(LIMIT):
            while link._released:  # noqa: ASYNC110  # a state, no event
                await asyncio.sleep(0.001)
            for lock in held:
                await link.lock(op.Lock(lock.method, lock.outhash, lock.items, lock.number + 10))
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
            assert await link.request(op.Unihashes("m", [H])) == [None]
    finally:
        await keeper.stop()


async def test_numbers_wrap_past_the_one_that_nobody_answers() -> None:
    """After 2^32 requests, and past those of requests that still wait."""
    link = WorkerLink(0, LIMIT)
    first = link.request(op.Counts())
    link._number = messages.MOST_NUMBER - 1
    last, next_ = link.request(op.Counts()), link.request(op.Counts())
    assert list(link._waiting) == [1, messages.MOST_NUMBER, 2]
    link._settle(2, {"rows": 2}, None)
    assert await next_ == {"rows": 2}
    assert not first.done()
    assert not last.done()


async def test_a_worker_that_hangs_costs_a_request_its_limit_and_no_more() -> None:
    link, first = WorkerLink(0, 0.2), WorkerProcess(0, ARGUMENTS)
    keeper = Supervisor([link], [first], starter()[1], durable=False)
    try:
        await keeper.start()
        first._process.send_signal(signal.SIGSTOP)
        with pytest.raises(UnavailableError, match=r"shard 0 did not answer within 0\.4 s"):
            await link.request(op.Counts())
    finally:
        first._process.send_signal(signal.SIGCONT)
        await keeper.stop()


async def test_a_request_that_ends_every_worker_fails() -> None:
    """It is asked again twice; what the others ask meanwhile is answered."""
    link, first = WorkerLink(0, LIMIT), WorkerProcess(0, ARGUMENTS)
    processes = [first]

    def start(shard: int) -> WorkerProcess:
        processes.append(WorkerProcess(shard, ARGUMENTS))
        return processes[-1]

    keeper = Supervisor([link], [first], start, durable=False)
    try:
        await keeper.start()
        held = op.Lock("m", H, [(1, H)], 1)
        await link.lock(held)
        poison = asyncio.ensure_future(link.lock(op.Lock("m", H, [(2, H)], 2)))  # it waits, as long as the lock is held
        for count in range(3):
            assert await link.request(op.Unihashes("m", [H])) == [None]
            assert not poison.done()
            processes[-1]._process.kill()
            await processes[count].wait()
            while link.connected.is_set():  # noqa: ASYNC110  # there is no event for the end of a link
                await asyncio.sleep(0)
        with pytest.raises(UnavailableError, match="ended 3 times"):
            await poison
        assert await link.request(op.Unihashes("m", [H])) == [None]
    finally:
        await keeper.stop()


async def test_a_bug_in_an_operation_fails_it_alone(capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever kind of operation it is: at once, awaited, or decided in a group commit."""
    link, first = WorkerLink(0, LIMIT), WorkerProcess(0, ARGUMENTS)
    keeper = Supervisor([link], [first], starter()[1], durable=False)
    report: Any = ("report", 1, 1, "m", H, H, H, *[None] * 6)
    broken: Any = ("report", 2, 2, "m", H, "2" * 64, 5, *[None] * 6)
    try:
        await keeper.start()
        wrong: Any = 5
        broken_ones: list[Operation[Any]] = [op.Unihashes("m", wrong), op.SetMarks(wrong), op.Map("m", H, wrong)]
        for operation in broken_ones:
            with pytest.raises(InternalError, match=r"^shard 0: internal error in .*; this is a bug, see the log$"):
                await link.request(operation)
        answers = await link.request(op.Round([report, broken]))
        assert answers[0] == H
        assert isinstance(answers[1], dict)
        assert answers[1]["refused"][0] == "internal"
        assert await link.request(op.Unihashes("m", [H])) == [H]
        assert first.status is None
    finally:
        await keeper.stop()


async def test_others_run_between_answers_that_are_there_at_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "SLICE", 0.0)
    link = WorkerLink(0, LIMIT)
    asked = [link.request(op.Unihashes("m", [H])) for _ in range(20)]
    answers = [messages.encode_messages([[number, [None]]], lambda _: None) for number in range(1, 21)]

    class Socket:
        """Has all answers at once, and then hangs up."""

        async def __aiter__(self) -> AsyncIterator[WSMessage]:
            for (message,) in answers:
                yield WSMessage(WSMsgType.BINARY, message, None)

        async def send_bytes(self, _message: bytes) -> None:
            pass

    socket: Any = Socket()
    serving = asyncio.create_task(link.serve(socket))
    seen = [0]
    while not serving.done():
        await asyncio.sleep(0)
        seen.append(sum(future.done() for future in asked))
    await serving
    assert seen[-1] == 20
    assert max(after - before for before, after in pairwise(seen)) == 1

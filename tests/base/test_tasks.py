"""Background tasks end with their owner, and tell of their bugs."""

from __future__ import annotations

import asyncio

import pytest

from shardhash.base.tasks import BackgroundTasks


async def test_close_cancels_and_waits() -> None:
    tasks = BackgroundTasks()
    ended = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    tasks.start(work(), "waiting")
    await asyncio.sleep(0)
    await tasks.close()
    assert ended == [True]
    await tasks.close()


async def test_a_bug_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    tasks = BackgroundTasks()
    failed = asyncio.Event()

    async def work() -> None:
        try:
            raise ZeroDivisionError("of all things")
        finally:
            failed.set()

    tasks.start(work(), "dividing")
    await failed.wait()
    await asyncio.sleep(0)  # the task's callback runs after its end
    assert "internal error in dividing" in caplog.text
    assert "of all things" in caplog.text

"""The soak: a minute of everything at one time; and that it notices what is wrong."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perf.servers import Server
from perf.soak import Soak, check_all, soak
from perf.soak_model import World, WrongAnswerError
from shardhash.client import create_async_client
from tests.servers import IN_MEMORY, ServerProcess

pytestmark = pytest.mark.once


async def test_a_minute_of_everything_at_one_time(tmp_path: Path) -> None:
    verdict = await soak(60.0, 2, 1, tmp_path)
    assert verdict.answers > 1000
    for name in ("report", "look up", "remove", "collect", "snapshot", "back up", "kill a worker", "break off"):
        assert verdict.done[name] > 0, name


@pytest.mark.soak
async def test_ten_minutes(tmp_path: Path) -> None:
    await soak(600.0, 2, secrets.randbelow(1000), tmp_path)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda client, task, _: client.remove({"taskhash": task.taskhash}), "is unknown, and may be"),
        (lambda client, _, other: client.report_unihash_equiv(other, "soak", "ab" * 32), "is abababababab, and may be"),
    ],
)
async def test_a_wrong_answer_is_told_with_the_story_of_its_task(
    start_server: Callable[..., ServerProcess], tmp_path: Path, wrong: Callable[..., Any], said: str
) -> None:
    server = start_server(*IN_MEMORY, binds=["127.0.0.1:0", "ws://127.0.0.1:0"])
    addresses = dict(zip(("tcp", "ws"), server.addresses, strict=True))
    world = World(1)
    run = Soak(Server(addresses, {"coordinator": [server.process.pid]}), tmp_path, world)
    async with await create_async_client(server.address) as client:
        for _ in range(20):
            await run.report(client)
        known = next(task for group in world.groups for task in group.tasks)
        gone = world.new_task(known.group)
        world.gone.append(gone)
        asked = await check_all(run.server, world)
        assert asked == sum(len(group.tasks) for group in world.groups) + 1
        await wrong(client, known, gone.taskhash)
        with pytest.raises(WrongAnswerError, match=said) as found:
            await check_all(run.server, world)
    assert f"the story of task {known.taskhash if 'unknown' in said else gone.taskhash}" in str(found.value)
    assert "reported" in str(found.value)

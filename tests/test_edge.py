"""Edge servers as processes behind a bad network: what they acknowledged arrives at the upstream, whoever is killed."""

from __future__ import annotations

import asyncio
import random
import secrets
from pathlib import Path

import psutil
import pytest

from shardhash.client import AsyncClient, create_async_client
from tests.proxy import Proxy
from tests.servers import IN_MEMORY, ServerProcess
from tests.test_crash import METHOD, Acknowledged, kill_and_leave, report_until_cut

BUILDERS = 4


async def one_round(edge: ServerProcess, proxy: Proxy, seen: Acknowledged, chance: random.Random, count: int) -> None:
    """Builders report to the edge until it is killed; meanwhile something happens to the network."""
    outhashes = [secrets.token_hex(32) for _ in range(4)]
    stop = asyncio.Event()
    clients = [await create_async_client(edge.address) for _ in range(BUILDERS)]
    tasks = [
        asyncio.create_task(report_until_cut(client, seen, outhashes, (1, 7, 40)[n % 3], stop))
        for n, client in enumerate(clients)
    ]
    enough = len(seen.reports) + count
    trouble = chance.choice(["none", "slow", "cut", "stalled", "away", "torn"])
    if trouble == "slow":
        proxy.delay = 0.02
    elif trouble == "stalled":
        proxy.stall()
    elif trouble == "away":
        proxy.cut()
    elif trouble == "torn":
        proxy.answers = lambda data: data if chance.random() < 0.7 else None
    while len(seen.reports) < enough:  # a count, no event
        assert not all(task.done() for task in tasks), "the edge stopped taking reports"
        if trouble == "cut" and chance.random() < 0.1:
            proxy.cut()
            proxy.heal()
        await asyncio.sleep(0.002)
    processes = psutil.Process(edge.process.pid).children()
    await kill_and_leave(edge, stop, tasks, clients, processes)
    proxy.delay = 0.0
    proxy.heal()


async def run_rounds(tmp_path: Path, rounds: int, seed: int, count: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    seen = Acknowledged()
    loop = asyncio.get_running_loop()
    with ServerProcess(*IN_MEMORY, "--log", "WARNING") as upstream:
        async with Proxy(upstream.address) as proxy, await create_async_client(upstream.address) as there:
            arguments = ["--data", str(tmp_path / "edge"), "--workers", "1", "--log", "WARNING"]
            arguments += ["--upstream", f"127.0.0.1:{proxy.port}", "--upstream-timeout", "1", "--forward"]
            for number in range(rounds + 1):
                edge = await loop.run_in_executor(None, lambda: ServerProcess(*arguments))
                try:
                    if number < rounds:
                        await one_round(edge, proxy, seen, chance, count)
                    else:
                        await wait_until_all_is_there(there, seen)
                finally:
                    await loop.run_in_executor(None, edge.kill)
            await check_rows(there, seen)


async def wait_until_all_is_there(there: AsyncClient, seen: Acknowledged) -> None:
    pairs = [(METHOD, taskhash) for taskhash in seen.reports]
    async with asyncio.timeout(60):
        while None in await there.get_unihash_batch(pairs):  # noqa: ASYNC110  # in another process
            await asyncio.sleep(0.05)


async def check_rows(there: AsyncClient, seen: Acknowledged) -> None:
    """What was acknowledged is at the upstream as it was given out, with its row."""
    pairs = [(METHOD, taskhash) for taskhash in seen.reports]
    found = await there.get_unihash_batch(pairs)
    assert found == [unihash for _, unihash in seen.reports.values()]
    for taskhash, (outhash, _) in list(seen.reports.items())[:: max(1, len(seen.reports) // 200)]:
        row = await there.get_row(METHOD, taskhash, outhash)
        assert row is not None
        assert row["PN"] == "p"


async def test_an_edge_that_is_killed_behind_a_bad_network_forwards_all_it_acknowledged(tmp_path: Path) -> None:
    await run_rounds(tmp_path, 1, secrets.randbits(32), 200)


@pytest.mark.soak
async def test_many_rounds(tmp_path: Path) -> None:
    await run_rounds(tmp_path, 100, secrets.randbits(32), 300)

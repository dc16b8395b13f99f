"""Processes are killed while builders report; afterwards every acknowledged report is there, and nothing half done.

The rounds use one data directory, so that what one round acknowledged must live through the kills of all later ones.
Which outhashes are shared, who is killed and when comes from a seed, which a failure prints.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from shardhash.client import AsyncClient, create_async_client
from tests.servers import ServerProcess

pytestmark = pytest.mark.once

METHOD = "m"
CONNECTIONS = 6
AT_ONCE = (1, 7, 40)
"""Reports in each request of a connection; a batch, unless it is one."""
VICTIMS = ("worker", "coordinator", "all")


@dataclass
class Acknowledged:
    """What the server promised, taskhash to (outhash, unihash), and the outhash of all that was asked for."""

    reports: dict[str, tuple[str, str]] = field(default_factory=dict)
    asked: dict[str, str] = field(default_factory=dict)


async def report_until_cut(
    client: AsyncClient, seen: Acknowledged, outhashes: Sequence[str], at_once: int, stop: asyncio.Event
) -> None:
    """Report from one connection until it breaks or `stop` is set; each taskhash once, its outhash shared or new."""
    while not stop.is_set():
        rows = [row_of(secrets.choice(outhashes) if secrets.randbelow(2) else None) for _ in range(at_once)]
        seen.asked |= {row["taskhash"]: row["outhash"] for row in rows}
        try:
            if at_once == 1:
                answer = await client.report_unihash(**rows[0], extra={"PN": "p", "task": "do_x"})
                unihashes = [answer["unihash"]]
            else:
                unihashes = await client.report_unihash_batch(row | {"PN": "p", "task": "do_x"} for row in rows)
        except ConnectionError:
            return
        for row, unihash in zip(rows, unihashes, strict=True):
            seen.reports[row["taskhash"]] = (row["outhash"], unihash)


def row_of(outhash: str | None) -> dict[str, str]:
    """A new taskhash, which proposes itself for a unihash; its outhash is new too unless given."""
    taskhash = secrets.token_hex(32)
    return {
        "taskhash": taskhash,
        "method": METHOD,
        "outhash": outhash or secrets.token_hex(32),
        "unihash": taskhash,
    }


async def one_round(server: ServerProcess, seen: Acknowledged, victim: str, chance: random.Random) -> None:
    outhashes = [secrets.token_hex(32) for _ in range(4)]
    stop = asyncio.Event()
    clients = [await create_async_client(address) for address in server.addresses for _ in range(CONNECTIONS // 2)]
    tasks = [
        asyncio.create_task(report_until_cut(client, seen, outhashes, AT_ONCE[n % len(AT_ONCE)], stop))
        for n, client in enumerate(clients)
    ]
    await more_reports(seen, chance.randint(20, 300), tasks)
    coordinator = psutil.Process(server.process.pid)
    workers = coordinator.children()
    if victim == "worker":
        chance.choice(workers).kill()
        await more_reports(seen, 100, tasks)  # it comes back, and reports go on
    for process in workers if victim == "all" else []:
        process.kill()
    await kill_and_leave(server, stop, tasks, clients, workers)


async def kill_and_leave(
    server: ServerProcess,
    stop: asyncio.Event,
    tasks: Sequence[asyncio.Task[None]],
    clients: Sequence[AsyncClient],
    workers: Sequence[psutil.Process],
) -> None:
    """Kill a server, end those who report to it, and wait until its workers have ended."""
    server.process.kill()
    server.process.wait()
    stop.set()
    await asyncio.gather(*tasks)
    for client in clients:
        await client.close()
    psutil.wait_procs(workers, timeout=30)


async def more_reports(seen: Acknowledged, count: int, tasks: list[asyncio.Task[None]]) -> None:
    """Until so many more reports are acknowledged, or nobody reports any more."""
    enough = len(seen.reports) + count
    while len(seen.reports) < enough and not all(task.done() for task in tasks):  # noqa: ASYNC110  # a count, no event
        await asyncio.sleep(0.002)


async def check(address: str, seen: Acknowledged) -> None:
    async with await create_async_client(address) as client:
        found = await client.get_unihash_batch((METHOD, taskhash) for taskhash in seen.asked)
        for (taskhash, outhash), unihash in zip(seen.asked.items(), found, strict=True):
            if taskhash in seen.reports:
                assert unihash == seen.reports[taskhash][1], f"acknowledged: {taskhash}"
            row = await client.get_taskhash(METHOD, taskhash, all_properties=True)
            assert (row is None) == (unihash is None), f"half done: {taskhash}"
            if row is not None:
                assert (row["outhash"], row["unihash"], row["PN"]) == (outhash, unihash, "p")
        # Equivalence: all that share an outhash have one unihash, and its oldest row's taskhash gave it.
        by_outhash: dict[str, set[str]] = {}
        for outhash, unihash in zip(seen.asked.values(), found, strict=True):
            if unihash is not None:
                by_outhash.setdefault(outhash, set()).add(unihash)
        for outhash, unihashes in by_outhash.items():
            row = await client.get_outhash(METHOD, outhash, "")
            assert row is not None
            assert unihashes == {row["unihash"]} == {row["taskhash"]}, f"equivalence of {outhash}"
        # What was not acknowledged can be asked again, and is then as if it had never failed.
        for taskhash in seen.asked.keys() - seen.reports.keys():
            outhash = seen.asked[taskhash]
            answer = await client.report_unihash(taskhash, METHOD, outhash, taskhash, {"PN": "p", "task": "do_x"})
            row = await client.get_outhash(METHOD, outhash, "")
            assert row is not None
            assert answer["unihash"] == row["unihash"]
            seen.reports[taskhash] = (outhash, answer["unihash"])


def run_rounds(tmp_path: Path, rounds: int, seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    seen = Acknowledged()
    arguments = ("--data", str(tmp_path / "data"), "--workers", "2", "--snapshot-bytes", "64K", "--log", "WARNING")
    for number in range(rounds):
        server = ServerProcess(*arguments, binds=["127.0.0.1:0", "ws://127.0.0.1:0"])
        try:
            asyncio.run(check_and_go_on(server, seen, VICTIMS[number % 3], chance))
        finally:
            server.kill()
    with ServerProcess(*arguments) as server:
        asyncio.run(check(server.address, seen))


async def check_and_go_on(server: ServerProcess, seen: Acknowledged, victim: str, chance: random.Random) -> None:
    await check(server.address, seen)
    await one_round(server, seen, victim, chance)
    await asyncio.sleep(0)


def test_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    run_rounds(tmp_path, 6, seed=secrets.randbits(32))


@pytest.mark.soak
def test_fifty_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    run_rounds(tmp_path, 50, seed=secrets.randbits(32))

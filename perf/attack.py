"""What an innocent builder feels of attacks, and what they cost the server.

    python -m perf.attack                    all of perf/attacks.py
    python -m perf.attack pings unfinished   some
    python -m perf.attack --scale 0.1        smaller ones

For each attack a server starts with some mappings. A builder in a process of its own asks waves of 10, one after the
other, over an address of its own, and checks every answer; an administrator logs in now and then. The attack runs
beside them in a third process. Latencies are those of the builder's waves before, during and after. Memory is that of
all processes of the server before, at most, and some seconds after.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import math
import multiprocessing
import random
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import uvloop

from perf import attacks
from perf.attacks import ADMIN, PASSWORD, Target
from perf.report import save, setting, table
from perf.servers import Server, shardhash
from shardhash.client import create_async_client
from shardhash.errors import InvokeError

METHOD = "innocent"
KNOWN = 20_000
WAVE = 10
BEFORE, AFTER = 3.0, 15.0
"""Seconds of rest before an attack, and after it."""
LIMIT = 60.0
"""Seconds after which a wave or a login counts as never answered."""


def unihash(taskhash: str) -> str:
    """What the builder was told to find."""
    return taskhash[::-1]


def build(address: str, seed: int, pipe: Connection) -> None:
    """The innocent builder's process: waves until the pipe says so; then it sends (start, seconds, good) of each."""
    uvloop.run(_build(address, seed, pipe))


async def _build(address: str, seed: int, pipe: Connection) -> None:
    dice = random.Random(seed)
    hashes = [dice.randbytes(32).hex() for _ in range(KNOWN)]
    client = await create_async_client(address, timeout=LIMIT)
    rows = [
        {"taskhash": one, "method": METHOD, "outhash": one, "unihash": unihash(one), "outhash_siginfo": "x" * 200}
        for one in hashes
    ]
    await client.report_unihash_batch(rows)
    gc.freeze()
    pipe.send("ready")
    waves: list[tuple[float, float, bool]] = []
    while not pipe.poll():
        wave, began = dice.choices(hashes, k=WAVE), time.monotonic()
        try:
            found = await client.get_unihash_batch([(METHOD, one) for one in wave])
            good = found == [unihash(one) for one in wave]
        except OSError:
            good = False
        waves.append((began, time.monotonic() - began, good))
        await asyncio.sleep(0.01)
    pipe.send(waves)


def administer(address: str, pipe: Connection) -> None:
    """The administrator's process: a login, a question and the deletion of a user each second; the same."""
    asyncio.run(_administer(address, pipe))


async def _administer(address: str, pipe: Connection) -> None:
    pipe.send("ready")
    times: list[tuple[float, float, bool]] = []
    while not pipe.poll(1.0):
        began = time.monotonic()
        try:
            async with asyncio.timeout(LIMIT), await create_async_client(address, ADMIN, PASSWORD) as client:
                await client.get_user(ADMIN)
                with contextlib.suppress(InvokeError):  # only one attack makes it
                    await client.delete_user(attacks.BUILDER)
            good = True
        except (OSError, InvokeError):
            good = False
        times.append((began, time.monotonic() - began, good))
    pipe.send(times)


def attack(name: str, target: Target, seconds: float, pipe: Connection) -> None:
    """The attacker's process."""
    uvloop.run(_attack(name, target, seconds))
    pipe.send("done")


async def _attack(name: str, target: Target, seconds: float) -> None:
    work = asyncio.ensure_future(attacks.ATTACKS[name][0](target))
    await asyncio.wait([work], timeout=seconds)
    if work.done():
        work.result()  # an attack never ends by itself
    work.cancel()
    await asyncio.wait([work])


class Memory(threading.Thread):
    """Watches the memory of processes; MiB, shared pages counted once."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self._server = server
        self.peak = 0.0
        self.over = threading.Event()

    def now(self) -> float:
        """All processes together."""
        try:
            return sum(self._server.share().values())
        except psutil.NoSuchProcess:
            return math.nan

    def run(self) -> None:
        while not self.over.wait(0.2):
            self.peak = max(self.peak, self.now())


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One attack; milliseconds and MiB."""
    context = multiprocessing.get_context("spawn")
    arguments = ("--admin-user", ADMIN, "--admin-password", PASSWORD, "--log", "ERROR", *options.server)
    with (
        TemporaryDirectory(prefix="shardhash-attack-") as folder,
        # Not of the attackers' host, which has a rate.
        shardhash(options.workers, arguments=(*arguments, "--bind", f"unix://{folder}/innocent")) as server,
    ):
        target = Target(server.addresses["tcp"], server.addresses["ws"], options.scale)
        workers = list(server.roles["workers"])
        helpers = [
            _start(context, build, f"unix://{folder}/innocent", options.seed),
            _start(context, administer, server.addresses["ws"]),
        ]
        memory = Memory(server)
        before = memory.now()
        memory.start()
        time.sleep(BEFORE)
        began = time.monotonic()
        attacker = _start(context, attack, name, target, options.seconds, wait=False)
        attacker.recv()
        ended = time.monotonic()
        time.sleep(AFTER)
        memory.over.set()
        after = memory.now()
        waves, logins = (_finish(pipe) for pipe in helpers)
        alive = all(psutil.pid_exists(pid) for pid in workers)
    first_good = next((start + took for start, took, good in waves if start + took > ended and good), math.inf)
    return {
        "who": attacks.ATTACKS[name][1],
        "waves_ms": {
            "before": _times(waves, began - BEFORE, began),
            "during": _times(waves, began + 0.2, ended),
            "after": _times(waves, ended + 1.0, ended + AFTER),
        },
        "back_seconds": max(0.0, first_good - ended),
        "wrong": sum(not good for _, _, good in waves),
        "login_ms": {"before": _times(logins, began - BEFORE, began), "during": _times(logins, began, ended)},
        "login_failures": sum(not good for _, _, good in logins),
        "memory_mib": {"before": before, "peak": memory.peak, "after": after},
        "workers_alive": alive,
    }


def _start(context: Any, work: Any, *arguments: Any, wait: bool = True) -> Connection:
    ours, theirs = context.Pipe()
    context.Process(target=work, args=(*arguments, theirs), daemon=True).start()
    theirs.close()
    if wait:
        ours.recv()
    found: Connection = ours
    return found


def _finish(pipe: Connection) -> list[tuple[float, float, bool]]:
    pipe.send("stop")
    found: list[tuple[float, float, bool]] = pipe.recv()
    return found


def _times(waves: Sequence[tuple[float, float, bool]], start: float, end: float) -> dict[str, float]:
    """p50, p99 and longest of those that began in a time, or that were under way in it."""
    times = sorted(took * 1e3 for began, took, _ in waves if began < end and began + took > start)
    if not times:
        return {"p50": math.nan, "p99": math.nan, "max": math.nan}
    return {"p50": times[len(times) // 2], "p99": times[len(times) * 99 // 100], "max": times[-1]}


def show(figures: dict[str, Any]) -> str:
    """A table."""
    rows = []
    for name, found in figures.items():
        waves, memory, logins = found["waves_ms"], found["memory_mib"], found["login_ms"]
        rows.append(
            [
                name,
                found["who"],
                " -> ".join(f"{waves[part]['p99']:.1f}" for part in ("before", "during", "after")),
                f"{waves['during']['max']:.0f}",
                " -> ".join(f"{memory[part]:.0f}" for part in ("before", "peak", "after")),
                f"{logins['during']['max']:.0f}",
                "; ".join(
                    text
                    for text, bad in (
                        (f"{found['wrong']} waves failed", found["wrong"]),
                        (f"{found['login_failures']} logins failed", found["login_failures"]),
                        ("A WORKER DIED", not found["workers_alive"]),
                    )
                    if bad
                ),
            ]
        )
    head = ["attack", "who may", "waves, p99 ms", "longest", "MiB", "admin's ms", "remarks"]
    return table(head, rows)


def main() -> None:
    """Measure and print; with --json, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"of {', '.join(attacks.ATTACKS)} (default all)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of an attack (default 10)")
    parser.add_argument("--scale", type=float, default=1.0, help="part of the usual number of attackers (default 1)")
    parser.add_argument("--workers", type=int, default=2, help="workers of the server (default 2)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the builder's waves (default 1)")
    parser.add_argument("--server", action="append", default=[], metavar="OPTION", help="an option for the server")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    if unknown := set(options.attacks) - set(attacks.ATTACKS):
        parser.error(f"no attack is called {', '.join(sorted(unknown))}")
    figures: dict[str, Any] = {}
    for name in options.attacks or attacks.ATTACKS:
        print(f"{name}: {options.seconds:g} s ...", flush=True)
        figures[name] = measure(name, options)
        print(show({name: figures[name]}), flush=True)
    print(show(figures))
    if options.json:
        save(options.json, setting() | {"attacks": figures})


if __name__ == "__main__":
    main()

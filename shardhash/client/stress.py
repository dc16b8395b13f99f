"""A load of lookups from many connections at once, to see how a server bears it."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from shardhash.client.asynchronous import AsyncClient

METHOD = "shardhash.stress"
"""The method that the hashes are reported under; ``remove --where method shardhash.stress`` clears them away."""


@dataclass(frozen=True, slots=True)
class Load:
    """What each client does: ask for the same `requests` hashes of the seeds, and `report` those that are unknown."""

    requests: int
    taskhash_seed: str
    outhash_seed: str
    report: bool


@dataclass(slots=True)
class _Counts:
    found: int = 0
    wrong: int = 0
    reports: int = 0


async def stress(clients: Sequence[AsyncClient], load: Load, become: str | None = None) -> dict[str, Any]:
    """Put the load on a server through all clients at once, acting as the user `become`; closes the clients.

    The figures: requests and reports made, hashes found, wrong answers (a unihash that nobody reported), seconds in
    all, requests a second, and milliseconds a request as mean, p50, p99 and max.
    """
    times: list[float] = []
    counts = _Counts()
    try:
        for client in clients:
            await (client.connect() if become is None else client.become_user(become))
        began = time.perf_counter()
        await asyncio.gather(*(_ask(client, load, times, counts) for client in clients))
        seconds = time.perf_counter() - began
    finally:
        for client in clients:
            await client.close()
    times.sort()
    return {
        "clients": len(clients),
        "requests": len(times),
        **asdict(counts),
        "seconds": round(seconds, 3),
        "requests_a_second": round(len(times) / seconds),
        "mean_ms": _milliseconds(sum(times) / len(times)),
        "p50_ms": _milliseconds(times[len(times) // 2]),
        "p99_ms": _milliseconds(times[len(times) * 99 // 100]),
        "max_ms": _milliseconds(times[-1]),
    }


async def _ask(client: AsyncClient, load: Load, times: list[float], counts: _Counts) -> None:
    for number in range(load.requests):
        taskhash = _hash(load.taskhash_seed, "taskhash", number)
        outhash, expected = (_hash(load.outhash_seed, kind, number) for kind in ("outhash", "unihash"))
        began = time.perf_counter()
        unihash = await client.get_unihash(METHOD, taskhash)
        times.append(time.perf_counter() - began)
        if unihash is not None:
            counts.found += 1
        elif load.report:
            unihash = (await client.report_unihash(taskhash, METHOD, outhash, expected))["unihash"]
            counts.reports += 1
        counts.wrong += unihash not in (None, expected)


def _hash(seed: str, kind: str, number: int) -> str:
    return hashlib.sha256(f"{seed} {kind} {number}".encode()).hexdigest()


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)

"""What the rest of a server's work costs: marks of a collection, a sweep beside lookups, an upstream far away.

    python -m perf.administration --mappings 1000000

A durable server holds that many mappings. A tenth of them is marked over one raw TCP connection, by unihash, one line
each; then the others are swept while builders ask in waves, and the waves are compared with those before. A chained
server is asked for 400 hashes that only its upstream knows, over a round trip of 20 ms, and for the same ones again.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import time
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from perf.filling import METHOD, fill, taskhashes, unihashes
from perf.report import save, setting, table
from perf.servers import Server, shardhash
from shardhash.client import AsyncClient, create_async_client
from tests.proxy import Proxy

WAVE = 20
"""Hashes of a wave that a builder asks during the sweep."""
BUILDERS = 10
ROUND_TRIP = 0.020
"""Seconds to the far upstream and back."""
COLD = 400


async def collect(server: Server, mappings: int) -> dict[str, Any]:
    """Mark a tenth, sweep the rest beside lookups; times in seconds, waves in milliseconds."""
    client = await create_async_client(server.addresses["tcp"])
    numbers = np.arange(mappings // 10, dtype=np.uint64)
    rows = [f"unihash {digest.tobytes().hex()}" for digest in unihashes(numbers, reported=False)]
    before = server.cpu()
    started = time.perf_counter()
    answer = await client.gc_mark_stream("kept", rows)
    marking = time.perf_counter() - started
    assert answer["count"] == len(rows), answer
    cpu = {role: after - before[role] for role, after in server.cpu().items()}
    idle = await _waves(server, asyncio.create_task(asyncio.sleep(3)), mappings // 10)
    started = time.perf_counter()
    sweeping = asyncio.create_task(client.gc_sweep("kept"))
    busy = await _waves(server, sweeping, mappings // 10)
    assert (await sweeping)["count"] == mappings - len(rows)
    seconds = time.perf_counter() - started
    await client.close()
    return {
        "marks": len(rows),
        "marks_a_second": len(rows) / marking,
        "marks_cpu_seconds": cpu,
        "swept": mappings - len(rows),
        "sweep_seconds": seconds,
        "waves_before_ms": idle,
        "waves_during_sweep_ms": busy,
    }


async def _waves(server: Server, until: asyncio.Task[Any], kept: int) -> dict[str, float]:
    """p50, p99 and longest of the waves that builders ask, one after the other, until a task is done."""
    times: list[float] = []
    numbers = np.arange(min(WAVE, kept), dtype=np.uint64)
    digests, due = taskhashes(numbers).tobytes(), unihashes(numbers, reported=False).tobytes()

    async def build(client: AsyncClient) -> None:
        while not until.done():
            started = time.perf_counter()
            found = await client.get_unihashes(METHOD, digests)
            times.append((time.perf_counter() - started) * 1e3)
            assert found.digests == due
            await asyncio.sleep(0.002)

    clients = [await create_async_client(server.addresses["ws"]) for _ in range(BUILDERS)]
    await asyncio.gather(*map(build, clients))
    for client in clients:
        await client.close()
    return {"p50": float(np.percentile(times, 50)), "p99": float(np.percentile(times, 99)), "max": max(times)}


async def chain(rounds: int) -> dict[str, Any]:
    """Seconds, medians of rounds: asked of the upstream directly, of the chained server cold and again, and locally."""
    times: dict[str, list[float]] = {"direct": [], "chained": [], "again": [], "local": []}
    async with AsyncExitStack() as stack:
        upstream = stack.enter_context(shardhash(1))
        proxy = await stack.enter_async_context(Proxy(upstream.addresses["tcp"], ROUND_TRIP / 2))
        far = f"127.0.0.1:{proxy.port}"
        chained = stack.enter_context(shardhash(1, arguments=("--upstream", far)))
        near = await stack.enter_async_context(await create_async_client(upstream.addresses["tcp"]))
        clients = {
            "direct": await stack.enter_async_context(await create_async_client(far)),
            "chained": await stack.enter_async_context(await create_async_client(chained.addresses["tcp"])),
        }
        clients |= {"again": clients["chained"], "local": near}
        for client in clients.values():
            await client.get_unihash(METHOD, "0" * 64)  # connected, and so is the chained server
        for _ in range(rounds):
            hashes = [secrets.token_hex(32) for _ in range(COLD)]
            for taskhash in hashes:
                await near.report_unihash_equiv(taskhash, METHOD, taskhash)
            for name, client in clients.items():
                started = time.perf_counter()
                found = await client.get_unihash_batch((METHOD, taskhash) for taskhash in hashes)
                times[name].append(time.perf_counter() - started)
                assert found == hashes
                if name == "chained":
                    await client.backfill_wait()
    return {name: median(some) for name, some in times.items()}


def main() -> None:
    """Measure and print; with --json, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mappings", type=int, default=1_000_000, help="mappings to hold (default 1000000)")
    parser.add_argument("--workers", type=int, default=2, help="workers of the server (default 2)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of chained lookups (default 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    figures = setting()
    with TemporaryDirectory(prefix="shardhash-perf-") as folder:
        fill(Path(folder) / "data", options.workers, options.mappings)
        with shardhash(options.workers, data=Path(folder) / "data") as server:
            figures["collection"] = asyncio.run(collect(server, options.mappings))
    figures["upstream"] = asyncio.run(chain(options.rounds))
    _show(figures)
    if options.json:
        save(options.json, figures)


def _show(figures: dict[str, Any]) -> None:
    collection, upstream = figures["collection"], figures["upstream"]
    print(f"{collection['marks_a_second']:,.0f} marks a second over one TCP connection")
    print(f"{collection['swept']:,} mappings swept in {collection['sweep_seconds']:.1f} s, beside waves of {BUILDERS}:")
    waves = (("before", collection["waves_before_ms"]), ("meanwhile", collection["waves_during_sweep_ms"]))
    rows = [[name, *(f"{found[part]:.2f} ms" for part in ("p50", "p99", "max"))] for name, found in waves]
    print(table(["waves", "p50", "p99", "max"], rows))
    print(
        f"{COLD} lookups, upstream {ROUND_TRIP * 1e3:.0f} ms away: "
        + ", ".join(f"{name} {seconds * 1e3:.1f} ms" for name, seconds in upstream.items())
    )


if __name__ == "__main__":
    main()

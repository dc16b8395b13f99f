"""How speed, latency and memory go from ten thousand to ten million mappings, and from 1 to 400 connections.

    python -m perf.scale
    python -m perf.scale --most 1000000

Data directories are written directly, then served durably as by default, and asked once the server has come to rest
after its start; every answer is checked. Memory is what all workers hold, with their interpreters: RSS, and PSS, which
counts a page that several share once.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from perf import report, servers
from perf.builders import HELLO
from perf.filling import Picked, fill
from perf.pool import Pool
from perf.servers import Server
from perf.workload import Workload, WrongAnswerError
from shardhash.client import create_async_client

MAPPINGS = (10_000, 100_000, 1_000_000, 10_000_000)
CONNECTIONS = (1, 4, 10, 40, 100, 400)
BATCH, CONNECTION_BATCH = 9000, 900
"""Lookups in a batch while the mappings grow, and while the connections do, whose batches are as many in all."""
LOOKUPS = 360_000
"""Of all connections together, in batches."""
EVERY = 4
"""Of the trace's waves, so many are left out but one, while the connections grow: 400 would take long."""
FEWEST = 10_000


def main() -> int:
    """Run it; the exit status is 1 if an answer was wrong."""
    parser = argparse.ArgumentParser(
        "perf.scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--most", type=int, default=MAPPINGS[-1], help="mappings at most (default 10000000)")
    parser.add_argument("--reports", type=int, default=1_000_000, help="full reports to weigh (default 1000000)")
    parser.add_argument("--most-connections", type=int, default=400, help="connections at most (default 400)")
    parser.add_argument("--builders", type=int, default=40, help="builders while the mappings grow (default 40)")
    parser.add_argument("--processes", type=int, default=2, help="client processes (default 2)")
    parser.add_argument("--workers", type=int, default=2, help="workers of the server (default 2)")
    parser.add_argument("--rounds", type=int, default=5, help="measured runs; medians are shown (default 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    try:
        figures = {**report.setting(), "options": report.plain(options), **measure(options)}
    except (WrongAnswerError, OSError) as error:
        report.clear_progress()
        print(f"perf.scale: {error}", file=sys.stderr)
        return 1
    _show(figures)
    if options.json:
        report.save(options.json, figures)
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All of it; the figures."""
    figures: dict[str, Any] = {"mappings": [], "connections": []}
    for count in [count for count in MAPPINGS if count <= options.most] or [options.most]:
        with _filled(options, count) as (server, started):
            figures["mappings"].append({"mappings": count, **started, **_mappings(server, options, count)})
    known = min(options.most, MAPPINGS[1])
    with _filled(options, known) as (server, _):
        figures["idle"] = asyncio.run(_idle(server, options.most_connections))
        for builders in [count for count in CONNECTIONS if count <= options.most_connections]:
            figures["connections"].append({"connections": builders, **_connections(server, options, known, builders)})
    with _filled(options, options.reports, rows=True) as (server, started):
        _check(server, options.reports)
        figures["reports"] = {"reports": options.reports, **started, **_weight(server, options.reports)}
    return figures


@contextmanager
def _filled(options: argparse.Namespace, count: int, *, rows: bool = False) -> Iterator[tuple[Server, dict[str, Any]]]:
    """A server of so many mappings, and how long it took to read them."""
    report.progress(f"writing {count:,} {'reports' if rows else 'mappings'}", 0)
    with TemporaryDirectory(prefix="shardhash-perf-") as folder:
        data = Path(folder) / "data"
        fill(data, options.workers, count, rows=rows)
        begun = time.perf_counter()
        with servers.shardhash(options.workers, data=data) as server:
            started = time.perf_counter()
            report.progress(f"waiting until {count:,} have settled", 0)
            server.settle()
            settled = time.perf_counter()
            yield server, {"start_seconds": started - begun, "settle_seconds": settled - started}


def _weight(server: Server, count: int) -> dict[str, Any]:
    """What the workers hold: in all, and by mapping or report."""
    held = server.share()
    return {
        "rss_mib": server.memory(),
        "pss_mib": held,
        "worker_bytes_each": held["workers"] * 2**20 / count,
    }


def _mappings(server: Server, options: argparse.Namespace, count: int) -> dict[str, Any]:
    weight = _weight(server, count)  # before anything was asked
    title = f"{count:,} mappings"
    batches = max(1, LOOKUPS // BATCH // options.builders)
    size = min(BATCH, max(count, 1))
    sizes = (size,) * batches
    block = _run(server, options, title, Picked(count, sizes), options.builders)
    new = _run_new(server, options, title, count, sizes)
    waves = _run(server, options, title, Picked(count, _waves(count)), options.builders)
    return {**weight, "block": block, "new": new, "waves": waves, "peak_mib": server.peak()}


def _connections(server: Server, options: argparse.Namespace, count: int, builders: int) -> dict[str, Any]:
    title = f"{builders} connections"
    lookups = min(LOOKUPS, count * 4)
    batches = max(1, lookups // CONNECTION_BATCH // builders)
    block = _run(server, options, title, Picked(count, (CONNECTION_BATCH,) * batches), builders)
    waves = _run(server, options, title, Picked(count, _waves(count)[::EVERY]), builders)
    return {"block": block, "waves": waves, "rss_mib": server.memory()}


def _waves(count: int) -> tuple[int, ...]:
    """The sizes of a build's waves; fewer of them for a measurement that is but a trial."""
    sizes = tuple(map(len, Workload().steps()))
    return sizes if count >= FEWEST else sizes[:20]


def _run(server: Server, options: argparse.Namespace, title: str, workload: Picked, builders: int) -> dict[str, Any]:
    with Pool(server, "native", workload, builders, options.processes) as pool:
        runs = []
        for number in range(options.rounds + 1):
            report.progress(title, number / (options.rounds + 1))
            runs.append(pool.run())
    report.clear_progress()
    return report.summary(runs[1:], builders * sum(workload.sizes))


def _run_new(
    server: Server, options: argparse.Namespace, title: str, count: int, sizes: tuple[int, ...]
) -> dict[str, Any]:
    """Each run asks for other mappings: among millions, nearly all for the first time."""
    runs = []
    for number in range(options.rounds):
        report.progress(f"{title}, new", number / options.rounds)
        with Pool(server, "native", Picked(count, sizes, seed=number + 1), options.builders, options.processes) as pool:
            runs.append(pool.run())
    report.clear_progress()
    return report.summary(runs, options.builders * sum(sizes))


def _check(server: Server, count: int) -> None:
    """Raises WrongAnswerError unless the server knows what it was filled with, by a sample."""
    with Pool(server, "native", Picked(count, (BATCH,), reported=True), 1, 1) as pool:
        pool.run()


async def _idle(server: Server, count: int) -> dict[str, Any]:
    """MiB that the coordinator grows by for idle connections: over WebSocket with our client, and raw TCP."""
    async with await create_async_client(server.addresses["ws"]) as first:
        await first.ping()  # what the first connection loads is not of the next ones
        before = server.memory()["coordinator"]
        clients = [await create_async_client(server.addresses["ws"]) for _ in range(count)]
        for client in clients:
            await client.ping()
        websockets = server.memory()["coordinator"] - before
        for client in clients:
            await client.close()
    host, _, port = server.addresses["tcp"].rpartition(":")
    before = server.memory()["coordinator"]
    streams = [await asyncio.open_connection(host, int(port)) for _ in range(count)]
    for reader, writer in streams:
        writer.write(HELLO + b'{"ping": {}}\n')
        await reader.readline()
    raw = server.memory()["coordinator"] - before
    for _, writer in streams:
        writer.close()
    return {"connections": count, "ws_mib": websockets, "tcp_after_ws_mib": raw}


def _show(figures: dict[str, Any]) -> None:
    for axis in ("mappings", "connections"):
        rows = [
            [
                f"{found[axis]:,}",
                f"{found['block']['lookups_per_second']:,.0f}",
                f"{found['waves']['step_ms']['p50']:.2f} ms",
                f"{found['waves']['step_ms']['p99']:.2f} ms",
                f"{found['rss_mib']['coordinator']:.0f} MiB",
                f"{found['rss_mib']['workers']:.0f} MiB",
            ]
            for found in figures[axis]
        ]
        print(report.table([axis, "lookups/s", "wave p50", "wave p99", "coordinator", "workers"], rows))
        print()
    fewest, most = figures["mappings"][0], figures["mappings"][-1]
    print(f"a lookup among {most['mappings']:,} costs, over one among {fewest['mappings']:,}:")
    for kind, title in (("block", "the same each time"), ("new", "others each time")):
        seconds, cpu = (cost(most[kind]) / cost(fewest[kind]) for cost in (_seconds, _server_cpu))
        print(f"  {title}: {seconds:.2f} times the time, {cpu:.2f} times the server's CPU")
    weighed, idle = figures["reports"], figures["idle"]
    print(f"{weighed['reports']:,} full reports: {weighed['worker_bytes_each']:.0f} bytes each, all workers, PSS")
    print(f"{idle['connections']} idle connections: WebSocket {idle['ws_mib']:.1f} MiB of the coordinator")


def _seconds(found: dict[str, Any]) -> float:
    return float(found["seconds"] / found["lookups"])


def _server_cpu(found: dict[str, Any]) -> float:
    return float((sum(found["cpu_seconds"].values()) - found["cpu_seconds"]["client"]) / found["lookups"])


if __name__ == "__main__":
    sys.exit(main())

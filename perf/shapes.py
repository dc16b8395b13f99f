"""What `perf.run` measures: the shapes of a build, each a function of the options that answers with its figures."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from perf import compare, report, scale, seeding, servers, startup
from perf.pool import Pool
from perf.reporters import BatchedReports, Reports, count_of
from perf.servers import Server
from perf.workload import TRACES, Workload

BLOCK = 360_000
"""Lookups whose CPU is stated."""
SIZES = (1, 10, 100, 1000, 3000, 9000)
"""Batches whose throughput is plotted."""
ONE_WAVE = 10
"""Lookups in a wave of a builder that is alone."""


def blocks(options: Namespace, block: int) -> dict[str, Any]:
    """Batches of a size, shardhash and its peers side by side."""
    return _compared(options, "block", block)


def waves(options: Namespace) -> dict[str, Any]:
    """The waves of a build, side by side."""
    return _compared(options, "waves", 0)


def _compared(options: Namespace, shape: str, block: int) -> dict[str, Any]:
    lookups = _few(options, 9000) if shape == "block" else _few(options, 0)
    figures = compare.compare(
        Namespace(
            trace=TRACES / "world.jsonl.gz",
            shape=shape,
            block=block or 9000,
            lookups=lookups,
            known=100,
            builders=options.builders,
            processes=options.processes,
            workers=options.workers,
            rounds=options.rounds,
            durable=True,
            stock=False,
            json=None,
        )
    )
    return {"lookups_a_builder": lookups, "contenders": figures["contenders"]}


def small(options: Namespace) -> dict[str, Any]:
    """One server: batches of all sizes, one builder alone, existence checks, and stock clients."""
    whole = Workload(shape="block", lookups=_few(options, 9000))
    with servers.shardhash(options.workers, durable=True) as server:
        asyncio.run(seeding.report(server.addresses["ws"], whole))
        alone = replace(whole, block=ONE_WAVE, lookups=_few(options, 3000))
        return {
            "sizes": dict(_sizes(server, options, whole)),
            "alone": _measure(server, options, "native", alone, builders=1),
            "lookups": _measure(server, options, "native", whole),
            "exists": _measure(server, options, "exists", whole),
            "stock": {kind: _stock(server, options, kind, whole) for kind in _stock_kinds()},
        }


def _sizes(server: Server, options: Namespace, whole: Workload) -> Iterator[tuple[str, dict[str, Any]]]:
    for size in SIZES[::3] if options.quick else SIZES:
        # A lookup each is slow, and says as much by fewer of them.
        lookups = min(_few(options, 9000), size * 500)
        yield str(size), _measure(server, options, "native", replace(whole, block=size, lookups=lookups))


def _stock_kinds() -> list[str]:
    """Clients whose own CPU is what limits them; those of BitBake where it is installed."""
    try:
        import bb.asyncrpc  # noqa: F401
    except ImportError:
        return ["stream"]
    return ["stream", "stock-tcp", "stock-ws"]


def _stock(server: Server, options: Namespace, kind: str, whole: Workload) -> dict[str, Any]:
    """The server's CPU for 360,000 lookups, all processes."""
    lookups = whole.lookups if kind == "stream" else min(whole.lookups, 2000)
    found = _measure(server, options, kind, replace(whole, lookups=lookups))
    spent = sum(seconds for role, seconds in found["cpu_seconds"].items() if role != "client")
    return found | {"server_cpu_seconds": spent * BLOCK / found["lookups"]}


def reports(options: Namespace) -> dict[str, Any]:
    """Reports a second for each way to sync, 40 connections that each wait for the acknowledgement: one by one, and in
    batches."""
    found: dict[str, Any] = {}
    for mode in ("always", "interval", "off"):
        with (
            TemporaryDirectory(prefix="shardhash-perf-") as folder,
            servers.shardhash(options.workers, data=Path(folder) / "data", arguments=("--sync", mode)) as server,
        ):
            alone = _measure(server, options, "report", Reports(_few(options, 700)))
            batched = _measure(server, options, "report-batch", BatchedReports(2 if options.quick else 30))
            found[mode] = {"alone": alone, "batched": batched}
    return found


def growth(options: Namespace) -> dict[str, Any]:
    """Mappings, connections, memory."""
    quick = options.quick
    return scale.measure(
        Namespace(
            most=min(options.most, 10_000 if quick else options.most),
            reports=2000 if quick else min(1_000_000, options.most),
            most_connections=1 if quick else 400,
            builders=options.builders,
            processes=options.processes,
            workers=options.workers,
            rounds=options.rounds,
        )
    )


def starts(options: Namespace) -> dict[str, Any]:
    """Seconds from exec to `listening on`."""
    return startup.measure(options.workers, 1 if options.quick else 7)


def _few(options: Namespace, count: int) -> int:
    """A count, or one that takes no time; 0 is all of the trace."""
    return min(count or 200, 200) if options.quick else count


def _measure(
    server: Server, options: Namespace, kind: str, workload: Workload | Reports | BatchedReports, *, builders: int = 0
) -> dict[str, Any]:
    builders = builders or options.builders
    with Pool(server, kind, workload, builders, options.processes) as pool:
        runs = []
        for number in range(options.rounds + 1):
            report.progress(kind, number / (options.rounds + 1))
            runs.append(pool.run())
    report.clear_progress()
    return report.summary(runs[1:], count_of(workload.steps()) * builders)

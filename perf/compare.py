"""The same replay against shardhash and its peers, side by side: rounds take turns, so that a busy moment hits all.

    python -m perf.compare --shape block
    BITBAKE_DIR=/src/bitbake python -m perf.compare --shape waves --stock

Redis (MGET through redis-py and hiredis) runs where redis-server is installed, the reference server where BITBAKE_DIR
names a checkout of BitBake. Each contender has the same number of client processes and connections; the builders of
those whose turn it is not are connected and idle.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from perf import report, seeding, servers
from perf.pool import Pool, Run
from perf.replay import add_workload_options, workload_of
from perf.servers import Server
from perf.workload import Workload, WrongAnswerError

Contenders = Iterator[tuple[str, Server, str]]
"""Name, server that is running and filled, kind of client."""


def main() -> int:
    """Run it; the exit status is 1 if an answer was wrong."""
    parser = argparse.ArgumentParser(
        "perf.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_workload_options(parser)
    parser.add_argument("--stock", action="store_true", help="with BitBake's own client too, where it is installed")
    options = parser.parse_args()
    try:
        figures = compare(options)
    except (WrongAnswerError, OSError) as error:
        report.clear_progress()
        print(f"perf.compare: {error}", file=sys.stderr)
        return 1
    _show(figures)
    if options.json:
        report.save(options.json, figures)
    return 0


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Measure as the options say; the figures, those of each contender under its name."""
    setting = report.setting()
    workload = workload_of(options)
    lookups = options.builders * sum(map(len, workload.steps()))
    with ExitStack() as stack:
        pools = {
            name: stack.enter_context(Pool(server, client, workload, options.builders, options.processes))
            for name, server, client in _contenders(options, workload, stack)
        }
        runs: dict[str, list[Run]] = {name: [] for name in pools}
        for number in range(options.rounds + 1):
            for place, (name, pool) in enumerate(pools.items()):
                report.progress(f"round {number}/{options.rounds} {name}", place / len(pools))
                runs[name].append(pool.run())
        report.clear_progress()
        memory = {name: pool.server.peak() | {"client": pool.peak()} for name, pool in pools.items()}
    return {
        **setting,
        "options": report.plain(options),
        # The first round of each warmed it up.
        "contenders": {name: report.summary(runs[name][1:], lookups) | {"peak_mib": memory[name]} for name in pools},
    }


def _contenders(options: argparse.Namespace, workload: Workload, stack: ExitStack) -> Contenders:
    ours = stack.enter_context(servers.shardhash(options.workers, durable=options.durable))
    asyncio.run(seeding.report(ours.addresses["ws"], workload))
    kinds = ["native", "native-text", "stream"]
    if options.stock:
        kinds += ["stock-tcp", "stock-ws"]
    for kind in kinds:
        yield f"shardhash {kind}", ours, kind
    if redis := servers.redis():
        stack.enter_context(redis)
        asyncio.run(seeding.fill_redis(redis.addresses["tcp"], workload))
        yield "redis mget", redis, "redis"
    if reference := servers.reference():
        stack.enter_context(reference)
        asyncio.run(seeding.report(reference.addresses["tcp"], workload))
        for kind in kinds[2:]:
            if kind != "stock-ws":  # it listens at one address, raw TCP, its fastest
                yield f"reference {kind}", reference, kind


def _show(figures: dict[str, Any]) -> None:
    options, contenders = figures["options"], figures["contenders"]
    shape = options["shape"] if options["shape"] == "waves" else f"batches of {options['block']}"
    first = next(iter(contenders.values()))
    print(
        f"{options['builders']} builders, {shape}, {first['lookups']:,} lookups, median of {options['rounds']} rounds"
    )
    print("every answer was checked; connecting and seeding are not part of the time;")
    print("others: what the rest of the machine took of the CPU meanwhile\n")
    rows = [
        [
            name,
            f"{found['seconds']:.3f} s",
            f"{found['lookups_per_second']:,.0f}",
            f"{found['seconds'] / first['seconds']:.2f}",
            f"{found['step_ms']['p50']:.2f} ms",
            f"{found['step_ms']['p99']:.2f} ms",
            f"{sum(spent for role, spent in found['cpu_seconds'].items() if role != 'client'):.3f} s",
            f"{found['cpu_seconds']['client']:.3f} s",
            f"{found['others']:.0%}",
        ]
        for name, found in contenders.items()
    ]
    head = ["", "time", "lookups/s", "x", "step p50", "step p99", "server CPU", "client CPU", "others"]
    print(report.table(head, rows))


if __name__ == "__main__":
    sys.exit(main())

"""Replay a recorded build from many builders at once, and check every answer.

    python -m perf.replay --shape block            # all 10,371 lookups of a builder in batches of 9000
    python -m perf.replay --shape waves            # as the build asked: the next wave waits for the last
    python -m perf.replay --client stream --address 127.0.0.1:8686

Without --address it starts a server of its own. The server is filled first by reporting; then the builders connect, do
one run that does not count, and `--rounds` that do. Neither seeding nor connecting is part of the time.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

from perf import report, seeding, servers
from perf.builders import CLIENTS
from perf.pool import Pool, Run
from perf.workload import TRACES, Workload, WrongAnswerError


def main() -> int:
    """Run it; the exit status is 1 if an answer was wrong."""
    options = _parser().parse_args()
    try:
        figures = replay(options)
    except (WrongAnswerError, OSError) as error:
        report.clear_progress()
        print(f"perf.replay: {error}", file=sys.stderr)
        return 1
    _show(figures)
    if options.json:
        report.save(options.json, figures)
    return 0


def replay(options: argparse.Namespace) -> dict[str, Any]:
    """Measure as the options say; the figures."""
    setting = report.setting()
    workload = workload_of(options)
    server = (
        servers.remote(options.address)
        if options.address
        else servers.shardhash(options.workers, durable=options.durable)
    )
    with server:
        seeded = asyncio.run(seeding.report(next(iter(server.addresses.values())), workload))
        with Pool(server, options.client, workload, options.builders, options.processes) as pool:
            runs = [_run(pool, number, options.rounds) for number in range(options.rounds + 1)][1:]
            memory = server.peak() | {"client": pool.peak()}
    lookups = options.builders * sum(map(len, workload.steps()))
    return {
        **setting,
        "options": report.plain(options),
        "reported": seeded,
        **report.summary(runs, lookups),
        "peak_mib": memory,
    }


def _run(pool: Pool, number: int, rounds: int) -> Run:
    title = f"round {number}/{rounds}" if number else "warming up"
    run = pool.run(lambda part: report.progress(title, part))
    report.clear_progress()
    return run


def add_workload_options(parser: argparse.ArgumentParser) -> None:
    """The options that say what is asked, and by whom."""
    parser.add_argument("--trace", type=Path, default=TRACES / "world.jsonl.gz", help="recorded waves (default world)")
    parser.add_argument("--shape", choices=("waves", "block"), default="waves", help="how it is asked (default waves)")
    parser.add_argument("--block", type=int, default=9000, help="lookups in a batch of shape block (default 9000)")
    parser.add_argument("--lookups", type=int, default=0, help="lookups of a builder (default: those of the trace)")
    parser.add_argument("--known", type=int, default=100, help="percentage that the server knows (default 100)")
    parser.add_argument("--builders", type=int, default=40, help="connections that ask at once (default 40)")
    parser.add_argument("--processes", type=int, default=2, help="client processes they are spread over (default 2)")
    parser.add_argument("--workers", type=int, default=2, help="workers of shardhash (default 2)")
    parser.add_argument("--rounds", type=int, default=5, help="measured runs; medians are shown (default 5)")
    parser.add_argument("--durable", action="store_true", help="the server keeps its data on disk")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")


def workload_of(options: argparse.Namespace) -> Workload:
    """What the options ask for."""
    return Workload(options.trace, options.shape, options.block, options.lookups, options.known)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "perf.replay", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_workload_options(parser)
    parser.add_argument("--address", help="a server that runs already (default: start one)")
    kinds = [name for name in CLIENTS if name != "redis"]
    parser.add_argument("--client", choices=kinds, default="native", help="what the builders speak (default native)")
    return parser


def _show(figures: dict[str, Any]) -> None:
    options, steps = figures["options"], figures["step_ms"]
    shape = options["shape"] if options["shape"] == "waves" else f"batches of {options['block']}"
    print(f"{options['builders']} builders, {shape}, client {options['client']}, median of {options['rounds']} rounds")
    print(f"  {figures['lookups']:,} lookups in {figures['seconds']:.3f} s: {figures['lookups_per_second']:,.0f}/s;")
    print("  every answer was checked; connecting and seeding are not part of the time")
    print(f"  a {'wave' if options['shape'] == 'waves' else 'batch'}: " + _join(steps, "{:.2f} ms"))
    print("  CPU: " + _join(figures["cpu_seconds"], "{:.3f} s"))
    print(f"  meanwhile the rest of the machine took {figures['others']:.0%} of the CPU")
    print("  peak memory: " + _join(figures["peak_mib"], "{:.0f} MiB"))


def _join(values: dict[str, float], form: str) -> str:
    return ", ".join(f"{name} {form.format(value)}" for name, value in values.items())


if __name__ == "__main__":
    sys.exit(main())

"""Another checkout beside this one: whether anything became slower.

    git worktree add ../before COMMIT
    python -m perf.paired ../before

A server of each checkout does the same work in every round, in turns, so that what else the machine does meets both
alike. They are told by the protocol what they know, so that it does not matter what their files are like. The clients
are this checkout's. Times and the servers' CPU are compared within a round; the median of these ratios is shown, over 1
where this checkout takes longer.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from perf import report, seeding, servers
from perf.pool import Pool, Run
from perf.reporters import BATCH, BatchedReports, Reports, count_of
from perf.servers import Server
from perf.workload import Workload, WrongAnswerError

FEW = 2000
"""Lookups of a stock client, each of which costs it much."""
Works = dict[str, tuple[str, Any]]


def main() -> int:
    """Run it; the exit status is 1 if an answer was wrong."""
    return run_works(_parser(), measure, describe)


def run_works(
    parser: argparse.ArgumentParser,
    measure: Callable[[argparse.Namespace, Path], dict[str, Any]],
    describe: Callable[[dict[str, Any]], str],
) -> int:
    """Measure works in a folder, print them, and save them if asked to; the exit status."""
    options = parser.parse_args()
    try:
        with TemporaryDirectory(prefix="shardhash-perf-", dir=options.folder) as folder:
            figures = {**report.setting(), "options": report.plain(options), "works": measure(options, Path(folder))}
    except (WrongAnswerError, OSError, RuntimeError) as error:
        report.clear_progress()
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    print(describe(figures["works"]))
    if options.json:
        report.save(options.json, figures)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "perf.paired", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path, metavar="DIR", help="the other checkout")
    parser.add_argument("--works", nargs="+", metavar="NAME", help="some of the works (default all)")
    parser.add_argument("--lookups", type=int, default=0, help="lookups of a builder (default: those of the trace)")
    parser.add_argument("--workers", type=int, default=2, help="workers of each server (default 2)")
    add_options(parser, reports=200, rounds=11)
    return parser


def add_options(parser: argparse.ArgumentParser, *, reports: int, rounds: int) -> None:
    """What `take_turns` and `run_works` need, with these defaults."""
    parser.add_argument("--reports", type=int, default=reports, help=f"of a connection in a round (default {reports})")
    parser.add_argument("--builders", type=int, default=40, help="connections (default 40)")
    parser.add_argument("--processes", type=int, default=2, help="client processes (default 2)")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"measured; medians are shown (default {rounds})")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where the data is (default: TMPDIR)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All works; the figures of each. They report to servers of their own, one for each way to sync."""
    lookups = Workload(lookups=options.lookups)
    block = Workload(shape="block", lookups=options.lookups)
    few = Workload(lookups=min(FEW, options.lookups or FEW))
    asking: Works = {
        "batches of 9000, native": ("native", block),
        "batches of 9000, lines": ("stream", block),
        "waves, native": ("native", lookups),
        "waves, lines": ("stream", lookups),
        "waves, stock client, TCP": ("stock-tcp", few),
        "waves, stock client, WebSocket": ("stock-ws", few),
    }
    reports, batches = Reports(options.reports), BatchedReports(max(1, options.reports // BATCH))
    figures: dict[str, Any] = {}
    for sync, works in (
        ("always", asking),
        ("always", {"reports, sync always": ("report", reports)}),
        ("always", {f"reports in batches of {BATCH}, sync always": ("report-batch", batches)}),
        ("interval", {"reports, sync interval": ("report", reports)}),
    ):
        wanted = {name: work for name, work in works.items() if not options.works or name in options.works}
        if wanted:
            with ExitStack() as running:
                started = list(_servers(options, folder / str(len(figures)), sync, running))
                if works is asking:
                    for server in started:
                        asyncio.run(seeding.report(server.addresses["ws"], lookups))
                for name, (client, work) in wanted.items():
                    figures[name] = take_turns(options, name, client, work, started)
    return figures


def _servers(options: argparse.Namespace, folder: Path, sync: str, running: ExitStack) -> Iterator[Server]:
    folder.mkdir()
    for name, checkout in (("before", options.before.resolve()), ("now", servers.ROOT)):
        arguments = ("--sync", sync)
        yield running.enter_context(
            servers.shardhash(options.workers, data=folder / name, arguments=arguments, checkout=checkout)
        )


def take_turns(options: argparse.Namespace, name: str, client: str, work: Any, started: list[Server]) -> dict[str, Any]:
    """Two servers that do the same work in each round: the figures of each, and the medians of their ratios."""
    runs: list[tuple[Run, Run]] = []
    with ExitStack() as stack:
        before, now = (
            stack.enter_context(Pool(server, client, work, options.builders, options.processes)) for server in started
        )
        for number in range(options.rounds + 1):  # the first one, which fills caches, does not count
            report.progress(name, number / (options.rounds + 1))
            if number % 2:
                first = before.run()
                runs.append((first, now.run()))
            else:
                second = now.run()
                runs.append((before.run(), second))
    report.clear_progress()
    count = options.builders * count_of(work.steps())
    del runs[0]
    return {
        "before": report.summary([one for one, _ in runs], count),
        "now": report.summary([one for _, one in runs], count),
        "time_ratio": median(now.seconds / before.seconds for before, now in runs),
        "cpu_ratio": median(_cpu(now) / _cpu(before) for before, now in runs),
    }


def _cpu(run: Run) -> float:
    """Of the server's processes, seconds; never 0."""
    return max(sum(seconds for role, seconds in run.cpu.items() if role != "client"), 1e-3)


def describe(works: dict[str, Any]) -> str:
    """A table."""
    return describe_pairs(
        works,
        ("before", "now"),
        {"time": lambda one: one["time_ratio"], "server's CPU": lambda one: one["cpu_ratio"]},
    )


def describe_pairs(
    works: dict[str, Any], names: tuple[str, str], ratios: Mapping[str, Callable[[dict[str, Any]], float]]
) -> str:
    """A table of two servers, by their names, and of ratios between them."""
    rows = [
        [
            name,
            f"{one['before']['lookups_per_second']:,.0f}",
            f"{one['now']['lookups_per_second']:,.0f}",
            *(f"{ratio(one):.2f}" for ratio in ratios.values()),
            f"{max(one[when]['others'] for when in ('before', 'now')):.0%}",
        ]
        for name, one in works.items()
    ]
    return report.table(["work", f"a second, {names[0]}", names[1], *ratios, "others"], rows)


if __name__ == "__main__":
    sys.exit(main())

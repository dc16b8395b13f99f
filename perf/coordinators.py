"""What several coordinators cost and win: the same work with each number of them, pinned to one core and to two.

    python -m perf.coordinators

`perf.paired` compares one coordinator with another checkout's.

For each set of cores a server for each number of coordinators runs on a data directory of its own, and all take turns
in every round, so that what else the machine does meets all alike; times are compared within a round. Servers and
clients are pinned to the same cores. The work is the waves of a build, large batches, and reports one by one.

What is measured on a few cores is the CPU time of one lookup or report, by kind of process. What more cores make of it
is reckoned, and the assumptions are printed with it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from perf import report, servers
from perf.filling import Picked, fill
from perf.pool import Pool, Run
from perf.reporters import Reports, count_of
from perf.servers import Server
from perf.workload import Workload, WrongAnswerError
from shardhash.base.cores import coordinators_for, workers_for

EVERY = 4
"""Of the trace's waves, so many are left out but one."""
BATCH = 9000
PAPER = (8, 32)
"""Numbers of cores to reckon for."""
ASSUMPTIONS = """\
assumed: clients are on other machines; a coordinator or worker keeps one core busy at most, and has one; each lookup or
report costs them what it did here, on the most cores that were measured, with the most coordinators (with one: with the
fewest); connections and hashes are spread evenly. Left out, which makes it less: the network's and the disk's limits,
caches that cores share, and that a wave meets more workers where there are more. Left out, which makes it more: that
reports share messages and fsyncs the more, the more connections there are to a coordinator."""


def main() -> int:
    """Run it; the exit status is 1 if an answer was wrong."""
    options = _parser().parse_args()
    try:
        with TemporaryDirectory(prefix="shardhash-perf-", dir=options.folder) as folder:
            figures = {**report.setting(), "options": report.plain(options), **measure(options, Path(folder))}
    except (WrongAnswerError, OSError) as error:
        report.clear_progress()
        print(f"perf.coordinators: {error}", file=sys.stderr)
        return 1
    print(describe(figures))
    if options.json:
        report.save(options.json, figures)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "perf.coordinators", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--coordinators", type=_numbers, default=[1, 2, 3], help="of each server (default 1,2,3)")
    parser.add_argument("--cores", type=_numbers, default=[1, 2], help="pinned to so many (default 1,2)")
    parser.add_argument("--workers", type=int, default=2, help="workers of each server (default 2)")
    parser.add_argument("--mappings", type=int, default=100_000, help="that the servers know (default 100000)")
    parser.add_argument("--builders", type=int, default=40, help="connections (default 40)")
    parser.add_argument("--processes", type=int, default=2, help="client processes (default 2)")
    parser.add_argument("--reports", type=int, default=200, help="of each connection in a round (default 200)")
    parser.add_argument("--rounds", type=int, default=9, help="measured rounds; medians are shown (default 9)")
    parser.add_argument("--sync", default="always", help="as of shardhash serve (default always)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where the data is (default: TMPDIR)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    return parser


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All of it; the figures by number of cores, kind of work and server."""
    usable = sorted(os.sched_getaffinity(0))
    pinned = [count for count in options.cores if count <= len(usable)]
    if not pinned:
        raise OSError(f"there are {len(usable)} cores here; give --cores fewer")
    figures: dict[str, Any] = {"pinned": {}}
    for count in pinned:
        with pinned_to(usable[:count]), ExitStack() as running:
            started = dict(_servers(options, folder / str(count), running))
            figures["pinned"][str(count)] = {
                kind: _take_turns(options, f"{kind}, cores: {count}", client, work, started, usable[:count])
                for kind, (client, work) in _works(options).items()
            }
    last = figures["pinned"][str(pinned[-1])]
    figures["paper"] = {kind: _reckon(found) for kind, found in last.items()}
    return figures


@contextmanager
def pinned_to(cores: Sequence[int]) -> Iterator[None]:
    """This process, and what it starts, run on these cores alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _servers(options: argparse.Namespace, folder: Path, running: ExitStack) -> Iterator[tuple[str, Server]]:
    for name in map(str, options.coordinators):
        report.progress(f"starting servers, {name}", 0)
        data = folder / name
        data.parent.mkdir(exist_ok=True)
        fill(data, options.workers, options.mappings)
        arguments = ("--sync", options.sync, "--coordinators", name)
        yield name, running.enter_context(servers.shardhash(options.workers, data=data, arguments=arguments))


def _works(options: argparse.Namespace) -> dict[str, tuple[str, Any]]:
    waves = tuple(map(len, Workload().steps()))[::EVERY]
    size = min(BATCH, options.mappings)
    return {
        "waves": ("native", Picked(options.mappings, waves if options.mappings >= BATCH else waves[:20])),
        "batches": ("native", Picked(options.mappings, (size,))),
        "reports": ("report", Reports(options.reports)),
    }


def _take_turns(
    options: argparse.Namespace, title: str, client: str, work: Any, started: dict[str, Server], cores: list[int]
) -> dict[str, Any]:
    """All servers do the same work in every round; the figures of each."""
    runs: dict[str, list[Run]] = {name: [] for name in started}
    with ExitStack() as stack:
        pools = {
            name: stack.enter_context(Pool(server, client, work, options.builders, options.processes))
            for name, server in started.items()
        }
        for pool in pools.values():
            for pid in pool.pids():
                psutil.Process(pid).cpu_affinity(cores)
        for number in range(options.rounds + 1):  # the first one, which fills caches, does not count
            report.progress(title, number / (options.rounds + 1))
            for name in list(pools)[:: 1 if number % 2 else -1]:
                runs[name].append(pools[name].run())
    report.clear_progress()
    count = options.builders * count_of(work.steps())
    base = next(iter(runs.values()))[1:]
    return {name: _figures(found[1:], base, count) for name, found in runs.items()}


def _figures(runs: list[Run], base: list[Run], count: int) -> dict[str, Any]:
    """`base`: the runs of the first server, in the same rounds."""
    return {
        **report.summary(runs, count),
        "cpu_us": {role: median(run.cpu[role] for run in runs) / count * 1e6 for role in runs[0].cpu},
        "speed": median(first.seconds / run.seconds for first, run in zip(base, runs, strict=True)),
    }


def _reckon(found: dict[str, Any]) -> dict[str, Any]:
    """How many a second more cores could do of a kind of work, and which processes are the limit."""
    numbers = sorted(found, key=int)
    cost, cost_of_fewest = (found[name]["cpu_us"] for name in (numbers[-1], numbers[0]))
    reckoned = {}
    for cores in PAPER:
        coordinators = coordinators_for(cores)
        workers = workers_for(cores, coordinators)
        rates = {
            "coordinators": coordinators / max(cost["coordinator"], 1e-6) * 1e6,
            "workers": workers / max(cost["workers"], 1e-6) * 1e6,
        }
        limit = min(rates, key=rates.__getitem__)
        reckoned[str(cores)] = {
            "coordinators": coordinators,
            "workers": workers,
            "a_second": rates[limit],
            "limit": limit,
            "one_coordinator": min(1e6 / max(cost_of_fewest["coordinator"], 1e-6), rates["workers"]),
        }
    return reckoned


def describe(figures: dict[str, Any]) -> str:
    """Tables of what was measured and of what is reckoned from it."""
    first, *_ = next(iter(next(iter(figures["pinned"].values())).values()))
    rows = [
        [
            f"{kind}, {cores} core{'s' * (cores != '1')}, K = {name}",
            f"{one['lookups_per_second']:,.0f}",
            f"{one['speed']:.2f}",
            *(f"{one['cpu_us'][role]:.2f}" for role in ("coordinator", "workers", "client")),
            f"{one['others']:.0%}",
        ]
        for cores, works in figures["pinned"].items()
        for kind, found in works.items()
        for name, one in found.items()
    ]
    head = ["work", "a second", f"to K = {first}", "coordinators us", "workers us", "client us", "others"]
    paper = [
        [
            kind,
            cores,
            f"{one['coordinators']} + {one['workers']}",
            f"{one['a_second']:,.0f}",
            one["limit"],
            f"{one['one_coordinator']:,.0f}",
        ]
        for kind, found in figures["paper"].items()
        for cores, one in found.items()
    ]
    reckoned = ["on paper", "cores", "coordinators + workers", "a second", "limit", "with one coordinator"]
    return "\n".join(
        [
            "CPU in us of a lookup or report, by kind of process; others: of the machine's time, what went elsewhere",
            report.table(head, rows),
            "",
            report.table(reckoned, paper),
            ASSUMPTIONS,
        ]
    )


if __name__ == "__main__":
    sys.exit(main())

"""What watching costs: replays of a recorded build with nobody watching, with a page open and a scrape each second,
with searches that never end, and with all of it, one after the other in turns. The p99 of waves may move by a fifth.

    python -m perf.watching                        # waves of 40 builders, 5 rounds of each
    python -m perf.watching --rows 500000          # among so many more rows, which searches walk through
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import Request, urlopen

import numpy as np

from perf import report, seeding, servers
from perf.pool import Pool, Run
from perf.replay import add_workload_options, workload_of
from perf.workload import WrongAnswerError
from shardhash.client import create_async_client

LIMIT = 120.0
"""Seconds that an answer may take."""
AT_ONCE = 1000
MOST_P99 = 1.2
"""By what watching may multiply the p99 of waves."""


def main() -> int:
    """Run it; the exit status is 1 if an answer was wrong."""
    parser = argparse.ArgumentParser(
        "perf.watching", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_workload_options(parser)
    parser.add_argument("--rows", type=int, default=100_000, help="rows besides (default 100000)")
    options = parser.parse_args()
    try:
        figures = measure(options)
    except (WrongAnswerError, OSError) as error:
        report.clear_progress()
        print(f"perf.watching: {error}", file=sys.stderr)
        return 1
    if options.json:
        report.save(options.json, figures)
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure as the options say; the figures by who watches."""
    workload = workload_of(options)
    with servers.shardhash(options.workers, durable=options.durable) as server:
        url = server.addresses["ws"].replace("ws://", "http://")
        asyncio.run(seeding.report(server.addresses["ws"], workload))
        asyncio.run(fill(server.addresses["ws"], options.rows))
        watchers = {
            "nobody": nobody,
            "page and scrapes": page_and_scrapes,
            "searches": searches,
            "all of it": everything,
        }
        runs: dict[str, list[Run]] = {name: [] for name in watchers}
        with Pool(server, "native", workload, options.builders, options.processes) as pool:
            pool.run()
            for number in range(options.rounds):
                for name, watch in watchers.items():
                    report.progress(f"{name}, round {number + 1}/{options.rounds}", 0.0)
                    with watch(url):
                        runs[name].append(pool.run())
        report.clear_progress()
    return {**report.setting(), "options": report.plain(options)} | {
        name: _figures(runs) for name, runs in _shown(runs)
    }


async def fill(address: str, rows: int) -> None:
    """Report so many rows that nobody looks up."""
    async with await create_async_client(address) as client:
        for start in range(0, rows, AT_ONCE):
            await client.report_unihash_batch(
                {"method": "perf.watching", "taskhash": f"{n:064x}", "outhash": f"{n + 2**60:064x}",
                 "unihash": f"{n:064x}", "PN": f"recipe-{n % 500}", "task": "do_compile"}
                for n in range(start, min(rows, start + AT_ONCE))
            )  # fmt: skip


@contextmanager
def nobody(_url: str) -> Iterator[None]:
    """Nobody watches."""
    yield


@contextmanager
def page_and_scrapes(url: str) -> Iterator[None]:
    """A page follows events, and metrics are read each second."""
    with urlopen(url + "/api/events", timeout=LIMIT):
        yield from _repeated(lambda stop: stop.wait(1.0) or _get(url + "/metrics"))


@contextmanager
def searches(url: str) -> Iterator[None]:
    """One search through everything after the other."""
    body = json.dumps({"find": {"where": {"PN": "recipe-1"}, "limit": 100}}).encode()
    request = Request(url + "/api/ask", data=body, headers={"Content-Type": "application/json"})
    yield from _repeated(lambda _: _get(request))


@contextmanager
def everything(url: str) -> Iterator[None]:
    """A page, scrapes and searches."""
    with page_and_scrapes(url), searches(url):
        yield


def _repeated(work: Callable[[threading.Event], object]) -> Iterator[None]:
    stop = threading.Event()

    def go_on() -> None:
        while not stop.is_set():
            work(stop)

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _get(what: str | Request) -> bytes:
    with urlopen(what, timeout=LIMIT) as answer:
        text: bytes = answer.read()
        return text


def _shown(runs: dict[str, list[Run]]) -> Iterator[tuple[str, list[Run]]]:
    plain = _figures(runs["nobody"])
    for name, of in runs.items():
        found = _figures(of)
        ratios = {key: found[key] / plain[key] for key in found}
        verdict = "" if ratios["p99_ms"] <= MOST_P99 else f"; p99 moves by more than x {MOST_P99}"
        print(f"{name:<17}" + ", ".join(f"{key} {found[key]:.2f} (x {ratios[key]:.3f})" for key in found) + verdict)
        yield name, of


def _figures(runs: list[Run]) -> dict[str, float]:
    """Medians over the rounds, milliseconds."""
    steps = [np.percentile(run.steps, [50, 99]) * 1000 for run in runs]
    cpu = [1000 * (run.cpu["coordinator"] + run.cpu["workers"]) for run in runs]
    return {
        "p50_ms": float(statistics.median(step[0] for step in steps)),
        "p99_ms": float(statistics.median(step[1] for step in steps)),
        "cpu_ms": statistics.median(cpu),
        "wall_ms": statistics.median(1000 * run.seconds for run in runs),
    }


if __name__ == "__main__":
    sys.exit(main())

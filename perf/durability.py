"""What it costs to keep everything on disk: reports a second, memory, snapshots under load, recovery.

    python -m perf.durability --reports 1000000

40 reporters report, each the next task when the last is acknowledged, to a server for each way to sync; then the next
batch of 100 tasks. Another one, which syncs always as is the default, is told all the reports; a snapshot is taken of
it while builders replay the waves of a build; then it is killed, started again from snapshot and log, and asked for
every single report.
Connecting and seeding are not part of any time; every acknowledgement and every answer is checked.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from perf import report, seeding, servers
from perf.pool import Pool, Run
from perf.reporters import BATCH, BatchedReports, Reported, Reports
from perf.servers import Server
from perf.workload import Workload, WrongAnswerError

FSYNCS = 200
RATE_ROUNDS = 5
RATE_SHARE = 10
"""One part of so many of the reports is made in the rounds whose rate is measured."""


def main() -> int:
    """Run it; the exit status is 1 if an answer was wrong."""
    options = _parser().parse_args()
    try:
        with TemporaryDirectory(prefix="shardhash-perf-", dir=options.folder) as folder:
            figures = measure(options, Path(folder))
    except (WrongAnswerError, OSError) as error:
        report.clear_progress()
        print(f"perf.durability: {error}", file=sys.stderr)
        return 1
    _show(figures)
    if options.json:
        report.save(options.json, figures)
    return 0


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All of it, in a folder; the figures."""
    figures: dict[str, Any] = {**report.setting(), "options": report.plain(options)}
    figures["fsync_ms"] = _lone_fsync(folder / "fsync")
    modes = ("off", "interval", "always")
    rates = {mode: _rate(options, folder / mode, mode) for mode in modes}
    rates |= {f"{mode}, batches": _rate(options, folder / f"{mode}-batches", mode, batched=True) for mode in modes}
    if reference := servers.reference():
        with reference:
            rates["reference"] = _report(reference, options)
    started = time.perf_counter()
    data = folder / "held"
    with servers.shardhash(options.workers, data=data) as server:
        figures["empty_start_seconds"] = time.perf_counter() - started
        before = server.memory()
        held = _hold(server, options)
        after = server.memory()
        figures["bytes_a_report"] = {role: (after[role] - before[role]) * 2**20 / held for role in after}
        figures["snapshot"] = _snapshot(server, options, data)
        server.kill()
    figures["reports"] = rates
    figures["recovery"] = _recover(options, data, held, figures["empty_start_seconds"])
    return figures


def _lone_fsync(path: Path) -> float:
    """Milliseconds that one fsync takes behind a write of a report's size, as the median of many."""
    times = []
    with path.open("ab", buffering=0) as file:
        for _ in range(FSYNCS):
            file.write(bytes(300))
            start = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - start)
    return median(times) * 1000


def _rate(options: argparse.Namespace, data: Path, mode: str, *, batched: bool = False) -> dict[str, Any]:
    with servers.shardhash(options.workers, data=data, arguments=("--sync", mode)) as server:
        return _report(server, options, batched=batched)


def _report(server: Server, options: argparse.Namespace, *, batched: bool = False) -> dict[str, Any]:
    """Report in rounds; the median, and how long an acknowledgement took."""
    each = options.reports // RATE_SHARE // RATE_ROUNDS // options.reporters
    workload = BatchedReports(max(1, each // BATCH)) if batched else Reports(max(1, each))
    with Pool(server, _kind(workload), workload, options.reporters, options.processes) as pool:
        runs = [_run(pool, f"reporting {number + 1}/{RATE_ROUNDS}") for number in range(RATE_ROUNDS)]
    return _figures(runs, len(workload.steps()) * (BATCH if batched else 1) * options.reporters)


def _kind(workload: Reports | BatchedReports) -> str:
    return "report" if isinstance(workload, Reports) else "report-batch"


def _figures(runs: list[Run], count: int) -> dict[str, Any]:
    found = report.summary(runs, count)
    found["reports_per_second"] = found.pop("lookups_per_second")
    found["reports"] = found.pop("lookups")
    return found


def _hold(server: Server, options: argparse.Namespace) -> int:
    """Report all that the server is to hold; how many they are."""
    workload = _held(options)
    with Pool(server, _kind(workload), workload, options.reporters, options.processes) as pool:
        _run(pool, f"{options.reports:,} reports")
    return workload.batches * BATCH * int(options.reporters)


def _held(options: argparse.Namespace) -> BatchedReports:
    return BatchedReports(max(1, options.reports // options.reporters // BATCH))


def _snapshot(server: Server, options: argparse.Namespace, data: Path) -> dict[str, Any]:
    """Builders replay waves, without a snapshot and while one is written; the waves' times and the memory."""
    workload = Workload()
    asyncio.run(seeding.report(server.addresses["ws"], workload))
    with Pool(server, "native", workload, options.builders, options.processes) as pool:
        quiet = [_run(pool, "lookups, no snapshot") for _ in range(options.rounds + 1)][1:]
        before = server.memory()
        server.forget_peak()
        started = time.perf_counter()
        command = [sys.executable, "-m", "shardhash", "snapshot", "--data", str(data)]
        snapshot = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        busy: list[Run] = []
        while snapshot.poll() is None:
            busy.append(_run(pool, "lookups, snapshot"))
        seconds = time.perf_counter() - started
        if snapshot.returncode or not busy:
            raise OSError("the snapshot was not written, or was written before the builders began")
        peak = server.peak()
    return {
        "seconds_at_most": seconds,
        "builders": options.builders,
        "without_ms": _percentiles(quiet),
        "during_ms": _percentiles(busy),
        "others": {
            "without": median(run.others for run in quiet),
            "during": median(run.others for run in busy),
        },
        "memory_peak_ratio": {role: peak[role] / before[role] for role in peak},
    }


def _percentiles(runs: list[Run]) -> dict[str, float]:
    steps = np.concatenate([run.steps for run in runs]) * 1000
    return {f"p{part}": float(np.percentile(steps, part)) for part in (50, 99, 100)}


def _recover(options: argparse.Namespace, data: Path, held: int, empty: float) -> dict[str, Any]:
    """Start again after a kill, and ask for every report; then once more after an orderly stop."""
    killed, server = _timed(lambda: servers.shardhash(options.workers, data=data))
    with server:
        _ask_all(server, options)
    clean, server = _timed(lambda: servers.shardhash(options.workers, data=data))
    with server:
        _ask_all(server, options)
    return {
        "mappings": held,
        "seconds_after_kill": killed,
        "seconds_after_stop": clean,
        "mappings_per_second": held / (clean - empty) if clean > empty else None,
    }


def _timed(start: Callable[[], Server]) -> tuple[float, Server]:
    begun = time.perf_counter()
    server = start()
    return time.perf_counter() - begun, server


def _ask_all(server: Server, options: argparse.Namespace) -> None:
    """Raises WrongAnswerError unless all that was acknowledged is known."""
    with Pool(server, "native", Reported(_held(options), options.reporters), 1, 1) as pool:
        _run(pool, "asking for every report")


def _run(pool: Pool, title: str) -> Run:
    run = pool.run(lambda part: report.progress(title, part))
    report.clear_progress()
    return run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "perf.durability", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reports", type=int, default=1_000_000, help="reports to hold (default 1000000)")
    parser.add_argument("--reporters", type=int, default=40, help="connections that report (default 40)")
    parser.add_argument("--builders", type=int, default=40, help="builders that ask during a snapshot (default 40)")
    parser.add_argument("--processes", type=int, default=2, help="client processes (default 2)")
    parser.add_argument("--workers", type=int, default=2, help="workers of the server (default 2)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of lookups without a snapshot (default 5)")
    parser.add_argument("--folder", type=Path, help="a folder on the disk to measure (default: the system's for /tmp)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    return parser


def _show(figures: dict[str, Any]) -> None:
    options, snapshot, recovery = figures["options"], figures["snapshot"], figures["recovery"]
    fsync = figures["fsync_ms"]
    print(f"{options['reporters']} reporters, each waits for its acknowledgement; a lone fsync {fsync:.2f} ms")
    rows = [
        [
            mode,
            f"{found['reports_per_second']:,.0f}",
            f"{found['step_ms']['p50']:.2f} ms",
            f"{found['step_ms']['p99']:.2f} ms",
            ", ".join(f"{role} {spent:.2f}" for role, spent in found["cpu_seconds"].items()),
        ]
        for mode, found in figures["reports"].items()
    ]
    print(report.table(["sync", "reports/s", "p50 of an answer", "p99", "CPU seconds"], rows))
    print(f"memory of {recovery['mappings']:,} reports: " + _join(figures["bytes_a_report"], "{:.0f} bytes each"))
    print(f"a wave of {snapshot['builders']} builders, no snapshot: " + _join(snapshot["without_ms"], "{:.2f} ms"))
    print("  while a snapshot is written: " + _join(snapshot["during_ms"], "{:.2f} ms"))
    print("  peak memory over that before: " + _join(snapshot["memory_peak_ratio"], "{:.2f}"))
    print(f"start: empty {figures['empty_start_seconds']:.2f} s, killed {recovery['seconds_after_kill']:.2f} s,")
    rate = recovery["mappings_per_second"]
    each = f"{rate:,.0f} mappings/s" if rate else "too quick to tell"
    print(f"  stopped in order {recovery['seconds_after_stop']:.2f} s: {each}; every report was there")


def _join(values: dict[str, float], form: str) -> str:
    return ", ".join(f"{name} {form.format(value)}" for name, value in values.items())


if __name__ == "__main__":
    sys.exit(main())

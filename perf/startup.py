"""How long a server takes from exec to `listening on`: in memory, and with a data directory that is new.

python -m perf.startup
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from perf import report, servers


def main() -> int:
    """Run it; the exit status is 1 if the server did not start."""
    parser = argparse.ArgumentParser(
        "perf.startup", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="starts of each kind; medians are shown (default 7)")
    parser.add_argument("--workers", type=int, default=2, help="workers of the server (default 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    try:
        figures = {**report.setting(), "options": report.plain(options), **measure(options.workers, options.rounds)}
    except RuntimeError as error:
        print(f"perf.startup: {error}", file=sys.stderr)
        return 1
    for kind in ("memory", "data"):
        found = figures[kind]
        print(f"--{kind}: listening after {found['seconds']:.3f} s, {min(found['all_seconds']):.3f} s at best")
    if options.json:
        report.save(options.json, figures)
    return 0


def measure(workers: int, rounds: int) -> dict[str, Any]:
    """Seconds by kind of start, which take turns."""
    seconds: dict[str, list[float]] = {"memory": [], "data": []}
    with TemporaryDirectory(prefix="shardhash-perf-") as folder:
        for number in range(rounds):
            report.progress(f"start {number + 1}/{rounds}", number / rounds)
            seconds["memory"].append(_start(workers, ["--memory"]))
            seconds["data"].append(_start(workers, ["--data", f"{folder}/{number}"]))
    report.clear_progress()
    return {kind: {"seconds": median(each), "all_seconds": each} for kind, each in seconds.items()}


def _start(workers: int, place: list[str]) -> float:
    command = [sys.executable, "-m", "shardhash", "serve", *place, "--workers", str(workers), "--log", "WARNING"]
    command += ["--bind", "ws://127.0.0.1:0"]
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=servers.ROOT, stdout=subprocess.PIPE, text=True, env=servers.environment())
    try:
        line = process.stdout.readline() if process.stdout else ""
        seconds = time.perf_counter() - begun
    finally:
        servers.stop(process)
    if not line.startswith("listening on "):
        raise RuntimeError(f"shardhash did not start: it said {line!r}")
    return seconds


if __name__ == "__main__":
    sys.exit(main())

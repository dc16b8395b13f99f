"""Reports beside the least server that can be written in Python (least_server.py): how much of what is possible we do.

    python -m perf.least

Builders report one by one, over raw TCP, to each server in turns, synced always and by interval. What they and the
server of one process cost is what no server in Python on this machine gets below. By interval it never syncs, which
shardhash does beside its answers.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from perf import servers
from perf.paired import add_options, describe_pairs, run_works, take_turns
from perf.reporters import Reports


def main() -> int:
    """Run it; the exit status is 1 if an answer was wrong."""
    return run_works(_parser(), measure, describe)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "perf.least", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=1, help="workers of shardhash (default 1)")
    add_options(parser, reports=500, rounds=9)
    return parser


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The figures of each way to sync: "before" is the least server, "now" shardhash."""
    figures: dict[str, Any] = {}
    for sync in ("always", "interval"):
        with ExitStack() as running:
            least = running.enter_context(servers.least(folder / f"{sync}.log", sync))
            data = folder / sync
            ours = running.enter_context(servers.shardhash(options.workers, data=data, arguments=("--sync", sync)))
            name = f"reports, sync {sync}"
            figures[name] = take_turns(options, name, "report", Reports(options.reports), [least, ours])
    return figures


def describe(works: dict[str, Any]) -> str:
    """A table."""
    return describe_pairs(works, ("least server", "shardhash"), {"part": lambda one: 1 / one["time_ratio"]})


if __name__ == "__main__":
    sys.exit(main())

"""Reports beside the least server that can be written in Python (least_server.py): how much of what is possible we do.

    python -m perf.least

Builders report one by one, over raw TCP, to each server in turns, synced always and by interval. What they and the
server of one process cost is what no server in Python on this machine gets below.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from perf import report, servers
from perf.paired import take_turns
from perf.reporters import Reports
from perf.workload import WrongAnswerError


def main() -> int:
    """Run it; the exit status is 1 if an answer was wrong."""
    options = _parser().parse_args()
    try:
        with TemporaryDirectory(prefix="shardhash-perf-", dir=options.folder) as folder:
            figures = {**report.setting(), "options": report.plain(options), "works": measure(options, Path(folder))}
    except (WrongAnswerError, OSError, RuntimeError) as error:
        report.clear_progress()
        print(f"perf.least: {error}", file=sys.stderr)
        return 1
    print(describe(figures["works"]))
    if options.json:
        report.save(options.json, figures)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "perf.least", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reports", type=int, default=500, help="of each connection in a round (default 500)")
    parser.add_argument("--builders", type=int, default=40, help="connections (default 40)")
    parser.add_argument("--processes", type=int, default=2, help="client processes (default 2)")
    parser.add_argument("--workers", type=int, default=1, help="workers of shardhash (default 1)")
    parser.add_argument("--rounds", type=int, default=9, help="measured rounds; medians are shown (default 9)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where the data is (default: TMPDIR)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
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
    rows = [
        [
            name,
            f"{one['before']['lookups_per_second']:,.0f}",
            f"{one['now']['lookups_per_second']:,.0f}",
            f"{1 / one['time_ratio']:.2f}",
            f"{max(one[when]['others'] for when in ('before', 'now')):.0%}",
        ]
        for name, one in works.items()
    ]
    return report.table(["work", "a second, least server", "shardhash", "part", "others"], rows)


if __name__ == "__main__":
    sys.exit(main())

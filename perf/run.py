"""All figures in one go: measured side by side, kept as JSON, and shown on a page with plots.

    perf/run                     # under ten minutes on 2 quiet cores
    perf/run --quick             # a trial of seconds, whose figures mean nothing
    perf/run --most 1000000      # where memory is scarce

It writes perf/results/NAME.json, NAME.md and NAME-*.png. Redis runs beside where redis-server is installed, the
reference server where BITBAKE_DIR names a checkout of BitBake, stock clients where the package of BitBake's is.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from perf import page, report, shapes
from perf.scale import MAPPINGS
from perf.workload import WrongAnswerError

RESULTS = Path(__file__).parent / "results"
LONG = 0.1
"""Seconds of a measurement during which ticks of 10 ms tell what others took."""

PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "block9000": lambda options: shapes.blocks(options, 9000),
    "block1000": lambda options: shapes.blocks(options, 1000),
    "waves": shapes.waves,
    "small": shapes.small,
    "reports": shapes.reports,
    "startup": shapes.starts,
    "scale": shapes.growth,
}


def main() -> int:
    """Run it; the exit status is 1 if an answer was wrong."""
    options = _options()
    figures = {**report.setting(), "options": report.plain(options)}
    begun = time.perf_counter()
    try:
        for number, (part, measure) in enumerate(PARTS.items(), 1):
            print(f"{time.perf_counter() - begun:4.0f} s  {number}/{len(PARTS)} {part}", file=sys.stderr, flush=True)
            figures[part] = measure(options)
    except (WrongAnswerError, OSError, RuntimeError) as error:
        report.clear_progress()
        print(f"perf.run: {error}", file=sys.stderr)
        return 1
    figures["took_seconds"] = time.perf_counter() - begun
    figures["others"] = max(_others(figures), default=0.0)
    _write(figures, options.folder, options.name)
    print(report.table(["figure", "target", "measured", ""], page.cells(figures)))
    print(f"\n{options.folder / options.name}.md has all of it; it took {figures['took_seconds']:.0f} s")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "perf.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", default=datetime.now(UTC).strftime("%Y-%m-%d"), help="of the files (default: date)")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where they go (default perf/results)")
    parser.add_argument("--quick", action="store_true", help="few lookups and one round: whether all works")
    parser.add_argument("--most", type=int, default=MAPPINGS[-1], help="mappings at most (default 10000000)")
    parser.add_argument("--builders", type=int, default=40, help="connections that ask at once (default 40)")
    parser.add_argument("--processes", type=int, default=2, help="client processes (default 2)")
    parser.add_argument("--workers", type=int, default=2, help="workers of the server (default 2)")
    parser.add_argument("--rounds", type=int, default=5, help="measured runs; medians are shown (default 5)")
    options = parser.parse_args()
    if find_spec("matplotlib") is None:
        parser.error("the plots need matplotlib: pip install '.[perf]'")
    if options.quick:
        options.builders, options.rounds, options.processes = min(options.builders, 3), 1, 1
    return options


def _write(figures: dict[str, Any], folder: Path, name: str) -> None:
    from perf import plots  # matplotlib takes its time, which the processes of builders need not

    report.save(folder / f"{name}.json", figures)
    drawn = plots.draw(figures, folder, name)
    (folder / f"{name}.md").write_text(page.page(figures, drawn), encoding="utf-8")


def _others(value: Any) -> Iterator[float]:
    """The part of the CPU that went elsewhere, of each measurement that is long enough for the machine's clock."""
    if isinstance(value, dict):
        if value.get("seconds", 0) >= LONG and "others" in value:
            yield value["others"]
        for inner in value.values():
            yield from _others(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _others(inner)


if __name__ == "__main__":
    sys.exit(main())

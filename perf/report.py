"""How figures are shown and kept: progress, tables, and JSON that says on what machine and by what command."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from perf.pool import Run
from shardhash import __version__

_PACKAGES = ("aiohttp", "hiredis", "numpy", "orjson", "redis", "uvloop", "websockets")
DISTRIBUTION = (1, 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 85, 90, 95, 97, 98, 99, 99.5, 99.9, 100)
"""Percentiles of the steps' times that are kept, for plots."""
_WIDTH = 30
_SPARSE = 10.0
"""Seconds between two lines about progress where there is no terminal."""
_said = [time.monotonic()]
"""When the last such line was written; the first one is due after as long."""


def progress(text: str, part: float) -> None:
    """Draw a bar for the part, 0 to 1, that is done; where there is no terminal, a line now and then."""
    if sys.stderr.isatty():
        done = round(part * _WIDTH)
        print(f"\r{text} [{'#' * done}{'.' * (_WIDTH - done)}] {part:4.0%} ", end="", file=sys.stderr, flush=True)
    elif time.monotonic() - _said[0] >= _SPARSE:
        _said[0] = time.monotonic()
        print(f"{text} {part:.0%}", file=sys.stderr, flush=True)


def clear_progress() -> None:
    """Wipe the bar away."""
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def summary(runs: Sequence[Run], lookups: int) -> dict[str, Any]:
    """Medians over the runs; the percentiles of steps are over all runs, in ms."""
    steps = np.concatenate([run.steps for run in runs]) * 1000
    seconds = median(run.seconds for run in runs)
    return {
        "lookups": lookups,
        "seconds": seconds,
        "lookups_per_second": lookups / seconds,
        "all_seconds": [run.seconds for run in runs],
        "step_ms": {
            "p50": float(np.percentile(steps, 50)),
            "p99": float(np.percentile(steps, 99)),
            "max": float(steps.max()),
        },
        "distribution_ms": {str(part): float(np.percentile(steps, part)) for part in DISTRIBUTION},
        "others": median(run.others for run in runs),
        "cpu_seconds": {role: median(run.cpu[role] for run in runs) for role in runs[0].cpu},
    }


def setting() -> dict[str, Any]:
    """Where and how this was measured."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", _module(), *sys.argv[1:]]),
        "commit": _commit(),
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "kernel": platform.release(),
            "load_before": os.getloadavg()[0],
        },
        "versions": {"shardhash": __version__, "python": platform.python_version()} | _versions(),
    }


def plain(options: Namespace) -> dict[str, Any]:
    """Options as JSON takes them; a path by its name alone, for it is of this machine."""
    return {name: value.name if isinstance(value, Path) else value for name, value in vars(options).items()}


def save(path: Path, figures: dict[str, Any]) -> None:
    """Write figures as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row in (head, ["-" * width for width in widths], *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def _module() -> str:
    return f"perf.{Path(sys.argv[0]).stem}"


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        return subprocess.check_output(command, cwd=Path(__file__).parent, text=True, stderr=subprocess.DEVNULL).strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found

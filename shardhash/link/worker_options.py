"""Worker options: what the server tells every worker on its command line, and the defaults.

`WorkerOptions.arguments` writes a command line and `parse_options` reads it: one flag a field.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

SYNC = "always"
SYNC_INTERVAL = 1.0
SNAPSHOT_INTERVAL = 3600.0
SNAPSHOT_BYTES = 256 << 20
KEEP_SNAPSHOTS = 2

_READ: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "str": str, "Path | None": Path}
"""How the text of a flag is read, by the type of its field."""


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What all workers of a server are told. Times are seconds; `data` None keeps everything in memory."""

    shards: int
    data: Path | None = None
    generation: int = 1
    sync: str = SYNC
    """When reports are on the disk: always (before they are acknowledged), interval or off."""
    sync_interval: float = SYNC_INTERVAL
    snapshot_interval: float = SNAPSHOT_INTERVAL
    snapshot_bytes: int = SNAPSHOT_BYTES
    """A snapshot is also written when the log has grown by this much."""
    keep_snapshots: int = KEEP_SNAPSHOTS

    def arguments(self) -> list[str]:
        """The command line that says this, without the shard."""
        told = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return [part for name, value in told if value is not None for part in (_flag(name), str(value))]


@dataclass(frozen=True, slots=True)
class WorkerPlace:
    """What one worker is told: its shard, and the descriptor of the socket on which it serves the link."""

    shard: int
    listen_fd: int


def parse_options(arguments: Sequence[str] | None = None) -> tuple[WorkerPlace, WorkerOptions]:
    """The options on a worker's command line, by default those of this process."""
    parser = argparse.ArgumentParser(prog="shardhash-worker", description="One shard; started by `shardhash serve`.")
    for kind in (WorkerPlace, WorkerOptions):
        for field in fields(kind):
            missing = field.default is MISSING
            parser.add_argument(
                _flag(field.name),
                type=_READ[str(field.type)],
                required=missing,
                default=None if missing else field.default,
            )
    told = vars(parser.parse_args(arguments))
    place = WorkerPlace(told.pop("shard"), told.pop("listen_fd"))
    return place, WorkerOptions(**told)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")

"""The clock of a report log: it never goes back, so that the records before a moment are the first ones of the log.

A machine's clock may be set back while a worker runs, or between two runs. The log then goes on from its last record at
the pace of the monotonic clock, until the machine's clock has caught up. It begins behind the last record of any shard,
so that no shard's log lags behind the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from shardhash.shard.storage.filesystem import FileSystem
from shardhash.shard.storage.layout import SHARD, list_shard, segment_path
from shardhash.shard.storage.log import last_time


class LogClock:
    """Microseconds since 1970 UTC, from `wall`, but always more than `last`, and never less than before."""

    def __init__(
        self, last: int, wall: Callable[[], int], monotonic: Callable[[], int] = lambda: time.monotonic_ns() // 1000
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._last = last + 1
        self._at = monotonic()

    def now(self) -> int:
        """The present time."""
        at = self._monotonic()
        self._last = max(self._wall(), self._last + at - self._at)
        self._at = at
        return self._last


def latest_of_all(fs: FileSystem, folder: Path) -> int:
    """The time of the last record of all shards of the generation in which this one's folder is; 0 without any.

    Beside them others may write; only the ends of their logs are read.
    """
    latest = 0
    for name in fs.listdir(folder.parent):
        if SHARD.fullmatch(name):
            for number in reversed(list_shard(fs, folder.parent / name).segments):
                found = last_time(fs, segment_path(folder.parent / name, number))
                latest = max(latest, found)
                if found:
                    break
    return latest

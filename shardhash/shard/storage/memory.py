"""A shard in memory alone, for servers that keep nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence

from shardhash.errors import StorageError
from shardhash.shard.state.asked_days import day_of
from shardhash.shard.state.records import Record
from shardhash.shard.state.table import Table
from shardhash.shard.storage.siginfo import LEVEL, MOST_TEXT, compress, unpack_siginfo
from shardhash.shard.storage.snapshot_job import SnapshotJob
from shardhash.wire.long_text import Text


class MemoryShard:
    """A shard without files: all is lost at the end."""

    durable = False
    log_bytes = 0
    ready = has_log = True
    snapshot_time = 0

    def __init__(self) -> None:
        self.table = Table()
        self.table.asked_from = day_of(time.time_ns() // 1000)
        self._siginfo: list[bytes] = []

    def make_ready(self) -> None:
        """It always is."""

    def refuse_texts(self, error: StorageError | None) -> None:
        """No disk refuses any."""

    def append(self, records: Sequence[Record]) -> None:
        """Nothing is kept."""

    def sync(self) -> None:
        """Nothing is durable."""

    def put_siginfo(self, text: Text) -> int:
        """Keep a text, compressed."""
        return self.put_packed_siginfo(self.pack_siginfo(text))

    def pack_siginfo(self, text: Text) -> bytes:
        """See Shard."""
        return compress(text, LEVEL)

    def put_packed_siginfo(self, packed: bytes) -> int:
        """See Shard."""
        self._siginfo.append(packed)
        return len(self._siginfo)

    def get_siginfo(self, reference: int, most: int = MOST_TEXT) -> str | None:
        """The text of a reference; None for 0, and for one of more than `most` bytes."""
        return unpack_siginfo(self._siginfo[reference - 1], most) if reference else None

    def get_packed_siginfo(self, reference: int) -> bytes | None:
        """See Shard."""
        return self._siginfo[reference - 1] if reference else None

    def damaged_siginfo(self, reference: int) -> StorageError:
        """The error for a text that cannot be unpacked, which memory does not cause."""
        return StorageError(f"the outhash_siginfo {reference} cannot be unpacked")

    def begin_snapshot(self) -> SnapshotJob:
        """There is nowhere to write one."""
        raise StorageError("the server keeps everything in memory (--memory); there is nothing to snapshot")

    def close(self) -> None:
        """Nothing is open."""

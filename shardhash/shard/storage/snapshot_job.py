"""A snapshot under way: written chunk by chunk while the shard goes on; then what it replaces goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

from shardhash.errors import DamageError, StorageError
from shardhash.shard.state.table import Table
from shardhash.shard.storage import snapshot, snapshot_chunks
from shardhash.shard.storage.filesystem import FileSystem
from shardhash.shard.storage.layout import list_shard, segment_path, siginfo_path, snapshot_path
from shardhash.shard.storage.snapshot import SnapshotHead, SnapshotWriter

_END: Final = object()


class SnapshotJob(Protocol):
    """A snapshot under way: `step` in the event loop until it is False, `seal` beside it the same; else `abandon`."""

    def step(self) -> bool:
        """Write a chunk, or do what it takes to get at one; False when that was all. Raises StorageError."""

    def seal(self) -> bool:
        """A bit of it: make it durable, read it back, let go of what kept snapshots do not need; False when that was
        all. Raises StorageError."""

    def abandon(self) -> None:
        """Remove what there is of it."""


class FileSnapshot:
    """A SnapshotJob that writes files. `clock` gives microseconds since 1970 UTC; `sealed` is told once it counts."""

    def __init__(
        self,
        fs: FileSystem,
        folder: Path,
        table: Table,
        head: SnapshotHead,
        keep: int,
        clock: Callable[[], int],
        sealed: Callable[[SnapshotHead], None],
    ) -> None:
        self._head = head
        self._sealed = sealed
        self._fs = fs
        self._folder = folder
        self._keep = keep
        self._clock = clock
        self._writer = SnapshotWriter(fs, folder, head)
        self._chunks = snapshot_chunks.freeze(table)
        self._sealing = self._seal()

    def step(self) -> bool:
        """See SnapshotJob."""
        chunk = next(self._chunks, None)
        if chunk:
            self._writer.add(chunk)
        return chunk is not None

    def seal(self) -> bool:
        """See SnapshotJob."""
        return next(self._sealing, _END) is not _END

    def _seal(self) -> Iterator[None]:
        yield from self._writer.sealing(self._clock())
        self._sealed(self._head)
        try:
            remove_old(self._fs, self._folder, self._keep)
        except (OSError, DamageError) as error:
            raise StorageError(f"what the new snapshot replaces cannot be removed: {error}") from error

    def abandon(self) -> None:
        """See SnapshotJob."""
        self._chunks.close()  # writes would wait for a copy of keys that is under way
        self._writer.drop()


def remove_old(fs: FileSystem, folder: Path, keep: int) -> None:
    """Remove snapshots but for the newest `keep`, then the segments and siginfo files that none of them needs.

    With fewer snapshots all stays: the log from its beginning on is then what a damaged snapshot falls back to.
    """
    listing = list_shard(fs, folder)
    old, kept = listing.snapshots[:-keep], listing.snapshots[-keep:]
    if len(kept) < keep:
        return
    for number in old:
        fs.unlink(snapshot_path(folder, number))
    if old:
        fs.fsync_dir(folder)  # a snapshot must not come back without its segments
    for number in listing.segments:
        if number < kept[0]:
            fs.unlink(segment_path(folder, number))
    if listing.siginfos:
        # What rows referred to when a kept snapshot was made, and what was written since the oldest of these.
        used = {file for number in kept for file in snapshot.read_end(fs, snapshot_path(folder, number)).siginfo_files}
        since = snapshot.read_head(fs, snapshot_path(folder, kept[0])).siginfo - 1
        for number in listing.siginfos:
            if number < since and number not in used:
                fs.unlink(siginfo_path(folder, number))
    fs.fsync_dir(folder)

"""Recovery: from the files of a shard to its table, and the shard that goes on from there.

1. Files that were never finished (``.tmp``) go.
2. The newest snapshot that verifies is loaded. One that does not is said, set aside, and the one before it serves.
   Without any, the log must begin at segment 1. Only that of a shard that was begun with nothing does; one that
   started from a snapshot (a reshard, restore, repair or load) begins with segment 2: that its snapshot is missing is
   seen.
3. The segments from there on are replayed. They must follow each other without a gap; only the newest that holds
   anything may have a torn tail, which is cut off and said.
4. What was read is made durable: a process that was killed may have left it in the page cache alone. It is written
   once more, since after an fsync that failed the next one would do nothing and say that all is well.
5. A new segment begins, or the newest is resumed when it holds no record. So every older one is known to be whole.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

import orjson

from shardhash.errors import DamageError, StorageError
from shardhash.shard.state.records import Record
from shardhash.shard.state.table import Table
from shardhash.shard.storage import snapshot, snapshot_chunks
from shardhash.shard.storage.filesystem import FileSystem
from shardhash.shard.storage.layout import DAMAGED, Listing, list_shard, segment_path, siginfo_path, snapshot_path
from shardhash.shard.storage.log import HINT, LogWriter, Tail, read_segment
from shardhash.shard.storage.siginfo import SiginfoFiles
from shardhash.shard.storage.snapshot import SnapshotHead, SnapshotWriter

SEGMENT_SIZE = 64 << 20
"""Bytes after which a segment of the log rotates."""
EMPTY_SEGMENT = 20
"""Bytes of a segment that holds nothing yet."""
BASE_SEGMENT = 2
"""The first segment, and the number of the first snapshot, of a shard that starts from a snapshot."""

Progress: TypeAlias = Callable[[str], None]
"""Told in words for people what is going on."""


def ignore_progress(_text: str) -> None:
    """Tell nobody."""


def now() -> int:
    """Microseconds since 1970 UTC."""
    return time.time_ns() // 1000


@dataclass(slots=True)
class Recovered:
    """What the files of a shard hold. `tail` is how the newest segment ends.

    `next_segment` and `next_number` are where the log goes on; `resume` that this segment is there, without a record;
    `snapshot_time` when the snapshot that was loaded began, microseconds since 1970 UTC, 0 without one;
    `remarks` what people should know.
    """

    table: Table
    next_segment: int
    next_number: int
    resume: bool = False
    tail: Tail = field(default_factory=Tail)
    snapshot_time: int = 0
    bad_snapshots: list[Path] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def recover(fs: FileSystem, folder: Path, progress: Progress = ignore_progress, until: int | None = None) -> Recovered:
    """Read a shard's files, and change nothing. Raises DamageError.

    `until`: a time in microseconds; the state is then that after the last record before it, if snapshots and segments
    that old are still kept.
    """
    if not fs.exists(folder):
        raise DamageError(folder, 0, "the folder of this shard is missing", HINT)
    listing = list_shard(fs, folder)
    segments = listing.segments
    if not segments:
        raise DamageError(segment_path(folder, 1), 0, "the log of this shard is missing", HINT)
    found = Recovered(Table(), segments[-1] + 1, 1)
    start = _load_snapshot(fs, folder, listing, found, progress, until)
    wanted = [number for number in segments if number >= start]
    for number in range(start, max(segments[-1], start) + 1):
        if number not in wanted:
            raise DamageError(segment_path(folder, number), 0, "this segment of the log is missing", HINT)
    for number in wanted:
        _replay(fs, folder, number, found, newest=number == wanted[-1], until=until)
        progress(f"replayed segment {number} of {wanted[-1]}; {found.table.counts()['mappings']:,} mappings")
    return found


def _load_snapshot(
    fs: FileSystem,
    folder: Path,
    listing: Listing,
    found: Recovered,
    progress: Progress,
    until: int | None,
) -> int:
    """Load the newest sound snapshot; the first segment to replay."""
    snapshots = listing.snapshots
    for number in reversed(snapshots):
        path = snapshot_path(folder, number)
        table = Table()
        try:
            head = snapshot.read_head(fs, path)
            if until is not None and snapshot.read_end(fs, path).time > until:
                continue
            for count, chunk in enumerate(snapshot.read_snapshot(fs, path), 1):
                snapshot_chunks.load(table, chunk)
                if count % 500 == 0:
                    progress(f"loading snapshot {number}; {table.counts()['mappings']:,} mappings")
        except (DamageError, KeyError, ValueError, IndexError) as error:
            found.bad_snapshots.append(path)
            found.remarks.append(f"snapshot {number} does not verify ({error}); going back to the one before")
            progress(found.remarks[-1])
            continue
        found.table, found.next_number, found.snapshot_time = table, head.number, head.time
        progress(f"loaded snapshot {number}: {table.counts()['mappings']:,} mappings")
        return head.segment
    if log_is_all(listing):
        return 1
    if snapshots:
        what = "no older snapshot is kept" if until is not None else "no snapshot verifies"
        raise DamageError(snapshot_path(folder, snapshots[-1]), 0, f"{what}, and the log before it is gone", HINT)
    path = snapshot_path(folder, listing.segments[0])
    raise DamageError(path, 0, "this snapshot, with which the shard begins, is missing", HINT)


def log_is_all(listing: Listing) -> bool:
    """Whether the log of a shard tells all from its beginning on.

    With a snapshot 1 it does not: shards that start from a snapshot once began with that, and segment 1.
    """
    return listing.segments[:1] == [1] and listing.snapshots[:1] != [1]


def _replay(fs: FileSystem, folder: Path, number: int, found: Recovered, *, newest: bool, until: int | None) -> None:
    path = segment_path(folder, number)
    tail = Tail()
    for entry in read_segment(fs, path, found.next_number, newest=newest, tail=tail):
        found.next_number = entry.number + 1
        if until is None or entry.time <= until:
            try:
                found.table.apply(orjson.loads(entry.payload))
            except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, IndexError) as error:
                what = f"record {entry.number} is sound but says nothing that can be applied: {error!r}"
                raise DamageError(path, entry.end - len(entry.payload), what, HINT) from None
    if newest and tail.end <= EMPTY_SEGMENT:
        found.next_segment = number
        found.resume = tail.end == EMPTY_SEGMENT  # else not even its header was durable: it is begun anew
    if newest:
        found.tail = tail
    if tail.torn:
        found.remarks.append(
            f"{path}: a write did not finish, its {tail.torn} bytes behind byte {tail.end} are cut off"
        )


class SnapshotJob(Protocol):
    """A snapshot under way: `step` in the event loop until it is False, then `seal` beside it; or `abandon`."""

    def step(self) -> bool:
        """Write one chunk; False when that was all. Raises StorageError."""

    def seal(self) -> None:
        """Make it durable, read it back, let go of what kept snapshots do not need. Raises StorageError."""

    def abandon(self) -> None:
        """Remove what there is of it."""


class Shard:
    """One partition: its table, and the files that make it durable.

    `append`, `sync`, then apply to the table, in this order. `sync` may run beside the event loop, but not beside
    `append`, `put_siginfo` or `begin_snapshot`.
    """

    durable = True

    def __init__(
        self, fs: FileSystem, folder: Path, found: Recovered, *, segment_size: int, keep_snapshots: int
    ) -> None:
        self.table = found.table
        self.snapshot_time = found.snapshot_time
        """When the newest snapshot began, microseconds since 1970 UTC; 0 without one."""
        self._fs = fs
        self._folder = folder
        self._keep_snapshots = keep_snapshots
        self._siginfo = SiginfoFiles(fs, folder)
        self._log = LogWriter(fs, folder, found.next_segment, found.next_number, segment_size, resume=found.resume)
        self._bytes_at_snapshot = 0
        self._snapshot: _FileSnapshot | None = None

    @property
    def log_bytes(self) -> int:
        """Bytes of log since the last snapshot of this process."""
        return self._log.bytes_written - self._bytes_at_snapshot

    @property
    def texts_waiting(self) -> bool:
        """Whether siginfo texts wait for `sync_texts`."""
        return self._siginfo.dirty

    def sync_texts(self) -> None:
        """Make the siginfo texts durable; may run beside the event loop, as `sync` may. SyncError is final."""
        self._siginfo.sync()

    def append(self, records: Sequence[Record]) -> None:
        """Write records, all or none, durable after `sync`. StorageError: none; SyncError: final."""
        self._siginfo.sync()  # a text before the record that refers to it, if the caller has not seen to it
        self._log.append([orjson.dumps(record) for record in records], now())

    def sync(self) -> None:
        """Make what was appended durable. SyncError is final."""
        self._log.sync()

    def put_siginfo(self, text: str) -> int:
        """Store a text; the reference for its row. Raises StorageError."""
        return self._siginfo.put(text)

    def get_siginfo(self, reference: int) -> str | None:
        """The text of a reference; None for 0. Raises DamageError."""
        return self._siginfo.get(reference)

    def begin_snapshot(self) -> SnapshotJob:
        """Begin a snapshot in a new segment; one that nobody went on with is dropped. Raises StorageError."""
        if self._snapshot is not None:
            self._snapshot.abandon()
        self._log.rotate()
        self._bytes_at_snapshot = self._log.bytes_written
        head = SnapshotHead(self._log.segment, self._log.number, now(), self._siginfo.next_number)
        self._snapshot = _FileSnapshot(self._fs, self._folder, self.table, head, self._keep_snapshots, self._sealed)
        return self._snapshot

    def _sealed(self, head: SnapshotHead) -> None:
        self.snapshot_time = head.time

    def close(self) -> None:
        """Make everything durable and close the files. Raises StorageError, SyncError."""
        self._siginfo.close()
        self._log.close()


class _FileSnapshot:
    """A SnapshotJob that writes files."""

    def __init__(
        self,
        fs: FileSystem,
        folder: Path,
        table: Table,
        head: SnapshotHead,
        keep: int,
        sealed: Callable[[SnapshotHead], None],
    ) -> None:
        self._head = head
        self._sealed = sealed
        self._fs = fs
        self._folder = folder
        self._keep = keep
        self._writer = SnapshotWriter(fs, folder, head)
        self._chunks = snapshot_chunks.freeze(table)

    def step(self) -> bool:
        """See SnapshotJob."""
        chunk = next(self._chunks, None)
        if chunk is not None:
            self._writer.add(chunk)
        return chunk is not None

    def seal(self) -> None:
        """See SnapshotJob."""
        self._writer.seal(now())
        self._sealed(self._head)
        try:
            remove_old(self._fs, self._folder, self._keep)
        except (OSError, DamageError) as error:
            raise StorageError(f"what the new snapshot replaces cannot be removed: {error}") from error

    def abandon(self) -> None:
        """See SnapshotJob."""
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


class MemoryShard:
    """A shard without files: all is lost at the end."""

    durable = False
    log_bytes = 0
    texts_waiting = False
    snapshot_time = 0

    def __init__(self) -> None:
        self.table = Table()
        self._siginfo: list[bytes] = []

    def sync_texts(self) -> None:
        """Nothing is durable."""

    def append(self, records: Sequence[Record]) -> None:
        """Nothing is kept."""

    def sync(self) -> None:
        """Nothing is durable."""

    def put_siginfo(self, text: str) -> int:
        """Keep a text, compressed."""
        self._siginfo.append(zlib.compress(text.encode()))
        return len(self._siginfo)

    def get_siginfo(self, reference: int) -> str | None:
        """The text of a reference; None for 0."""
        return zlib.decompress(self._siginfo[reference - 1]).decode() if reference else None

    def begin_snapshot(self) -> SnapshotJob:
        """There is nowhere to write one."""
        raise StorageError("the server keeps everything in memory (--memory); there is nothing to snapshot")

    def close(self) -> None:
        """Nothing is open."""


AnyShard: TypeAlias = Shard | MemoryShard


def begin_shard(fs: FileSystem, folder: Path, segment: int = 1) -> None:
    """Make the folder of a new shard, with the first segment of its log: one that is lost is then known to be.

    `segment` is 1 for a shard that holds nothing, BASE_SEGMENT for one whose first snapshot comes next.
    """
    fs.mkdir(folder)
    LogWriter(fs, folder, segment, 1, SEGMENT_SIZE).close()


def open_shard(
    fs: FileSystem,
    folder: Path,
    *,
    segment_size: int = SEGMENT_SIZE,
    keep_snapshots: int = 2,
    progress: Progress = ignore_progress,
) -> Shard:
    """Recover a shard and go on. Raises DamageError, StorageError."""
    try:
        found = recover(fs, folder, progress)
        for name in list_shard(fs, folder).temporaries:
            fs.unlink(folder / name)
        for path in found.bad_snapshots:
            fs.rename(path, path.with_name(path.name + DAMAGED))
        _make_durable(fs, folder, found)
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror or error}") from error
    for remark in found.remarks:
        progress(remark)
    return Shard(fs, folder, found, segment_size=segment_size, keep_snapshots=keep_snapshots)


def _make_durable(fs: FileSystem, folder: Path, found: Recovered) -> None:
    """Make the newest segment durable without its torn tail; those before it were durable before it began."""
    path, tail = segment_path(folder, list_shard(fs, folder).segments[-1]), found.tail
    with fs.read(path) as data:
        data.seek(tail.durable)
        unsure = data.read(tail.end - tail.durable)
    file = fs.modify(path)
    try:
        if tail.torn:
            file.truncate(tail.end)
        file.write(unsure, tail.durable)
        file.fsync()
    finally:
        file.close()
    fs.fsync_dir(folder)

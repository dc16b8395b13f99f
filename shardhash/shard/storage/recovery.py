"""Recovery: from the files of a shard to its table, and the shard that goes on from there.

1. Files that were never finished (``.tmp``) go.
2. The newest snapshot that verifies is loaded. One that does not is logged and set aside, and the one before it serves.
   Without any, the log must begin at segment 1. Only that of a shard that was begun with nothing does; one that
   started from a snapshot (a reshard, restore, repair or load) begins with segment 2: that its snapshot is missing is
   seen.
3. The segments from there on are replayed. They must follow each other without a gap; only the newest that holds
   anything may have a torn tail, which is cut off and said.
4. What was read is made durable: a process that was killed may have left it in the page cache alone. It is written
   once more, since after an fsync that failed the next one would do nothing and say that all is well.
5. A new segment begins, or the newest is resumed when it holds no record. So every older one is known to be whole.

A disk that is full or read-only does not keep a shard from 2 and 3; 1, 4 and 5 then wait until it takes writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

import orjson

from shardhash.base.owners import describe
from shardhash.errors import DamageError, StorageError
from shardhash.shard.state.asked_days import day_of
from shardhash.shard.state.records import Record
from shardhash.shard.state.table import Table
from shardhash.shard.storage import snapshot
from shardhash.shard.storage.clock import LogClock, latest_of_all
from shardhash.shard.storage.filesystem import FileSystem, takes_no_writes
from shardhash.shard.storage.layout import DAMAGED, Listing, list_shard, segment_path, snapshot_path
from shardhash.shard.storage.log import HINT, LogWriter, Tail, read_segment
from shardhash.shard.storage.memory import MemoryShard
from shardhash.shard.storage.siginfo import MOST_TEXT, SiginfoFiles, pack_siginfo
from shardhash.shard.storage.snapshot import SnapshotHead
from shardhash.shard.storage.snapshot_chunks import MALFORMED
from shardhash.shard.storage.snapshot_job import FileSnapshot, SnapshotJob
from shardhash.wire.long_text import Text

SEGMENT_SIZE = 64 << 20
"""Bytes after which a segment of the log rotates."""
CLOCK_PATIENCE = 1_000_000
"""Microseconds by which a clock may be behind the last record before anybody is told."""
EMPTY_SEGMENT = 20
"""Bytes of a segment that holds nothing yet."""
BASE_SEGMENT = 2
"""The first segment, and the number of the first snapshot, of a shard that starts from a snapshot."""

Progress: TypeAlias = Callable[[str], None]
"""Called with a line of text about what is going on."""


def ignore_progress(_text: str) -> None:
    """Tell nobody."""


def now() -> int:
    """Microseconds since 1970 UTC."""
    return time.time_ns() // 1000


@dataclass(slots=True)
class Recovered:
    """What the files of a shard hold. `tail` is how the newest segment, number `newest`, ends.

    `next_segment` and `next_number` are where the log goes on; `resume` that this segment is there, without a record;
    `snapshot_time` when the snapshot that was loaded began, microseconds since 1970 UTC, 0 without one;
    `last_time` that of the last record, or of the end of the snapshot; `remarks` what people should know.
    """

    table: Table
    next_segment: int
    next_number: int
    newest: int = 0
    resume: bool = False
    tail: Tail = field(default_factory=Tail)
    snapshot_time: int = 0
    last_time: int = 0
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
    found = Recovered(Table(), segments[-1] + 1, 1, segments[-1])
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
            snapshot.load_snapshot(fs, path, table, partial(_tell_chunks, progress, number, table))
        except DamageError as error:
            found.bad_snapshots.append(path)
            found.remarks.append(f"snapshot {number} does not verify ({error}); going back to the one before")
            progress(found.remarks[-1])
            continue
        table.asked_from = head.asked_from
        found.table, found.next_number, found.snapshot_time = table, head.number, head.time
        found.last_time = snapshot.read_end(fs, path).time
        progress(f"loaded snapshot {number}: {table.counts()['mappings']:,} mappings")
        return head.segment
    if log_is_all(listing):
        return 1
    if snapshots:
        what = "no older snapshot is kept" if until is not None else "no snapshot verifies"
        raise DamageError(snapshot_path(folder, snapshots[-1]), 0, f"{what}, and the log before it is gone", HINT)
    path = snapshot_path(folder, listing.segments[0])
    raise DamageError(path, 0, "this snapshot, with which the shard begins, is missing", HINT)


def _tell_chunks(progress: Progress, number: int, table: Table, chunks: int) -> None:
    if chunks % 500 == 0:
        progress(f"loading snapshot {number}; {table.counts()['mappings']:,} mappings")


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
        found.last_time = max(found.last_time, entry.time)
        if until is None or entry.time <= until:
            try:
                found.table.apply(orjson.loads(entry.payload))
            except MALFORMED as error:
                what = f"record {entry.number} has a right checksum but cannot be applied: {error!r}"
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


class Shard:
    """One partition: its table, and the files that make it durable.

    `make_ready`, `append`, `sync`, then apply to the table, in this order. `make_ready`, `sync` and `begin_snapshot`
    wait for the disk and may run beside the event loop, but not beside each other, `append` or `put_siginfo`.

    A disk that is full or read-only keeps a shard from its log, not from its table: lookups go on, and what would write
    gets a StorageError until `make_ready` finds the disk willing.
    """

    durable = True

    def __init__(
        self, fs: FileSystem, folder: Path, found: Recovered, *, segment_size: int, keep_snapshots: int
    ) -> None:
        self.table = found.table
        self.table.asked_from = self.table.asked_from or day_of(now())
        self.snapshot_time = found.snapshot_time
        """When the newest snapshot began, microseconds since 1970 UTC; 0 without one."""
        self._fs = fs
        self._folder = folder
        self._found = found
        self._segment_size = segment_size
        self._keep_snapshots = keep_snapshots
        self._siginfo = SiginfoFiles(fs, folder)
        self._log: LogWriter | None = None
        self._clock = LogClock(max(found.last_time, latest_of_all(fs, folder)), _machine_clock)
        self._bytes_at_snapshot = 0
        self._snapshot: FileSnapshot | None = None

    @property
    def log_bytes(self) -> int:
        """Bytes of log since the last snapshot of this process."""
        return self._log.bytes_written - self._bytes_at_snapshot if self._log is not None else 0

    @property
    def has_log(self) -> bool:
        """Whether there is a log to write to; without one the disk refused even its beginning."""
        return self._log is not None

    @property
    def ready(self) -> bool:
        """Whether `append` has nothing to wait for."""
        return self._log is not None and not self._log.full and not self._siginfo.dirty

    def make_ready(self) -> None:
        """Make siginfo texts durable, and the log one that can be appended to.

        Raises StorageError when the disk has no room or is read-only: TextError if it is one for the texts, whose
        references are then void. SyncError is final.
        """
        self._siginfo.sync()
        if self._log is None:
            self._begin_log()
        elif self._log.full:
            self._log.rotate()

    def append(self, records: Sequence[Record]) -> None:
        """Write records, all or none, durable after `sync`. StorageError: none; SyncError: final."""
        if not self.ready:
            self.make_ready()  # a text before the record that refers to it
        self._written_log().append([orjson.dumps(record) for record in records], self._clock.now())

    def sync(self) -> None:
        """Make what was appended durable. SyncError is final."""
        if self._log is not None:
            self._log.sync()

    def put_siginfo(self, text: Text) -> int:
        """Store a text; the reference for its row. Raises StorageError."""
        return self._siginfo.put(text)

    def pack_siginfo(self, text: Text) -> bytes:
        """A text made ready for `put_packed_siginfo`; may run beside everything."""
        return pack_siginfo(text)

    def put_packed_siginfo(self, packed: bytes) -> int:
        """Store a text; see `put_siginfo`."""
        return self._siginfo.put_packed([packed])[0]

    def refuse_texts(self, error: StorageError | None) -> None:
        """Have `put_siginfo` raise this error, or take texts again."""
        self._siginfo.refusal = error

    def get_siginfo(self, reference: int, most: int = MOST_TEXT) -> str | None:
        """The text of a reference; None for 0, and for one of more than `most` bytes. Raises DamageError."""
        return self._siginfo.get(reference, most)

    def get_packed_siginfo(self, reference: int) -> bytes | None:
        """The text of a reference as `unpack_siginfo` takes it; None for 0. Raises DamageError."""
        return self._siginfo.get_packed(reference)

    def damaged_siginfo(self, reference: int) -> DamageError:
        """The error for a text that cannot be unpacked."""
        return self._siginfo.damaged(reference)

    def begin_snapshot(self) -> SnapshotJob:
        """Begin a snapshot in a new segment; one that nobody went on with is dropped. Raises StorageError."""
        if self._snapshot is not None:
            self._snapshot.abandon()
        self.make_ready()
        log = self._written_log()
        log.rotate()
        self._bytes_at_snapshot = log.bytes_written
        head = SnapshotHead(
            log.segment, log.number, self._clock.now(), self._siginfo.next_number, self.table.asked_from
        )
        self._snapshot = FileSnapshot(
            self._fs, self._folder, self.table, head, self._keep_snapshots, self._clock.now, self._sealed
        )
        return self._snapshot

    def _sealed(self, head: SnapshotHead) -> None:
        self.snapshot_time = head.time

    def close(self) -> None:
        """Make everything durable and close the files. Raises StorageError, SyncError."""
        self._siginfo.close()
        if self._log is not None:
            self._log.close()

    def _written_log(self) -> LogWriter:
        assert self._log is not None
        return self._log

    def _begin_log(self) -> None:
        found = self._found
        try:
            _tidy(self._fs, self._folder, found)
        except OSError as error:
            raise StorageError(
                f"the report log in {self._folder} cannot be begun: {describe(error, self._folder)}"
            ) from error
        self._log = LogWriter(
            self._fs, self._folder, found.next_segment, found.next_number, self._segment_size, resume=found.resume
        )


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
    """Recover a shard and go on. Raises DamageError, StorageError.

    On a disk that is full or read-only it goes on without a log (`Shard.has_log`), and `progress` is told.
    """
    try:
        found = recover(fs, folder, progress)
    except OSError as error:
        raise StorageError(f"{folder} cannot be read: {describe(error, folder)}") from error
    for remark in found.remarks:
        progress(remark)
    if (ahead := found.last_time - now()) > CLOCK_PATIENCE:
        progress(f"the clock was set back by {ahead / 1e6:.0f} s since the last record; the log's own time goes on")
    shard = Shard(fs, folder, found, segment_size=segment_size, keep_snapshots=keep_snapshots)
    try:
        shard.make_ready()
    except StorageError as error:
        if not takes_no_writes(error.__cause__):
            raise
        progress(f"{error}; lookups are served, and reports refused until there is room")
    return shard


def _machine_clock() -> int:
    """The machine's clock, whatever `now` is by now."""
    return now()


def _tidy(fs: FileSystem, folder: Path, found: Recovered) -> None:
    """Put right what an unfinished write or a damaged snapshot left, and make durable what was read."""
    for name in list_shard(fs, folder).temporaries:
        fs.unlink(folder / name)
    for path in found.bad_snapshots:
        if fs.exists(path):
            fs.rename(path, path.with_name(path.name + DAMAGED))
    _make_durable(fs, folder, found)


def _make_durable(fs: FileSystem, folder: Path, found: Recovered) -> None:
    """Make the newest segment durable without its torn tail; those before it were durable before it began."""
    path, tail = segment_path(folder, found.newest), found.tail
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

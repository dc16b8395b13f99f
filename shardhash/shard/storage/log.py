"""The report log: every change of a shard, appended in order, in segments that rotate by size.

A segment is a file that only grows. All integers are little-endian::

    header   8 bytes "SHLOG\\0\\0" and version 1 | u64 number of its first record | u32 CRC-32 of these 16 bytes
    record   4 bytes F5 "RPT" | u32 bytes of payload | u64 number | u64 time, microseconds since 1970 UTC
             | u64 offset up to which this segment was durable when the record was written
             | u32 CRC-32 of these 32 bytes | u32 CRC-32 of the payload | payload, JSON (records.py)

Records are numbered without gaps, over all segments of a shard, and their times never go back (clock.py). A segment
begins only after all of the one before is durable; so does the one that `close` leaves, without records, to say that
nothing is missing before it.

What a power loss leaves is a *torn tail*: behind some offset of the newest segment bytes are missing, zero or old.
None of it was acknowledged, so it is cut off, and said. Damage is something else: a bad record in a segment that is
not the newest; or in the newest one, before an offset that a later, sound record knows to have been durable. Damage is
never skipped. After a bad head its length is not trusted: sound records behind it are found by their first four bytes.

What no reader can tell is rot in the last write of a process that was killed from a write that did not finish.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from shardhash.errors import DamageError, StorageError, SyncError
from shardhash.shard.storage.filesystem import FileSystem, WritableFile
from shardhash.shard.storage.layout import segment_path

MAGIC = b"SHLOG\0\0\1"
MARKER = b"\xf5RPT"
HINT = "see: shardhash verify --data DIR, then: shardhash repair --data DIR"

_HEADER = struct.Struct("<8sQI")
HEADER_SIZE = _HEADER.size
"""Where the first record of a segment is."""
_HEAD = struct.Struct("<4sIQQQII")
HEAD_SIZE = _HEAD.size
"""What a record takes beside its payload."""
_CHECKED = struct.Struct("<4sIQQQ")
"""The part of a record's head that its checksum covers."""
_CHECKSUMS = struct.Struct("<II")
_END = 1 << 20
"""Bytes at the end of a segment in which its last record is looked for."""


class Entry(NamedTuple):
    """One record of a segment; `time` in microseconds, `payload` JSON, `end` the offset behind it.

    `durable` is the offset up to which the segment was durable when it was written.
    """

    number: int
    time: int
    payload: bytes
    end: int
    durable: int


@dataclass(slots=True)
class Tail:
    """How a segment ends: `end` is the offset behind its last sound record, `torn` the bytes that follow.

    Up to `durable` its records say that it was durable.
    """

    end: int = 0
    torn: int = 0
    durable: int = 0


class LogWriter:
    """Appends to the newest segment; one at a time, never while `sync` runs."""

    def __init__(
        self, fs: FileSystem, folder: Path, segment: int, number: int, segment_size: int, *, resume: bool = False
    ) -> None:
        """Begin a segment, whose first record is `number`; `resume` one that is there and holds none yet.

        Raises StorageError; a segment that could not be begun is then not there.
        """
        self._fs = fs
        self._folder = folder
        self._segment_size = segment_size
        self.segment = segment
        self.number = number
        """Number of the next record."""
        self._file, self._end = self._resume(segment) if resume else self._begin(segment)
        self._durable = self._end
        self.bytes_before = 0
        """Bytes in segments that this writer has finished."""

    @property
    def bytes_written(self) -> int:
        """Bytes that this writer has appended."""
        return self.bytes_before + self._end

    @property
    def full(self) -> bool:
        """Whether the segment is as large as it is to be."""
        return self._end >= self._segment_size

    def append(self, payloads: Sequence[bytes], time: int) -> None:
        """Write records, all or none; durable after `sync`. StorageError: none; a later attempt may go well.

        `rotate` comes first where the segment is `full`; this waits for no disk.
        """
        frames = []
        number = self.number
        for payload in payloads:
            head = _CHECKED.pack(MARKER, len(payload), number, time, self._durable)
            frames += [head, _CHECKSUMS.pack(crc32(head), crc32(payload)), payload]
            number += 1
        data = b"".join(frames)
        try:
            self._file.write(data, self._end)
        except OSError as error:
            self._undo(error)
            raise StorageError(f"the report log cannot be written: {error.strerror or error}") from error
        self._end += len(data)
        self.number = number

    def sync(self) -> None:
        """Make all that was appended durable. SyncError is final: nobody knows what is on the disk."""
        end = self._end
        try:
            self._file.fsync()
        except OSError as error:
            raise SyncError(f"the report log cannot be synced: {error.strerror or error}") from error
        self._durable = end

    def rotate(self) -> None:
        """Begin the next segment. Raises StorageError, and goes on with the present one."""
        self.sync()
        file, end = self._begin(self.segment + 1)
        self._file.close()
        self.bytes_before += self._end
        self._file, self._end, self._durable = file, end, end
        self.segment += 1

    def close(self) -> None:
        """Sync, say by a new segment that all was synced, and close. SyncError is final."""
        self.sync()
        if self._end > _HEADER.size:
            try:
                self.rotate()
            except StorageError:
                pass  # all is durable; the next start only cannot rule out that its end was torn off
        self._file.close()

    def _resume(self, segment: int) -> tuple[WritableFile, int]:
        try:
            file = self._fs.modify(segment_path(self._folder, segment))
            file.fsync()
            self._fs.fsync_dir(self._folder)
        except OSError as error:
            raise StorageError(f"the report log cannot be resumed: {error.strerror or error}") from error
        return file, _HEADER.size

    def _begin(self, segment: int) -> tuple[WritableFile, int]:
        path = segment_path(self._folder, segment)
        try:
            return self._create(path), _HEADER.size
        except OSError as error:
            self._withdraw(path, error)
            raise StorageError(f"a segment of the report log cannot be begun: {error.strerror or error}") from error

    def _create(self, path: Path) -> WritableFile:
        file = self._fs.create(path)
        head = struct.pack("<8sQ", MAGIC, self.number)
        try:
            file.write(head + struct.pack("<I", crc32(head)), 0)
            file.fsync()
            self._fs.fsync_dir(self._folder)
        except OSError:
            file.close()
            raise
        return file

    def _withdraw(self, path: Path, error: OSError) -> None:
        """Remove a segment that could not be begun: its name would say that the one before is whole."""
        try:
            if self._fs.exists(path):
                self._fs.unlink(path)
            self._fs.fsync_dir(self._folder)
        except OSError:
            raise SyncError(f"a segment of the report log can neither be begun nor removed: {error}") from error

    def _undo(self, error: OSError) -> None:
        """Part of the write may be there; the next one must not find it behind its own end."""
        try:
            self._file.truncate(self._end)
        except OSError:
            raise SyncError(f"a failed write to the report log cannot be undone: {error.strerror}") from error


def read_segment(fs: FileSystem, path: Path, number: int, *, newest: bool, tail: Tail) -> Iterator[Entry]:
    """The records of a segment, the first of which must be `number`; `tail` tells afterwards how it ends.

    Raises DamageError. Only the newest segment may have a torn tail.
    """
    with fs.read(path) as file:
        data = file.read()
    if not _sound_header(data, path, number, newest=newest):
        tail.end, tail.torn = 0, len(data)
        return
    offset = _HEADER.size
    while offset < len(data):
        entry = _sound_record(data, offset)
        if entry is None:
            break
        if entry.number != number:
            raise DamageError(path, offset, f"record {entry.number} found where {number} is expected", HINT)
        tail.durable = max(tail.durable, entry.durable)
        yield entry
        number += 1
        offset = entry.end
    tail.end, tail.torn = offset, len(data) - offset
    if tail.torn:
        _check_torn(data, offset, path, newest=newest)


def read_sound_entries(fs: FileSystem, path: Path) -> Iterator[Entry]:
    """The sound records of a segment that may be damaged anywhere; for repair. What lies between them is not."""
    with fs.read(path) as file:
        data = file.read()
    offset = data.find(MARKER)
    while offset >= 0:
        entry = _sound_record(data, offset)
        if entry is not None:
            yield entry
        offset = data.find(MARKER, offset + 1 if entry is None else entry.end)


def read_entries(fs: FileSystem, path: Path, start: int, end: int, size: int) -> list[Entry]:
    """The sound records of a segment that begin at `start`, and end at `end` at most: about `size` bytes of them.

    One at least, unless none is sound there.
    """
    with fs.read(path) as file:
        file.seek(start)
        data = file.read(min(size, end - start))
        if _sound_record(data, 0) is None:  # it may be longer
            data += file.read(end - start - len(data))
    entries = []
    offset = 0
    while (entry := _sound_record(data, offset)) is not None:
        offset = entry.end
        entries.append(entry._replace(end=start + offset))
    return entries


def last_time(fs: FileSystem, path: Path) -> int:
    """The time of the last record with a sound head, reading the end of a segment alone; 0 when none is there."""
    with fs.read(path) as file:
        file.seek(max(0, fs.size(path) - _END))
        data = file.read()
    offset = data.rfind(MARKER)
    while offset >= 0:
        if offset + _HEAD.size <= len(data):
            _, _, _, time, _, head_checksum, _ = _HEAD.unpack_from(data, offset)
            if crc32(data[offset : offset + _CHECKED.size]) == head_checksum:
                return int(time)
        offset = data.rfind(MARKER, 0, offset)
    return 0


def first_number(fs: FileSystem, path: Path) -> int | None:
    """The number of a segment's first record, by its header; None when the header is not sound."""
    with fs.read(path) as file:
        data = file.read(_HEADER.size)
    if len(data) < _HEADER.size or data[:8] != MAGIC or crc32(data[:16]) != _HEADER.unpack(data)[2]:
        return None
    first: int = _HEADER.unpack(data)[1]
    return first


def _sound_header(data: bytes, path: Path, number: int, *, newest: bool) -> bool:
    """Whether the header is sound; False for one that was never made durable, so that no record can follow it."""
    if len(data) >= _HEADER.size:
        magic, first, checksum = _HEADER.unpack_from(data)
        if crc32(data[:16]) == checksum and magic == MAGIC:
            if first != number:
                raise DamageError(path, 8, f"the segment begins with record {first}; expected {number}", HINT)
            return True
        if crc32(data[:16]) == checksum:
            raise DamageError(path, 0, f"the file is of another kind or version: {magic!r}", "is shardhash too old?")
    if newest and len(data) <= _HEADER.size:
        return False
    raise DamageError(path, 0, "the header of the segment is damaged", HINT)


def _sound_record(data: bytes, offset: int) -> Entry | None:
    start = offset + _HEAD.size
    if start > len(data):
        return None
    marker, size, number, time, durable, head_checksum, checksum = _HEAD.unpack_from(data, offset)
    if marker != MARKER or crc32(data[offset : offset + _CHECKED.size]) != head_checksum or start + size > len(data):
        return None
    payload = data[start : start + size]
    return Entry(number, time, payload, start + size, durable) if crc32(payload) == checksum else None


def _check_torn(data: bytes, bad: int, path: Path, *, newest: bool) -> None:
    """Raise DamageError unless what begins at `bad` can be what a power loss left."""
    if not newest:
        raise DamageError(path, bad, "a record is damaged or cut off", HINT)
    offset = data.find(MARKER, bad + 1)
    while offset >= 0:
        if offset + _HEAD.size <= len(data):
            *_, durable, head_checksum, _ = _HEAD.unpack_from(data, offset)
            if crc32(data[offset : offset + _CHECKED.size]) == head_checksum and durable > bad:
                what = f"a record that was acknowledged is damaged; more follow at {offset}"
                raise DamageError(path, bad, what, HINT)
        offset = data.find(MARKER, offset + 1)

"""Snapshots: the table of a shard as a file of JSON lines, written while the shard goes on.

A new log segment opens first; the snapshot is named by it: the first segment that it does not cover. Then the table is
walked chunk by chunk (snapshot_chunks) while it changes; the log from that segment on makes the image whole. Each line
is eight hex digits, a space and JSON by orjson; the digits are the CRC-32 of the JSON, begun with the line's number, so
a line that is missing, doubled or moved is seen::

    {"format": "shardhash snapshot", "version": 2, "segment": S, "number": first record of segment S, "time": T,
     "siginfo": number of the next siginfo file, "asked_from": day from which on it is known what was asked for}
    a chunk
    ...
    {"end": number of chunks, "time": T, "siginfo_files": [numbers of the siginfo files that its rows refer to]}

The times are those of its begin and end; what changed in between is in it or not.

A snapshot comes into being by rename once it is whole and durable, was read back, and each of its chunks could be
loaded. Only then do older snapshots and segments go, but for those that are kept for restoring an earlier time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import orjson

from shardhash.errors import DamageError, StorageError
from shardhash.shard.state.asked_days import day_of
from shardhash.shard.state.table import Table
from shardhash.shard.storage import snapshot_chunks
from shardhash.shard.storage.filesystem import FileSystem
from shardhash.shard.storage.layout import TEMPORARY, snapshot_path
from shardhash.shard.storage.siginfo import file_of
from shardhash.shard.storage.snapshot_chunks import Chunk

FORMAT = "shardhash snapshot"
VERSION = 2
"""Version 1 did not say when mappings were last asked for."""
HINT = "see: shardhash verify --data DIR"

_PREFIX = 9
"""Bytes of a line before its JSON."""
_LAST_LINE = 1 << 20
"""Bytes that the last line may have: the numbers of 100,000 siginfo files."""


@dataclass(frozen=True, slots=True)
class SnapshotHead:
    """What the first line of a snapshot says. `time` in microseconds since 1970 UTC."""

    segment: int
    number: int
    time: int
    siginfo: int
    asked_from: int = 0
    """See Table; 0 stands for the day of `time`."""


@dataclass(frozen=True, slots=True)
class SnapshotEnd:
    """What the last line of a snapshot says."""

    time: int
    siginfo_files: list[int]


class SnapshotWriter:
    """Writes one snapshot. `add` for each chunk in the event loop, `sealing` beside it; after a StorageError `drop`."""

    def __init__(self, fs: FileSystem, folder: Path, head: SnapshotHead) -> None:
        self._fs = fs
        self._folder = folder
        self._path = snapshot_path(folder, head.segment)
        self._temporary = self._path.with_name(self._path.name + TEMPORARY)
        self._lines = 0
        self._end = 0
        self._siginfo_files: set[int] = set()
        try:
            self._file = fs.create(self._temporary)
        except OSError as error:
            raise StorageError(f"a snapshot cannot be begun: {error.strerror or error}") from error
        try:
            self._write(
                {
                    "format": FORMAT,
                    "version": VERSION,
                    "segment": head.segment,
                    "number": head.number,
                    "time": head.time,
                    "siginfo": head.siginfo,
                    "asked_from": head.asked_from or day_of(head.time),
                }
            )
        except OSError as error:
            self.drop()
            raise StorageError(f"a snapshot cannot be begun: {error.strerror or error}") from error

    def add(self, chunk: Chunk) -> None:
        """Write a chunk."""
        self._siginfo_files.update(file_of(reference) for reference in chunk.get("row_siginfo", ()) if reference)
        try:
            self._write(chunk)
        except OSError as error:
            raise StorageError(f"a snapshot cannot be written: {error.strerror or error}") from error

    def seal(self, time: int) -> None:
        """Make it durable under its name, after it was read back. `time`: now. Raises StorageError."""
        for _ in self.sealing(time):
            pass

    def sealing(self, time: int) -> Iterator[None]:
        """The same in steps: an fsync, then a millisecond for each chunk."""
        try:
            self._write({"end": self._lines - 1, "time": time, "siginfo_files": sorted(self._siginfo_files)})
            self._file.fsync()
            self._file.close()
            yield
            yield from _check(self._fs, self._temporary)
            self._fs.rename(self._temporary, self._path)
            self._fs.fsync_dir(self._folder)
        except OSError as error:
            raise StorageError(f"a snapshot cannot be finished: {error.strerror or error}") from error
        except DamageError as error:
            raise StorageError(f"a snapshot does not read back as it was written: {error}") from error

    def drop(self) -> None:
        """Remove what there is of it, if the disk lets us; the next start removes what stays."""
        self._file.close()
        try:
            self._fs.unlink(self._temporary)
        except OSError:
            pass

    def _write(self, value: Any) -> None:
        payload = orjson.dumps(value)
        line = b"%08x %b\n" % (crc32(payload, self._lines), payload)
        self._file.write(line, self._end)
        self._end += len(line)
        self._lines += 1


def load_snapshot(fs: FileSystem, path: Path, table: Table, progress: Callable[[int], None] | None = None) -> None:
    """Put a snapshot into a table that holds nothing; `progress` is told how many chunks were loaded.

    Raises DamageError, at the latest at the end of one that is cut off; the table then holds a part.
    """
    for number, (offset, chunk) in enumerate(_chunks(fs, path), 1):
        _load(path, offset, table, chunk)
        if progress is not None:
            progress(number)


def read_sound_chunks(fs: FileSystem, path: Path) -> Iterator[Chunk]:
    """The chunks whose lines are sound, of a snapshot that may be damaged anywhere; for repair."""
    number = 0
    with fs.read(path) as file:
        for line in file:
            payload = line[_PREFIX:-1]
            # A damaged line feed makes one line of two, a damaged byte two of one: numbers then are off by that.
            for guess in (number, number + 1, number - 1):
                if line[:_PREFIX] == b"%08x " % crc32(payload, guess & 0xFFFFFFFF):
                    number = guess
                    value = _parse(path, 0, payload)
                    if "kind" in value:
                        yield value
                    break
            number += 1


def check_snapshot(fs: FileSystem, path: Path) -> None:
    """Read a snapshot through, and load its chunks, each by itself. Memory: a chunk. Raises DamageError."""
    for _ in _check(fs, path):
        pass


def _check(fs: FileSystem, path: Path) -> Iterator[None]:
    for offset, chunk in _chunks(fs, path):
        _load(path, offset, Table(), chunk)
        yield


def read_head(fs: FileSystem, path: Path) -> SnapshotHead:
    """The head of a snapshot, reading no further. Raises DamageError."""
    with fs.read(path) as file:
        first = _parse(path, 0, _checked(path, 0, file.readline(), 0))
    _check_format(path, first)
    numbers = [first.get(name) for name in ("segment", "number", "time", "siginfo", "asked_from")]
    if not all(type(number) is int and 0 <= number < 1 << 63 for number in numbers):
        raise DamageError(path, 0, "its first line holds impossible values", HINT)
    if snapshot_path(path.parent, first["segment"]).name != path.name.removesuffix(TEMPORARY):
        raise DamageError(path, 0, f"it is snapshot {first['segment']}, by what it says", HINT)
    return SnapshotHead(first["segment"], first["number"], first["time"], first["siginfo"], first["asked_from"])


def read_end(fs: FileSystem, path: Path) -> SnapshotEnd:
    """The last line of a snapshot alone, its checksum taken on trust. Raises DamageError."""
    size = fs.size(path)
    with fs.read(path) as file:
        file.seek(max(0, size - _LAST_LINE))
        lines = file.read().splitlines()
    last = _parse(path, size, lines[-1][_PREFIX:]) if lines else {}
    if "end" not in last:
        raise DamageError(path, size, "the snapshot is cut off", HINT)
    files = last.get("siginfo_files")
    if type(last.get("time")) is not int or not isinstance(files, list) or any(type(file) is not int for file in files):
        raise DamageError(path, size, "its last line holds impossible values", HINT)
    return SnapshotEnd(last["time"], last["siginfo_files"])


def _check_format(path: Path, first: dict[str, Any]) -> None:
    if first.get("format") != FORMAT or first.get("version") != VERSION:
        found = f"{first.get('format')!r} version {first.get('version')!r}"
        hint = "is shardhash too old?"
        if first.get("format") == FORMAT and first.get("version") == 1:
            hint = "it is of a shardhash before any release: `shardhash dump` of that one, and `shardhash load` of this"
        raise DamageError(path, 0, f"{found} is not a snapshot that this shardhash reads", hint)


def _load(path: Path, offset: int, table: Table, chunk: Chunk) -> None:
    try:
        snapshot_chunks.load(table, chunk)
    except snapshot_chunks.MALFORMED as error:
        what = f"a line has a right checksum but cannot be loaded: {error!r}"
        raise DamageError(path, offset, what, HINT) from None


def _chunks(fs: FileSystem, path: Path) -> Iterator[tuple[int, Chunk]]:
    """The chunks of a snapshot and where their lines begin."""
    offset = 0
    for payload in _payloads(fs, path):
        value = _parse(path, offset, payload)
        if not offset:
            _check_format(path, value)
        elif "end" not in value:
            yield offset, value
        offset += _PREFIX + len(payload) + 1


def _parse(path: Path, offset: int, payload: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise DamageError(path, offset, f"a line is no JSON: {error}", HINT) from None
    if not isinstance(value, dict):
        raise DamageError(path, offset, "a line is no JSON object", HINT)
    return value


def _payloads(fs: FileSystem, path: Path) -> Iterator[bytes]:
    """The JSON of each line, its checksum checked, and at the end that nothing is missing."""
    offset, lines, payload = 0, 0, b""
    with fs.read(path) as file:
        for line in file:
            payload = _checked(path, offset, line, lines)
            yield payload
            offset += len(line)
            lines += 1
    last = _parse(path, offset, payload) if lines > 1 else {}
    if last.get("end") != lines - 2:
        raise DamageError(path, offset, "the snapshot is cut off", HINT)


def _checked(path: Path, offset: int, line: bytes, number: int) -> bytes:
    """The JSON of a line whose checksum is right."""
    payload = line[_PREFIX:-1]
    if line[-1:] != b"\n" or line[:_PREFIX] != b"%08x " % crc32(payload, number):
        raise DamageError(path, offset, "a line of the snapshot is damaged or cut off", HINT)
    return payload

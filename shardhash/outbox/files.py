"""Journals in files.

A journal is the log of a shard (shard/storage/log.py) and the place up to which it was taken::

    FOLDER/
      log-0000000001.log             segments; those that are taken whole go
      log-0000000001.log.damaged     one in which a record was damaged, set aside when it was taken
      position.json                  {"position": {"segment": S, "offset": O, "number": N, "note": any}, "checksum": C}

Record N is the next to be taken, at byte O of segment S; C is the CRC-32, in eight hex digits, of the JSON of
"position", sorted by name. The file is replaced atomically, and before a segment goes. It may be behind: what is taken
twice must do no harm. Without it, or if it is not sound, the journal begins with its oldest segment.

A torn tail of the newest segment was never acknowledged, and is cut off at the start. Other damage is skipped up to the
next sound record, and the log says so: what waits behind it is worth more than the order to stop.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from shardhash.errors import DamageError, StorageError, SyncError
from shardhash.outbox.journal import Item, Place
from shardhash.outbox.reading import checksum_of, read_position
from shardhash.shard.storage.filesystem import FileSystem, replace_file
from shardhash.shard.storage.layout import DAMAGED, POSITION, list_shard, segment_path
from shardhash.shard.storage.log import (
    HEADER_SIZE,
    LogWriter,
    Tail,
    first_number,
    read_entries,
    read_segment,
    read_sound_entries,
)

log = logging.getLogger(__name__)

SEGMENT_SIZE = 4 << 20
"""Bytes after which the next segment begins."""
PIECE = 1 << 20
"""Bytes that are read at one time."""


class FileJournal:
    """A journal in a folder, which is made when the first record is added."""

    durable = True

    def __init__(self, fs: FileSystem, folder: Path, segment_size: int = SEGMENT_SIZE) -> None:
        """Find what is there, and cut off a torn tail. Raises OSError."""
        self._fs = fs
        self._folder = folder
        self._segment_size = segment_size
        self._lock = threading.Lock()
        """Held by whatever changes files."""
        self._writer: LogWriter | None = None
        self._ends: dict[int, int] = {}
        """Each segment, and the byte up to which it may be read."""
        self._damaged: set[int] = set()
        self._newest = 0
        self._next = 1
        """Number of the next record that is added."""
        self.note: Any = None
        self._start, self._first = Place(0, HEADER_SIZE), 1
        """Where the next record that is taken lies, and its number."""
        if fs.exists(folder):
            self._find()

    @property
    def count(self) -> int:
        """See Journal."""
        return max(0, self._next - self._first)

    @property
    def size(self) -> int:
        """See Journal."""
        start = self._start
        sizes = (
            end - (start.offset if segment == start.segment else HEADER_SIZE)
            for segment, end in list(self._ends.items())
            if segment >= start.segment
        )
        return sum(max(0, size) for size in sizes)

    # ---------------------------------------------------------------------------------------------- the start

    def _find(self) -> None:
        position = self._read_position()
        for segment in list_shard(self._fs, self._folder).segments:
            self._ends[segment] = self._fs.size(segment_path(self._folder, segment))
        while self._ends and not self._find_newest(max(self._ends)):
            pass
        if position is not None:
            self._newest, self._next = max(self._newest, position[0].segment), max(self._next, position[1])
        self._start, self._first = self._start_of(position)

    def _find_newest(self, segment: int) -> bool:
        """Find how the newest segment ends; False if it was never begun, and is removed."""
        path = segment_path(self._folder, segment)
        self._newest = max(self._newest, segment)
        number = first_number(self._fs, path)
        if number is None and self._ends[segment] <= HEADER_SIZE:
            del self._ends[segment]  # a crash came before its head was durable
            with suppress(OSError):  # a disk that takes no writes; the name is not used again
                self._fs.unlink(path)
            return False
        tail = Tail()
        try:
            for entry in read_segment(self._fs, path, number or 0, newest=True, tail=tail):
                self._next = entry.number + 1
        except DamageError:  # it is told of when it is read
            self._next = max((entry.number + 1 for entry in read_sound_entries(self._fs, path)), default=self._next)
            return True
        self._next = max(self._next, number or 1)
        if tail.torn:
            log.warning("%s: a write did not finish, its %d bytes are cut off", path, tail.torn)
            self._ends[segment] = tail.end
            try:
                self._cut_off(path, tail.end)
            except OSError as error:
                log.warning("%s cannot be cut off now (%s)", path, error)
        return True

    def _cut_off(self, path: Path, end: int) -> None:
        file = self._fs.modify(path)
        try:
            file.truncate(end)
            file.fsync()
        finally:
            file.close()

    def _read_position(self) -> tuple[Place, int] | None:
        try:
            found = read_position(self._fs, self._folder)
        except DamageError as error:
            log.error("%s is damaged: what is in the oldest file on is sent again, which does no harm", error.path)
            return None
        if found is None:
            return None
        self.note = found.note
        return found.place, found.number

    def _start_of(self, position: tuple[Place, int] | None) -> tuple[Place, int]:
        """Where to take the next record, and its number."""
        segments = sorted(self._ends)
        if position is not None:
            place, number = position
            if place.offset <= self._ends.get(place.segment, -1):
                return place, number
            # Its file is gone, or lost its end, which was not made durable, but was taken: all before it is taken.
            segments = [segment for segment in segments if segment > place.segment]
            if not segments:
                return Place(self._newest, self._ends.get(self._newest, HEADER_SIZE)), self._next
        for segment in segments:
            path = segment_path(self._folder, segment)
            first = first_number(self._fs, path)
            if first is None:  # what is sound behind a damaged head counts
                first = next((entry.number for entry in read_sound_entries(self._fs, path)), None)
            if first is not None:
                return Place(segment, HEADER_SIZE), first
        return Place(self._newest, HEADER_SIZE), self._next

    # ---------------------------------------------------------------------------------------------- adding

    def append(self, payloads: Sequence[bytes], time: int, *, sync: bool) -> None:
        """See Journal."""
        with self._lock:
            try:
                self._append(payloads, time, sync=sync)
            except SyncError as error:
                # What is on the disk of this segment is unknown: these records go into another one.
                log.error("%s: %s; the next segment begins", self._folder, error)
                self._writer = None
                try:
                    self._append(payloads, time, sync=sync)
                except SyncError as again:
                    self._writer = None
                    raise StorageError(_why(again)) from again
            except OSError as error:  # the folder cannot be made
                raise StorageError(error.strerror or str(error)) from error

    def _append(self, payloads: Sequence[bytes], time: int, *, sync: bool) -> None:
        writer = self._writer
        try:
            if writer is None:
                writer = self._writer = self._begin()
            elif writer.full:
                writer.rotate()
                self._newest = writer.segment
            writer.append(payloads, time)
        except SyncError:
            raise
        except StorageError as error:
            raise StorageError(_why(error)) from error
        if sync:
            writer.sync()
        self._ends[writer.segment] = writer.bytes_written - writer.bytes_before
        self._next = writer.number

    def _begin(self) -> LogWriter:
        if not self._newest:
            self._fs.mkdir(self._folder)
            self._fs.fsync_dir(self._folder.parent)
        self._newest += 1
        return LogWriter(self._fs, self._folder, self._newest, self._next, self._segment_size)

    def replace(self, records: Iterable[tuple[int, bytes]]) -> None:
        """Let nothing wait but these, (time, payload), which may be read from this journal's own files.

        Killed before its end, what waited before waits as well, before some of these. StorageError when the disk
        refuses; it is the same then.
        """
        with self._lock:
            try:
                writer = self._writer = self._begin()
                place, number = Place(writer.segment, HEADER_SIZE), writer.number
                for time, payload in records:
                    self._append([payload], time, sync=False)
                writer.sync()
            except (SyncError, StorageError) as error:
                self._writer = None
                raise StorageError(f"{self._folder}: {_why(error)}") from error
            except OSError as error:
                raise StorageError(f"{self._folder}: {error.strerror or error}") from error
            self._ends[writer.segment] = writer.bytes_written - writer.bytes_before
            self._start, self._first = place, number
        try:
            self.save()
        except OSError as error:
            raise StorageError(f"{self._folder / POSITION}: {error.strerror or error}") from error

    def sync(self) -> None:
        """See Journal."""
        with self._lock:
            if self._writer is not None:
                try:
                    self._writer.sync()
                except SyncError as error:
                    self._writer = None
                    raise StorageError(_why(error)) from error

    # ---------------------------------------------------------------------------------------------- taking

    def read(self, after: Place | None, records: int, size: int) -> list[Item]:
        """See Journal."""
        place = self._start if after is None else after
        found: list[Item] = []
        upto = self._next
        while len(found) < records and size > 0:
            end = self._ends.get(place.segment, 0)
            if place.offset >= end:
                following = [segment for segment in list(self._ends) if segment > place.segment]
                if not following:
                    break
                place = Place(min(following), HEADER_SIZE)
                continue
            items = self._read_piece(place, end, min(PIECE, size))
            if not items:
                place = Place(place.segment, end)  # nothing behind the damage is sound
                continue
            for item in items[: records - len(found)]:
                size -= len(item.payload)
                if found and size < 0:
                    break
                found.append(item)
            place = found[-1].after
        if not found and after is None:
            self._start, self._first = place, max(self._first, upto)
        return found

    def _read_piece(self, place: Place, end: int, size: int) -> list[Item]:
        path = segment_path(self._folder, place.segment)
        entries = read_entries(self._fs, path, place.offset, end, size)
        if not entries:
            entries = [entry for entry in read_sound_entries(self._fs, path) if place.offset < entry.end <= end]
            if place.segment not in self._damaged:
                self._damaged.add(place.segment)
                behind = f"it goes on with record {entries[0].number}" if entries else "nothing behind it can be read"
                log.error(
                    "%s is damaged at byte %d; %s, and the file is kept as %s%s",
                    path,
                    place.offset,
                    behind,
                    path.name,
                    DAMAGED,
                )
        return [Item(entry.number, entry.time, entry.payload, Place(place.segment, entry.end)) for entry in entries]

    def take(self, item: Item) -> None:
        """See Journal."""
        self._start, self._first = item.after, item.number + 1

    def save(self) -> None:
        """See Journal."""
        with self._lock:
            start = self._start
            if not self._newest:
                return
            position = {"segment": start.segment, "offset": start.offset, "number": self._first, "note": self.note}
            value = {"position": position, "checksum": checksum_of(position)}
            replace_file(self._fs, self._folder / POSITION, orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))
            for segment in sorted(self._ends):
                if segment < start.segment:
                    self._remove(segment)

    def _remove(self, segment: int) -> None:
        path = segment_path(self._folder, segment)
        if segment in self._damaged:
            self._fs.rename(path, path.with_name(path.name + DAMAGED))
        else:
            self._fs.unlink(path)
        del self._ends[segment]

    def close(self) -> None:
        """See Journal."""
        with self._lock:
            writer, self._writer = self._writer, None
            if writer is not None:
                try:
                    writer.close()
                except SyncError as error:
                    log.error("%s: %s", self._folder, error)


def _why(error: StorageError | SyncError) -> str:
    """What the disk said, without the log's own words."""
    cause = error.__cause__
    return (cause.strerror or str(cause)) if isinstance(cause, OSError) else str(error)

"""Backups: a consistent copy of a data directory, of a live or stopped server. The way back is restore.py.

A backup has the folders and files of a data directory, and ``backup.json`` in the place of the manifest::

    {"format": 1, "shards": N, "generation": G, "time": T, "whole": {name: bytes}}

T (microseconds since 1970 UTC) is when it was begun, and it stands for the state of that moment: the files of one
shard are copied after those of another, so records that are younger than T may be in it, and restoring leaves them
out. A report makes its index item durable before its row, on whichever shards; and what is acknowledged before T is in
the log before T. Two things move T on: records that are younger already, because the clock was set back since they
were written; and a live server that meanwhile replaced every snapshot that is older than T.

`whole` lists the files that will not change any more, with their size: they are not copied again if they are there
as they began. All others are copied. The new ``backup.json`` replaces the old one only when everything it needs is
there, and only then go files that it does not need. So a backup that was cut short leaves the one before as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import orjson

from shardhash.admin.directory import manifest_of
from shardhash.errors import ConfigError, DamageError, StorageError
from shardhash.shard.files import BACKUP, LOCK, TEMPORARY, list_shard, segment_name, siginfo_name, snapshot_name
from shardhash.shard.fs import FileSystem, replace_file
from shardhash.shard.log import Tail, first_number, read_segment
from shardhash.shard.manifest import Manifest, lock_directory, make_directory, remove_generations
from shardhash.shard.recovery import Progress, now
from shardhash.shard.snapshot import check_snapshot, read_end

FORMAT = 1
ATTEMPTS = 10
"""How often the files of a shard are listed anew when a live server removes one while it is copied."""
_PIECE = 1 << 20
_BEGINNING = 256
"""Bytes in which two files differ that are not the same: they hold the time of a snapshot or of a first record."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Result:
    """What a backup did: its time (microseconds), and files copied, files that were there already, bytes copied."""

    time: int
    copied: int = 0
    kept: int = 0
    size: int = 0


class Source(NamedTuple):
    """What can be restored: a data directory or a backup. `time` is that of a backup, None otherwise."""

    manifest: Manifest
    time: int | None
    whole: dict[str, int]


def source_of(fs: FileSystem, directory: Path) -> Source:
    """What lies in a folder. ConfigError when it is neither a data directory nor a backup, DamageError for nonsense."""
    path = directory / BACKUP
    if not fs.exists(path):
        return Source(manifest_of(fs, directory), None, {})
    with fs.read(path) as file:
        text = file.read()
    try:
        found = orjson.loads(text)
        version, manifest = found["format"], Manifest(int(found["shards"]), int(found["generation"]))
        source = Source(manifest, int(found["time"]), dict(found["whole"]))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        raise DamageError(path, 0, "it is damaged", "take another backup, or repair this one") from None
    if version != FORMAT:
        raise ConfigError(f"{directory} is a backup of format {version}, this shardhash reads {FORMAT}")
    return source


def backup(fs: FileSystem, directory: Path, destination: Path, progress: Progress) -> Result:
    """Bring a backup up to date, or begin one in an empty folder.

    ConfigError when the destination is something else, DamageError when what was copied is damaged, StorageError when
    a disk refuses. The backup that was there before is then still whole.
    """
    manifest = manifest_of(fs, directory)
    make_directory(fs, destination)
    with lock_directory(destination):
        old = _old_backup(fs, destination)
        copy = _Copy(fs, directory, destination, old, Result(now()))
        try:
            for number, folder in enumerate(manifest.folders(Path())):
                copy.copy_shard(folder, last=folder.parent)
                progress(f"copied shard {number + 1} of {manifest.shards}")
            copy.move_time(manifest.folders(destination))
            if manifest_of(fs, directory) != manifest:
                raise StorageError(f"{directory} was resharded meanwhile; run the backup again")
            copy.finish(manifest)
        except OSError as error:
            raise StorageError(f"the backup in {destination} cannot be written: {error}") from error
    return copy.result


def earliest_time(fs: FileSystem, folders: list[Path]) -> int:
    """The earliest time (microseconds) to which all these shards can be restored; 0 when that is their beginning."""
    times = [0]
    for folder in folders:
        listing = list_shard(fs, folder)
        if 1 not in listing.segments and listing.snapshots:
            times.append(read_end(fs, folder / snapshot_name(listing.snapshots[0])).time)
    return max(times)


def text_of(time: int) -> str:
    """A time in microseconds as ISO 8601."""
    return (_EPOCH + timedelta(microseconds=time)).isoformat(timespec="seconds")


def _old_backup(fs: FileSystem, destination: Path) -> Source | None:
    names = set(fs.listdir(destination)) - {LOCK}
    if BACKUP in names:
        return source_of(fs, destination)
    if any(not name.startswith("generation-") and name != BACKUP + TEMPORARY for name in names):
        raise ConfigError(f"{destination} holds something that is no backup; name another folder")
    return None


class _Copy:
    """One run of a backup. Names are relative to the data directory."""

    def __init__(self, fs: FileSystem, directory: Path, destination: Path, old: Source | None, result: Result) -> None:
        self._fs = fs
        self._directory = directory
        self._destination = destination
        self._old = {} if old is None else old.whole
        self._whole: dict[str, int] = {}
        self._needed: set[Path] = set()
        self._folders: list[Path] = []
        self._youngest = 0 if old is None else old.time or 0
        """Time of the youngest record that was written before the clock was set back, 0 if it was not."""
        self.result = result

    def copy_shard(self, folder: Path, last: Path) -> None:
        """Copy the files of a shard; `last` is the folder that its own lies in. Raises StorageError, DamageError."""
        for made in (last, folder):
            self._fs.mkdir(self._destination / made)
        for _ in range(ATTEMPTS):
            try:
                files = self._copy_files(folder)
            except FileNotFoundError:
                continue  # a snapshot was finished meanwhile, and what it replaces is gone
            self._needed |= files
            self._folders.append(folder)
            for synced in (folder, last, Path()):
                self._fs.fsync_dir(self._destination / synced)
            return
        raise StorageError(f"the files of {self._directory / folder} change too fast to be copied, or are missing")

    def move_time(self, folders: list[Path]) -> None:
        """Let the backup stand for a moment at which all that was acknowledged before it began is in it."""
        self.result.time = max(self.result.time, self._youngest, earliest_time(self._fs, folders))

    def finish(self, manifest: Manifest) -> None:
        """Let the copy count, then remove what only the last one needed."""
        value = {
            "format": FORMAT,
            "shards": manifest.shards,
            "generation": manifest.generation,
            "time": self.result.time,
            "whole": self._whole,
        }
        replace_file(self._fs, self._destination / BACKUP, orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))
        remove_generations(self._fs, self._destination, keep=manifest.generation)
        for folder in self._folders:
            for name in self._fs.listdir(self._destination / folder):
                if folder / name not in self._needed:
                    self._fs.unlink(self._destination / folder / name)

    def _copy_files(self, folder: Path) -> set[Path]:
        """Copy what the folder holds; the names. Snapshots before the segments that they need, texts after both."""
        listing = list_shard(self._fs, self._directory / folder)
        files = set()
        for number in listing.snapshots:
            path = folder / snapshot_name(number)
            if self._copy(path, whole=True):
                check_snapshot(self._fs, self._destination / path)
            files.add(path)
        for number in listing.segments:
            path = folder / segment_name(number)
            newest = number == listing.segments[-1]
            if self._copy(path, whole=not newest):
                self._check_segment(self._destination / path, newest=newest)
            files.add(path)
        texts = list_shard(self._fs, self._directory / folder).siginfos  # a row is younger than its text
        for number in texts:
            path = folder / siginfo_name(number)
            self._copy(path, whole=number != texts[-1])
            files.add(path)
        return files

    def _check_segment(self, path: Path, *, newest: bool) -> None:
        last = 0
        for entry in read_segment(self._fs, path, first_number(self._fs, path) or 0, newest=newest, tail=Tail()):
            if entry.time < last:
                self._youngest = max(self._youngest, last)
            last = entry.time

    def _copy(self, path: Path, *, whole: bool) -> bool:
        """Copy a file unless it is there; whether it was copied. `whole`: it will not change any more."""
        name, target = str(path), self._destination / path
        size = self._fs.size(self._directory / path)
        if whole:
            self._whole[name] = size
            if self._old.get(name) == size and self._is_same(self._directory / path, target):
                self.result.kept += 1
                return False
        temporary = target.with_name(target.name + TEMPORARY)
        self.result.size += copy_file(self._fs, self._directory / path, temporary)
        self._fs.rename(temporary, target)
        self.result.copied += 1
        return True

    def _is_same(self, path: Path, target: Path) -> bool:
        """Whether a whole file was copied before; a directory that was restored meanwhile has the same names again."""
        if not self._fs.exists(target) or self._fs.size(target) != self._fs.size(path):
            return False
        with self._fs.read(path) as ours, self._fs.read(target) as theirs:
            return ours.read(_BEGINNING) == theirs.read(_BEGINNING)


def copy_file(fs: FileSystem, source: Path, target: Path) -> int:
    """Copy a file, durably but for its name; its bytes."""
    offset = 0
    with fs.read(source) as data:
        file = fs.create(target)
        try:
            while piece := data.read(_PIECE):
                file.write(piece, offset)
                offset += len(piece)
            file.fsync()
        finally:
            file.close()
    return offset

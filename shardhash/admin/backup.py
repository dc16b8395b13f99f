"""Backups: a consistent copy of a data directory, of a live or stopped server. The way back is restore.py.

A backup has the folders and files of a data directory, and ``backup.json`` in the place of the manifest::

    {"format": 1, "shards": N, "generation": G, "time": T, "files": {name: bytes or null}}

T (microseconds since 1970 UTC) is when it was begun, and it stands for the state of that moment: the files of one
shard are copied after those of another, so records that are younger than T may be in it, and restoring leaves them
out. A report makes its index item durable before its row, on whichever shards; and what is acknowledged before T is in
the log before T. Two things move T on: records that are younger already, because the clock was set back since they
were written (the log's own time goes on from them); and a live server that meanwhile replaced every snapshot that is
older than T. Shards whose copy was begun before that time are then copied again: an index item of one may belong to a
row of another.

The outbox (outbox/files.py) is copied after all shards: what was acknowledged before T and is not sent is in it. Its
position comes before the segments: when it is older, some reports are sent twice, which does no harm. When a segment
from there on is sent and gone meanwhile, the newer position is copied. It replaces the old one right before
``backup.json`` does.

`files` lists what belongs to the backup; all else in its folders was left by one that was cut short, and is not looked
at. Files that will not change any more have their size there: they are not copied again if they are as they were. All
others are copied, and only grow. The new ``backup.json`` replaces the old one when everything it lists is there and was
read back, and only then go files that it does not list. So one that was cut short leaves the one before as it was.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias
from zlib import crc32

import orjson

from shardhash.admin.directory import manifest_of
from shardhash.admin.listed import Listed
from shardhash.admin.timespan import earliest_time, latest_time
from shardhash.errors import ConfigError, DamageError, StorageError
from shardhash.outbox.reading import read_position
from shardhash.shard.directory.generations import remove_other_generations
from shardhash.shard.directory.lock import lock_directory
from shardhash.shard.directory.manifest import Manifest, make_directory, plausible_manifest
from shardhash.shard.storage.filesystem import FileSystem, replace_file
from shardhash.shard.storage.layout import (
    BACKUP,
    LOCK,
    OUTBOX,
    POSITION,
    TEMPORARY,
    is_shard_file,
    list_shard,
    outbox_folders,
    segment_name,
    siginfo_name,
    snapshot_name,
)
from shardhash.shard.storage.log import Tail, first_number, read_segment
from shardhash.shard.storage.recovery import Progress, now
from shardhash.shard.storage.snapshot import check_snapshot, read_end

FORMAT = 1
ATTEMPTS = 10
"""How often the files of a shard are listed anew when a live server removes one while it is copied."""
_PIECE = 1 << 20
_LONGEST = 64 << 20
"""Bytes of a backup.json that are read; a million files are named in them."""
_BEGINNING = 256
"""Bytes in which two files differ that are not the same: they hold the time of a snapshot or of a first record."""
Files: TypeAlias = dict[str, int | None]
"""Names of files relative to a data directory; the bytes of one that will not change any more, None for others."""


@dataclass(slots=True)
class Result:
    """What a backup did: its time (microseconds) and that of the one before, None for none; files that were copied,
    files that were there already, bytes copied."""

    time: int
    before: int | None
    copied: int = 0
    kept: int = 0
    size: int = 0


class Source(NamedTuple):
    """What can be restored: a data directory or a backup. `time` is that of a backup, None otherwise.

    `fs` shows what belongs to it; read its folders through that.
    """

    manifest: Manifest
    time: int | None
    files: Files
    fs: FileSystem


def source_of(fs: FileSystem, directory: Path) -> Source:
    """What lies in a folder. ConfigError when it is neither a data directory nor a backup, DamageError for nonsense."""
    path = directory / BACKUP
    if not fs.exists(path):
        return Source(manifest_of(fs, directory), None, {}, fs)
    with fs.read(path) as file:
        text = file.read(_LONGEST)
    try:
        found = orjson.loads(text)
        if found["format"] != FORMAT and type(found["format"]) is int:
            raise ConfigError(f"{directory} is a backup of format {found['format']}, this shardhash reads {FORMAT}")
        manifest = plausible_manifest(found["shards"], found["generation"])
        time, files = found["time"], found["files"]
        if type(time) is not int or not 0 <= time < 1 << 63:
            raise ValueError(f"{time!r} is not a time")
        _check_names(manifest, files)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"it is not the list of a backup's files: {error!r:.200}"
        raise DamageError(path, 0, what, "take another backup, or repair this one") from None
    return Source(manifest, time, files, Listed(fs, directory, files))


def _check_names(manifest: Manifest, files: Files) -> None:
    """ValueError for a name that is none of a file of these shards, or no size."""
    folders = {str(folder) for folder in manifest.folders(Path())}
    outbox = {str(folder) for folder in outbox_folders(Path())}
    for name, size in files.items():
        folder, _, file = name.rpartition("/")
        if not (folder in folders and is_shard_file(file)) and not (folder in outbox and _is_outbox_file(file)):
            raise ValueError(f"{name!r} is not a file of a shard")
        if size is not None and (type(size) is not int or size < 0):
            raise ValueError(f"{size!r} is not a size of {name}")


def _is_outbox_file(name: str) -> bool:
    return name == POSITION or (is_shard_file(name) and name.startswith("log-"))


def backup(fs: FileSystem, directory: Path, destination: Path, progress: Progress) -> Result:
    """Bring a backup up to date, or begin one in an empty folder.

    ConfigError when the destination is something else, DamageError when what was copied is damaged, StorageError when
    a disk refuses. The backup that was there before is then still whole.
    """
    manifest = manifest_of(fs, directory)
    _check_destination(directory, destination)
    make_directory(fs, destination)
    with lock_directory(destination):
        old = _old_backup(fs, destination)
        try:
            begun = max(now(), latest_time(fs, manifest.folders(directory)))
            copy = _Copy(fs, directory, destination, old, Result(begun, old and old.time))
            for number, folder in enumerate(manifest.folders(Path())):
                copy.copy_shard(folder, last=folder.parent)
                progress(f"copied shard {number + 1} of {manifest.shards}")
            copy.move_time(manifest)
            for _ in range(ATTEMPTS):
                for folder in (late := copy.begun_too_early()):
                    copy.copy_shard(folder, last=folder.parent)
                    progress(f"copied {folder} again: a snapshot is younger than what was copied of it")
                copy.move_time(manifest)
                if not late:
                    break
            else:
                raise StorageError(f"the snapshots in {directory} change too fast to be copied; run the backup again")
            copy.copy_outbox()
            if manifest_of(fs, directory) != manifest:
                raise StorageError(f"{directory} was resharded meanwhile; run the backup again")
            copy.finish(manifest)
        except OSError as error:
            raise StorageError(f"the backup in {destination} cannot be written: {error}") from error
    return copy.result


def _check_destination(directory: Path, destination: Path) -> None:
    if destination.is_file():
        raise ConfigError(f"{destination} is a file; name a folder for the backup")
    data, target = directory.resolve(), destination.resolve()
    if data == target:
        raise ConfigError(f"{destination} is the data directory itself; name another folder for the backup")
    if data in target.parents or target in data.parents:
        inner, outer = (destination, directory) if data in target.parents else (directory, destination)
        raise ConfigError(
            f"{inner} lies in {outer}; name a folder for the backup that is apart from the data directory"
        )


def _old_backup(fs: FileSystem, destination: Path) -> Source | None:
    names = set(fs.listdir(destination)) - {LOCK}
    if BACKUP in names:
        return source_of(fs, destination)
    if any(not name.startswith("generation-") and name not in (OUTBOX, BACKUP + TEMPORARY) for name in names):
        raise ConfigError(f"{destination} holds something else than a backup; name another folder")
    return None


class _Copy:
    """One run of a backup. Names are relative to the data directory."""

    def __init__(self, fs: FileSystem, directory: Path, destination: Path, old: Source | None, result: Result) -> None:
        self._fs = fs
        self._directory = directory
        self._destination = destination
        self._old = {} if old is None else old.files
        self._files: Files = {}
        self._begun: dict[Path, int] = {}
        """By folder, the time up to which all records are in its copy, since it was begun then."""
        self._youngest = 0 if old is None else old.time or 0
        """Time of the youngest record that was written before the clock was set back, 0 if it was not."""
        self.result = result

    def copy_shard(self, folder: Path, last: Path) -> None:
        """Copy the files of a shard; `last` is the folder that its own lies in. Raises StorageError, DamageError."""
        for made in (last, folder):
            self._fs.mkdir(self._destination / made)
        for _ in range(ATTEMPTS):
            begun = max(now(), self.result.time)
            try:
                files = self._copy_files(folder)
            except FileNotFoundError:
                continue  # a snapshot was finished meanwhile, and what it replaces is gone
            others = {name: size for name, size in self._files.items() if Path(name).parent != folder}
            self._files = others | files
            self._begun[folder] = begun
            for synced in (folder, last, Path()):
                self._fs.fsync_dir(self._destination / synced)
            return
        raise StorageError(
            f"the files of {self._directory / folder} change too fast to be copied, or some that they refer to are"
            " missing; shardhash verify tells"
        )

    def copy_outbox(self) -> None:
        """Copy the outbox, if there is one. Raises StorageError, DamageError."""
        for folder in outbox_folders(Path()):
            if self._fs.exists(self._directory / folder):
                self._fs.mkdir(self._destination / folder)
                self._files |= self._copy_journal(folder)
                for synced in (folder, folder.parent):
                    self._fs.fsync_dir(self._destination / synced)

    def _copy_journal(self, folder: Path) -> Files:
        """Copy the segments from the position on, and the position, which gets its name in `finish`."""
        source, target = self._directory / folder, self._destination / folder
        files: Files = {}
        for _ in range(ATTEMPTS):
            position = None
            if read_position(self._fs, source) is not None:
                self.result.size += copy_file(self._fs, source / POSITION, target / (POSITION + TEMPORARY))
                position = read_position(self._fs, target, POSITION + TEMPORARY)
            start = 0 if position is None else position.place.segment
            segments = [number for number in list_shard(self._fs, source).segments if number >= start]
            missing = position is not None and start not in segments
            found: Files = {} if position is None else {str(folder / POSITION): None}
            for number in segments:
                newest = number == segments[-1]
                path = folder / segment_name(number)
                try:
                    if files.get(str(path)) is None:
                        self._copy(path, files, partial(_check_waiting, self._fs, newest), may_change=newest)
                    found[str(path)] = files[str(path)]
                except FileNotFoundError:  # all of it was sent meanwhile
                    files.pop(str(path), None)
                    missing = True
            if not missing or read_position(self._fs, source) == position:
                return found
        raise StorageError(f"the files of {source} change too fast to be copied; run the backup again")

    def begun_too_early(self) -> list[Path]:
        """The folders of shards whose copy may lack records that are older than the backup's time."""
        return [folder for folder, begun in self._begun.items() if begun < self.result.time]

    def move_time(self, manifest: Manifest) -> None:
        """Let the backup stand for a moment at which all that was acknowledged before it began is in it."""
        listed = Listed(self._fs, self._destination, self._files)
        earliest = earliest_time(listed, manifest.folders(self._destination))
        self.result.time = max(self.result.time, self._youngest, earliest)

    def finish(self, manifest: Manifest) -> None:
        """Let the copy count, then remove what only the last one needed."""
        value = {
            "format": FORMAT,
            "shards": manifest.shards,
            "generation": manifest.generation,
            "time": self.result.time,
            "files": self._files,
        }
        outbox = outbox_folders(Path())
        for folder in outbox:
            if str(folder / POSITION) in self._files:
                path = self._destination / folder / POSITION
                self._fs.rename(path.with_name(POSITION + TEMPORARY), path)
                self._fs.fsync_dir(path.parent)
                self.result.copied += 1
        replace_file(self._fs, self._destination / BACKUP, orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))
        remove_other_generations(self._fs, self._destination, manifest)
        for folder in self._begun:
            for name in self._fs.listdir(self._destination / folder):
                if str(folder / name) not in self._files:
                    self._fs.unlink(self._destination / folder / name)
        for folder in outbox:
            path = self._destination / folder
            for name in self._fs.listdir(path) if self._fs.exists(path) else []:
                if str(folder / name) not in self._files and folder / name not in outbox:
                    self._fs.unlink(path / name)

    def _copy_files(self, folder: Path) -> Files:
        """Copy what the folder holds."""
        listing = list_shard(self._fs, self._directory / folder)
        files: Files = {}
        for number in listing.snapshots:
            self._copy(folder / snapshot_name(number), files, self._check_snapshot)
        for number in listing.segments:
            newest = number == listing.segments[-1]
            check = self._check_newest_segment if newest else self._check_segment
            self._copy(folder / segment_name(number), files, check, may_change=newest)
        # The texts at last: a row is younger than its text. Those that were there at first are copied as well: what was
        # copied so far refers to them, and if a snapshot let one of them go meanwhile, its file is not found.
        texts = sorted({*listing.siginfos, *list_shard(self._fs, self._directory / folder).siginfos})
        for number in texts:
            self._copy(folder / siginfo_name(number), files, lambda _path: None, may_change=number == texts[-1])
        self._check_texts(folder, listing.snapshots, set(texts))
        return files

    def _check_texts(self, folder: Path, snapshots: list[int], texts: set[int]) -> None:
        """Raise FileNotFoundError when a snapshot refers to a file of texts that was not copied."""
        for number in snapshots:
            path = self._destination / folder / snapshot_name(number)
            missing = set(read_end(self._fs, path).siginfo_files) - texts
            if missing:
                raise FileNotFoundError(errno.ENOENT, "a file of texts is missing", siginfo_name(min(missing)))

    def _check_snapshot(self, path: Path) -> None:
        check_snapshot(self._fs, path)

    def _check_segment(self, path: Path, *, newest: bool = False) -> None:
        last = 0
        for entry in read_segment(self._fs, path, first_number(self._fs, path) or 0, newest=newest, tail=Tail()):
            if entry.time < last:
                self._youngest = max(self._youngest, last)
            last = entry.time

    def _check_newest_segment(self, path: Path) -> None:
        self._check_segment(path, newest=True)

    def _copy(self, path: Path, files: Files, check: Callable[[Path], None], *, may_change: bool = False) -> None:
        """Copy a file unless it is there, and enter it in `files`. What does not read back does not get its name."""
        name, source, target = str(path), self._directory / path, self._destination / path
        size = files[name] = None if may_change else self._fs.size(source)
        if size is not None and self._old.get(name) == size and self._is_same(source, target):
            self.result.kept += 1
            return
        temporary = target.with_name(target.name + TEMPORARY)
        self.result.size += copy_file(self._fs, source, temporary)
        try:
            check(temporary)
        except DamageError as error:
            raise DamageError(source, error.offset, error.what, error.hint) from None
        self._fs.rename(temporary, target)
        self.result.copied += 1

    def _is_same(self, path: Path, target: Path) -> bool:
        """Whether a whole file was copied before; a directory that was restored meanwhile has the same names again."""
        if not self._fs.exists(target) or self._fs.size(target) != self._fs.size(path):
            return False
        with self._fs.read(path) as ours, self._fs.read(target) as theirs:
            return ours.read(_BEGINNING) == theirs.read(_BEGINNING)


def _check_waiting(fs: FileSystem, newest: bool, path: Path) -> None:
    for _ in read_segment(fs, path, first_number(fs, path) or 0, newest=newest, tail=Tail()):
        pass


def copy_file(fs: FileSystem, source: Path, target: Path) -> int:
    """Copy a file, durably but for its name, and read the copy back; its bytes. StorageError when it differs."""
    offset = checksum = 0
    with fs.read(source) as data:
        file = fs.create(target)
        try:
            while piece := data.read(_PIECE):
                file.write(piece, offset)
                offset += len(piece)
                checksum = crc32(piece, checksum)
            file.fsync()
        finally:
            file.close()
    copied = 0
    with fs.read(target) as data:
        while piece := data.read(_PIECE):
            copied = crc32(piece, copied)
    if copied != checksum:
        raise StorageError(f"{target} does not read back as it was written")
    return offset

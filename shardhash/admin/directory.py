"""Data directories as the offline tools hold them: one that is there, and one that comes into being.

A directory that comes into being is marked ``unfinished`` until its manifest is written, which is the last step. A
tool that fails takes away what it made. One that was killed is run again and begins anew; a server refuses to start on
what it left.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from shardhash.base.folders import check_folder, refuse_file
from shardhash.errors import ConfigError, StorageError
from shardhash.shard.directory.generations import next_generation, remove_leftovers, unfinished
from shardhash.shard.directory.lock import lock_directory
from shardhash.shard.directory.manifest import Manifest, check_folders, make_directory, read_manifest
from shardhash.shard.storage.filesystem import FileSystem
from shardhash.shard.storage.layout import ASIDE, CONTROL, LOCK, MANIFEST, UNFINISHED


def manifest_of(fs: FileSystem, directory: Path) -> Manifest:
    """The manifest of a data directory. ConfigError when it is none, or not there.

    DamageError for one that is damaged, or that says what the folders do not.
    """
    manifest = read_manifest(fs, directory)
    if manifest is None:
        check_folder(directory)
        if fs.exists(directory / UNFINISHED):
            raise unfinished(directory)
        raise ConfigError(f"{directory} is not a data directory: it has no {MANIFEST}")
    check_folders(fs, directory, manifest)
    return manifest


@contextmanager
def new_directory(fs: FileSystem, directory: Path, shards: int, instead: str = "") -> Iterator[list[Path]]:
    """Make a data directory; the folders of its shards, just begun. It counts once the block ends without an error.

    Otherwise what this made is removed. ConfigError when there is something in it, but for what this left earlier;
    `instead`: what else can be done about another data directory. StorageError when the disk refuses.
    """
    refuse_content(fs, directory, instead)
    is_new = not fs.exists(directory)
    make_directory(fs, directory)
    with lock_directory(directory):
        refuse_content(fs, directory, instead)
        was_begun = fs.exists(directory / UNFINISHED)
        try:
            try:
                fs.create(directory / UNFINISHED).close()
                fs.fsync_dir(directory)
            except OSError as error:
                raise StorageError(f"{directory} cannot be written: {error}") from error
            with replacement(fs, directory, shards) as folders:
                yield folders
        except BaseException:
            if not was_begun:
                _take_back(fs, directory, is_new=is_new)
            raise


def _take_back(fs: FileSystem, directory: Path, *, is_new: bool) -> None:
    """Remove the mark of a directory in which nothing else came into being, and the directory if it is new."""
    with suppress(OSError):  # else it stays, marked, and says so
        if set(fs.listdir(directory)) <= {LOCK, UNFINISHED}:
            fs.unlink(directory / UNFINISHED)
            if is_new:
                for name in fs.listdir(directory):
                    fs.unlink(directory / name)
                fs.rmdir(directory)


@contextmanager
def replacement(fs: FileSystem, directory: Path, shards: int) -> Iterator[list[Path]]:
    """Make another generation of a data directory; the folders of its shards, just begun. The caller holds the lock.

    It replaces what is there, at once, when the block ends without an error; until then that counts, and stays.
    """
    with next_generation(fs, directory, shards) as new:
        yield new.folders(directory)
    try:
        remove_leftovers(fs, directory, new)
    except OSError as error:
        raise StorageError(f"{directory} is whole, but what was there before cannot be removed: {error}") from error


def new_aside(fs: FileSystem, directory: Path, stamp: str) -> Path:
    """Make a folder for what is to be kept aside, whose name holds the stamp; no other one has it."""
    for number in count(1):
        path = directory / (f"{ASIDE}{stamp}" if number == 1 else f"{ASIDE}{stamp}-{number}")
        if not fs.exists(path):
            fs.mkdir(path)
            return path
    raise AssertionError


def refuse_content(fs: FileSystem, directory: Path, instead: str = "") -> None:
    """ConfigError when there is something in a directory that is to be made; see `new_directory`."""
    refuse_file(directory)
    if not fs.exists(directory):
        return
    names = set(fs.listdir(directory)) - {LOCK, CONTROL}
    if names and (MANIFEST in names or UNFINISHED not in names):
        hint = instead if MANIFEST in names else ""
        raise ConfigError(f"{directory} is not empty; name a new one, or move it aside first{hint}")

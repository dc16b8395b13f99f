"""Data directories as the offline tools hold them: one that is there, and one that comes into being.

A directory that comes into being is marked ``unfinished`` until its manifest is written, which is the last step. A
tool that was killed is run again and begins anew; a server refuses to start on what it left.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from shardhash.errors import ConfigError, StorageError
from shardhash.shard.directory.generations import next_generation, remove_leftovers
from shardhash.shard.directory.lock import lock_directory
from shardhash.shard.directory.manifest import Manifest, check_folders, make_directory, read_manifest
from shardhash.shard.storage.filesystem import FileSystem
from shardhash.shard.storage.layout import ASIDE, CONTROL, LOCK, MANIFEST, UNFINISHED


def manifest_of(fs: FileSystem, directory: Path) -> Manifest:
    """The manifest of a data directory. ConfigError when it is none.

    DamageError for one that is damaged, or that says what the folders do not.
    """
    manifest = read_manifest(fs, directory)
    if manifest is None:
        raise ConfigError(f"{directory} is not a data directory: it has no {MANIFEST}")
    check_folders(fs, directory, manifest)
    return manifest


@contextmanager
def new_directory(fs: FileSystem, directory: Path, shards: int, instead: str = "") -> Iterator[list[Path]]:
    """Make a data directory; the folders of its shards, just begun. It counts once the block ends without an error.

    ConfigError when there is something in it, but for what this left earlier. StorageError when the disk refuses.
    """
    _refuse_content(fs, directory, instead)
    make_directory(fs, directory)
    with lock_directory(directory):
        _refuse_content(fs, directory, instead)
        try:
            fs.create(directory / UNFINISHED).close()
            fs.fsync_dir(directory)
        except OSError as error:
            raise StorageError(f"{directory} cannot be written: {error}") from error
        with replacement(fs, directory, shards) as folders:
            yield folders


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


def _refuse_content(fs: FileSystem, directory: Path, instead: str) -> None:
    if not fs.exists(directory):
        return
    names = set(fs.listdir(directory)) - {LOCK, CONTROL}
    if names and (MANIFEST in names or UNFINISHED not in names):
        raise ConfigError(f"{directory} is not empty; name a new one, or move it aside first{instead}")

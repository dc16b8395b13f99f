"""Data directories as the offline tools hold them: one that is there, and one that comes into being.

A directory that comes into being is marked ``unfinished`` until its manifest is written, which is the last step. A
tool that was killed is run again and begins anew; a server refuses to start on what it left.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shardhash.errors import ConfigError, StorageError
from shardhash.shard.directory.manifest import (
    Manifest,
    lock_directory,
    make_directory,
    make_generation,
    read_manifest,
    remove_generations,
    write_manifest,
)
from shardhash.shard.storage.filesystem import FileSystem
from shardhash.shard.storage.layout import LOCK, MANIFEST, UNFINISHED


def manifest_of(fs: FileSystem, directory: Path) -> Manifest:
    """The manifest of a data directory. ConfigError when it is none, DamageError for a damaged one."""
    manifest = read_manifest(fs, directory)
    if manifest is None:
        raise ConfigError(f"{directory} is no data directory: it has no {MANIFEST}")
    return manifest


@contextmanager
def new_directory(fs: FileSystem, directory: Path, shards: int) -> Iterator[list[Path]]:
    """Make a data directory; the folders of its shards, just begun. It counts once the block ends without an error.

    ConfigError when there is something in it, but for what this left earlier. StorageError when the disk refuses.
    """
    _refuse_content(fs, directory)
    make_directory(fs, directory)
    with lock_directory(directory):
        _refuse_content(fs, directory)
        manifest = Manifest(shards, 1)
        try:
            fs.create(directory / UNFINISHED).close()
            fs.fsync_dir(directory)
            remove_generations(fs, directory, keep=None)
            make_generation(fs, directory, manifest)
            yield manifest.folders(directory)
            write_manifest(fs, directory, manifest)
            fs.unlink(directory / UNFINISHED)
            fs.fsync_dir(directory)
        except OSError as error:
            raise StorageError(f"{directory} cannot be written: {error}") from error


@contextmanager
def next_generation(fs: FileSystem, directory: Path, old: Manifest, shards: int) -> Iterator[list[Path]]:
    """Make another generation of a data directory; the folders of its shards, just begun. The caller holds the lock.

    It replaces the old one, at once, when the block ends without an error; until then the old one counts.
    """
    new = Manifest(shards, old.generation + 1)
    try:
        remove_generations(fs, directory, keep=old.generation)
        make_generation(fs, directory, new)
        yield new.folders(directory)
        write_manifest(fs, directory, new)
        remove_generations(fs, directory, keep=new.generation)
    except OSError as error:
        raise StorageError(f"{directory} cannot be written: {error}") from error


def _refuse_content(fs: FileSystem, directory: Path) -> None:
    if not fs.exists(directory):
        return
    names = set(fs.listdir(directory)) - {LOCK}
    if names and (MANIFEST in names or UNFINISHED not in names):
        raise ConfigError(f"{directory} is not empty; name a new one, or move it aside first")

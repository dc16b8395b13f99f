"""Generations: one division into shards after another, of which the manifest names the one that counts.

Whatever replaces all of a directory (another number of shards, a restore, a repair, a load) goes these steps, here:

1. A new generation is made beside the one that counts; its number is above all that are there (`next_generation`).
2. It is written, read back and compared by whoever writes it (`NewShards.finish`).
3. The manifest names it, at once. Killed before, the directory is as it was; after, as it is to be.
4. Only then does the old one go, with what was left by attempts that were killed (`remove_leftovers`). A server's start
   does this once all its workers have recovered: nothing is deleted before what is kept has proved whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shardhash.base.owners import describe
from shardhash.base.text import counted
from shardhash.errors import ConfigError, DamageError, StorageError
from shardhash.shard.directory.manifest import (
    GENERATION,
    REBUILD,
    Manifest,
    check_folders,
    read_manifest,
    upgrade_manifest,
    write_manifest,
)
from shardhash.shard.directory.reshard import reshard
from shardhash.shard.storage.filesystem import FileSystem
from shardhash.shard.storage.layout import ASIDE, MANIFEST, TEMPORARY, UNFINISHED, generation_folder
from shardhash.shard.storage.recovery import (
    BASE_SEGMENT,
    EMPTY_SEGMENT,
    Progress,
    begin_shard,
    ignore_progress,
    recover,
)


def prepare_directory(fs: FileSystem, directory: Path, shards: int, progress: Progress) -> Manifest:
    """Make the directory ready for this many shards, and return its manifest. The caller holds its lock.

    A new directory is begun; one with another number of shards is resharded into the next generation. Killed at any
    point, the generation that the manifest names is whole. What it replaces stays until `remove_leftovers`. Raises
    DamageError, ConfigError, StorageError.
    """
    try:
        manifest = read_manifest(fs, directory)
        if manifest is None:
            return _begin(fs, directory, shards)
        check_folders(fs, directory, manifest)
        return manifest if manifest.shards == shards else _reshard(fs, directory, manifest, shards, progress)
    except OSError as error:
        raise StorageError(f"{directory} cannot be made ready: {describe(error, directory)}") from error


def _begin(fs: FileSystem, directory: Path, shards: int) -> Manifest:
    if fs.exists(directory / UNFINISHED):
        raise unfinished(directory)
    _refuse_content(fs, directory)
    for name in generation_names(fs, directory):
        _remove_tree(fs, directory / name)  # the beginnings of a first start, which hold nothing
    manifest = Manifest(shards, 1)
    make_generation(fs, directory, manifest)
    write_manifest(fs, directory, manifest)
    return manifest


def unfinished(directory: Path) -> ConfigError:
    """What to say of a directory that is marked as unfinished."""
    return ConfigError(
        f"a restore, load, import or copy into {directory} did not finish; run it again, or delete the folder if it"
        " was new"
    )


def _reshard(fs: FileSystem, directory: Path, old: Manifest, shards: int, progress: Progress) -> Manifest:
    progress(f"resharding {directory} from {old.shards} to {counted(shards, 'shard')}")
    if len(generation_names(fs, directory)) > 1:  # what attempts left that were killed: the next may need the room
        for folder in old.folders(directory):
            recover(fs, folder, ignore_progress)
        remove_leftovers(fs, directory, old)
    with next_generation(fs, directory, shards) as new:
        reshard(fs, old.folders(directory), new.folders(directory), progress)
    progress(f"resharded {directory} to {counted(shards, 'shard')}")
    return new


@contextmanager
def next_generation(fs: FileSystem, directory: Path, shards: int) -> Iterator[Manifest]:
    """Make another generation, whose shards are to start from a snapshot (`NewShards`). The caller holds the lock.

    The manifest names it once the block ends without an error; the block has read back what it wrote. Otherwise it is
    removed. What was there before stays. Raises StorageError.
    """
    new = Manifest(shards, highest_generation(fs, directory) + 1)
    try:
        make_generation(fs, directory, new, BASE_SEGMENT)
        yield new
        check_folders(fs, directory, new)
    except BaseException as error:
        with suppress(OSError):  # else it is a leftover, which goes later
            _remove_tree(fs, generation_folder(directory, new.generation))
        if isinstance(error, OSError):
            raise StorageError(f"{directory} is left as it was: {error}") from error
        raise
    try:
        write_manifest(fs, directory, new)
    except OSError as error:
        raise StorageError(f"{directory} cannot be written: {error}") from error


def make_generation(fs: FileSystem, directory: Path, manifest: Manifest, segment: int = 1) -> None:
    """Make the folders of a new generation, each a shard whose log begins with this segment (`begin_shard`)."""
    generation = generation_folder(directory, manifest.generation)
    fs.mkdir(generation)
    for folder in manifest.folders(directory):
        begin_shard(fs, folder, segment)
    fs.fsync_dir(generation)
    fs.fsync_dir(directory)


def remove_leftovers(fs: FileSystem, directory: Path, kept: Manifest) -> None:
    """Remove all generations but the one kept, and what else was left by something that was cut short.

    The caller has recovered every shard of the generation that is kept, since the manifest named it. Raises OSError.
    """
    check_folders(fs, directory, kept)
    remove_other_generations(fs, directory, kept)
    for name in (MANIFEST + TEMPORARY, UNFINISHED):
        if fs.exists(directory / name):
            fs.unlink(directory / name)
    fs.fsync_dir(directory)
    upgrade_manifest(fs, directory, kept)


def remove_other_generations(fs: FileSystem, directory: Path, kept: Manifest) -> None:
    """Remove all generations but the one kept, whose files the caller has read. Raises OSError."""
    name_kept = generation_folder(directory, kept.generation).name
    for name in generation_names(fs, directory):
        if name != name_kept:
            _remove_tree(fs, directory / name)
    fs.fsync_dir(directory)


def generation_names(fs: FileSystem, directory: Path) -> list[str]:
    """The names of all generations' folders, sorted."""
    return [name for name in fs.listdir(directory) if GENERATION.fullmatch(name)]


def highest_generation(fs: FileSystem, directory: Path) -> int:
    """The highest number of a generation that is there; 0 without any."""
    return max((int(name.partition("-")[2]) for name in generation_names(fs, directory)), default=0)


def _refuse_content(fs: FileSystem, directory: Path) -> None:
    """DamageError when a directory without a manifest holds more than the beginnings of a first start."""
    for name in generation_names(fs, directory):
        generation = directory / name
        folders = [generation / folder for folder in fs.listdir(generation)]
        if any(fs.size(folder / file) > EMPTY_SEGMENT for folder in folders for file in fs.listdir(folder)):
            raise DamageError(directory / MANIFEST, 0, f"it is missing, but {generation} holds data", REBUILD)
    for name in fs.listdir(directory):
        if name.startswith(ASIDE):
            what = f"it is missing, and so is all that it named; {name} is what was there before a repair or restore"
            hint = f"restore that: shardhash restore {directory / name} --data NEW"
            raise DamageError(directory / MANIFEST, 0, what, hint)


def _remove_tree(fs: FileSystem, path: Path) -> None:
    """Remove a folder with all in it, and links in it, but not what they point to."""
    if not fs.exists(path):
        return
    if not fs.is_folder(path):
        fs.unlink(path)
        return
    for name in fs.listdir(path):
        _remove_tree(fs, path / name)
    fs.rmdir(path)

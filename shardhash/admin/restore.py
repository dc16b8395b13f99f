"""Restore: a data directory as a backup, or another data directory, has it or had it earlier.

Over a directory that is there it goes like this, so that neither the folder's owner nor its mount point changes:

1. The state is read from the source, written as the next generation of the directory, and verified.
2. The present generation gets a second name under ``aside-TIME`` (hard links, or copies where there are none), with a
   manifest: the folder is a data directory of its own.
3. The manifest names the new generation. Killed before, the directory is as it was; after, as it is to be.
4. What waits in the outbox is replaced by what waits in that of the source, as one step too. The present outbox was
   copied aside before. Killed in between, what waited goes on waiting; restoring again ends it.

A report that waits in the source may have been sent since. It is sent again, and the upstream answers the mapping that
is in force there; what was removed from it meanwhile comes back. With a time, only reports from before wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

from shardhash.admin.backup import Source, copy_file, source_of
from shardhash.admin.directory import new_aside, new_directory, replacement
from shardhash.admin.outbox import copy_outbox_aside, move_outbox
from shardhash.admin.timespan import check_time, earliest_time, text_of
from shardhash.admin.verify import verify
from shardhash.errors import ConfigError, DamageError, StorageError
from shardhash.shard.directory.lock import lock_directory
from shardhash.shard.directory.manifest import Manifest, check_folders, read_manifest, write_manifest
from shardhash.shard.directory.reshard import reshard
from shardhash.shard.state.table import Table
from shardhash.shard.storage.filesystem import FileSystem
from shardhash.shard.storage.layout import generation_folder
from shardhash.shard.storage.recovery import Progress, ignore_progress, recover
from shardhash.shard.storage.snapshot_chunks import MALFORMED

BY_FORCE = ", or give --force: what it holds then stays in a folder aside-TIME in it"
"""What else can be done about a directory that holds something."""


def restore(
    fs: FileSystem,
    source: Path,
    directory: Path,
    until: int | None,
    progress: Progress,
    tell: Callable[[str], None] = ignore_progress,
) -> int | None:
    """Make a new data directory of a backup, or of another data directory that keeps enough.

    `until` (microseconds since 1970 UTC): as it was then; else the newest state there is. `tell`: what of its outbox
    is damaged, and left out. Returns the time it stands for, None for the newest state of a data directory. ConfigError
    when `directory` is not empty, `until` is out of its reach or a server writes to the source; DamageError when the
    source is damaged, StorageError when a disk refuses.
    """
    found = source_of(fs, source)
    with kept_still(source), new_directory(fs, directory, found.manifest.shards, BY_FORCE) as new:
        moment = _write_state(fs, source, new, until, progress)
        move_outbox(found.fs, source, fs, directory, until, tell)
        return moment


def restore_over(
    fs: FileSystem,
    source: Path,
    directory: Path,
    until: int | None,
    stamp: str,
    progress: Progress,
    tell: Callable[[str], None] = ignore_progress,
) -> tuple[int | None, Path]:
    """The same in the place of what a data directory holds, which stays in a folder that `stamp` names; that too.

    `source` may be the directory itself, to go back in time.
    """
    with lock_directory(directory):
        old = read_manifest(fs, directory)
        if old is not None:
            check_folders(fs, directory, old)
        else:
            raise ConfigError(f"{directory} is not a data directory, and is left alone; name a new one")
        same = source.resolve() == directory.resolve()
        with nullcontext() if same else kept_still(source):
            found = source_of(fs, source)
            with replacement(fs, directory, found.manifest.shards) as new:
                moment = _write_state(fs, source, new, until, progress)
                aside = new_aside(fs, directory, stamp)
                copy_outbox_aside(fs, directory, aside)
                _link_aside(fs, directory, old, aside)
            move_outbox(found.fs, source, fs, directory, until, tell)
    return moment, aside


def _write_state(fs: FileSystem, source: Path, new: list[Path], until: int | None, progress: Progress) -> int | None:
    """Write the state of a source to new shards, and verify them; the time it stands for."""
    found, moment = source_as_of(fs, source, until)
    # The shards of a backup were copied one after the other: a row may be there before its index item.
    folders = found.manifest.folders(source)
    try:
        reshard(found.fs, folders, new, progress, read=partial(_read_until, until=moment), reindex=True)
    except MALFORMED as error:  # it was read, but cannot be written: a backup may come from anybody
        what = f"an entry has a right checksum and impossible values: {error!r}"
        raise DamageError(source, 0, what, "take another backup") from error
    verdict = verify(fs, new, progress)
    if verdict.damage:
        raise StorageError("what was restored does not verify: " + "; ".join(verdict.damage))
    if not any(verdict.counts[name] for name in ("mappings", "rows", "users", "config")):
        raise ConfigError(f"{source} holds nothing; nothing was restored")
    return moment


def source_as_of(fs: FileSystem, source: Path, until: int | None) -> tuple[Source, int | None]:
    """A source, and the time as of which it is to be read; None for its newest state.

    ConfigError for a time that its records do not reach.
    """
    found = source_of(fs, source)
    folders = found.manifest.folders(source)
    if until is not None:
        check_time(found.fs, source, folders, until, found.time)
        return found, until
    if found.time is not None and found.time < (earliest := earliest_time(found.fs, folders)):
        raise ConfigError(f"{source} goes back to {text_of(earliest)}, not to {text_of(found.time)}")
    return found, found.time


def _read_until(fs: FileSystem, folder: Path, progress: Progress, *, until: int | None) -> Table:
    return recover(fs, folder, progress, until).table


@contextmanager
def kept_still(source: Path) -> Iterator[None]:
    """Keep servers and backups off a source."""
    with lock_directory(source):
        yield


def _link_aside(fs: FileSystem, directory: Path, old: Manifest, aside: Path) -> None:
    """Give the present generation a second name in a new folder, durably."""
    generation = generation_folder(aside, old.generation)
    fs.mkdir(generation)
    for folder, target in zip(old.folders(directory), old.folders(aside), strict=True):
        fs.mkdir(target)
        for name in fs.listdir(folder) if fs.exists(folder) else []:
            try:
                (target / name).hardlink_to(folder / name)
            except OSError:
                copy_file(fs, folder / name, target / name)
        fs.fsync_dir(target)
    fs.fsync_dir(generation)
    write_manifest(fs, aside, old)
    fs.fsync_dir(directory)

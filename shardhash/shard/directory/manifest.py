"""The data directory: its manifest, its lock, and another number of shards.

``manifest.json`` is ``{"format": 1, "shards": N, "generation": G}``. It is replaced atomically, and names the
generation whose folder counts; any other generation is a leftover of a resharding that did not finish, or that did,
and goes at the next start. ``lock`` is locked (flock) by the process that serves the directory and says which it is;
its workers hold it too, so that none of them can write when a server that was killed has a successor.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from shardhash.errors import ConfigError, DamageError, StorageError
from shardhash.shard.directory.reshard import reshard
from shardhash.shard.storage.filesystem import FileSystem, replace_file
from shardhash.shard.storage.layout import LOCK, MANIFEST, TEMPORARY, UNFINISHED, generation_folder, shard_folder
from shardhash.shard.storage.recovery import EMPTY_SEGMENT, Progress, begin_shard

FORMAT = 1
"""Version of the data directory as a whole: layout, log, snapshots and siginfo files."""

ORPHAN_PATIENCE = 15.0
"""Seconds; a worker whose coordinator is gone ends at once, unless the disk keeps it."""

_REBUILD = "run: shardhash repair --data DIR, which writes it anew from the folders that are there"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a data directory holds."""

    shards: int
    generation: int

    def folders(self, directory: Path) -> list[Path]:
        """The folders of the shards, in order."""
        return [shard_folder(directory, self.generation, shard) for shard in range(self.shards)]


def read_manifest(fs: FileSystem, directory: Path) -> Manifest | None:
    """The manifest, None in a directory that has none. ConfigError for a newer format, DamageError for nonsense."""
    path = directory / MANIFEST
    if not fs.exists(path):
        return None
    with fs.read(path) as file:
        text = file.read()
    try:
        found = orjson.loads(text)
        version, manifest = found["format"], Manifest(int(found["shards"]), int(found["generation"]))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        raise DamageError(path, 0, "the manifest is damaged", _REBUILD) from None
    if version != FORMAT:
        raise ConfigError(f"{directory} has data of format {version}, this shardhash reads {FORMAT}; use a newer one")
    return manifest


def write_manifest(fs: FileSystem, directory: Path, manifest: Manifest) -> None:
    """Replace the manifest, durably."""
    value = {"format": FORMAT, "shards": manifest.shards, "generation": manifest.generation}
    replace_file(fs, directory / MANIFEST, orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))


def prepare_directory(fs: FileSystem, directory: Path, shards: int, progress: Progress) -> Manifest:
    """Make the directory ready for this many shards, and return its manifest. The caller holds its lock.

    A new directory is begun; one with another number of shards is resharded into the next generation. Killed at any
    point, the generation that the manifest names is whole. Raises DamageError, ConfigError, StorageError.
    """
    try:
        return _prepare(fs, directory, shards, progress)
    except OSError as error:
        raise StorageError(f"{directory} cannot be made ready: {error}") from error


def _prepare(fs: FileSystem, directory: Path, shards: int, progress: Progress) -> Manifest:
    manifest = read_manifest(fs, directory)
    if fs.exists(directory / (MANIFEST + TEMPORARY)):
        fs.unlink(directory / (MANIFEST + TEMPORARY))
    if manifest is None:
        if fs.exists(directory / UNFINISHED):
            raise ConfigError(f"a restore or load into {directory} did not finish; run it again")
        _refuse_without_manifest(fs, directory)
        remove_generations(fs, directory, keep=None)
        manifest = Manifest(shards, 1)
        make_generation(fs, directory, manifest)
        write_manifest(fs, directory, manifest)
    remove_generations(fs, directory, keep=manifest.generation)
    if manifest.shards == shards:
        return manifest
    new = Manifest(shards, manifest.generation + 1)
    progress(f"resharding {directory} from {manifest.shards} to {shards} shards")
    make_generation(fs, directory, new)
    reshard(fs, manifest.folders(directory), new.folders(directory), progress)
    write_manifest(fs, directory, new)
    remove_generations(fs, directory, keep=new.generation)
    progress(f"resharded {directory} to {shards} shards")
    return new


def make_directory(fs: FileSystem, directory: Path) -> None:
    """Make the data directory itself, readable by its owner only, and its parents. Raises ConfigError."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        fs.mkdir(directory)
        fs.fsync_dir(directory.parent)
    except OSError as error:
        raise ConfigError(f"cannot make the data directory {directory}: {error.strerror or error}") from None


@contextmanager
def lock_directory(directory: Path, patience: float = ORPHAN_PATIENCE) -> Iterator[int]:
    """Hold the lock of a data directory; its descriptor, for processes that are to hold it as well.

    It is free once the last of these has ended. When a server was killed, its workers may still be at their last
    writes; they have `patience`, seconds, to end. ConfigError that names the holder when the lock is taken.
    """
    path = directory / LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot use the data directory {directory}: {error.strerror or error}") from None
    try:
        until = time.monotonic() + patience
        while not _try_lock(descriptor):
            if not _is_gone(descriptor):
                raise ConfigError(f"the data directory {directory} is in use by {_holder(descriptor)}")
            if time.monotonic() > until:
                raise ConfigError(f"the data directory {directory} is still in use by workers of a server that is gone")
            time.sleep(0.02)
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, orjson.dumps(holder), 0)
        yield descriptor
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def holder_process(directory: Path) -> int | None:
    """The process that serves a data directory; None when there is none, or only workers of one that is gone.

    ConfigError when it is on another host (in another container), where its number means nothing here, or does not
    say yet who it is.
    """
    try:
        descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot use the data directory {directory}: {error.strerror or error}") from None
    try:
        if _try_lock(descriptor):
            return None
        try:
            found = orjson.loads(os.pread(descriptor, 4096, 0))
            host, process = found["host"], int(found["pid"])
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            raise ConfigError(f"the server of {directory} is just starting or stopping; try again") from None
        if host != socket.gethostname():
            raise ConfigError(f"the server of {directory} is process {process} on {host}; ask there") from None
        return None if _is_gone(descriptor) else process
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_gone(descriptor: int) -> bool:
    """Whether the process that took the lock has ended, so that only its workers hold it still."""
    try:
        found = orjson.loads(os.pread(descriptor, 4096, 0))
        if found["host"] != socket.gethostname():
            return False
        process = os.pidfd_open(int(found["pid"]))
    except ProcessLookupError:
        return True
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, OSError):
        return False
    try:
        return bool(select.select([process], [], [], 0)[0])  # it has ended, if nobody has taken note of it yet
    finally:
        os.close(process)


def _holder(descriptor: int) -> str:
    try:
        found = orjson.loads(os.pread(descriptor, 4096, 0))
        return f"process {found['pid']} on {found['host']}, since {found['since']}; stop it first"
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "another process; stop it first"


def make_generation(fs: FileSystem, directory: Path, manifest: Manifest) -> None:
    """Make the folders of a new generation, each a shard that holds nothing (`begin_shard`)."""
    generation = generation_folder(directory, manifest.generation)
    fs.mkdir(generation)
    for folder in manifest.folders(directory):
        begin_shard(fs, folder)
    fs.fsync_dir(generation)
    fs.fsync_dir(directory)


def _refuse_without_manifest(fs: FileSystem, directory: Path) -> None:
    """DamageError when a directory without a manifest holds more than the beginnings of a first start."""
    for name in fs.listdir(directory):
        generation = directory / name
        if name.startswith("generation-"):
            folders = [generation / folder for folder in fs.listdir(generation)]
            if any(fs.size(folder / file) > EMPTY_SEGMENT for folder in folders for file in fs.listdir(folder)):
                raise DamageError(directory / MANIFEST, 0, f"it is missing, but {generation} holds data", _REBUILD)


def remove_generations(fs: FileSystem, directory: Path, keep: int | None) -> None:
    """Remove all generations but the one kept, if any."""
    kept = None if keep is None else generation_folder(directory, keep).name
    for name in fs.listdir(directory):
        if name.startswith("generation-") and name != kept:
            _remove_tree(fs, directory / name)
    fs.fsync_dir(directory)


def _remove_tree(fs: FileSystem, generation: Path) -> None:
    for name in fs.listdir(generation):
        folder = generation / name
        for file in fs.listdir(folder):
            fs.unlink(folder / file)
        fs.rmdir(folder)
    fs.rmdir(generation)

"""A snapshot on request: asked of the server that holds the data directory, and waited for."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from shardhash.errors import ConfigError, StorageError
from shardhash.shard.directory.manifest import holder_process, read_manifest
from shardhash.shard.storage.filesystem import FileSystem
from shardhash.shard.storage.layout import list_shard, shard_folder

LOOK_INTERVAL = 0.1
"""Seconds between looks at the directory: a server tells nobody but its log."""


def take_snapshot(fs: FileSystem, directory: Path, limit: float, progress: Callable[[str], None]) -> list[int]:
    """Have every shard write a snapshot; returns the number of each once all are there.

    `limit` is in seconds. ConfigError when no server can be asked, StorageError when it did not do it.
    """
    process = holder_process(directory)
    if process is None:
        raise ConfigError(
            f"no server serves {directory}, and only a server writes snapshots; what a stopped one left is whole"
        )
    before = _newest_snapshots(fs, directory)
    try:
        os.kill(process, signal.SIGUSR1)
    except PermissionError:
        raise ConfigError(f"the server, process {process}, belongs to another user; ask as that user") from None
    progress(f"asked process {process} for a snapshot of {len(before)} shards")
    until = time.monotonic() + limit
    done = 0
    while (newest := _newest_snapshots(fs, directory)) and any(a <= b for a, b in zip(newest, before, strict=True)):
        if (count := sum(a > b for a, b in zip(newest, before, strict=True))) > done:
            done = count
            progress(f"{done} of {len(before)} shards have written theirs")
        if holder_process(directory) != process:
            raise StorageError("the server ended before the snapshot was written; what was acknowledged is in its log")
        if time.monotonic() > until:
            raise StorageError(f"no snapshot of every shard within {limit:g} s; the server's log says why")
        time.sleep(LOOK_INTERVAL)
    return newest


def _newest_snapshots(fs: FileSystem, directory: Path) -> list[int]:
    """The number of each shard's newest snapshot, 0 for none."""
    manifest = read_manifest(fs, directory)
    if manifest is None:
        raise ConfigError(f"{directory} has no manifest yet; its server is making it")
    folders = [shard_folder(directory, manifest.generation, shard) for shard in range(manifest.shards)]
    return [max(list_shard(fs, folder).snapshots, default=0) for folder in folders]

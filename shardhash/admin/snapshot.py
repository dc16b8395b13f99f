"""A snapshot on request: asked of the server that holds the data directory, and waited for."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import orjson

from shardhash.base.text import counted
from shardhash.errors import ConfigError, StorageError
from shardhash.shard.directory.control import connect, request_of
from shardhash.shard.directory.lock import is_locked
from shardhash.shard.directory.manifest import read_manifest
from shardhash.shard.storage.filesystem import FileSystem
from shardhash.shard.storage.layout import list_shard, shard_folder

LOOK_INTERVAL = 0.1
"""Seconds between looks at the directory, for what is told meanwhile."""


def take_snapshot(fs: FileSystem, directory: Path, limit: float, progress: Callable[[str], None]) -> list[int]:
    """Have every shard write a snapshot; returns the number of each once all are there.

    `limit` is in seconds. ConfigError when no server can be asked, StorageError when it did not do it.
    """
    with _asked(directory) as server:
        before = _newest_snapshots(fs, directory)
        progress(f"asked the server of {directory} for a snapshot of {counted(len(before), 'shard')}")
        until = time.monotonic() + limit
        done, answer = 0, b""
        while not answer.endswith(b"\n"):
            try:
                part = server.recv(4096)
                answer += part
                if not part:
                    raise ConnectionResetError
            except TimeoutError:
                pass
            except ConnectionError:
                raise StorageError(
                    "the server ended before the snapshot was written; what was acknowledged is in its log"
                ) from None
            count = sum(a > b for a, b in zip(_newest_snapshots(fs, directory), before, strict=True))
            if count > done:
                done = count
                progress(f"{counted(done, 'shard has', 'shards have')} written theirs, of {len(before)}")
            if time.monotonic() > until and not answer:
                raise StorageError(f"no snapshot of every shard within {limit:g} s; the server's log says why")
    found = orjson.loads(answer)
    if "error" in found:
        raise StorageError(f"no snapshot of every shard was written: {found['error']}")
    return _newest_snapshots(fs, directory)


@contextmanager
def _asked(directory: Path) -> Iterator[socket.socket]:
    """A connection to the server that holds a data directory, on which it was asked for a snapshot."""
    with ExitStack() as opened:
        try:
            connection = opened.enter_context(connect(directory, LOOK_INTERVAL))
            connection.sendall(request_of("snapshot"))
        except OSError:
            raise ConfigError(_why_nobody_answers(directory)) from None
        yield connection


def _why_nobody_answers(directory: Path) -> str:
    if is_locked(directory):
        return f"{directory} is in use, but nobody answers there: its server is just starting or stopping; try again"
    return f"no server serves {directory}, and only a server writes snapshots; what a stopped one left is whole"


def _newest_snapshots(fs: FileSystem, directory: Path) -> list[int]:
    """The number of each shard's newest snapshot, 0 for none."""
    manifest = read_manifest(fs, directory)
    if manifest is None:
        raise ConfigError(f"{directory} has no manifest yet; its server is making it")
    folders = [shard_folder(directory, manifest.generation, shard) for shard in range(manifest.shards)]
    return [max(list_shard(fs, folder).snapshots, default=0) for folder in folders]

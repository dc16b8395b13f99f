"""Data directories for tests of the offline tools: small, but with everything that there can be."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path

import orjson

from shardhash.admin.directory import manifest_of
from shardhash.shard.directory.generations import prepare_directory
from shardhash.shard.directory.manifest import Manifest
from shardhash.shard.state.records import Record
from shardhash.shard.state.table import Table
from shardhash.shard.storage.filesystem import FileSystem
from shardhash.shard.storage.recovery import Shard, open_shard, recover
from shardhash.shard.storage.siginfo import read_siginfo
from shardhash.wire.hashes import ShardMap, to_key

METHOD = "sstate"
MARK = "kept"
USER = {"id": "1", "permissions": ["@read"], "scheme": "blake2b", "salt": "00", "hash": "11"}


def silent(_text: str) -> None:
    """Nobody looks."""


def hash_of(name: str, number: int) -> str:
    return hashlib.sha256(f"{name} {number}".encode()).hexdigest()


def siginfo_of(number: int) -> str:
    return "".join(random.Random(number).choices("siginfo\n", k=300))


class Writer:
    """Writes to the shards of a data directory as a server would."""

    def __init__(self, fs: FileSystem, directory: Path, shards: int = 2, segment_size: int = 4000) -> None:
        manifest = prepare_directory(fs, directory, shards, silent)
        self.folders = manifest.folders(directory)
        self.shards: list[Shard] = [open_shard(fs, folder, segment_size=segment_size) for folder in self.folders]

    def home(self, text: str) -> Shard:
        return self.shards[ShardMap(len(self.shards)).of(to_key(text))]

    def write(self, shard: Shard, *records: Record) -> None:
        shard.append(records)
        shard.sync()
        for record in records:
            shard.table.apply(record)

    def report(self, number: int, outhash: str | None = None) -> str:
        """A report; its taskhash. Every third one has a siginfo text, some are not 64 digits, some carry a mark."""
        taskhash = hash_of("task", number) if number % 11 else f"task-{number}"
        outhash = outhash or hash_of("out", number // 2)
        shard = self.home(taskhash)
        self.write(self.home(outhash), ("idx", METHOD, outhash, taskhash, number))
        reference = shard.put_siginfo(siginfo_of(number)) if number % 3 == 0 else 0
        details = ("me", f"recipe-{number % 5}", "1.0", None, "do_compile")
        mark = MARK if number % 7 == 0 else ""
        row = ("row", METHOD, taskhash, outhash, number, *details, reference, hash_of("uni", number), mark)
        self.write(shard, row)
        return taskhash

    def fill(self, numbers: Sequence[int]) -> None:
        """Reports, removals, settings."""
        for number in numbers:
            self.report(number)
        gone = hash_of("task", numbers[0])
        self.write(self.home(gone), ("unmap", METHOD, [gone]))
        self.write(self.shards[0], ("set", "user", "joe", USER))
        for shard in self.shards:
            self.write(shard, ("set", "config", "gc-mark", MARK))

    def snapshot(self) -> None:
        for shard in self.shards:
            job = shard.begin_snapshot()
            while job.step():
                pass
            while job.seal():
                pass

    def close(self) -> None:
        for shard in self.shards:
            shard.close()


def facts(fs: FileSystem, directory: Path, manifest: Manifest | None = None, until: int | None = None) -> set[bytes]:
    """Everything that a data directory holds, whatever the number of its shards, siginfo texts included."""
    found = set()
    for folder in (manifest or manifest_of(fs, directory)).folders(directory):
        table = recover(fs, folder, until=until).table
        found |= {orjson.dumps(fact) for fact in table._facts()} | texts(fs, folder, table)
    return found


def texts(fs: FileSystem, folder: Path, table: Table) -> set[bytes]:
    found = set()
    for method, part in table.methods.items():
        for taskhash in part.rows:
            for row in table.rows(method, taskhash):
                found.add(orjson.dumps([str(taskhash), str(row.outhash), read_siginfo(fs, folder, row.siginfo)]))
    return found

"""A reshard that is cut, or refused, and then cut again: the state is whole with either number of shards.

test_manifest.py cuts once. Here the shards have a past (a snapshot, removals, a dirty end), the start that clears up is
cut too, and afterwards each key is on the shard where it lives, each siginfo text readable, and nothing is left over.
"""

from __future__ import annotations

import errno
import random
from pathlib import Path
from typing import cast

import orjson
import pytest

from shardhash.errors import StorageError, SyncError
from shardhash.shard.directory.generations import prepare_directory, remove_leftovers
from shardhash.shard.directory.manifest import Manifest, read_manifest
from shardhash.shard.state.records import Record
from shardhash.shard.state.table import Table
from shardhash.shard.storage.layout import list_shard, shard_folder
from shardhash.shard.storage.recovery import ignore_progress, open_shard
from shardhash.wire.hashes import ShardMap, to_key
from tests.shard.faulty import FaultyFileSystem, PowerCutError, Survives

pytestmark = pytest.mark.once

DIRECTORY = Path("/data")
REPORTS = 6

State = set[bytes]


def digest(number: int) -> str:
    return f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 << 120:064x}"[:64]


def home(text: str, shards: int) -> int:
    return ShardMap(shards).of(to_key(text))


def text_of(taskhash: str) -> str:
    return f"siginfo of {taskhash}"


def made() -> FaultyFileSystem:
    fs = FaultyFileSystem()
    fs.mkdir(DIRECTORY)
    fs.root.sync()
    return fs


def filled(shards: int) -> tuple[FaultyFileSystem, State]:
    """A directory whose shards hold reports, removals, a snapshot and synced records behind it; killed, not stopped."""
    fs = made()
    manifest = prepare_directory(fs, DIRECTORY, shards, ignore_progress)
    opened = [open_shard(fs, shard_folder(DIRECTORY, 1, number), segment_size=600) for number in range(shards)]

    def write(number: int, record: Record) -> None:
        opened[number].append([record])
        opened[number].sync()
        opened[number].table.apply(record)

    write(0, ("set", "user", "admin", {"permissions": ["@all"]}))
    for shard in range(shards):
        write(shard, ("set", "config", "gc-mark", "mark"))
    for number in range(1, REPORTS + 1):
        taskhash, outhash = digest(number), digest(100 + number // 2)
        at = home(taskhash, shards)
        siginfo = opened[at].put_siginfo(text_of(taskhash)) if number % 2 else 0
        details = ("owner", "PN", None, None, "do_compile")
        write(at, ("row", "sstate", taskhash, outhash, number, *details, siginfo, digest(number // 2 + 1), "mark"))
        write(home(outhash, shards), ("idx", "sstate", outhash, taskhash, number))
        if number == REPORTS // 2:
            job = opened[0].begin_snapshot()
            while job.step():
                pass
            while job.seal():
                pass
    write(home("short", shards), ("map", "other", "short", digest(7), ""))
    write(home(digest(2), shards), ("unmap", "sstate", [digest(2)]))
    assert manifest == Manifest(shards, 1)
    return fs, state([shard.table for shard in opened])


def state(tables: list[Table]) -> State:
    """What the shards hold together; the current mark, which all know, once."""
    return {orjson.dumps(fact) for table in tables for fact in table._facts()}


def check(fs: FaultyFileSystem, shards: int, expected: State) -> None:
    """Start with this many shards: the state is whole and where it belongs, and nothing else is left."""
    manifest = prepare_directory(fs, DIRECTORY, shards, ignore_progress)
    assert manifest.shards == shards
    assert read_manifest(fs, DIRECTORY) == manifest
    opened = [open_shard(fs, shard_folder(DIRECTORY, manifest.generation, number)) for number in range(shards)]
    remove_leftovers(fs, DIRECTORY, manifest)
    assert fs.listdir(DIRECTORY) == [f"generation-{manifest.generation:06}", "manifest.json"]
    assert state([shard.table for shard in opened]) == expected
    for number, shard in enumerate(opened):
        shard.table.check()
        assert not list_shard(fs, shard_folder(DIRECTORY, manifest.generation, number)).temporaries
        for part in shard.table.methods.values():
            assert all(ShardMap(shards).of(key) == number for key in (*part.mappings, *part.rows, *part.index))
        for taskhash in shard.table.methods["sstate"].rows if "sstate" in shard.table.methods else ():
            for row in shard.table.rows("sstate", taskhash):
                assert isinstance(taskhash, bytes)
                assert shard.get_siginfo(row.siginfo) == (text_of(taskhash.hex()) if row.siginfo else None)
        if expected:
            assert shard.table.current_mark() == "mark"


@pytest.mark.parametrize("survives", ["synced", "all", "part"])
def test_a_second_cut_during_the_second_start(survives: Survives) -> None:
    """What a cut left is itself cleared away, or resharded again, and cut at each operation of that."""
    total = 0
    for first in range(0, 70, 7):
        again, finished = first % 3, False
        while not finished:
            fs, expected = filled(2)
            chance = random.Random(first * 1000 + again)
            for number, left in ((first, "part"), (again, survives)):
                finished = True
                fs.cut_before(number)
                try:
                    prepare_directory(fs, DIRECTORY, 3, ignore_progress)
                except PowerCutError:
                    finished = False
                fs.power_cut(cast("Survives", left), chance)
            check(fs, 2 if again % 2 else 3, expected)
            fs.power_cut("synced", chance)  # what a start showed stays
            check(fs, 3, expected)
            again += 3
            total += 1
    assert total > 30


@pytest.mark.parametrize("times", [1, 1000])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_refused_reshard_is_asked_for_again(error: int, times: int) -> None:
    """By the same process's successor, the machine still up: nothing that the refused one left is in its way."""
    number, finished = 0, False
    while not finished:
        fs, expected = filled(2)
        fs.fail(number, error, times=times)
        try:
            prepare_directory(fs, DIRECTORY, 3, ignore_progress)
            finished = True
        except (StorageError, SyncError):
            pass
        fs.before = lambda _number, _name: None
        check(fs, 2 if number % 2 else 3, expected)
        number += 1
    assert number > 15

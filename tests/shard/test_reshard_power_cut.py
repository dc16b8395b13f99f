"""Power goes, or the disk refuses, at every operation of making a data directory and of resharding it.

The next start, with the old number of shards or the new one, shows the state whole: each key on the shard where it
lives, each siginfo text readable, and no generation but the one that the manifest names.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from shardhash.errors import ShardhashError
from shardhash.shard.files import list_shard, shard_folder
from shardhash.shard.manifest import Manifest, prepare_directory, read_manifest
from shardhash.shard.records import Record
from shardhash.shard.recovery import open_shard
from shardhash.shard.table import Table
from shardhash.wire.hashes import shard_of, slot_of, to_key
from tests.shard.faulty import FaultyFileSystem, PowerCutError, Survives

DIRECTORY = Path("/data")
SURVIVORS: list[Survives] = ["synced", "all", "part", "part"]
REPORTS = 6

State = set[bytes]


def digest(number: int) -> str:
    return f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 << 120:064x}"[:64]


def home(text: str, shards: int) -> int:
    return shard_of(slot_of(to_key(text)), shards)


def text_of(taskhash: str) -> str:
    return f"siginfo of {taskhash}"


def ignore(_text: str) -> None:
    pass


def made() -> FaultyFileSystem:
    fs = FaultyFileSystem()
    fs.mkdir(DIRECTORY)
    fs.root.sync()
    return fs


def filled(shards: int) -> tuple[FaultyFileSystem, State]:
    """A directory whose shards hold reports, removals, a snapshot and synced records behind it; killed, not stopped."""
    fs = made()
    manifest = prepare_directory(fs, DIRECTORY, shards, ignore)
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
            job.seal()
    write(home("short", shards), ("map", "other", "short", digest(7), ""))
    write(home(digest(2), shards), ("unmap", "sstate", [digest(2)]))
    assert manifest == Manifest(shards, 1)
    return fs, state([shard.table for shard in opened])


def state(tables: list[Table]) -> State:
    """What the shards hold together; the current mark, which all know, once."""
    return {orjson.dumps(fact) for table in tables for fact in table._facts()}


def check(fs: FaultyFileSystem, shards: int, expected: State) -> None:
    """Start with this many shards: the state is whole and where it belongs, and nothing else is left."""
    manifest = prepare_directory(fs, DIRECTORY, shards, ignore)
    assert manifest.shards == shards
    assert read_manifest(fs, DIRECTORY) == manifest
    assert fs.listdir(DIRECTORY) == [f"generation-{manifest.generation:06}", "manifest.json"]
    opened = [open_shard(fs, shard_folder(DIRECTORY, manifest.generation, number)) for number in range(shards)]
    assert state([shard.table for shard in opened]) == expected
    for number, shard in enumerate(opened):
        shard.table.check()
        assert not list_shard(fs, shard_folder(DIRECTORY, manifest.generation, number)).temporaries
        for part in shard.table.methods.values():
            assert all(shard_of(slot_of(key), shards) == number for key in (*part.mappings, *part.rows, *part.index))
        for taskhash in shard.table.methods["sstate"].rows if "sstate" in shard.table.methods else ():
            for row in shard.table.rows("sstate", taskhash):
                assert isinstance(taskhash, bytes)
                assert shard.get_siginfo(row.siginfo) == (text_of(taskhash.hex()) if row.siginfo else None)
        if expected:
            assert shard.table.current_mark() == "mark"


def each_cut(begin: Callable[[], tuple[FaultyFileSystem, State]], shards: int, survives: Survives) -> int:
    """Cut the power before every operation of `prepare_directory`; how many there were."""
    number, finished = 0, False
    while not finished:
        fs, expected = begin()
        fs.cut_before(number)
        try:
            prepare_directory(fs, DIRECTORY, shards, ignore)
            finished = True
        except PowerCutError:
            pass
        chance = random.Random(number)
        fs.power_cut(survives, chance)
        check(fs, shards if number % 2 else 2, expected)
        fs.power_cut("synced", chance)  # what a start showed stays
        check(fs, shards, expected)
        number += 1
    return number


@pytest.mark.parametrize("survives", SURVIVORS)
@pytest.mark.parametrize("shards", [1, 3])
def test_power_cut_before_every_operation_of_resharding(shards: int, survives: Survives) -> None:
    assert each_cut(lambda: filled(2), shards, survives) > 15


@pytest.mark.parametrize("survives", SURVIVORS)
def test_power_cut_before_every_operation_of_a_first_start(survives: Survives) -> None:
    assert each_cut(lambda: (made(), set()), 3, survives) > 10


@pytest.mark.parametrize("survives", SURVIVORS)
def test_a_second_cut_during_the_second_start(survives: Survives) -> None:
    """What a cut left is itself cleared away, or resharded again, and cut at each operation of that."""
    total = 0
    for first in range(0, 60, 5):
        again, finished = 0, False
        while not finished:
            fs, expected = filled(2)
            chance = random.Random(first * 1000 + again)
            fs.cut_before(first)
            try:
                prepare_directory(fs, DIRECTORY, 3, ignore)
            except PowerCutError:
                pass
            fs.power_cut("part", chance)
            fs.cut_before(again)
            try:
                prepare_directory(fs, DIRECTORY, 3, ignore)
                finished = True
            except PowerCutError:
                pass
            fs.power_cut(survives, chance)
            check(fs, 3, expected)
            again += 3
            total += 1
    assert total > 50


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("times", [1, 1000])
def test_a_disk_that_refuses_is_said_and_the_next_start_is_whole(error: int, times: int) -> None:
    number, finished = 0, False
    while not finished:
        fs, expected = filled(2)
        fs.fail(number, error, times=times)
        try:
            prepare_directory(fs, DIRECTORY, 3, ignore)
            finished = True
        except ShardhashError:
            pass
        fs.power_cut("part", random.Random(number))
        check(fs, 2 if number % 2 else 3, expected)
        number += 1
    assert number > 15

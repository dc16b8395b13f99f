"""The disk refuses any one operation, or all of them for a while: nothing acknowledged is lost, and it heals."""

from __future__ import annotations

import errno
import random
from typing import cast

import pytest

from shardhash.errors import ShardhashError, StorageError, SyncError
from shardhash.shard.storage.layout import list_shard
from tests.shard.faulty import FaultyFileSystem
from tests.shard.life import FOLDER, Life

pytestmark = pytest.mark.once

STEPS = 14


def live(life: Life) -> None:
    """Reports and snapshots, each of which the disk may refuse."""
    for number in range(STEPS):
        try:
            if number % 4 == 3:
                life.snapshot(meanwhile=1)
            else:
                life.report(2, siginfo=number % 3 == 1)
        except StorageError:
            pass


def started() -> tuple[Life, FaultyFileSystem]:
    fs = FaultyFileSystem()
    life = Life(fs)
    life.begin()
    fs.root.sync()
    life.open()
    life.report(2)
    return life, fs


def count_of(times: int) -> int:
    life, fs = started()
    before = fs.operations
    live(life)
    return fs.operations - before


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("times", [1, 2, 3, 10])
def test_each_operation_fails_in_turn(error: int, times: int) -> None:
    ended = 0
    for number in range(count_of(times)):
        life, fs = started()
        fs.fail(number, error, times=times)
        try:
            live(life)
            life.check()  # it went on, and shows what was acknowledged and nothing else
        except SyncError:
            ended += 1  # final: the worker ends, recovery decides
        fs.power_cut("part", random.Random(number))
        life.open()
        life.check()
        life.report(2, siginfo=True)
        life.snapshot()
        life.open()
        life.check()
    assert ended


@pytest.mark.parametrize("times", [1, 5])
def test_a_disk_that_is_full_for_a_while_heals(times: int) -> None:
    """Only what takes space fails, as on a full disk: the process goes on, refuses, and later does not."""
    for number in range(count_of(times)):
        life, fs = started()
        fs.fail(number, errno.ENOSPC, times=times, only="write")
        live(life)
        fs.fail(0, errno.ENOSPC, times=0)  # space is back
        life.report(2)
        life.check()
        life.snapshot()
        assert not list_shard(fs, FOLDER).temporaries
        life.open()
        life.check()


def test_a_refused_report_says_why() -> None:
    life, fs = started()
    fs.fail(0, errno.ENOSPC)
    with pytest.raises(StorageError, match="report log cannot be written"):
        life.report()
    life.report()
    life.check()


def test_a_failed_sync_is_final() -> None:
    life, fs = started()
    fs.fail(0, errno.EIO, only="fsync")
    with pytest.raises(SyncError):
        life.report()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("only", ["", "write", "create", "fsync"])
def test_a_start_on_a_disk_that_takes_no_writes_serves_what_is_there(error: int, only: str) -> None:
    """It refuses reports, and goes on by itself when the disk does."""
    life, fs = started()
    live(life)
    fs.power_cut("part", random.Random(1))
    fs.fail(0, error, times=1_000_000, only=only)
    shard = life.open()
    life.check()
    assert not shard.has_log
    assert "lookups are served, and reports refused" in life.said[-1]
    for siginfo in (False, True):
        with pytest.raises(StorageError):
            life.report(siginfo=siginfo)
    with pytest.raises(StorageError):
        life.snapshot()
    life.check()
    fs.before = lambda _number, _name: None
    life.report(2, siginfo=True)
    life.snapshot()
    life.check()
    fs.power_cut("synced", random.Random(2))
    life.open()
    life.check()


def test_recovery_fails_in_words() -> None:
    error = errno.EIO
    number, finished = 0, False
    while not finished:
        life, fs = started()
        live(life)
        fs.fail(number, error, times=1000)
        try:
            life.open()
            finished = True
        except ShardhashError:
            pass
        cast("FaultyFileSystem", life.fs).power_cut("synced", random.Random(number))
        life.open()
        life.check()
        number += 1
    assert number > 2


def test_what_a_failed_sync_left_in_memory_is_written_by_the_next_start() -> None:
    """The next fsync would say that all is well, and power would take what the start has shown."""
    life, fs = started()
    fs.fail(0, errno.EIO, only="fsync")
    with pytest.raises(SyncError):
        life.report(3)
    life.open()
    shown = life.open().table.counts()["rows"]
    assert shown == 5
    life.check()
    fs.power_cut("synced", random.Random(1))
    life.open()
    life.check()

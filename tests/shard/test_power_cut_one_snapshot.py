"""With a single snapshot kept there is nothing to fall back to: the old one goes only once the new one is durable.

Also here: while the disk refuses, lookups go on, and see what was acknowledged and nothing of what was refused.
"""

from __future__ import annotations

import errno
import random
from typing import cast

import pytest

from shardhash.errors import StorageError
from shardhash.shard.storage.layout import list_shard
from shardhash.shard.storage.recovery import Shard, open_shard
from tests.shard.faulty import FaultyFileSystem, Survives, power_cuts
from tests.shard.life import FOLDER, SEGMENT, Life


class OneSnapshot(Life):
    """A life that keeps one snapshot."""

    def open(self) -> Shard:
        said = self.said.append
        self.shard = open_shard(self.fs, self.folder, segment_size=SEGMENT, keep_snapshots=1, progress=said)
        return self.shard


def started() -> tuple[FaultyFileSystem, OneSnapshot]:
    fs = FaultyFileSystem()
    life = OneSnapshot(fs)
    life.begin()
    fs.root.sync()
    life.open()
    life.report(2)
    life.snapshot()
    return fs, life


def live(life: Life) -> None:
    for number in range(3):
        life.report(3, siginfo=number == 1)
        oldest = [list(record[2:4]) for record in life.acknowledged if record[0] == "row"][:2]
        life.commit([("unrow", "method", oldest)])
        life.snapshot(meanwhile=2)


@pytest.mark.parametrize("survives", ["synced", "all", "part"])
@pytest.mark.parametrize("seed", [1, 2])
def test_power_cut_before_every_operation(survives: Survives, seed: int) -> None:
    number = 0
    for fs, life, number in power_cuts(started, live):
        fs.power_cut(survives, random.Random(number * 100 + seed))
        life.open()
        life.check()
        assert len(list_shard(fs, FOLDER).snapshots) in (1, 2)  # two when the older was just about to go
        life.snapshot()
        assert len(list_shard(fs, FOLDER).snapshots) == 1
        life.open()
        life.check()
    assert number + 1 > 50


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_lookups_go_on_while_every_write_is_refused(error: int) -> None:
    fs, life = started()
    life.report(3)
    shard = cast("Shard", life.shard)
    known = [(record[2], record[-2]) for record in life.acknowledged]
    fs.fail(0, error, times=1_000_000, only="write")
    for number in range(5):
        refused = life.row()
        with pytest.raises(StorageError):
            life.commit([refused, life.row()])
        with pytest.raises(StorageError):
            life.snapshot()
        assert shard.table.lookup("method", b"".join(bytes.fromhex(taskhash) for taskhash, _ in known)).digests == (
            b"".join(bytes.fromhex(unihash) for _, unihash in known)
        ), number
        assert shard.table.unihash("method", bytes.fromhex(refused[2])) is None
    fs.before = lambda _number, _name: None
    life.report(2)
    life.snapshot()
    life.check()
    fs.power_cut("synced", random.Random(0))
    life.open()
    life.check()

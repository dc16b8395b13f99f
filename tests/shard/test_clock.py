"""The clock of a log: it follows the machine's, and never goes back."""

from __future__ import annotations

import random
from functools import partial

import pytest

from shardhash.shard.storage.clock import LogClock
from shardhash.shard.storage.log import Tail, read_segment
from shardhash.shard.storage.recovery import now
from tests.shard.faulty import FaultyFileSystem
from tests.shard.life import Life


def test_it_never_goes_back_and_goes_on_at_the_pace_of_time() -> None:
    wall, monotonic = 1000, 0
    clock = LogClock(5000, lambda: wall, lambda: monotonic)
    assert clock.now() == 5001  # the last record was written before the clock was set back
    monotonic += 10
    assert clock.now() == 5011
    wall = 6000
    assert clock.now() == 6000
    wall = 0
    monotonic += 7
    assert clock.now() == 6007
    chance, last = random.Random(1), 0
    for _ in range(1000):
        wall, monotonic = chance.randrange(10_000), monotonic + chance.randrange(10)
        found = clock.now()
        assert found >= last
        last = found


def test_times_of_a_log_never_go_back_over_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    fs = FaultyFileSystem()
    life = Life(fs)
    life.begin()
    chance, began = random.Random(2), now()
    for number in range(20):
        wall = began + chance.randrange(-10, 10) * 1_000_000_000
        monkeypatch.setattr("shardhash.shard.storage.recovery.now", partial(int, wall))
        if number % 3 == 0:
            life.open()
        life.report(2)
        if number % 5 == 4:
            life.snapshot()
    assert any("the clock was set back by" in text for text in life.said)
    times = []
    due = None
    for name in fs.listdir(life.folder):
        if name.endswith(".log"):
            data = fs.file(life.folder / name).data
            due = int.from_bytes(data[8:16], "little")
            times += [entry.time for entry in read_segment(fs, life.folder / name, due, newest=False, tail=Tail())]
    assert len(times) > 5
    assert times == sorted(times)

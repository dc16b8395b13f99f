"""Power goes before every single file operation, whatever the disk had got to: nothing acknowledged is lost."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import cast

import pytest

from shardhash.shard.state.table import Table
from tests.shard.faulty import FaultyFileSystem, PowerCutError, Survives, power_cuts
from tests.shard.life import Life

pytestmark = pytest.mark.once

Scenario = Callable[[Life], None]


def appending(life: Life) -> None:
    life.report()
    life.report(3)
    life.report(siginfo=True)
    life.commit([("map", "method", "short hash", "ab" * 32, "A"), ("set", "user", "admin", {"permissions": ["@all"]})])
    life.report(2, siginfo=True)
    assert life.shard is not None
    life.shard.close()


def rotating(life: Life) -> None:
    for _ in range(6):
        life.report(2)


def snapshotting(life: Life) -> None:
    life.report(3, siginfo=True)
    life.snapshot()
    life.report(2)
    life.commit(
        [("unmap", "method", [life.acknowledged[0][2]]), ("unrow", "method", [list(life.acknowledged[1][2:4])])]
    )
    life.snapshot(meanwhile=2)


def cleaning_up(life: Life) -> None:
    for _ in range(4):
        life.report(4, siginfo=True)
        life.commit([("unrow", "method", [list(record[2:4])]) for record in life.acknowledged if record[0] == "row"])
        life.snapshot()


def reopening(life: Life) -> None:
    life.report(4)
    life.open().close()
    life.open()
    life.report(4)
    life.snapshot()
    life.open()
    life.open()


SCENARIOS = [appending, rotating, snapshotting, cleaning_up, reopening]
SURVIVORS = ["synced", "all", "part", "part"]


def started() -> Life:
    """A shard with some past, closed and open again."""
    fs = FaultyFileSystem()
    life = Life(fs)
    life.begin()
    fs.root.sync()
    life.open()
    life.report(2)
    life.open()
    return life


def cuts(scenario: Scenario) -> Iterator[tuple[Life, int]]:
    """The scenario again and again, the power gone before one more operation each time."""
    for _, life, number in power_cuts(begun, scenario):
        yield life, number


def begun() -> tuple[FaultyFileSystem, Life]:
    life = started()
    return cast("FaultyFileSystem", life.fs), life


@pytest.mark.parametrize("survives", SURVIVORS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_power_cut_before_every_operation(scenario: Scenario, survives: Survives) -> None:
    count = 0
    for life, number in cuts(scenario):
        chance = random.Random(number)
        cast("FaultyFileSystem", life.fs).power_cut(survives, chance)
        life.open()
        life.check()
        life.report(2, siginfo=True)
        life.snapshot()
        life.open()
        life.check()
        count += 1
    assert count > 15


@pytest.mark.parametrize("survives", SURVIVORS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_second_cut_during_recovery(scenario: Scenario, survives: Survives) -> None:
    """Recovery changes files too: it is cut at each of its own operations."""
    for life, number in cuts(scenario):
        fs = cast("FaultyFileSystem", life.fs)
        chance = random.Random(number)
        fs.power_cut("part", chance)
        again, finished = 0, False
        while not finished:
            fs.cut_before(again)
            try:
                life.open()
                finished = True
            except PowerCutError:
                pass
            fs.power_cut(survives, chance)
            again += 1
        life.open()
        life.check()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_then_shown_then_power_cut(scenario: Scenario) -> None:
    """What a killed process left in the page cache and its successor showed must not be lost to a power cut."""
    for life, number in cuts(scenario):
        fs = cast("FaultyFileSystem", life.fs)
        fs.before = lambda _number, _name: None  # the machine stays on: only the process is gone
        life.open()
        life.check()  # from here on, all that it shows counts as acknowledged
        fs.power_cut("synced", random.Random(number))
        life.open()
        life.check()


def test_a_first_start_is_begun_again() -> None:
    def nothing() -> tuple[FaultyFileSystem, Life]:
        fs = FaultyFileSystem()
        return fs, Life(fs)

    number = 0
    for fs, life, number in power_cuts(nothing, Life.begin):
        fs.power_cut("part", random.Random(number))
        fs.root.sync()
        life.begin()
        assert life.open().table.digest() == Table().digest()
    assert number + 1 > 4

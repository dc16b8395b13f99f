"""Loads: each coordinator sees what the others tell, and gives way to those that have fewer connections."""

from __future__ import annotations

import asyncio
import os

from shardhash.coordinator.complaints import Complaints
from shardhash.coordinator.connections import Connections
from shardhash.coordinator.limits import ServerLimits
from shardhash.coordinator.loads import SLACK, Loads

LIMIT = 5.0


def test_who_has_fewer_connections_than_others_accepts() -> None:
    home = Loads.create(3)
    second = Loads(os.dup(home.descriptor), 1, 3)
    home.tell(0)
    assert home.fewest(), "nobody else is there yet"
    second.tell(0)
    assert home.fewest()
    assert second.fewest()
    home.tell(1)
    assert not home.fewest()
    assert second.fewest()
    second.tell(10 * SLACK)
    home.tell(10 * SLACK + 11)
    assert not home.fewest()
    home.tell(10 * SLACK + 10)
    assert home.fewest(), "an eighth more is as good as equal"
    home.tell(5000)
    home.leave(1)
    assert home.fewest(), "the other has ended"
    for descriptor in (home.descriptor, second.descriptor):
        os.close(descriptor)


async def test_connections_are_told_as_they_come_and_go() -> None:
    told: list[int] = []
    connections = Connections(ServerLimits(connections=2), Complaints(), tell=told.append)
    one, _ = connections.admit(10, "127.0.0.1", "one"), connections.admit(11, "127.0.0.2", "two")
    assert one is not None
    connections.remove(one)
    connections.remove(one)
    assert told == [0, 1, 2, 1]


async def test_who_refuses_connections_does_not_get_all_that_come_again() -> None:
    home = Loads.create(2)
    second = Loads(os.dup(home.descriptor), 1, 2)
    connections = Connections(ServerLimits(peer_connections=1), Complaints(), tell=home.tell)
    second.tell(4)
    one = connections.admit(10, "host", "host:1")
    assert one is not None
    connections.asked(one)
    assert home.fewest()
    for number in range(4):
        assert connections.admit(11 + number, "host", "host:2") is None
    assert not home.fewest(), "the other may have room for them"
    watching = asyncio.create_task(connections.watch())
    async with asyncio.timeout(LIMIT):
        while not home.fewest():  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.01)
    watching.cancel()
    for descriptor in (home.descriptor, second.descriptor):
        os.close(descriptor)


def test_nobody_gives_way_to_one_that_has_no_descriptors() -> None:
    home = Loads.create(2)
    second = Loads(os.dup(home.descriptor), 1, 2)
    home.tell(9)
    second.tell(1)
    assert not home.fewest()
    second.rest(rests=True)
    second.tell(2)
    assert home.fewest()
    second.rest(rests=False)
    assert not home.fewest()
    assert second.fewest()
    for descriptor in (home.descriptor, second.descriptor):
        os.close(descriptor)

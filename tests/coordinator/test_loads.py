"""Loads: each coordinator sees what the others tell, and gives way to those that have fewer connections."""

from __future__ import annotations

import os

from shardhash.coordinator.complaints import Complaints
from shardhash.coordinator.connections import Connections
from shardhash.coordinator.limits import ServerLimits
from shardhash.coordinator.loads import SLACK, Loads


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

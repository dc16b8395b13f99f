"""Limits of connections: who gives way, who is refused, who is dropped; and the settings that say when."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from shardhash.coordinator import limits as limits_module
from shardhash.coordinator.complaints import Complaints, Flood
from shardhash.coordinator.connection import Connection
from shardhash.coordinator.connections import Connections
from shardhash.coordinator.limits import ServerLimits, choose
from shardhash.coordinator.permissions import Identity
from shardhash.errors import ConfigError, InvokeError


class Transport:
    """As much of a transport as is looked at."""

    def __init__(self) -> None:
        self.aborted = False
        self.unsent = 0

    def abort(self) -> None:
        self.aborted = True

    def get_write_buffer_size(self) -> int:
        return self.unsent


def opened(connections: Connections, fd: int, host: str = "h") -> Connection:
    connection = connections.admit(fd, host, f"{host}:{fd}")
    assert connection is not None
    connection.transport = Transport()  # type: ignore[assignment]
    return connection


def aborted(connection: Connection) -> bool:
    transport: Any = connection.transport
    return bool(transport.aborted)


async def test_the_oldest_that_asked_nothing_gives_way_then_all_are_refused() -> None:
    complaints = Complaints()
    connections = Connections(ServerLimits(connections=3), complaints)
    one, two, three = (opened(connections, fd) for fd in range(3))
    connections.asked(one)
    four = opened(connections, 3)
    assert aborted(two)
    assert not aborted(one)
    for connection in (three, four):
        connections.asked(connection)
    assert connections.admit(4, "h", "h:4") is None
    connections.remove(one)
    assert connections.admit(4, "h", "h:4") is not None
    assert complaints.counts == {"gave_way": 1, "connections": 1}


async def test_a_host_has_its_share_and_so_has_a_user() -> None:
    connections = Connections(ServerLimits(peer_connections=2, user_connections=1), Complaints())
    one, two = opened(connections, 0), opened(connections, 1)
    for connection in (one, two):
        connections.asked(connection)
    assert connections.admit(2, "h", "h:2") is None
    assert connections.admit(2, "other", "other:2") is not None
    connections.remove(two)
    connections.remove(two)
    three = opened(connections, 3)
    four = opened(connections, 4)
    assert aborted(three), "one of the same host that asked nothing gives way"
    three = four
    connections.claim(one, "me")
    connections.claim(one, "me")
    with pytest.raises(InvokeError, match="user_connections"):
        connections.claim(three, "me")
    connections.claim(one, "another")
    connections.claim(three, "me")
    connections.remove(three)
    connections.claim(one, "me")


async def test_a_descriptor_that_is_used_again_is_another_connection() -> None:
    connections = Connections(ServerLimits(peer_connections=1), Complaints())
    opened(connections, 7)
    opened(connections, 7)
    assert len(connections) == 1


async def test_over_half_of_the_memory_nothing_is_read_and_over_it_the_largest_goes() -> None:
    resumed: list[int] = []
    connections = Connections(ServerLimits(memory=1000), Complaints())
    one, two, three = (opened(connections, fd) for fd in range(3))
    for connection in (one, two, three):
        connection.resume = lambda fd=connection.fd: resumed.append(fd)  # type: ignore[misc]
    connections.keep(one, 400)
    assert not one.paused
    connections.keep(two, 300)
    assert two.paused
    connections.keep(three, 0)
    assert not three.paused, "one that holds nothing may always ask"
    connections.keep(one, 100)
    assert resumed == [1]
    connections.queue(three, 500)
    connections.keep_unsent(one, 350)
    await asyncio.sleep(0)
    assert [aborted(connection) for connection in (one, two, three)] == [False, False, True]
    connections.remove(one)
    connections.remove(two)
    assert connections._held == 0


async def test_who_holds_less_than_a_share_of_the_memory_goes_on() -> None:
    connections = Connections(ServerLimits(memory=1000), Complaints())
    few, many = opened(connections, 0), [opened(connections, fd) for fd in range(1, 5)]
    for connection in many:
        connections.keep(connection, 150)
    connections.keep(few, 100)
    assert not few.paused, "a fifth of the half is its share"
    connections.keep(few, 101)
    assert few.paused


@pytest.mark.parametrize(
    ("state", "age", "reason"),
    [
        ({}, 31, "hello_time"),
        ({"greeted": True}, 31, None),
        ({"greeted": True}, 151, "first_time"),
        ({"greeted": True, "partial": 10}, 61, "message_time"),
        ({"greeted": True, "partial": 256 * 1024 * 100}, 151, None),
        ({"greeted": True, "fresh": False}, 6 * 3600 + 1, "idle_time"),
        ({"greeted": True, "fresh": False, "busy": lambda: True}, 6 * 3600 + 1, None),
        ({"greeted": True, "fresh": False, "unsent": 5}, 61, "write_time"),
    ],
)
async def test_limits_of_time(state: dict[str, Any], age: float, reason: str | None) -> None:
    connections = Connections(ServerLimits(), Complaints())
    connection = opened(connections, 0)
    transport: Any = connection.transport
    transport.unsent = state.get("unsent", 0)
    for name, value in state.items():
        setattr(connection, name, value)
    found = connections._overdue(connection, connection.since + age)
    assert (found and found[0]) == reason


async def test_a_reader_that_reads_a_little_is_kept() -> None:
    connections = Connections(ServerLimits(write_time=60), Complaints())
    connection = opened(connections, 0)
    connections.asked(connection)
    transport: Any = connection.transport
    for minute, unsent in enumerate((100, 90, 80, 70, 70)):
        transport.unsent = unsent
        late = connections._overdue(connection, connection.since + 61 * minute)
        assert (late is not None) == (minute == 4)


def test_a_complaint_is_logged_at_once_and_then_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    complaints = Complaints(clock=lambda: now)
    for _ in range(5):
        complaints.add("kind", "it happened")
    now = 61.0
    complaints.add("kind", "it happened")
    assert [record.getMessage() for record in caplog.records] == [
        "it happened",
        "it happened (and 4 times since the last such line)",
    ]
    assert complaints.counts["kind"] == 6


def test_limits_are_settings() -> None:
    team, public = choose([]), choose([], public=True)
    assert team == ServerLimits()
    assert public.peer_connections < team.peer_connections
    found = choose(["memory=2G", "hello_time=5s", "connections=7"], public=True, message=5)
    assert (found.memory, found.hello_time, found.connections, found.message) == (2 << 30, 5, 7, 5)
    assert found.peer_connections == public.peer_connections
    for text in ("nothing=1", "memory", "memory=much", "connections=0"):
        with pytest.raises(ConfigError, match=text.partition("=")[0]):
            choose([text])
    assert all(f"  {name} " in limits_module.describe() for name in ServerLimits.__slots__)


def test_who_may_do_more_may_send_more() -> None:
    limits = ServerLimits()
    sizes = [
        limits.of(Identity(name, frozenset(may))).message
        for name, may in ((None, ()), ("user", ("@read",)), ("user", ("@read", "@db-admin")))
    ]
    assert sizes == sorted(set(sizes))


def test_what_peers_cause_is_told_so_many_times_a_second() -> None:
    now = 0.0
    flood = Flood(3, lambda: now)

    def say(level: int) -> str | None:
        record = logging.LogRecord("x", level, "x", 1, "closed: %s", ("why",), None)
        return record.getMessage() if flood.filter(record) else None

    assert [say(logging.INFO) for _ in range(5)] == ["closed: why"] * 3 + [None] * 2
    assert say(logging.WARNING) == "closed: why"
    now = 1.5
    assert say(logging.INFO) == "closed: why (and 2 lines like this before)"
    assert say(logging.INFO) == "closed: why"

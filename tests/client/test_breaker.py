"""The circuit breaker and the limits of time: what a server costs that is dead, frozen, trickling, or back again."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shardhash.client import (
    AsyncClient,
    Breaker,
    BreakerOpenError,
    Client,
    InvokeError,
    create_async_client,
    create_client,
)
from tests.client.older_server import OlderServer
from tests.layer.conftest import dead_address, listen

__all__ = ["dead_address"]  # a fixture

METHOD = "oe.sstatesig.OEOuthashBasic"
FORMS = ["{}", "ws://{}/ws"]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    """One whose times are exact, and pass only when the clock is told so."""
    return Breaker(clock=clock, chance=lambda: 0.5)


# -- the breaker itself ----------------------------------------------------------------------------------------------


def test_it_holds_for_times_that_double(clock: Clock, breaker: Breaker) -> None:
    breaker.check(10)
    holds = []
    for _ in range(9):
        breaker.failed("it is dead")
        began = clock.now
        for _ in range(1000):
            clock.now += 0.5
            try:
                breaker.check(10)
                break
            except BreakerOpenError:
                pass
        holds.append(clock.now - began)
        with pytest.raises(BreakerOpenError, match="it is dead; it is asked again in"):
            breaker.check(10)  # another one tries
    assert holds == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    breaker.worked()
    breaker.check(10)
    assert not breaker.open


def test_who_tries_and_says_nothing_is_not_waited_for(clock: Clock, breaker: Breaker) -> None:
    breaker.failed("")
    clock.now += 1
    breaker.check(10)
    clock.now += 10
    breaker.check(10)


async def test_a_try_that_is_cancelled_leaves_the_next_one_to_others(
    clock: Clock, breaker: Breaker, older: OlderServer, tmp_path: Path
) -> None:
    breaker.failed("")
    clock.now += 1
    async with older.listen("tcp", tmp_path) as address:
        older.silent.set()
        client = AsyncClient(address, breaker=breaker)
        call = asyncio.ensure_future(client.ping())
        await older.hears.wait()
        call.cancel()
        await asyncio.wait([call])
        older.silent.clear()
        assert await client.ping() == {"alive": True}
        await client.close()


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_chance_is_bounded(clock: Clock, chance: float) -> None:
    breaker = Breaker(8.0, 10.0, clock=clock, chance=lambda: chance)
    for hold in (8.0, 10.0):
        breaker.failed("")
        clock.now += hold * (0.74 + 0.5 * chance)
        with pytest.raises(BreakerOpenError):
            breaker.check(0)
        clock.now += hold * 0.02
        breaker.check(0)


def test_one_warning_an_outage(breaker: Breaker) -> None:
    for _ in range(2):
        breaker.failed("")
        assert [breaker.should_warn() for _ in range(3)] == [True, False, False]
        breaker.worked()


def test_forked_processes_share_it(breaker: Breaker) -> None:
    child = os.fork()
    if child == 0:
        breaker.failed("")
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(BreakerOpenError, match="another process"):
        breaker.check(1)


# -- servers ---------------------------------------------------------------------------------------------------------


@contextmanager
def trickling(first: bytes, more: bytes) -> Iterator[tuple[str, list[socket.socket]]]:
    """A server that answers the first that is said by some bytes, and from then on always seems to go on.

    With no `more` it is frozen. Gives its address, and each connection.
    """
    connections: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        connections.append(connection)
        connection.recv(1 << 20)
        connection.sendall(first)
        connection.settimeout(0.005)
        while True:
            try:
                if not connection.recv(1 << 20):
                    return
            except TimeoutError:
                connection.sendall(more)

    with listen(serve) as address:
        yield address, connections


@pytest.mark.parametrize("form", [*FORMS, "wss://{}", "unix:///nowhere/{}"])
def test_a_dead_server_fails_at_once_and_warns_once(
    dead_address: str, form: str, breaker: Breaker, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client(form.format(dead_address), breaker=breaker)
    with pytest.raises(ConnectionError, match=r": (connection refused|no such file or directory)$"):
        client.get_unihash(METHOD, "t")
    assert not caplog.records, "the error says it"
    for _ in range(50):
        with pytest.raises(BreakerOpenError, match=r"(refused|no such file .*); it is asked again in 1\.0 s"):
            client.report_unihash("t", METHOD, "o", "t")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "until then calls fail at once" in caplog.text
    with pytest.raises(BreakerOpenError):
        create_client(form.format(dead_address), breaker=breaker)


def test_every_client_has_a_breaker_unless_it_wants_none(dead_address: str) -> None:
    careful, careless = Client(dead_address), Client(dead_address, breaker=None)
    for client in (careful, careless):
        with pytest.raises(ConnectionError, match=r"refused$"):
            client.ping()
    with pytest.raises(BreakerOpenError):
        careful.ping()
    with pytest.raises(ConnectionError, match=r"refused$"):
        careless.ping()


@pytest.mark.parametrize(
    ("form", "first", "more"),
    [
        ("{}", b"", b""),
        ("{}", b"\n", b""),
        ("{}", b"a: b\n", b"a"),
        ("{}", b"\n", b" "),
        ("ws://{}/ws", b"", b""),
        ("ws://{}/ws", b"HTTP/1.1 101 Hello\r\n", b"a"),
        ("wss://{}", b"", b""),
        ("wss://{}", b"\x16\x03\x03\x40\x00", b"\0"),
    ],
    ids=["frozen", "headers", "headers-trickle", "answer-trickles", "ws", "ws-trickles", "tls", "tls-trickles"],
)
def test_a_server_that_does_not_answer_costs_one_limit(
    form: str, first: bytes, more: bytes, breaker: Breaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One that tells its headers gets all the time for them that a busy machine takes: late, it counts as too old.
    for module in ("connection", "reconnecting"):
        monkeypatch.setattr(f"shardhash.client.{module}.HEADERS_WITHIN", 60 if form == "{}" and first else 0.05)
    with trickling(first, more) as (address, connections):
        client = Client(form.format(address), timeout=0.1, breaker=breaker)
        with pytest.raises(ConnectionError, match=r"no answer within 0\.1 s"):
            client.ping()
        # A second one only for a server that may be too old for headers.
        assert len(connections) == (2 if (form, first) == ("{}", b"") else 1)
        for _ in range(50):
            with pytest.raises(BreakerOpenError, match=r"no answer within 0\.1 s; it is asked again in 1\.0 s"):
                client.ping()
        assert len(connections) <= 2


@pytest.mark.parametrize("more", [b"", b" ", b"\x89\x00"])
@pytest.mark.parametrize("form", FORMS)
def test_a_deadline_ends_a_call(form: str, more: bytes) -> None:
    first = b"" if "ws" in form else b"\n"
    with trickling(first, more) as (address, _):
        client = Client(form.format(address), timeout=60, deadline=0.1)
        with pytest.raises(ConnectionError, match=r"no complete answer within 0\.1 s"):
            client.ping()


async def test_pings_alone_are_no_answer(native: OlderServer, tmp_path: Path) -> None:
    """A flood of them, too."""
    async with native.listen("ws", tmp_path) as address, await create_async_client(address, timeout=0.1) as client:
        native.silent.set()
        call = asyncio.ensure_future(client.ping())
        await native.hears.wait()
        stream: Any = client._server._connection._transport._stream  # type: ignore[union-attr]
        while not call.done():
            stream.data_received(b"\x89\x7d" + b"p" * 125)
            await asyncio.sleep(0)
        with pytest.raises(ConnectionError, match=r"no answer within 0\.1 s"):
            await call


def test_a_server_that_came_back(clock: Clock, breaker: Breaker, caplog: pytest.LogCaptureFixture) -> None:
    lines: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        lines.append(connection.recv(1 << 20))
        connection.sendall(b"\n")
        connection.recv(1 << 20)
        connection.sendall(b'{"alive": true}\n')
        connection.recv(1 << 20)

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    client = Client(f"127.0.0.1:{port}", breaker=breaker)
    with pytest.raises(ConnectionError, match=r"refused$"):
        client.ping()
    with listen(serve, port) as _:
        with pytest.raises(BreakerOpenError):
            client.ping()
        assert lines == []
        clock.now += 1
        assert client.ping() == {"alive": True}
        assert not breaker.open
        client.close()
    assert len(lines) == 1


def test_it_is_tried_once_whether_a_server_is_back(clock: Clock, breaker: Breaker) -> None:
    connections: list[socket.socket] = []

    with listen(connections.append) as address:  # it hangs up at once
        client = Client(address, breaker=breaker)
        for tries in (4, 5, 6):
            with pytest.raises(ConnectionError, match=r"closed the connection|reset"):
                client.ping()
            assert len(connections) == tries
            clock.now += 60


# -- what does not open it -------------------------------------------------------------------------------------------


async def test_refusals_and_hang_ups_leave_it_closed(older: OlderServer, older_address: str, breaker: Breaker) -> None:
    """The server is there: it only does not like what it is asked."""
    with pytest.raises(InvokeError):
        await create_async_client(older_address, "builder", "wrong", breaker=breaker)
    async with await create_async_client(older_address, breaker=breaker) as client:
        with pytest.raises(ConnectionError, match="closed the connection"):
            await client.get_db_usage()
        older.answer_override["ping"] = "no JSON"
        with pytest.raises(ConnectionError, match="not JSON"):
            await client.ping()
        assert not breaker.open
        assert await client.get_unihash(METHOD, "t") is None


async def test_a_refusal_closes_it(clock: Clock, older: OlderServer, older_address: str, breaker: Breaker) -> None:
    breaker.failed("")
    clock.now += 1
    with pytest.raises(InvokeError):
        await create_async_client(older_address, "builder", "wrong", breaker=breaker)
    assert not breaker.open


async def test_calls_that_waited_for_a_frozen_one_fail_at_once(older: OlderServer, older_address: str) -> None:
    client: AsyncClient
    async with await create_async_client(older_address, timeout=0.1) as client:
        older.silent.set()
        found: list[Any] = await asyncio.gather(*(client.ping() for _ in range(100)), return_exceptions=True)
        assert [type(error) for error in found] == [ConnectionError, *[BreakerOpenError] * 99]
        assert len(older.heard) == 1

"""Servers that are each other's upstream, as processes: it is noticed, and all of them answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from uuid import uuid4

import pytest

from shardhash.client import create_client
from tests.http.conftest import get
from tests.http.test_metrics import samples
from tests.servers import ServerProcess, free_port

pytestmark = pytest.mark.once

METHOD = "oe.sstatesig.OEOuthashBasic"
LIMIT = 30.0
SERVER = ("--memory", "--workers", "1", "--http", "127.0.0.1:0")
FOUND = "shardhash_upstream_total{op=probe,result=circle}"


def fresh() -> str:
    """A hash that nobody has seen."""
    return uuid4().hex * 2


def start(port: int, upstream: int | None) -> ServerProcess:
    """It asks much longer than any client of this test waits, and sends on what is reported."""
    more = ["--upstream", f"127.0.0.1:{upstream}", "--upstream-timeout", "40", "--forward"] if upstream else []
    return ServerProcess(*SERVER, *more, binds=[f"127.0.0.1:{port}"], listening=2)


def report(server: ServerProcess) -> str:
    """Report a task that nobody knows; its taskhash, and its unihash."""
    taskhash = fresh()
    with create_client(server.address, timeout=10) as client:
        assert client.report_unihash(taskhash, METHOD, fresh(), taskhash)["unihash"] == taskhash
    return taskhash


def lookup(server: ServerProcess, taskhash: str) -> str | None:
    with create_client(server.address, timeout=10) as client:
        return client.get_unihash(METHOD, taskhash)


def wait_until_known(server: ServerProcess, taskhash: str) -> None:
    until = time.monotonic() + LIMIT
    while lookup(server, taskhash) != taskhash:
        assert time.monotonic() < until, "it never came"
        time.sleep(0.05)


def what_one_tells(servers: Sequence[ServerProcess], words: str) -> str:
    """The logs of the servers, as soon as these words stand in one."""
    seen, until = "", time.monotonic() + LIMIT
    while words not in seen:
        assert time.monotonic() < until, seen
        time.sleep(0.01)
        seen += "".join(server.log.read() for server in servers)
    return seen


def the_one_that_noticed(servers: Sequence[ServerProcess]) -> ServerProcess:
    """Several may notice at first; in the end one leaves its upstream alone."""
    until = time.monotonic() + LIMIT
    while True:
        found = [
            one for one in servers if "leads back to this server" in get(one.addresses[1] + "/readyz?verbose").text
        ]
        if len(found) == 1:
            assert samples(get(found[0].addresses[1] + "/metrics").text)[FOUND] > 0
            return found[0]
        assert time.monotonic() < until, f"{len(found)} servers leave their upstream alone"
        time.sleep(0.05)


@pytest.mark.parametrize("count", [2, 3])
def test_upstreams_in_a_circle(count: int) -> None:
    ports = [free_port() for _ in range(count)]
    with ExitStack() as stack:
        servers = [stack.enter_context(start(port, ports[(place + 1) % count])) for place, port in enumerate(ports)]
        told = what_one_tells(servers, "go round in a circle")
        assert "start one server of the circle without --upstream" in told
        mine = [report(server) for server in servers]
        for server, taskhash in zip(servers, mine, strict=True):
            assert lookup(server, taskhash) == taskhash
            assert lookup(server, fresh()) is None
        # The one that noticed is the end of the chain: what is reported elsewhere comes there.
        last = the_one_that_noticed(servers)
        for taskhash in mine:
            wait_until_known(last, taskhash)
        if count > 2:
            return
        # Without the circle, the one that noticed asks again, and sends on what waited.
        place = (servers.index(last) + 1) % count
        servers[place].stop()
        servers[place] = stack.enter_context(start(ports[place], None))
        wait_until_known(servers[place], mine[servers.index(last)])
        for server in servers:
            assert lookup(server, fresh()) is None

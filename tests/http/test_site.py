"""What a server answers to plain HTTP: probes, unknown paths, foreign Hosts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import psutil
import pytest

from tests.http.conftest import get, http_of, server_with_http
from tests.servers import IN_MEMORY, ServerProcess


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with server_with_http(*IN_MEMORY) as server:
        yield server


@pytest.mark.parametrize("place", [0, 1])
def test_probes(server: ServerProcess, place: int) -> None:
    url = http_of(server.addresses[place])
    assert get(url + "/livez").text == "ok\n"
    for path in ("/readyz", "/healthz"):
        assert (get(url + path).status, get(url + path).text) == (200, "ready\n")
    verbose = get(url + "/readyz?verbose").text
    assert verbose.splitlines() == ["[+] shard 0: answers", "[+] shard 1: answers", "ready"]


def test_a_shard_that_stands_still_is_named(server: ServerProcess) -> None:
    worker = psutil.Process(server.process.pid).children()[0].pid
    os.kill(worker, signal.SIGSTOP)
    try:
        page = get(server.addresses[1] + "/readyz?verbose")
        assert page.status == 503
        assert "[-] shard" in page.text
        assert "did not answer within 3 s" in page.text
        assert page.text.endswith("not ready\n")
        assert get(server.addresses[1] + "/livez").status == 200
        assert 'shardhash_up{shard="' in get(server.addresses[1] + "/metrics").text
    finally:
        os.kill(worker, signal.SIGCONT)
    assert get(server.addresses[1] + "/readyz").status == 200


def test_a_name_that_anyone_may_point_here_is_refused(server: ServerProcess) -> None:
    for address in server.addresses:
        url = http_of(address)
        for path in ("/metrics", "/readyz?verbose"):
            refused = get(url + path, Host="evil.example.com")
            assert refused.status == 403
            assert "--allow-host" in refused.text
        assert get(url + "/metrics", Origin="https://evil.example.com").status == 403
        assert get(url + "/livez", Host="evil.example.com").status == 200
        assert get(url + "/readyz", Host="evil.example.com").status == 200
        assert get(url + "/metrics", Host="localhost:1").status == 200


def test_a_name_can_be_allowed() -> None:
    with server_with_http(*IN_MEMORY, "--allow-host", "hash.example.com") as server:
        assert get(server.addresses[1] + "/metrics", Host="hash.example.com").status == 200


def test_paths_that_are_nothing(server: ServerProcess) -> None:
    told = get(http_of(server.addresses[0]) + "/ws")
    assert told.status == 426
    assert "OEHASHEQUIV" in told.text
    assert get(server.addresses[1] + "/ws").status == 404


def test_a_port_alone_means_this_machine() -> None:
    with server_with_http(*IN_MEMORY, http="0") as server:
        assert server.addresses[1].startswith("http://127.0.0.1:")
        assert get(server.addresses[1] + "/livez").status == 200

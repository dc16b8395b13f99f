"""Which entry of .netrc belongs to an address."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from shardhash.client import AsyncClient, create_async_client
from shardhash.client.credentials import find_credentials
from shardhash.wire.address import parse_address
from tests.client.older_server import OlderServer


def find(text: str, *, by_host: bool = False) -> tuple[str, str] | None:
    return find_credentials(text, parse_address(text), by_host=by_host)


@pytest.mark.parametrize(
    ("machine", "address"),
    [
        ("ws://hash.example.com:8686/ws", "ws://hash.example.com:8686/ws"),
        ("wss://hash.example.com/ws", "wss://hash.example.com/ws"),
        ("wss://hash.example.com:443/ws", "wss://hash.example.com/ws"),
        ("hash.example.com:8686", "hash.example.com:8686"),
        ("[::1]:8686", "[::1]:8686"),
        ("unix:///run/hash.sock", "unix:///run/hash.sock"),
    ],
)
def test_an_entry_has_the_whole_address(no_credentials: Path, machine: str, address: str) -> None:
    no_credentials.write_text(f"machine {machine} login builder password secret\n")
    assert find(address) == ("builder", "secret")


@pytest.mark.parametrize(
    ("machine", "address"),
    [
        ("hash.example.com:8686", "ws://hash.example.com:8686/ws"),
        ("hash.example.com", "ws://hash.example.com:8686/ws"),
        ("hash.example.com", "hash.example.com:8686"),
        ("::1", "ws://[::1]:8686"),
    ],
)
def test_an_entry_for_the_host_counts_for_those_who_say_so(no_credentials: Path, machine: str, address: str) -> None:
    """It belongs to another service on the same host, whose password must not come here."""
    no_credentials.write_text(f"machine {machine} login builder password secret\n")
    assert find(address) is None
    assert find(address, by_host=True) == ("builder", "secret")


def test_the_most_specific_entry_wins(no_credentials: Path) -> None:
    no_credentials.write_text(
        "machine a.example login a password 1\n"
        "machine a.example:1 login b password 2\n"
        "machine ws://a.example:1 login c password 3\n"
    )
    assert find("ws://a.example:1", by_host=True) == ("c", "3")
    assert find("ws://a.example:1/ws", by_host=True) == ("b", "2")
    assert find("a.example:2", by_host=True) == ("a", "1")


@pytest.mark.parametrize("entry", ["default login x password y", "machine other login x password y", ""])
def test_others_are_not_used(no_credentials: Path, entry: str) -> None:
    no_credentials.write_text(entry + "\n")
    assert find("a.example:2") is None
    no_credentials.unlink()
    assert find("a.example:2") is None


def test_a_broken_file_is_warned_of(no_credentials: Path, caplog: pytest.LogCaptureFixture) -> None:
    no_credentials.write_text("machine a.example login\n  what is this\n")
    with caplog.at_level(logging.WARNING):
        assert find("a.example:2") is None
    assert str(no_credentials) in caplog.text


@pytest.fixture
def entry(no_credentials: Path, older_address: str) -> None:
    """An entry for the server."""
    no_credentials.write_text(f"machine {older_address} login builder password secret\n")


@pytest.mark.usefixtures("entry")
async def test_they_are_sent(older: OlderServer, older_address: str) -> None:
    async with await create_async_client(older_address) as client:
        assert await client.ping() == {"alive": True}
    assert older.heard[0][0] == '{"auth":{"username":"builder","token":"secret"}}'


@pytest.mark.usefixtures("entry")
async def test_a_given_user_comes_before_them(older: OlderServer, older_address: str) -> None:
    older.tokens["other"] = "other secret"
    async with await create_async_client(older_address, "other", "other secret"):
        pass
    assert older.heard[0] == ['{"auth":{"username":"other","token":"other secret"}}']


@pytest.mark.parametrize(
    ("address", "warned"),
    [
        ("hash.example.com:8686", True),
        ("ws://hash.example.com:8686", True),
        ("wss://hash.example.com:8686", False),
        ("127.0.0.1:8686", False),
        ("ws://localhost:8686", False),
        ("ws://[::1]:8686", False),
        ("unix:///run/hash.sock", False),
    ],
)
def test_a_token_in_the_clear_is_warned_of(address: str, warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        AsyncClient(address, "builder", "secret")
    assert ("unencrypted" in caplog.text) == warned
    assert "secret" not in caplog.text


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_never_followed(older: OlderServer, tmp_path: Path, status: int) -> None:
    """The token would go to whatever server it names."""
    async with older.listen("ws", tmp_path) as other:

        async def redirect(_request: web.Request) -> web.Response:
            return web.Response(status=status, headers={"Location": other.replace("ws://", "http://")})

        application = web.Application()
        application.router.add_get("/{path:.*}", redirect)
        async with TestServer(application) as server:
            with pytest.raises(ConnectionError, match="redirects are not followed"):
                await create_async_client(f"ws://127.0.0.1:{server.port}", "builder", "secret")
    assert older.heard == []

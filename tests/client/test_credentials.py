"""Which entry of .netrc belongs to an address."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from shardhash.client import create_async_client
from shardhash.client.credentials import find_credentials
from shardhash.wire.address import parse_address
from tests.client.older_server import OlderServer


def find(text: str) -> tuple[str, str] | None:
    return find_credentials(text, parse_address(text))


@pytest.mark.parametrize(
    ("machine", "address"),
    [
        ("ws://hash.example.com:8686/ws", "ws://hash.example.com:8686/ws"),
        ("wss://hash.example.com/ws", "wss://hash.example.com/ws"),
        ("wss://hash.example.com:443/ws", "wss://hash.example.com/ws"),
        ("hash.example.com:8686", "ws://hash.example.com:8686/ws"),
        ("hash.example.com", "ws://hash.example.com:8686/ws"),
        ("hash.example.com", "hash.example.com:8686"),
        ("[::1]:8686", "[::1]:8686"),
        ("::1", "ws://[::1]:8686"),
        ("unix:///run/hash.sock", "unix:///run/hash.sock"),
    ],
)
def test_an_entry_names_a_server(no_credentials: Path, machine: str, address: str) -> None:
    no_credentials.write_text(f"machine {machine} login builder password secret\n")
    assert find(address) == ("builder", "secret")


def test_the_most_specific_entry_wins(no_credentials: Path) -> None:
    no_credentials.write_text(
        "machine a.example login a password 1\n"
        "machine a.example:1 login b password 2\n"
        "machine ws://a.example:1 login c password 3\n"
    )
    assert find("ws://a.example:1") == ("c", "3")
    assert find("ws://a.example:1/ws") == ("b", "2")
    assert find("a.example:2") == ("a", "1")


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

"""Addresses, and native frames held against those of the server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardhash.errors import ProtocolError as ServersProtocolError
from shardhash.wire import batch as servers
from shardhash_bitbake import batch
from shardhash_bitbake.address import Address, host_and_port, parse_address
from shardhash_bitbake.errors import ProtocolError

digests = st.lists(st.binary(min_size=32, max_size=32))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host:8686", Address("", "tcp", "host", 8686)),
        ("[::1]:8686", Address("", "tcp", "::1", 8686)),
        ("unix://./hash serve.sock".replace(" ", "-"), Address("", "unix", path="./hash-serve.sock")),
        ("ws://host:1/ws", Address("", "ws", "host", 1, "/ws")),
        ("wss://host", Address("", "wss", "host", 443, "/")),
        ("ws://u:p%20q@host?a", Address("", "ws", "host", 80, "/?a", "u:p q")),
    ],
)
def test_addresses(text: str, expected: Address) -> None:
    assert parse_address(text) == expected._replace(text=text)


@pytest.mark.parametrize(
    "text", ["", "host", "host:", ":1", "host:port", "http://host:1", "ws://", "unix://", "h:99999"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="it looks like ws://HOST:PORT/PATH"):
        parse_address(text)


def test_brackets() -> None:
    assert host_and_port(parse_address("ws://[::1]:5/")) == "[::1]:5"


@given(st.text(max_size=50), digests)
def test_requests_are_what_the_server_decodes(method: str, hashes: list[bytes]) -> None:
    frame = batch.encode_request(batch.GET, method, [digest.hex() for digest in hashes])
    decoded = servers.decode_request(frame)
    assert (decoded.op, decoded.method, bytes(decoded.digests)) == (servers.GET, method, b"".join(hashes))


@given(st.lists(st.none() | st.binary(min_size=32, max_size=32)))
def test_answers_are_what_the_server_encodes(unihashes: list[bytes | None]) -> None:
    frame = servers.encode_found(servers.Found.of(unihashes))
    assert batch.decode_unihashes(frame, len(unihashes)) == [item and item.hex() for item in unihashes]


@given(st.lists(st.booleans()))
def test_exists(status: list[bool]) -> None:
    assert batch.decode_exists(servers.encode_exists(bytes(status)), len(status)) == status


@given(st.binary(max_size=60), st.integers(0, 2))
def test_other_answers_are_refused_as_the_server_refuses_them(frame: bytes, count: int) -> None:
    try:
        decoded: object = servers.decode_answer(frame)
    except ServersProtocolError:
        decoded = None
    for decode, kind in ((batch.decode_unihashes, servers.Found), (batch.decode_exists, bytes)):
        try:
            decode(frame, count)
        except ProtocolError:
            pass
        else:
            assert isinstance(decoded, kind)


def test_hashes() -> None:
    assert batch.is_hash("0f" * 32)
    assert not any(map(batch.is_hash, ["0F" * 32, "0f" * 31, "0f" * 32 + "\n", "", None, 5]))

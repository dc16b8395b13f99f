"""Frames and the opening handshake of WebSockets, as a client has them."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardhash.errors import ProtocolError
from shardhash.wire import websocket
from shardhash.wire.address import parse_address
from shardhash.wire.websocket import BINARY, CLOSE, LONG, PING, TEXT, FrameReader, encode_frames, mask
from tests.websocket_frames import BAD_FRAMES, unmask

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # the example of RFC 6455, section 1.3
AGREED = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)
LIMIT = 1 << 20


def reader(data: bytes, limit: int = LIMIT) -> FrameReader:
    found = FrameReader(limit)
    found.feed(data)
    return found


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_mask_is_what_the_standard_says(data: bytes, key: bytes) -> None:
    assert mask(data, key) == bytes(byte ^ key[at % 4] for at, byte in enumerate(data))
    assert mask(mask(data, key), key) == data


@given(st.integers(0, 9), st.binary(min_size=4, max_size=4), st.binary(min_size=1, max_size=50))
def test_long_data_is_masked_alike_in_every_way(more: int, key: bytes, some: bytes) -> None:
    data = (some * (LONG // len(some) + 1))[:LONG] + some[:more]
    due = mask(data[: LONG - 4], key) + mask(data[LONG - 4 :], key)
    assert mask(data, key) == due
    assert websocket._mask_by_lanes(data, key) == due
    frame = encode_frames(BINARY, [data], key)  # by numpy, which these tests have
    assert np.__name__ in sys.modules
    assert bytes(frame) == b"\x82\xfe" + len(data).to_bytes(2, "big") + key + due
    rows = encode_frames(BINARY, [data, b"x", data], key * 3)
    assert bytes(rows) == bytes(frame) + encode_frames(BINARY, [b"x"], key) + bytes(frame)


def test_examples_of_the_standard() -> None:
    # Section 5.7: a masked text message "Hello", the same unmasked, and in two parts.
    assert encode_frames(TEXT, [b"Hello"], bytes.fromhex("37fa213d")) == bytes.fromhex("818537fa213d7f9f4d5158")
    found = reader(bytes.fromhex("810548656c6c6f"))
    assert found.next_message() == (TEXT, b"Hello")
    found.feed(bytes.fromhex("010348656c80026c6f"))
    assert found.next_message() == (TEXT, b"Hello")
    assert websocket.accept_of(KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@given(st.lists(st.binary(max_size=400)), st.integers(1, 100), st.integers(0, 3))
def test_messages_survive_any_cut(messages: list[bytes], step: int, long: int) -> None:
    messages += [bytes(range(256)) * 40, b"behind it"] * long
    data = unmask(encode_frames(BINARY, messages, bytes(range(4)) * len(messages)))
    found, read = FrameReader(LIMIT), []
    for at in range(0, len(data), step):
        found.feed(data[at : at + step])
        while (message := found.next_message()) is not None:
            read.append(message)
    assert read == [(BINARY, message) for message in messages]


def one_by_one(data: bytes, before: bytes = b"", limit: int = LIMIT) -> list[object]:
    """What `feed` and `next_parts` make of bytes."""
    found, read = reader(before, limit), []
    while found.next_message() is not None:
        pass
    found.feed(data)
    try:
        while (message := found.next_parts()) is not None:
            read.append(message)
    except ProtocolError as error:
        return [*read, str(error)]
    return [*read, found.next_message()]


SOME_FRAMES = st.tuples(
    st.sampled_from([0x81, 0x82, 0x01, 0x80, 0x89, 0xC1, 0x83]), st.sampled_from([0, 1, 2, 125, 126, 127, 300, 999])
).map(lambda one: unmask(encode_frames(TEXT, [b"x" * one[1]], b"1234")).replace(b"\x81", bytes([one[0]]), 1))


@given(st.lists(SOME_FRAMES, max_size=3).map(b"".join) | st.binary(max_size=200), st.integers(-2, 2))
def test_a_message_that_comes_whole_is_what_it_would_be_one_by_one(data: bytes, cut: int) -> None:
    data = data[:cut] if cut < 0 else data + bytes(cut)
    for before in (b"", b"\x81", b"\x01\x01a", b"\x81\x01a"):
        found = reader(before, 500)
        while found.next_message() is not None:
            pass
        if (message := found.whole(data)) is not None:
            assert [message, None] == one_by_one(data, before, 500)
            assert before in (b"", b"\x81\x01a"), "nothing waits before it"


@pytest.mark.parametrize("size", [2, 125, 126, 65535])
@pytest.mark.parametrize("kind", [TEXT, BINARY])
def test_usual_messages_are_taken_whole(kind: int, size: int) -> None:
    data = unmask(encode_frames(kind, [b"x" * size], b"1234"))
    assert FrameReader(size).whole(data) == (kind, [b"x" * size])
    assert FrameReader(size - 1).whole(data) is None


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536, 200_000])
def test_lengths(size: int) -> None:
    assert reader(unmask(encode_frames(TEXT, [b"x" * size], b"1234"))).next_message() == (TEXT, b"x" * size)


def test_control_frames_between_the_parts_of_a_message() -> None:
    found = reader(b"\x01\x01a" + b"\x89\x01p" + b"\x80\x01b" + b"\x88\x02\x03\xe8")
    assert [found.next_message() for _ in range(4)] == [(PING, b"p"), (TEXT, b"ab"), (CLOSE, b"\x03\xe8"), None]


@pytest.mark.parametrize(("data", "reason"), BAD_FRAMES)
def test_what_a_server_must_not_send(data: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        reader(data, limit=10).next_message()


@given(st.binary(max_size=100))
def test_any_bytes_are_messages_or_a_protocol_error(data: bytes) -> None:
    found = reader(data, limit=50)
    try:
        while found.next_message() is not None:
            pass
    except ProtocolError:
        pass


@pytest.mark.parametrize(
    ("address", "by_proxy", "first"),
    [
        ("ws://host", False, "GET / HTTP/1.1\r\nHost: host\r\n"),
        ("ws://host:8686/a?b=c", False, "GET /a?b=c HTTP/1.1\r\nHost: host:8686\r\n"),
        ("wss://host/ä b#c", False, "GET /%C3%A4%20b HTTP/1.1\r\nHost: host\r\n"),
        ("ws://[::1]:8686/", False, "GET / HTTP/1.1\r\nHost: [::1]:8686\r\n"),
        ("ws://bücher.example", False, "GET / HTTP/1.1\r\nHost: xn--bcher-kva.example\r\n"),
        ("ws://host:8686/ws", True, "GET http://host:8686/ws HTTP/1.1\r\nHost: host:8686\r\n"),
    ],
)
def test_upgrade(address: str, by_proxy: bool, first: str) -> None:
    request = websocket.encode_upgrade(parse_address(address), KEY, by_proxy=by_proxy, authorization="Basic x").decode()
    assert request.startswith(first)
    assert f"\r\nSec-WebSocket-Key: {KEY}\r\n" in request
    assert request.endswith("\r\nProxy-Authorization: Basic x\r\n\r\n")
    websocket.check_upgrade(AGREED.encode(), KEY)


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (AGREED.replace("s3p", "xxx"), "wrongly"),
        (AGREED.replace("WebSocket", "h2c", 1), "wrongly"),
        (AGREED + "\r\nSec-WebSocket-Extensions: permessage-deflate", "wrongly"),
        ("HTTP/1.1 404 Not Found\r\nServer: x", "refuses the WebSocket: 404 Not Found"),
        ("HTTP/1.1 302 Found\r\nLocation: http://other", "redirects to 'http://other'; redirects are not followed"),
        ("HTTP/1.1", "refuses"),
        ("SSH-2.0-OpenSSH", "does not speak HTTP"),
    ],
)
def test_refused_upgrades(head: str, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        websocket.check_upgrade(head.encode(), KEY)


def test_tunnels() -> None:
    address = parse_address("wss://[::1]/ws")
    request = websocket.encode_connect(address, websocket.basic_authorization("me", "secret"))
    assert request.startswith(b"CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\n")
    assert b"\r\nProxy-Authorization: Basic bWU6c2VjcmV0\r\n\r\n" in request
    websocket.check_connect(b"HTTP/1.0 200 Connection established", address)
    with pytest.raises(ProtocolError, match=r"proxy does not connect to \[::1\]:443: 407 Auth"):
        websocket.check_connect(b"HTTP/1.1 407 Auth", address)

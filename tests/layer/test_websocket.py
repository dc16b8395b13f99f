"""Frames and the handshake of the layer's WebSocket."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardhash_bitbake import websocket
from shardhash_bitbake.address import parse_address
from shardhash_bitbake.errors import ProtocolError
from shardhash_bitbake.websocket import BINARY, CLOSE, PING, TEXT, FrameReader, encode_frame, encode_frames, mask
from tests.websocket_frames import BAD_FRAMES, unmask

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # the example of RFC 6455, section 1.3
AGREED = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_mask_is_what_the_standard_says(data: bytes, key: bytes) -> None:
    assert mask(data, key) == bytes(byte ^ key[at % 4] for at, byte in enumerate(data))
    assert mask(mask(data, key), key) == data


def test_examples_of_the_standard() -> None:
    # Section 5.7: a masked text message "Hello".
    assert encode_frame(TEXT, b"Hello", bytes.fromhex("37fa213d")) == bytes.fromhex("818537fa213d7f9f4d5158")
    reader = FrameReader(bytes.fromhex("810548656c6c6f"))
    assert reader.next_message() == (TEXT, b"Hello")
    reader.feed(bytes.fromhex("010348656c80026c6f"))
    assert reader.next_message() == (TEXT, b"Hello")
    assert websocket.accept_of(KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@given(st.lists(st.binary(max_size=400)), st.integers(1, 100))
def test_messages_survive_any_cut(messages: list[bytes], step: int) -> None:
    data = unmask(encode_frames(BINARY, messages))
    reader = FrameReader()
    found = []
    for at in range(0, len(data), step):
        reader.feed(data[at : at + step])
        while (message := reader.next_message()) is not None:
            found.append(message)
    assert found == [(BINARY, message) for message in messages]


@pytest.mark.parametrize("size", [125, 126, 65535, 65536, 200_000])
def test_lengths(size: int) -> None:
    assert FrameReader(unmask(encode_frame(TEXT, b"x" * size))).next_message() == (TEXT, b"x" * size)


def test_control_frames_between_the_parts_of_a_message() -> None:
    reader = FrameReader(b"\x01\x01a" + b"\x89\x01p" + b"\x80\x01b" + b"\x88\x02\x03\xe8")
    assert [reader.next_message() for _ in range(4)] == [(PING, b"p"), (TEXT, b"ab"), (CLOSE, b"\x03\xe8"), None]


@pytest.mark.parametrize(("data", "reason"), BAD_FRAMES)
def test_what_a_server_must_not_send(data: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        FrameReader(data, limit=10).next_message()


@given(st.binary(max_size=100))
def test_any_bytes_are_messages_or_a_protocol_error(data: bytes) -> None:
    reader = FrameReader(data, limit=50)
    try:
        while reader.next_message() is not None:
            pass
    except ProtocolError:
        pass


def test_upgrade() -> None:
    request = websocket.encode_upgrade(parse_address("ws://me:secret@host/a?b=c"), KEY).decode()
    assert request.startswith("GET /a?b=c HTTP/1.1\r\nHost: host\r\n")
    assert "\r\nAuthorization: Basic bWU6c2VjcmV0\r\n" in request
    assert "\r\nHost: host:8686\r\n" in websocket.encode_upgrade(parse_address("wss://host:8686"), KEY).decode()
    websocket.check_upgrade(AGREED.encode(), KEY)


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (AGREED.replace("s3p", "xxx"), "another connection"),
        (AGREED + "\r\nSec-WebSocket-Extensions: permessage-deflate", "another connection"),
        ("HTTP/1.1 404 Not Found\r\nServer: x", "refused the WebSocket: 404 Not Found"),
        ("HTTP/1.1", "refused"),
        ("SSH-2.0-OpenSSH", "no WebSocket server"),
    ],
)
def test_refused_upgrades(head: str, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        websocket.check_upgrade(head.encode(), KEY)

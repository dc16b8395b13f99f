"""WebSocket frames of our own, read by aiohttp's reader as well."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import WSMsgType
from aiohttp._websocket.reader import WebSocketDataQueue, WebSocketReader
from aiohttp.base_protocol import BaseProtocol
from hypothesis import given
from hypothesis import strategies as st

from shardhash.wire.frames import text_frames


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, b"\x81\x00"),
        (64, b"\x81\x40"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65_535, b"\x81\x7e\xff\xff"),
        (65_536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_the_head_tells_the_length(size: int, head: bytes) -> None:
    assert text_frames([b"x" * size]) == head + b"x" * size


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=300)))
def test_another_reader_finds_the_messages(texts: list[str]) -> None:
    async def read() -> list[str]:
        loop = asyncio.get_running_loop()
        queue = WebSocketDataQueue(BaseProtocol(loop), 1 << 20, loop=loop)
        reader = WebSocketReader(queue, 1 << 20, compress=False, decode_text=True)
        failed, _ = reader.feed_data(text_frames([text.encode() for text in texts]))
        assert not failed
        messages = [await queue.read() for _ in texts]
        assert all(message.type is WSMsgType.TEXT for message in messages)
        return [message.data for message in messages]

    assert asyncio.run(read()) == texts

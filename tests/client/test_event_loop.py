"""Streams on the event loop, at the moments at which their peer leaves."""

from __future__ import annotations

import asyncio
import socket

from shardhash.client.event_loop import EventLoop, LoopStream

MANY = 8 << 20
LIMIT = 10.0


async def test_a_connection_that_ended_behind_its_last_data_can_be_aborted() -> None:
    """The peer ends its side while much is being sent, and then reads it all: the loop has closed the connection."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.setblocking(False)
        stream = await EventLoop().stream(ours)
        assert isinstance(stream, LoopStream)
        stream._write(bytes(MANY))
        theirs.shutdown(socket.SHUT_WR)
        loop, read = asyncio.get_running_loop(), 0
        async with asyncio.timeout(LIMIT):
            while read < MANY:
                read += len(await loop.sock_recv(theirs, 1 << 20))
            await stream._lost
        await stream.abort()
        await stream.close(loop.time() + LIMIT)

"""The WebSocket transport, over aiohttp: ``ws://HOST:PORT[/path]`` and ``wss://...``.

Every line and every JSON message is one text message, never chunked; a native batch is one binary message.
permessage-deflate is not offered: hashes do not compress, and trying costs more than sending them.
"""

from __future__ import annotations

import asyncio
import contextlib
from asyncio.trsock import TransportSocket
from collections.abc import Sequence

from aiohttp import (
    ClientError,
    ClientSession,
    ClientTimeout,
    ClientWebSocketResponse,
    ClientWSTimeout,
    TraceConfig,
    TraceRequestRedirectParams,
    WSMsgType,
    WSServerHandshakeError,
)

from shardhash.base.sockets import keep_alive
from shardhash.client.environment import proxy_for, tls_context
from shardhash.client.transport import MESSAGE_LIMIT, Transport
from shardhash.errors import ProtocolError
from shardhash.wire.address import Address

_LOOK_PAUSE = 0.001
"""Seconds between looks at a socket that is being closed."""
_CLOSE_WITHIN = 2.0
"""Seconds that a server gets to answer a goodbye."""
_LINES_A_REPRIEVE = 64
"""Lines after which the time limit starts anew: moving it costs about 1 us, a message 5."""


class WebSocketTransport(Transport):
    """Messages over a WebSocket."""

    binary = True

    def __init__(self, session: ClientSession, socket: ClientWebSocketResponse[bool], timeout: float) -> None:
        super().__init__(timeout)
        self._session = session
        self._socket = socket

    @classmethod
    async def open(cls, address: Address, timeout: float) -> WebSocketTransport:
        """Connect; the caller limits the time. Raises OSError, also when HTTP refuses the upgrade."""
        tracing = TraceConfig()
        tracing.on_request_redirect.append(_refuse_redirect)
        session = ClientSession(timeout=ClientTimeout(total=None), trace_configs=[tracing])
        try:
            socket = await session.ws_connect(
                _url(address),
                ssl=tls_context() if address.encrypted else True,
                proxy=proxy_for(address),
                compress=0,
                max_msg_size=MESSAGE_LIMIT,
                decode_text=False,
                timeout=ClientWSTimeout(ws_close=_CLOSE_WITHIN),
            )
            keep_alive(socket.get_extra_info("socket"))
        except WSServerHandshakeError as error:
            await session.close()
            raise ConnectionError(f"the server refuses the WebSocket: {error.status} {error.message}") from error
        except ClientError as error:
            await session.close()
            raise ConnectionError(str(error)) from error
        except BaseException:
            await session.close()
            raise
        return cls(session, socket, timeout)

    async def send_lines(self, lines: Sequence[str]) -> None:
        async with asyncio.timeout(self.patience(sum(map(len, lines)))):
            # A message a line is what the protocol says; about 6 us each.
            for line in lines:
                await self._send(line.encode(), WSMsgType.TEXT)

    async def send_message(self, message: bytes) -> None:
        async with asyncio.timeout(self.patience(len(message))):
            await self._send(message, WSMsgType.TEXT)

    async def send_frame(self, frame: bytes) -> None:
        async with asyncio.timeout(self.patience(len(frame))):
            await self._send(frame, WSMsgType.BINARY)

    async def _send(self, data: bytes, kind: WSMsgType) -> None:
        try:
            await self._socket.send_frame(data, kind)
        except ClientError as error:
            raise ConnectionError(str(error)) from error

    async def receive_lines(self, into: list[bytes], total: int) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._timeout) as limit:
            while len(into) < total:
                into.append(await self._receive(WSMsgType.TEXT))
                if not len(into) % _LINES_A_REPRIEVE:
                    limit.reschedule(loop.time() + self._timeout)

    async def receive_message(self) -> bytes:
        async with asyncio.timeout(self._timeout):
            return await self._receive(WSMsgType.TEXT)

    async def receive_frame(self, size: int) -> bytes:
        async with asyncio.timeout(self.patience(size)):
            return await self._receive(WSMsgType.TEXT, WSMsgType.BINARY)

    async def _receive(self, *kinds: WSMsgType) -> bytes:
        """The bytes of the next message, which must be of one of these kinds."""
        message = await self._socket.receive()
        if message.type in kinds:
            data: bytes = message.data
            return data
        if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            raise ProtocolError(f"the server sent a {message.type.name.lower()} message where another kind is expected")
        if message.type is WSMsgType.ERROR:
            raise ConnectionError(str(message.data))
        raise ConnectionResetError("the server closed the connection")

    async def close(self) -> None:
        raw = self._socket.get_extra_info("socket")
        await self._socket.close()
        await self._session.close()
        if isinstance(raw, TransportSocket):  # uvloop's socket does not tell that it is closed
            await _until_closed(raw)

    async def abort(self) -> None:
        # The session drops its connections without a word; a goodbye would wait for a peer that may be gone. After
        # that the socket has nobody to wait for, and only gives back what it holds.
        await self._session.close()
        await self._socket.close()


async def _until_closed(raw: TransportSocket) -> None:
    """Wait for the end of TLS, which aiohttp leaves to the event loop: one that ends before it leaves a socket open."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_CLOSE_WITHIN):
            while raw.fileno() >= 0:  # noqa: ASYNC110  # nothing tells of it
                await asyncio.sleep(_LOOK_PAUSE)


def _url(address: Address) -> str:
    """The address as http:// or https://: a proxy may know no other."""
    return str(address).replace("ws", "http", 1)


async def _refuse_redirect(_session: ClientSession, _context: object, redirect: TraceRequestRedirectParams) -> None:
    """Never follow a redirect: the token would go to whatever server it names, perhaps unencrypted."""
    location = redirect.response.headers.get("Location", "another address")
    raise ConnectionError(f"the server redirects to {location[:200]!r}; redirects are not followed")

"""Proxies in front of the server: who they pass on, if settings name them (`--trust-proxy`).

By PROXY headers, before TLS and everything else, on any address; and by X-Forwarded-For or Forwarded at ws:// and
wss:// addresses. Of anybody else a PROXY header closes the connection, and headers of HTTP are ignored.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable

from aiohttp import web

from shardhash.base.networks import UNIX, NamedHosts
from shardhash.errors import ProtocolError
from shardhash.wire.forwarded import client_of, is_encrypted
from shardhash.wire.proxy_header import (
    LONGEST,
    ProxyHeader,
    is_proxy_header,
    may_be_proxy_header,
    read_proxy_header,
)

LOOK_PAUSE = 0.01
"""Seconds between looks at a header that comes in pieces."""


class Proxies:
    """Which hosts are proxies that tell the truth. `named` may change."""

    def __init__(self, named: Iterable[str] = ()) -> None:
        self.named = NamedHosts(named)

    def client_of(self, address: str, request: web.BaseRequest) -> str:
        """Whose request this is, which came in from an address ("unix" for a unix socket)."""
        if address not in self.named:
            return address
        headers = request.headers
        return client_of(address, self.named, headers.getall("X-Forwarded-For", ()), headers.getall("Forwarded", ()))

    def seen_by(self, address: str, request: web.Request) -> web.Request:
        """The request, as the one who sent it sent it to the first proxy."""
        client = self.client_of(address, request)
        secure = address in self.named and is_encrypted(request.headers.getall("X-Forwarded-Proto", ()))
        if client == request.remote and not secure:
            return request
        if secure:
            return request.clone(remote=_shown(client), scheme="https")
        return request.clone(remote=_shown(client))


def refusal_of_header(peer: str, address: str) -> str:
    """What the log says of a PROXY header of somebody who is no proxy."""
    return (
        f"{peer}: closed: it sends a PROXY header, and {address} is not named as a proxy; if it is one, name it by"
        f" --trust-proxy {address}"
    )


async def receive_proxy_header(raw: socket.socket) -> ProxyHeader | None:
    """The PROXY header that a new connection begins with, taken out of its socket; None when it begins otherwise.

    Waits until enough has come in to tell. Raises ProtocolError for one that cannot be read, OSError, and
    ConnectionResetError when the peer ends before.
    """
    while True:
        data = await _peek(raw)
        if not data:
            raise ConnectionResetError("it ended before it said anything")
        if not may_be_proxy_header(data) and not is_proxy_header(data):
            return None
        header = read_proxy_header(data)
        if header is not None:
            raw.recv(header.size)
            return header
        if len(data) >= LONGEST:
            raise ProtocolError(f"a PROXY header of more than {LONGEST} bytes")
        await asyncio.sleep(LOOK_PAUSE)  # what came in stays in the socket, which is readable all the time


async def _peek(raw: socket.socket) -> bytes:
    """What came in, as soon as there is any; it stays there."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return raw.recv(LONGEST, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            readable = loop.create_future()
            loop.add_reader(raw.fileno(), _set, readable)
            try:
                await readable
            finally:
                loop.remove_reader(raw.fileno())


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _shown(client: str) -> str:
    return "unix client" if client == UNIX else client

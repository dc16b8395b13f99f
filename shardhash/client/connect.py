"""Connecting: from an address to an open transport, and errors of the network in words."""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING, Any

from shardhash.base.sockets import keep_alive
from shardhash.client.byte_stream import ByteStream
from shardhash.client.environment import proxy_for
from shardhash.client.lines import LineTransport
from shardhash.client.transport import Transport
from shardhash.client.waiting import Waiting
from shardhash.wire.address import Address

if TYPE_CHECKING:
    from shardhash.client.proxies import Proxy

NEXT_ADDRESS_AFTER = 2.0
"""Seconds that an address of a host gets before the next one is tried."""
_PATH_LIMIT = 100
"""Bytes of a unix path that every kernel takes."""


async def open_transport(address: Address, timeout: float, waiting: Waiting) -> Transport:
    """Connect to an address within `timeout` seconds. Raises OSError, and ProtocolError when HTTP refuses."""
    end = waiting.now() + timeout
    if address.kind == "unix":
        return LineTransport(await _connect_unix(waiting, address.path, end), timeout)
    proxy = _proxy_for(address)
    stream = await _connect_tcp(waiting, *((proxy.host, proxy.port) if proxy else (address.host, address.port)), end)
    try:
        if proxy is not None:
            await proxy.prepare(stream, address, end)
        if address.encrypted:
            from shardhash.client.environment import tls_context

            try:
                await stream.start_tls(tls_context(), address.host, end)
            except ConnectionResetError:
                plain = address._replace(kind="ws" if address.kind == "wss" else "tcp")
                raise ConnectionResetError(
                    "the server closed the connection at the TLS handshake, so perhaps nothing is encrypted here: try"
                    f" {plain}"
                ) from None
        if address.kind not in ("ws", "wss"):
            return LineTransport(stream, timeout)
        from shardhash.client.websocket import WebSocketTransport

        by_proxy = proxy is not None and not address.encrypted
        authorization = proxy.authorization if proxy is not None and by_proxy else ""
        return await WebSocketTransport.open(stream, address, timeout, by_proxy=by_proxy, authorization=authorization)
    except BaseException:
        await stream.abort()
        raise


def _proxy_for(address: Address) -> Proxy | None:
    if (url := proxy_for(address)) is None:
        return None
    from shardhash.client.proxies import Proxy  # urllib, which few need

    return Proxy(url)


async def _connect_tcp(waiting: Waiting, host: str, port: int, end: float) -> ByteStream:
    """Connect to the first address of a host that answers."""
    failure: OSError = ConnectionError(f"{host} has no address")
    found = await waiting.resolve(host, port, end)
    for number, (family, kind, protocol, _, place) in enumerate(found, 1):
        until = end if number == len(found) else min(end, waiting.now() + NEXT_ADDRESS_AFTER)
        connection = socket.socket(family, kind, protocol)
        try:
            stream = await _connected(waiting, connection, place, until)
        except OSError as error:
            failure = error
            continue
        return stream
    raise failure


async def _connect_unix(waiting: Waiting, path: str, end: float) -> ByteStream:
    """Connect to a unix socket whose path may be longer than the kernel's limit of 108 bytes.

    It is reached through a descriptor of its own, because a change of the working directory, as the reference does it,
    is felt by every thread.
    """
    if len(os.fsencode(path)) < _PATH_LIMIT:
        return await _connected(waiting, socket.socket(socket.AF_UNIX), path, end)
    node = os.open(path, os.O_PATH)
    try:
        return await _connected(waiting, socket.socket(socket.AF_UNIX), f"/proc/self/fd/{node}", end)
    finally:
        os.close(node)


async def _connected(waiting: Waiting, connection: socket.socket, place: Any, end: float) -> ByteStream:
    try:
        await waiting.connect(connection, place, end)
        keep_alive(connection)
        return await waiting.stream(connection)
    except BaseException:
        connection.close()
        raise


def describe_error(error: Exception) -> str:
    """What went wrong, for people: ``connection refused`` instead of how the library puts it."""
    ssl = sys.modules.get("ssl")  # where it was never imported the error is not one of its own
    found: BaseException | None = error
    while found is not None:
        if ssl is not None and isinstance(found, ssl.SSLError):
            if message := getattr(found, "verify_message", None):
                return f"certificate verify failed: {message}; SSL_CERT_FILE names authorities to trust"
            if found.errno and (reason := getattr(found, "reason", None)):
                return f"TLS failed: {reason.lower().replace('_', ' ')}"
        elif isinstance(found, OSError) and found.errno is not None and found.errno > 0:
            return os.strerror(found.errno).lower()
        found = found.__cause__
    return str(error) or type(error).__name__

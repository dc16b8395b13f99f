"""Connecting: from an address to an open transport, and errors of the network in words."""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path

from shardhash.base.sockets import keep_alive
from shardhash.client.transport import READ_SIZE, LineTransport, Transport
from shardhash.wire.address import Address


async def open_transport(address: Address, timeout: float) -> Transport:
    """Connect to an address within `timeout` seconds. Raises OSError."""
    async with asyncio.timeout(timeout):
        if address.kind in ("ws", "wss"):
            # Imported where it is needed: aiohttp takes longer to import than a line transport takes to answer.
            from shardhash.client.websocket import WebSocketTransport

            return await WebSocketTransport.open(address, timeout)
        if address.kind == "unix":
            return LineTransport(*await _open_unix(address.path), timeout)
        context = None
        if address.encrypted:
            from shardhash.client.environment import tls_context  # the same holds for it

            context = tls_context()
        reader, writer = await asyncio.open_connection(address.host, address.port, limit=READ_SIZE, ssl=context)
        keep_alive(writer.get_extra_info("socket"))
        return LineTransport(reader, writer, timeout)


async def _open_unix(path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a unix socket whose path may be longer than the kernel's limit of 108 bytes.

    It is reached through a descriptor of its own, because a change of the working directory, as the reference does it,
    is felt by every thread.
    """
    place = Path(path)
    if len(os.fsencode(place)) < 100:
        return await asyncio.open_unix_connection(place, limit=READ_SIZE)
    node = os.open(place, os.O_PATH)
    try:
        return await asyncio.open_unix_connection(f"/proc/self/fd/{node}", limit=READ_SIZE)
    finally:
        os.close(node)


def describe_error(error: Exception) -> str:
    """What went wrong, for people: ``connection refused`` instead of how the event loop or aiohttp puts it."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, ssl.SSLError):  # aiohttp's own say nothing, but their cause does
            if message := getattr(found, "verify_message", None):
                return f"certificate verify failed: {message}; SSL_CERT_FILE names authorities to trust"
            if found.errno and getattr(found, "reason", None):
                return "TLS failed: " + found.reason.lower().replace("_", " ")
        elif isinstance(found, OSError) and found.errno is not None and found.errno > 0:
            return os.strerror(found.errno).lower()
        found = getattr(found, "os_error", None) or found.__cause__
    return str(error) or type(error).__name__

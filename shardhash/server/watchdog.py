"""The watchdog: tells the service manager that the server serves, as long as it really does.

It connects to the server's own address, as a client does, and wants a sign of life: that takes the event loop, the
listener and a session. What ends a server that stands still is the manager, which hears nothing any more. A shard that
is away is no such case: the supervisor sees to it, and a new start would only take longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl

from shardhash.server.service_manager import ServiceManager
from shardhash.wire.address import Address, reachable

log = logging.getLogger(__name__)

_LINE = b"OEHASHEQUIV 1.1\nneeds-headers: true\n\n"
_HTTP = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


async def keep_fed(manager: ServiceManager, address: Address) -> None:
    """Feed the manager's watchdog, if it has one, whenever `address`, one of the server's own, answers."""
    if manager.watchdog is None:
        return
    pause = manager.watchdog / 4
    while True:
        if await answers(address, pause):
            manager.tell(WATCHDOG="1")
        else:
            log.error("this server does not answer at its own address %s within %.3g s", address, pause)
        await asyncio.sleep(pause)


async def answers(address: Address, limit: float) -> bool:
    """Whether a server answers at an address within the limit, seconds. One that closes the connection does."""
    try:
        async with asyncio.timeout(limit):
            return await _ask(address)
    except (TimeoutError, OSError):
        return False


async def _ask(address: Address) -> bool:
    context = None
    if address.encrypted:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        if address.kind == "unix":
            node = os.open(address.path, os.O_PATH)  # whose name may be longer than the kernel takes
            try:
                reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{node}")
            finally:
                os.close(node)
        else:
            reader, writer = await asyncio.open_connection(reachable(address).host, address.port, ssl=context)
    except ssl.SSLError:
        return True  # it wants a certificate of its clients: it speaks
    try:
        writer.write(_HTTP if address.kind in ("ws", "wss") else _LINE)
        await reader.read(1)
    except (ssl.SSLError, ConnectionError):
        return True
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return True

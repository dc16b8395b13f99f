"""Scanners that reset their connections at any point of a WebSocket upgrade or a TLS handshake."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

TIME = 10.0
"""Seconds that an answer may take."""
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends a reset."""
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
FRAME = b"\x81\x8fabcd" + bytes(byte ^ b"abcd"[place % 4] for place, byte in enumerate(b"OEHASHEQUIV 1.1"))
LOGIN = b'OEHASHEQUIV 1.1\nneeds-headers: false\n\n{"auth": {"username": "nobody", "token": "guess"}}\n'


@contextmanager
def resetting(port: int) -> Iterator[socket.socket]:
    """A connection that ends by a reset."""
    with socket.create_connection(("127.0.0.1", port), TIME) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        yield raw


def say(port: int, data: bytes, *, answered: bool = False) -> None:
    """Send something, read what comes at once if anything must, and reset."""
    with resetting(port) as raw:
        raw.sendall(data)
        if answered:
            assert raw.recv(1 << 16)


def client_hello() -> bytes:
    """The first message of a TLS handshake."""
    sent = ssl.MemoryBIO()
    try:
        _context().wrap_bio(ssl.MemoryBIO(), sent).do_handshake()
    except ssl.SSLWantReadError:
        return sent.read()
    raise AssertionError("a handshake needs an answer")


def shake_hands(port: int, data: bytes, *, answered: bool = False) -> None:
    """Send something inside TLS, and reset."""
    with resetting(port) as raw, _context().wrap_socket(raw) as encrypted:
        encrypted.sendall(data)
        if answered:
            assert encrypted.recv(1 << 16)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def scans(tcp: int, ws: int, tls: int, wss: int) -> list[Callable[[], None]]:
    """Every point at which one may reset, given the ports."""
    hello = client_hello()
    found: list[Callable[[], None]] = [partial(say, tcp, data) for data in (b"", LOGIN[:20], LOGIN)]
    found += [partial(say, ws, data) for data in (b"", UPGRADE[:30], UPGRADE, UPGRADE + FRAME)]
    found += [partial(say, ws, UPGRADE + data, answered=True) for data in (b"", FRAME[:5])]
    for port, inside in ((tls, LOGIN), (wss, UPGRADE)):
        found += [partial(say, port, data) for data in (b"", hello[:50], hello)]
        found.append(partial(say, port, hello, answered=True))
        found += [partial(shake_hands, port, data) for data in (b"", inside[:30], inside)]
    return [*found, partial(shake_hands, wss, UPGRADE + FRAME, answered=True)]

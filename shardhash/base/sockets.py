"""TCP sockets of long-lived connections."""

from __future__ import annotations

import socket

# Seconds idle, seconds between probes, probes: a peer that vanished is noticed within 90 s, a NAT does not forget.
_KEEP_ALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))


def keep_alive(connection: socket.socket) -> None:
    """Turn on TCP keep-alive probes, and send at once what is written. Takes asyncio's view of a socket as well.

    What a listening socket accepts from then on has the same (Linux). It does nothing to a unix socket.
    """
    if connection.family == socket.AF_UNIX:
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE:
        if option := getattr(socket, name, None):  # Linux has all three
            connection.setsockopt(socket.IPPROTO_TCP, option, value)

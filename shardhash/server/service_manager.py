"""The service manager, systemd or another that speaks its protocols: states, watchdog, sockets that it opened.

States go as a datagram of lines ``NAME=VALUE`` to the socket that NOTIFY_SOCKET names (sd_notify(3)). Sockets are the
descriptors from 3 on, as many as LISTEN_FDS says, if LISTEN_PID is this process (sd_listen_fds(3)). Without a manager
all of this does nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Mapping, MutableMapping, Sequence
from ipaddress import ip_address
from pathlib import Path

from shardhash.errors import ConfigError
from shardhash.wire.address import Address

log = logging.getLogger(__name__)

FIRST = 3
"""The first descriptor that is passed."""
PATIENCE = 2.0
"""Seconds that the manager has to take what it must know."""
PROGRESS_PAUSE = 5.0
"""Seconds between signs of life while the server starts."""
MORE_TIME = "60000000"
"""Microseconds that the start may take from such a sign on, whatever the unit says."""
VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


class ServiceManager:
    """Who started this process and wants to know how it does."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        """Takes the variables that are meant for this process out of the environment, so that no worker has them."""
        told = {name: environment.pop(name, "") for name in VARIABLES}
        address = told["NOTIFY_SOCKET"]
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.ready = False
        """Whether it was told that the server serves."""
        own = str(os.getpid())
        interval = told["WATCHDOG_USEC"]
        self.watchdog = int(interval) / 1e6 if interval.isdecimal() and told["WATCHDOG_PID"] in ("", own) else None
        """Seconds within which it must hear that the server serves; None when it does not ask for that."""
        count = int(told["LISTEN_FDS"]) if told["LISTEN_FDS"].isdecimal() and told["LISTEN_PID"] == own else 0
        self.sockets = PassedSockets([_take(number) for number in range(FIRST, FIRST + count)])

    def tell(self, **states: str) -> None:
        """Tell states: READY="1", STATUS="...", and so on. A manager that does not listen is waited for a moment."""
        self._send(PATIENCE, states)

    def _send(self, patience: float, states: Mapping[str, str]) -> None:
        if not self._address:
            return
        text = "\n".join(f"{name}={value}" for name, value in states.items())
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(patience)
            try:
                sender.sendto(text.encode(), self._address)
            except BlockingIOError:
                pass  # it has enough to read; this was progress
            except OSError as error:
                log.warning("the service manager cannot be told %s: %s", text.partition("=")[0], error)

    def tell_progress(self, text: str) -> None:
        """Tell how far the start is, once the last steps are behind it nothing more."""
        if not self.ready:
            self._send(0, {"STATUS": text, "EXTEND_TIMEOUT_USEC": MORE_TIME})

    def tell_ready(self, text: str) -> None:
        """Tell that the server serves, and where."""
        self.ready = True
        self.tell(READY="1", STATUS=text)

    def tell_reloading(self) -> None:
        """Tell that settings are read again; `tell_ready` ends it."""
        self.tell(RELOADING="1", MONOTONIC_USEC=str(time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000))

    async def ask_for_time(self) -> None:
        """Until the server is ready: tell now and then that the start goes on, however long recovery takes."""
        while not self.ready:
            self._send(0, {"EXTEND_TIMEOUT_USEC": MORE_TIME})
            await asyncio.sleep(PROGRESS_PAUSE)


class PassedSockets:
    """Listening sockets that the service manager opened, before this process began: no client finds them closed."""

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        self._left = list(sockets)

    def take(self, address: Address) -> list[socket.socket]:
        """Those of an address to bind; none if it must be bound here."""
        taken = [raw for raw in self._left if _is_at(raw, address)]
        self._left = [raw for raw in self._left if raw not in taken]
        return taken

    def has(self, address: Address) -> bool:
        """Whether there is one for an address to bind."""
        return any(_is_at(raw, address) for raw in self._left)

    def close(self) -> list[str]:
        """Close those that no address takes; where they listened."""
        places = [_place(raw) for raw in self._left]
        for raw in self._left:
            raw.close()
        self._left = []
        return places


def _take(number: int) -> socket.socket:
    try:
        os.set_inheritable(number, False)
        raw = socket.socket(fileno=number)
        listens = raw.type == socket.SOCK_STREAM and raw.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ConfigError(f"descriptor {number}, passed by LISTEN_FDS, is not a socket: {error.strerror}") from None
    if not listens:
        raise ConfigError(f"descriptor {number}, passed by LISTEN_FDS, does not listen: write ListenStream=, Accept=no")
    raw.setblocking(False)
    return raw


def _is_at(raw: socket.socket, address: Address) -> bool:
    if address.kind == "unix" or raw.family == socket.AF_UNIX:
        same_kind = address.kind == "unix" and raw.family == socket.AF_UNIX
        return same_kind and Path(raw.getsockname()).absolute() == Path(address.path).absolute()
    host, port = raw.getsockname()[:2]
    if port != address.port:
        return False
    if not address.host:
        return ip_address(host).is_unspecified
    try:
        hosts = {str(found[4][0]) for found in socket.getaddrinfo(address.host, port, type=socket.SOCK_STREAM)}
    except OSError:
        return False  # to bind it will say so
    return host in hosts


def _place(raw: socket.socket) -> str:
    name = raw.getsockname()
    if raw.family == socket.AF_UNIX:
        return f"unix://{name}"
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"

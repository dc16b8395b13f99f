"""Sockets of addresses to listen on, bound and not listening yet."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import socket
import stat
from collections.abc import Iterable
from pathlib import Path

from shardhash.errors import ConfigError
from shardhash.wire.address import Address

PRIVILEGED = 1024
"""Ports below it are for the privileged, unless the machine says otherwise."""


async def check_free(addresses: Iterable[Address]) -> None:
    """Raise ConfigError for a TCP address that cannot be bound. Nothing stays bound."""
    for address in addresses:
        try:
            for raw in await bind_tcp(address) if address.kind != "unix" else ():
                raw.close()
        except OSError as error:
            raise refusal(address, error) from None


def refusal(address: Address, error: OSError) -> ConfigError:
    """The error that says why an address cannot be bound, and what to do about it."""
    text, port, folder = error.strerror or str(error), address.port, Path(address.path).parent
    if address.kind == "unix" and isinstance(error, FileNotFoundError | PermissionError):
        text += (
            f"; {'make the folder' if isinstance(error, FileNotFoundError) else 'let this user write into'} {folder}"
        )
    elif error.errno == errno.EADDRINUSE:
        text += f"; stop what listens there (ss -ltnp 'sport = :{port}' shows it), or give another port"
    elif error.errno == errno.EADDRNOTAVAIL:
        text += "; give an address of this machine (ip address shows them)"
    elif isinstance(error, PermissionError) and port < PRIVILEGED:
        text += (
            f"; ports below {PRIVILEGED} need the capability CAP_NET_BIND_SERVICE or a socket unit of systemd; give"
            " another port, or one of these"
        )
    return ConfigError(f"cannot listen on {address}: {text}")


def bind_unix(path: Path) -> tuple[socket.socket, int]:
    """A socket at a path of any length, and its inode. Raises OSError, and ConfigError where a live server answers.

    The kernel takes 107 bytes, a folder's descriptor shortens the rest. What a dead server left there is removed.
    """
    path = path.absolute()
    _clear_stale(path)
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        # The name itself may be too long as well, so bind under a short one and rename.
        short = f".{os.getpid()}.{secrets.token_hex(4)}"
        raw.bind(f"/proc/self/fd/{folder}/{short}")
        os.rename(short, path.name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        raw.close()
        raise
    finally:
        os.close(folder)
    return raw, path.stat().st_ino


def _clear_stale(path: Path) -> None:
    """Remove what a dead server left at the path. Raises ConfigError for a live one, or a file that is not a socket."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigError(f"cannot listen on unix://{path}: the file exists and is not a socket; remove or rename it")
    node = os.open(path, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.connect(f"/proc/self/fd/{node}")
    except ConnectionRefusedError:
        path.unlink()
        return
    finally:
        os.close(node)
    raise ConfigError(f"cannot listen on unix://{path}: another server answers there; stop it first")


async def bind_tcp(address: Address) -> list[socket.socket]:
    """One socket for each address that the host has; all with the same port."""
    loop = asyncio.get_running_loop()
    hosts = [address.host] if address.host else ["0.0.0.0", "::"]
    sockets: list[socket.socket] = []
    port = address.port
    try:
        for host in hosts:
            for family, _, _, _, where in await loop.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            ):
                if family == socket.AF_INET6 and not address.host and not socket.has_ipv6:
                    continue
                sockets.append(_listen(family, (*where[:1], port, *where[2:])))
                port = sockets[0].getsockname()[1]
    except OSError:
        if not sockets or address.host not in ("", "localhost"):  # a host without IPv6 is served by IPv4 alone
            for raw in sockets:
                raw.close()
            raise
    return sockets


def _listen(family: int, where: tuple[object, ...]) -> socket.socket:
    raw = socket.socket(family, socket.SOCK_STREAM)
    try:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        raw.bind(where)
        raw.setblocking(False)
    except OSError:
        raw.close()
        raise
    return raw

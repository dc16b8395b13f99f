"""Which browsers may connect: pure checks of the Host and Origin of an HTTP request.

A web page can open a WebSocket to any address that its reader's machine reaches, loopback included, and could report
and remove there. Browsers always say in Origin which page asks; stock clients and ours send none.

- Without Origin, no browser asks for a WebSocket: it is let in, whatever name the server goes by.
- With one, the origin must be allowed by name, or be the server's own page: the Host of the request, where the Host is
  the server's. A name that an attacker points at this machine (DNS rebinding) is not: the Host must be an IP address,
  localhost, the host of the bind, this machine's name, or allowed by name.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Browsers:
    """What settings allow. `origins` as browsers write them (``https://builds.example.com``); `hosts` are names."""

    origins: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()


def refusal_of_origin(origin: str | None, host: str | None, allowed: Browsers, own: Collection[str]) -> str | None:
    """Why a WebSocket is refused, in words for the log and the client; None when it is not.

    `origin` and `host` are the headers of the request, None where absent; `own` are the names of this server.
    """
    if origin is None:
        return None
    if origin.lower() in allowed.origins:
        return None
    same = urlsplit(origin).netloc.lower() == (host or "").lower() != ""
    if same and is_own_host(host, allowed, own):
        return None
    if same:
        return f"the Host {host!r} is not known as this server's; allow it by --allow-host {_name_of(host or '')}"
    return f"web pages of {origin!r} are not allowed to connect; allow them by --allow-origin {origin}"


def is_own_host(host: str | None, allowed: Browsers, own: Collection[str]) -> bool:
    """Whether a Host header names this server for certain: no name that an attacker could point here."""
    name = _name_of(host or "")
    if name in allowed.hosts or name in own or name == "localhost":
        return True
    try:
        ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


def _name_of(host: str) -> str:
    """The host of a Host header, lower case, without port and brackets."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""

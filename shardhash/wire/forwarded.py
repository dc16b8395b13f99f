"""X-Forwarded-For, and Forwarded (RFC 7239): headers in which proxies of HTTP tell whose requests they pass on.

Each proxy adds the peer that it saw on the right. Anybody can send such headers: what a hop says counts only if that
hop is trusted. So one goes from the right for as long as hops are trusted; the first that is not is the client.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from ipaddress import ip_address

from shardhash.wire.address import host_of

_TOKEN = re.compile(r'(?:[^",;]|"(?:[^"\\]|\\.)*")+')
_PART = re.compile(r"[^,]+")
MOST_HOPS = 100
"""Hops that are looked at, from the right."""
MOST_BYTES = 2048
"""Characters of Forwarded that are read; of one that is longer nothing counts."""


def client_of(peer: str, trusted: Container[str], forwarded_for: Sequence[str], forwarded: Sequence[str]) -> str:
    """The client of a connection from `peer`, given the values of both headers, each in the order received.

    If there are both, X-Forwarded-For counts. A hop that is no address ends the search: the hop that said so is the
    last that is known.
    """
    hops = _hops(forwarded_for, _PART) if forwarded_for else _forwarded_hops(forwarded)
    found = peer
    for hop in reversed(hops[-MOST_HOPS:]):
        if found not in trusted:
            break
        address = _address(hop)
        if address is None:
            break
        found = address
    return found


def is_encrypted(proto: Sequence[str]) -> bool:
    """Whether the last value of X-Forwarded-Proto says that the proxy was reached by TLS."""
    return bool(proto) and proto[-1].rpartition(",")[2].strip().lower() in ("https", "wss")


def _hops(values: Sequence[str], part: re.Pattern[str]) -> list[str]:
    return [found.group().strip() for value in values for found in part.finditer(value)]


def _forwarded_hops(values: Sequence[str]) -> list[str]:
    """What each element says of its client, "" for nothing."""
    hops: list[str] = []
    if sum(map(len, values)) > MOST_BYTES:
        return hops
    for value in values:
        current, end = "", 0
        for found in _TOKEN.finditer(value):
            if "," in value[end : found.start()]:
                hops.append(current)
                current = ""
            name, _, said = found.group().strip().partition("=")
            if name.strip().lower() == "for":
                current = _unquoted(said.strip())
            end = found.end()
        hops.append(current)
    return hops


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text


def _address(hop: str) -> str | None:
    """The address in ADDRESS, V4:PORT, [V6] or [V6]:PORT; None if it is none."""
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        hop = hop.partition(":")[0]
    if "%" in hop:
        return None
    try:
        return host_of(ip_address(hop))
    except ValueError:
        return None

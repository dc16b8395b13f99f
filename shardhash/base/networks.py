"""Networks: which addresses count as one, and sets of addresses that settings name."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

from shardhash.errors import ConfigError

Network: TypeAlias = IPv4Network | IPv6Network

UNIX = "unix"
"""The host of those who come in by a unix socket."""


@lru_cache(8192)
def group_of(host: str) -> str:
    """What limits take for one: a host; of IPv6 its network of 64 bits, for whoever has one of these has them all."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if not isinstance(address, IPv6Address) or address.is_loopback:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Network((int(address) >> 64 << 64, 64)))


def parse_named(text: str) -> Network | str:
    """An address, a network as in 10.0.0.0/8, or unix. Raises ConfigError."""
    if text.strip().lower() == UNIX:
        return UNIX
    try:
        return ip_network(text.strip(), strict=False)
    except ValueError:
        raise ConfigError(
            f"{text!r} names no address: write an IP address, a network (10.0.0.0/8, 2001:db8::/32), or unix for unix"
            " sockets"
        ) from None


class NamedHosts:
    """The hosts that settings name, as `parse_named` takes them."""

    def __init__(self, named: Iterable[str] = ()) -> None:
        parsed = [parse_named(text) for text in named]
        self._unix = UNIX in parsed
        self._networks = [network for network in parsed if not isinstance(network, str)]

    def __contains__(self, host: object) -> bool:
        if host == UNIX:
            return self._unix
        if not self._networks:
            return False
        try:
            address = ip_address(str(host))
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)

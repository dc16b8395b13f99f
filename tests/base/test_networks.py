"""Which addresses count as one, and which are named."""

from __future__ import annotations

import pytest

from shardhash.base.networks import NamedHosts, group_of
from shardhash.errors import ConfigError


@pytest.mark.parametrize(
    ("host", "group"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("::1", "::1"),
        ("unix", "unix"),
    ],
)
def test_a_network_of_64_bits_is_one(host: str, group: str) -> None:
    assert group_of(host) == group


def test_hosts_are_named_by_address_network_and_kind() -> None:
    named = NamedHosts(["127.0.0.1", "10.0.0.0/8", "2001:db8::/32", "unix"])
    for host in ("127.0.0.1", "10.1.2.3", "::ffff:10.1.2.3", "2001:db8::5", "unix"):
        assert host in named
    for host in ("127.0.0.2", "11.0.0.1", "2001:db9::1", "host.example"):
        assert host not in named
    assert "unix" not in NamedHosts(["127.0.0.1"])
    with pytest.raises(ConfigError, match="names no address"):
        NamedHosts(["proxy.example.com"])

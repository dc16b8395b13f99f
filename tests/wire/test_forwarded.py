"""X-Forwarded-For and Forwarded: the client is the first from the right whom no trusted hop vouches for further."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardhash.wire.forwarded import client_of, is_encrypted

TRUSTED = {"10.0.0.1", "10.0.0.2", "unix"}
strangers = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6, network="2001:db8::/32")).map(str)
strangers = strangers.filter(lambda text: text not in TRUSTED)


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        ("192.0.2.9", ["203.0.113.7"], "192.0.2.9"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.7"], "203.0.113.7"),
        ("unix", ["203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1", ["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1", ["198.51.100.1, 203.0.113.7, 10.0.0.2"], "203.0.113.7"),
        ("10.0.0.1", ["198.51.100.1, 203.0.113.7", "10.0.0.2"], "203.0.113.7"),
        ("10.0.0.1", ["203.0.113.7:4711"], "203.0.113.7"),
        ("10.0.0.1", ["[2001:db8::7]:4711"], "2001:db8::7"),
        ("10.0.0.1", ["2001:db8::7"], "2001:db8::7"),
        ("10.0.0.1", ["::ffff:203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1", ["203.0.113.7, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.7, fe80::1%eth0"], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.2, 10.0.0.2"], "10.0.0.2"),
    ],
)
def test_the_rightmost_untrusted_hop(peer: str, forwarded_for: list[str], client: str) -> None:
    assert client_of(peer, TRUSTED, forwarded_for, []) == client


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (["for=203.0.113.7"], "203.0.113.7"),
        (['For="[2001:db8::7]:4711";proto=https;by=10.0.0.1'], "2001:db8::7"),
        (['for=198.51.100.1, for=203.0.113.7;host="a,b;c"'], "203.0.113.7"),
        (["for=198.51.100.1", "proto=https;for=203.0.113.7"], "203.0.113.7"),
        (["for=203.0.113.7, for=10.0.0.2"], "203.0.113.7"),
        (["for=203.0.113.7, for=_hidden"], "10.0.0.1"),
        (["for=203.0.113.7, proto=http"], "10.0.0.1"),
        (["for=203.0.113.7;x=" + "y" * 3000], "10.0.0.1"),
    ],
)
def test_forwarded(forwarded: list[str], client: str) -> None:
    assert client_of("10.0.0.1", TRUSTED, [], forwarded) == client


def test_of_both_headers_the_usual_one_counts() -> None:
    assert client_of("10.0.0.1", TRUSTED, ["203.0.113.7"], ["for=198.51.100.1"]) == "203.0.113.7"


@given(st.lists(st.text(max_size=60), max_size=4), strangers)
def test_nobody_forges_what_a_trusted_proxy_adds(forged: list[str], client: str) -> None:
    """Whatever a client sends, the proxy adds the client's address behind it."""
    assert client_of("10.0.0.1", TRUSTED, [*forged, client], []) == client
    assert client_of("10.0.0.1", TRUSTED, [", ".join([*forged, client, "10.0.0.2"])], []) == client
    assert client_of(client, TRUSTED, forged, forged) == client


@given(st.lists(st.text(max_size=80), max_size=4))
def test_any_text_gives_an_address(values: list[str]) -> None:
    for found in (client_of("10.0.0.1", TRUSTED, values, []), client_of("10.0.0.1", TRUSTED, [], values)):
        assert str(ip_address(found)) == found


def test_who_says_that_it_was_encrypted() -> None:
    assert is_encrypted(["https"])
    assert is_encrypted(["http, wss"])
    assert not is_encrypted(["https, http"])
    assert not is_encrypted([])

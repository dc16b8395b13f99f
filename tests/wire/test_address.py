"""Addresses: every form, there and back, and what is refused."""

from __future__ import annotations

import pytest

from shardhash.errors import ConfigError
from shardhash.wire.address import Address, parse_address, parse_bind, reachable


@pytest.mark.parametrize(
    ("text", "address", "canonical"),
    [
        ("unix://./hashserve.sock", Address("unix", path="./hashserve.sock"), "unix://./hashserve.sock"),
        ("unix:///run/" + "x" * 300, Address("unix", path="/run/" + "x" * 300), "unix:///run/" + "x" * 300),
        ("localhost:8686", Address("tcp", "localhost", 8686), "localhost:8686"),
        ("tls://h:8686", Address("tls", "h", 8686), "tls://h:8686"),
        ("[::1]:8686", Address("tcp", "::1", 8686), "[::1]:8686"),
        ("[fe80::1%eth0]:1", Address("tcp", "fe80::1%eth0", 1), "[fe80::1%eth0]:1"),
        ("ws://hashserv.example", Address("ws", "hashserv.example", 80), "ws://hashserv.example:80"),
        ("ws://h:9000/ws", Address("ws", "h", 9000, "/ws"), "ws://h:9000/ws"),
        ("wss://h/a/b?c=d,e", Address("wss", "h", 443, "/a/b?c=d,e"), "wss://h:443/a/b?c=d,e"),
        ("wss://[2001:db8::1]:8443/", Address("wss", "2001:db8::1", 8443, "/"), "wss://[2001:db8::1]:8443/"),
    ],
)
def test_address_there_and_back(text: str, address: Address, canonical: str) -> None:
    assert parse_address(text) == address
    assert str(address) == canonical
    assert parse_address(canonical) == address


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "empty"),
        ("host:1\n", "cannot be printed"),
        ("host", "the port is missing"),
        ("host:", "the port is missing"),
        ("host:http", "'http' is not a number"),
        ("host:65536", "not a number from 0 to 65535"),
        ("host:\u0661", "not a number"),
        ("host:-1", "not a number"),
        ("::1:8686", "brackets"),
        ("[::1:8686", "must hold an IPv6 address"),
        ("[::1]8686", "must hold an IPv6 address"),
        ("[host]:8686", "must hold an IPv6 address"),
        ("a b:1", "not a host name"),
        ("a/b:1", "not a host name"),
        ("unix://", "no path"),
        ("http://host:1", "http:// is not known"),
        ("ws://user:secret@host:1", "no user name or password"),
        (":8686", "no host to connect to"),
        ("ws://", "no host to connect to"),
        ("tls://h", "the port is missing"),
        ("host:0", "no port to connect to"),
    ],
)
def test_refused_address_says_why(text: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        parse_address(text)


def test_refusal_repeats_no_password() -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_address("ws://user:secret@host:1")
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "address", "options"),
    [
        (":8686", Address("tcp", "", 8686), {}),
        (":0", Address("tcp", "", 0), {}),
        ("[::]:0", Address("tcp", "::", 0), {}),
        ("ws://:8484,read-only", Address("ws", "", 8484), {"read-only": ""}),
        ("ws://0.0.0.0:8686,anon=@read", Address("ws", "0.0.0.0", 8686), {"anon": "@read"}),
        ("x:1, anon=@read+@report ,read-only", Address("tcp", "x", 1), {"anon": "@read @report", "read-only": ""}),
        ("unix://a b,anon=@read @report", Address("unix", path="a b"), {"anon": "@read @report"}),
        ("x:1,anon=@none", Address("tcp", "x", 1), {"anon": "@none"}),
    ],
)
def test_bind(text: str, address: Address, options: dict[str, str]) -> None:
    assert parse_bind(text) == (address, options)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (":1,", "the rules are read-only and anon=PERMISSIONS$"),
        (":1,readonly", "rule 'readonly': the rules are read-only and anon=PERMISSIONS$"),
        (":1,read-only=yes", "takes no value"),
        (":1,anon", "anon=@none"),
        (":1,anon=+", "anon=@none"),
        (",read-only", "empty"),
    ],
)
def test_refused_bind_says_why(text: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        parse_bind(text)


@pytest.mark.parametrize(
    ("bind", "address"),
    [
        (":8686", "127.0.0.1:8686"),
        ("0.0.0.0:1", "127.0.0.1:1"),
        ("[::]:1", "[::1]:1"),
        ("ws://:8484/ws", "ws://127.0.0.1:8484/ws"),
        ("tls://h.example.com:1", "tls://h.example.com:1"),
        ("unix://./a.sock", "unix://./a.sock"),
    ],
)
def test_where_a_bind_is_reached_from_its_own_machine(bind: str, address: str) -> None:
    assert str(reachable(parse_bind(bind)[0])) == address

"""The PROXY protocol: what each header says, whole and in pieces, and what is refused."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardhash.errors import ProtocolError
from shardhash.wire.proxy_header import (
    LONGEST,
    SIGNATURE,
    ProxyHeader,
    is_proxy_header,
    may_be_proxy_header,
    read_proxy_header,
)

ports = st.integers(0, 65535)
addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6, network="2001:db8::/32"))


def v1(source: IPv4Address | IPv6Address, port: int) -> bytes:
    other = "192.0.2.1" if source.version == 4 else "2001:db8::1"
    return f"PROXY TCP{source.version} {source} {other} {port} 443\r\n".encode()


def v2(source: IPv4Address | IPv6Address, port: int, command: int = 0x21, more: bytes = b"") -> bytes:
    family = 0x11 if source.version == 4 else 0x21
    body = source.packed + bytes(len(source.packed)) + struct.pack(">HH", port, 443) + more
    return SIGNATURE + struct.pack(">BBH", command, family, len(body)) + body


@given(addresses, ports, st.binary(max_size=40), st.booleans(), st.binary(max_size=60))
def test_a_header_gives_the_client_however_it_is_cut(
    source: IPv4Address | IPv6Address, port: int, behind: bytes, second: bool, more: bytes
) -> None:
    header = v2(source, port, more=more) if second else v1(source, port)
    assert read_proxy_header(header + behind) == ProxyHeader(len(header), str(source), port)
    assert is_proxy_header(header)
    for end in range(len(header)):
        assert may_be_proxy_header(header[:end]) or is_proxy_header(header[:end])
        assert read_proxy_header(header[:end]) is None


@given(st.binary(max_size=300), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11"]))
def test_bytes_are_read_waited_for_or_refused(noise: bytes, begin: bytes) -> None:
    data = begin + noise
    try:
        header = read_proxy_header(data)
    except ProtocolError:
        return
    if header is None:
        assert len(data) < LONGEST
    else:
        assert header.size <= len(data)
        assert header.host is None or str(ip_address(header.host)) == header.host


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN ffff::1 ::1 1 2\r\n",
        v2(IPv4Address("203.0.113.7"), 5, command=0x20),
        SIGNATURE + b"\x20\x00\x00\x00",
        SIGNATURE + b"\x21\x00\x00\x03abc",
        SIGNATURE + b"\x21\x31" + struct.pack(">H", 216) + bytes(216),
    ],
)
def test_what_a_proxy_says_of_itself_names_nobody(header: bytes) -> None:
    assert read_proxy_header(header + b"OEHASHEQUIV") == ProxyHeader(len(header))


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY TCP4 203.0.113.7 192.0.2.1 56324\r\n",
        b"PROXY TCP4 2001:db8::1 192.0.2.1 56324 443\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 99999 443\r\n",
        b"PROXY TCP4 203.0.113.777 192.0.2.1 5 443\r\n",
        b"PROXY TCP4  203.0.113.7 192.0.2.1 5 443\r\n",
        b"PROXY UDP4 203.0.113.7 192.0.2.1 5 443\r\n",
        b"PROXY " + b"x" * 200,
        SIGNATURE + b"\x11\x11\x00\x0c" + bytes(12),
        SIGNATURE + b"\x21\x11\x00\x0b" + bytes(11),
        SIGNATURE + b"\x21\x77\x00\x0c" + bytes(12),
        SIGNATURE + b"\x21\x11\xff\xff" + bytes(12),
        b"GET / HTTP/1.1\r\n",
    ],
)
def test_headers_that_are_wrong_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_proxy_header(data)


def test_an_ipv4_address_within_ipv6_is_that_address() -> None:
    assert read_proxy_header(v2(IPv6Address("::ffff:203.0.113.7"), 5)) == ProxyHeader(52, "203.0.113.7", 5)

"""The PROXY protocol, versions 1 and 2: a header in which a proxy tells whose connection it passes on.

After haproxy's doc/proxy-protocol.txt. Version 1 is a line of text of at most 107 bytes::

    PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\\r\\n        PROXY UNKNOWN ...\\r\\n

Version 2 is 12 bytes of signature, version and command, family and transport, the length of what follows (2 bytes,
big endian); addresses and ports of both ends; then what else a proxy tells, which is skipped here.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from shardhash.errors import ProtocolError
from shardhash.wire.address import host_of

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
LONGEST = 4096
"""Bytes of the longest header that is taken."""

_V1 = b"PROXY "
_LONGEST_V1 = 107
_TCP = re.compile(rb"PROXY (TCP4|TCP6) ([0-9A-Fa-f.:]{2,39}) ([0-9A-Fa-f.:]{2,39}) (\d{1,5}) (\d{1,5})\r\n")
_LOCAL, _PROXY = 0x20, 0x21
_TCP4, _TCP6 = 0x11, 0x21
_PASSED_OVER = frozenset((0x00, 0x12, 0x22, 0x31, 0x32))
"""Families that tell nothing of use here: unspecified, UDP, unix."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """`size`: its bytes. `host` and `port` are the client's; None and 0 when the proxy speaks for itself."""

    size: int
    host: str | None = None
    port: int = 0


def is_proxy_header(data: bytes) -> bool:
    """Whether this begins like a header for certain."""
    return data.startswith((_V1, SIGNATURE))


def may_be_proxy_header(data: bytes) -> bool:
    """Whether this is a header as far as it goes, which may be no byte."""
    return any(data[: len(begin)] == begin[: len(data)] for begin in (_V1, SIGNATURE))


def read_proxy_header(data: bytes) -> ProxyHeader | None:
    """The header at the beginning of this; None when it is not complete. Raises ProtocolError."""
    if data.startswith(_V1):
        return _read_v1(data)
    if data.startswith(SIGNATURE):
        return _read_v2(data)
    if may_be_proxy_header(data):
        return None
    raise ProtocolError("no PROXY header")


def _read_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, _LONGEST_V1)
    if end < 0:
        if len(data) >= _LONGEST_V1:
            raise ProtocolError(f"a PROXY header of version 1 is longer than {_LONGEST_V1} bytes")
        return None
    line = data[: end + 2]
    if re.fullmatch(rb"PROXY UNKNOWN( [^\r\n]*)?\r\n", line):
        return ProxyHeader(len(line))
    match = _TCP.fullmatch(line)
    if match is None:
        raise ProtocolError(f"{line[:60]!r} is no PROXY header")
    family, source, _, port, _ = (part.decode() for part in match.groups())
    try:
        address = IPv4Address(source) if family == "TCP4" else IPv6Address(source)
    except AddressValueError:
        raise ProtocolError(f"a PROXY header with the address {source!r}") from None
    if int(port) > 65535:
        raise ProtocolError(f"a PROXY header with the port {port}")
    return ProxyHeader(len(line), host_of(address), int(port))


def _read_v2(data: bytes) -> ProxyHeader | None:
    if len(data) < 16:
        return None
    command, family, length = struct.unpack_from(">BBH", data, 12)
    size = 16 + length
    if command not in (_LOCAL, _PROXY):
        raise ProtocolError(f"a PROXY header of version and command {command:#x}")
    if size > LONGEST:
        raise ProtocolError(f"a PROXY header of {size} bytes; {LONGEST} are taken")
    least = {_TCP4: 12, _TCP6: 36}.get(family, 0)
    if command == _PROXY and (length < least or (not least and family not in _PASSED_OVER)):
        raise ProtocolError(f"a PROXY header of family {family:#x} with {length} bytes of addresses")
    if len(data) < size:
        return None
    if command == _LOCAL or not least:
        return ProxyHeader(size)
    wide = family == _TCP6
    address = IPv6Address(data[16:32]) if wide else IPv4Address(data[16:20])
    (port,) = struct.unpack_from(">H", data, 48 if wide else 24)
    return ProxyHeader(size, host_of(address), port)

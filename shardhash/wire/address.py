"""Addresses: where a server listens and where a client finds it (PROTOCOL, "Addresses and transports").

==============================  =====  ==================================================================
``unix://PATH``                 unix   a socket in the file system; the path may be relative, of any length
``HOST:PORT``, ``[V6]:PORT``    tcp    raw TCP
``tls://HOST:PORT``             tls    the same inside TLS; our own clients know it
``ws://HOST[:PORT][/path]``     ws     WebSocket (port 80 unless given)
``wss://HOST[:PORT][/path]``    wss    WebSocket over TLS (port 443 unless given)
==============================  =====  ==================================================================

To bind, an empty host means all interfaces and port 0 any free port, and rules may follow, each after a
comma: ``read-only``, and ``anon=PERMISSION+PERMISSION`` for what anonymous clients of this address may do::

    ws://0.0.0.0:8686,anon=@read        unix:///run/shardhash.sock        :8484,read-only
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from shardhash.errors import ConfigError

if TYPE_CHECKING:  # elsewhere it is imported where it is needed: clients hardly ever need it
    from ipaddress import IPv4Address, IPv6Address

Kind: TypeAlias = Literal["unix", "tcp", "tls", "ws", "wss"]

_FORMS = "write unix://PATH, HOST:PORT, [V6]:PORT, tls://HOST:PORT, ws://HOST:PORT[/path] or wss://HOST:PORT[/path]"
_RULES = "the rules are read-only and anon=PERMISSIONS"


class Address(NamedTuple):
    """One address. ``str()`` gives the canonical text, which `parse_address` or `parse_bind` takes again.

    ``path`` is the socket's for unix, the URL's (with its leading "/", or "") for ws and wss, "" for tcp
    and tls; ``host`` is without brackets, "" when all interfaces are meant; ``port`` is 0 when any is, and for unix.
    """

    kind: Kind
    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = "" if self.kind == "tcp" else f"{self.kind}://"
        return f"{scheme}{host}:{self.port}{self.path}"

    @property
    def encrypted(self) -> bool:
        """Whether what passes there is inside TLS."""
        return self.kind in ("tls", "wss")

    @property
    def local(self) -> bool:
        """Whether it is on this machine for certain: a unix socket, localhost or a loopback address."""
        if self.kind == "unix" or self.host == "localhost":
            return True
        from ipaddress import ip_address

        try:
            return ip_address(self.host.partition("%")[0]).is_loopback
        except ValueError:
            return False  # a name may lead anywhere, and an empty host means all interfaces


def reachable(address: Address) -> Address:
    """Where a server that listens on an address is reached from its own machine."""
    here = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
    return address if address.kind == "unix" else address._replace(host=here.get(address.host, address.host))


def parse_address(text: str) -> Address:
    """The address of a server to connect to. Raises ConfigError that says what is wrong and what is due."""
    address = _parse(text)
    if address.kind != "unix" and not (address.host and address.port):
        missing = "port" if address.host else "host"
        raise ConfigError(f"address {text!r} has no {missing} to connect to: {_FORMS}")
    return address


def parse_bind(text: str) -> tuple[Address, dict[str, str]]:
    """The address to listen on, and its rules: ``{"read-only": "", "anon": "@read @report"}``, each if given.

    Permissions are separated by single spaces, and not checked here. Raises ConfigError.
    """
    place, *rules = text.split(",")
    return _parse(place.strip()), dict(_parse_rule(rule.strip(), text) for rule in rules)


def _parse_rule(rule: str, text: str) -> tuple[str, str]:
    name, equals, value = rule.partition("=")
    if name == "read-only" and not equals:
        return name, ""
    permissions = " ".join(value.replace("+", " ").split())
    if name == "anon" and permissions:
        return name, permissions
    several = "; several addresses are separated by spaces, and on a command line each has its own --bind"
    other = f"{_RULES}{several if ':' in rule else ''}"
    hint = {"read-only": "read-only takes no value", "anon": "say anon=@read, or anon=@none for nothing"}
    raise ConfigError(f"bind address {text!r}: rule {rule!r}: {hint.get(name, other)}")


def _parse(text: str) -> Address:
    if not text.isprintable() or not text:
        raise ConfigError(f"address {text!r} is empty or has characters that cannot be printed: {_FORMS}")
    scheme, separator, rest = text.partition("://")
    if not separator:
        return Address("tcp", *_parse_host_port(text, text, None))
    if scheme == "unix":
        if not rest:
            raise ConfigError(f"address {text!r} has no path: {_FORMS}")
        return Address("unix", path=rest)
    if scheme == "tls":
        return Address("tls", *_parse_host_port(rest, text, None))
    if scheme == "ws":
        return _parse_url("ws", 80, rest, text)
    if scheme == "wss":
        return _parse_url("wss", 443, rest, text)
    raise ConfigError(f"address {text!r}: {scheme}:// is not known: {_FORMS}")


def _parse_url(kind: Kind, default_port: int, rest: str, text: str) -> Address:
    place, slash, path = rest.partition("/")
    if "@" in place:
        raise ConfigError("an address takes no user name or password; put them in .netrc or give them as options")
    host, port = _parse_host_port(place, text, default_port)
    return Address(kind, host, port, slash + path)


def _parse_host_port(place: str, text: str, default_port: int | None) -> tuple[str, int]:
    """Host and port of "HOST:PORT", "[V6]:PORT" or ":PORT"; without a port the default one, if there is one."""
    if place.startswith("["):
        host, bracket, after = place[1:].partition("]")
        if not bracket or (after and not after.startswith(":")) or not _is_ipv6(host):
            raise ConfigError(f"address {text!r}: [ ] must hold an IPv6 address, then :PORT may follow: {_FORMS}")
        colon, port = after[:1], after[1:]
    else:
        host, colon, port = place.partition(":")
        if ":" in port:
            raise ConfigError(f"address {text!r}: an IPv6 address stands in brackets, as in [::1]:8686")
    if " " in host or "/" in host:
        raise ConfigError(f"address {text!r}: {host!r} is not a host name: {_FORMS}")
    if not colon and default_port is not None:
        return host, default_port
    return host, _parse_port(port, text)


def _parse_port(port: str, text: str) -> int:
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        what = f"port {port!r} is not a number from 0 to 65535" if port else "the port is missing"
        raise ConfigError(f"address {text!r}: {what}: {_FORMS}")
    return int(port)


def _is_ipv6(host: str) -> bool:
    from ipaddress import AddressValueError, IPv6Address

    try:
        IPv6Address(host)  # takes a zone too, as in fe80::1%eth0
    except AddressValueError:
        return False
    return True


def host_of(address: IPv4Address | IPv6Address) -> str:
    """The text of an IP address, of an IPv4 address inside IPv6 that of the former."""
    mapped = address.ipv4_mapped if address.version == 6 else None
    return str(mapped or address)

"""Addresses of hash equivalence servers, as BB_HASHSERVE has them. Pure."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote, urlsplit

FORMS = "ws://HOST:PORT/PATH, wss://HOST:PORT/PATH, HOST:PORT or unix://PATH"


class Address(NamedTuple):
    """Where a server listens. `kind` is tcp, unix, ws or wss; `path` is the socket's, or what is asked for by HTTP."""

    text: str
    kind: str
    host: str = ""
    port: int = 0
    path: str = ""
    user: str = ""
    """USER:PASSWORD for a proxy before the server, from ``ws://USER:PASSWORD@HOST``; not the server's own user."""


def parse_address(text: str) -> Address:
    """The address in a text. Raises ValueError that names it and the forms there are."""
    try:
        if text.startswith("unix://"):
            return _check(Address(text, "unix", path=text[len("unix://") :]))
        if text.startswith(("ws://", "wss://")):
            return _check(_parse_url(text))
        url = urlsplit("tcp://" + text)
        return _check(Address(text, "tcp", url.hostname or "", url.port or 0))
    except ValueError:
        raise ValueError(f"{text!r} is not the address of a hash equivalence server; it looks like {FORMS}") from None


def _parse_url(text: str) -> Address:
    url = urlsplit(text)
    port = url.port or (443 if url.scheme == "wss" else 80)
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    user = f"{unquote(url.username)}:{unquote(url.password or '')}" if url.username else ""
    return Address(text, url.scheme, url.hostname or "", port, path, user)


def _check(address: Address) -> Address:
    complete = address.path if address.kind == "unix" else address.host and address.port
    if not complete or any(letter.isspace() for letter in address.path):
        raise ValueError
    return address


def host_and_port(address: Address) -> str:
    """``HOST:PORT``, with brackets around a host that has colons."""
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}"

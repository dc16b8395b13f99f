"""Parsers of structured settings: addresses with rules, origins, limits."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlsplit

from shardhash.base.networks import parse_named
from shardhash.coordinator import limits, permissions
from shardhash.coordinator.bind import Bind
from shardhash.errors import ConfigError
from shardhash.wire.address import parse_bind


def parse_rules(text: str, read_only: bool, anon_perms: frozenset[str]) -> Bind:
    """A bind address with the rules of its own, else those of the whole server.

    `anon_perms` may be ANONYMOUS_DEFAULT itself, not just its equal: then nobody said what is wanted.
    """
    address, rules = parse_bind(text)
    read_only = read_only or "read-only" in rules
    if "anon" in rules:
        return Bind(address, read_only, permissions.parse_anonymous(rules["anon"]))
    if anon_perms is permissions.ANONYMOUS_DEFAULT and not address.local:
        return Bind(address, read_only, permissions.ANONYMOUS_FAR, cautious=True)
    return Bind(address, read_only, anon_perms)


def check_bind(text: str) -> str:
    """Check that this is a bind address with rules; the text, unchanged."""
    parse_rules(text, False, permissions.ANONYMOUS_DEFAULT)
    return text


def parse_http(text: str, read_only: bool, anon_perms: frozenset[str]) -> Bind:
    """Where HTTP is answered: a port alone means this machine."""
    if text.partition(",")[0].strip().isdecimal():
        text = f"127.0.0.1:{text.strip()}"
    bind = replace(parse_rules(text, read_only, anon_perms), flag="--http")
    if bind.address.kind != "tcp":
        raise ConfigError(f"--http {text!r} is no HOST:PORT; write 127.0.0.1:9464, or 9464 for the same")
    return bind


def check_http(text: str) -> str:
    """Check that `parse_http` accepts this; the text, unchanged."""
    parse_http(text, False, permissions.ANONYMOUS_DEFAULT)
    return text


def parse_origin(text: str) -> str:
    """An origin as browsers write it, lower case."""
    parts = urlsplit(text.lower().rstrip("/"))
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path:
        raise ConfigError(f"{text!r} is not an origin: write https://HOST or https://HOST:PORT")
    return f"{parts.scheme}://{parts.netloc}"


def check_proxy(text: str) -> str:
    """The text itself, if it names hosts."""
    parse_named(text)
    return text.strip()


def check_limit(text: str) -> str:
    """Check that this sets a limit; the text, unchanged."""
    limits.parse(text)
    return text

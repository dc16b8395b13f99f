"""Servers with a WebSocket bind and an address for HTTP, and what they say over it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tests.servers import ServerProcess

LIMIT = 30.0


@dataclass(frozen=True)
class Page:
    """An answer over HTTP."""

    status: int
    text: str
    headers: Mapping[str, str]


def http_of(address: str) -> str:
    """The URL of a ws:// address over plain HTTP."""
    return address.replace("ws://", "http://")


def get(url: str, **headers: str) -> Page:
    """What a URL answers, whatever its status."""
    request = Request(url, headers={name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with urlopen(request, timeout=LIMIT) as answer:
            return Page(answer.status, answer.read().decode(), dict(answer.headers))
    except HTTPError as error:
        with error:
            return Page(error.code, error.read().decode(), dict(error.headers))


def basic(username: str, token: str) -> str:
    """The Authorization header of a user."""
    return "Basic " + base64.b64encode(f"{username}:{token}".encode()).decode()


def server_with_http(*arguments: str, bind: str = "ws://127.0.0.1:0", http: str = "127.0.0.1:0") -> ServerProcess:
    """A server whose addresses are those of its bind and of its HTTP."""
    return ServerProcess(*arguments, "--http", http, binds=[bind], listening=2)

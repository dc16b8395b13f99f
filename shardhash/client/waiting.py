"""How a client waits: on an event loop (event_loop.py), or in the thread that calls (in_thread.py).

All else of a client is coroutines that only wait for what is here and for the streams that are made here. So one piece
of code is both clients; and the blocking one needs no event loop, whose import takes longer than a report.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from socket import socket
from typing import Any, Protocol, Self, TypeAlias

from shardhash.client.byte_stream import ByteStream

Resolved: TypeAlias = list[tuple[Any, Any, int, str, Any]]
"""What getaddrinfo gives."""


class Limit(Protocol):
    """Ends what runs inside it by a TimeoutError, when its time is over."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, kind: Any, error: Any, trace: Any, /) -> bool | None: ...

    def expired(self) -> bool:
        """Whether it did."""


class Waiting(ABC):
    """Everything that a client waits for. An `end` is a time of `now`."""

    @abstractmethod
    def now(self) -> float:
        """A clock that is never set, seconds."""

    @abstractmethod
    def lock(self) -> AbstractAsyncContextManager[None]:
        """A new lock."""

    @abstractmethod
    def limit(self, seconds: float | None) -> Limit:
        """A limit of time; None for no limit."""

    @abstractmethod
    def check_limits(self) -> None:
        """Raise TimeoutError if a limit around here is over."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Wait."""

    @abstractmethod
    async def resolve(self, host: str, port: int, end: float) -> Resolved:
        """The addresses of a host."""

    @abstractmethod
    async def connect(self, connection: socket, place: Any, end: float) -> None:
        """Connect a socket."""

    @abstractmethod
    async def stream(self, connection: socket) -> ByteStream:
        """The stream of a connected socket."""


def ascii_host(host: str) -> str | bytes:
    """A host for getaddrinfo: as bytes where they do, because for text it imports the tables of Unicode (3 ms)."""
    return host.encode() if host.isascii() else host

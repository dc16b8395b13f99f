"""One connection, as those see it that keep account of all (connections.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from shardhash.base.networks import group_of


class Connection:
    """One connection. Its transport keeps `heard`, `held` and `partial` up to date."""

    __slots__ = (
        "address",
        "busy",
        "fd",
        "fresh",
        "greeted",
        "hang_up",
        "heard",
        "held",
        "host",
        "is_gone",
        "partial",
        "partial_since",
        "paused",
        "peer",
        "queued",
        "resume",
        "since",
        "transport",
        "unsent",
        "unsent_since",
        "unwritten",
        "user",
        "watched",
    )

    def __init__(self, fd: int, address: str, peer: str, now: float) -> None:
        self.fd = fd
        self.address = address
        """Where it comes from; "unix" for a unix socket."""
        self.host = group_of(address)
        """What limits take for one with it."""
        self.peer = peer
        """How the log calls it."""
        self.since = now
        self.heard = now
        """When anything came in last."""
        self.greeted = False
        """Whether it has shaken hands."""
        self.fresh = True
        """Whether it has not asked anything yet."""
        self.held = 0
        self.partial = 0
        """Bytes of a message that is not complete."""
        self.partial_since = now
        self.queued = 0
        """Bytes received that wait in aiohttp."""
        self.paused = False
        """Whether nothing may be read from it for want of memory."""
        self.unsent = 0
        self.unsent_since = now
        self.unwritten = 0
        """Bytes of a long answer that are not handed over for sending."""
        self.user: str | None = None
        self.transport: asyncio.Transport | None = None
        self.watched: Any = None
        """The WatchedProtocol of one that aiohttp reads."""
        self.hang_up: Callable[[], None] = _nothing
        """Ends it before it has a transport."""
        self.resume: Callable[[], None] = _nothing
        """Reads on, after `Connections.keep` said that it must wait."""
        self.busy: Callable[[], bool] = _never
        """Whether something of it is being answered."""
        self.is_gone: Callable[[], bool] = _never
        """Whether its peer reset it, which nobody is told of while nothing is read from it."""

    def let_go(self) -> None:
        """It is closed: forget its transport, which knows it, so that both are freed without a collector."""
        self.transport = self.watched = None
        self.hang_up = self.resume = _nothing
        self.busy = self.is_gone = _never


def _nothing() -> None:
    pass


def _never() -> bool:
    return False

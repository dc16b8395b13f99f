"""Callers: who acts on a connection, and the connections whose rights a change of users reaches."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from time import time
from typing import Any
from weakref import WeakSet

from shardhash.base.networks import group_of
from shardhash.coordinator.counters import Build
from shardhash.coordinator.permissions import Identity


def _cannot(_reason: str) -> None:
    """What `Caller.revoke` is until a session sets it."""


def _nothing() -> None:
    pass


def _never() -> bool:
    return False


def _always() -> bool:
    return True


async def _wait_for(work: Coroutine[Any, Any, Any]) -> Any:
    return await work


@dataclass(slots=True, eq=False, weakref_slot=True)
class Caller:
    """The client of a connection. `read_only` comes from the address it came in by.

    `identity` is who it acts as now, and what that user may do now; `login` is the user that logged in, None for an
    anonymous connection.
    """

    identity: Identity
    read_only: bool
    peer: str = ""
    login: str | None = None
    certified: str | None = None
    """The name in the client's certificate, which an authority that the settings name signed."""
    build: Build = field(default_factory=Build, repr=False)
    """What it asks is counted here, too."""
    in_words: bool = False
    """Whether the client asked for the server's headers. Stock clients of builds do not, and fail by refusals."""
    transport: str = ""
    """The kind of the address that it came in by."""
    since: float = field(default_factory=time)
    """Seconds since 1970 UTC."""
    revoke: Callable[[str], None] = field(default=_cannot, repr=False)
    """Ends the connection; the argument says why."""
    identified: Callable[[], None] = field(default=_nothing, repr=False)
    """Call it when the identity became another one by a login; InvokeError when that user has too much already."""
    gone: Callable[[], bool] = field(default=_never, repr=False)
    """Whether the client has left and waits for no answer."""
    while_here: Callable[[Coroutine[Any, Any, Any]], Coroutine[Any, Any, Any]] = field(default=_wait_for, repr=False)
    """Waits for something of no use to a client that leaves; ConnectionResetError as soon as it did."""

    async def rest(self, pause: Coroutine[Any, Any, None]) -> None:
        """Wait for a pause, or until the client leaves: nobody is kept in memory who does not wait for the answer."""
        if self.gone():
            pause.close()
            return
        with suppress(ConnectionResetError):
            await self.while_here(pause)

    def let_go(self) -> None:
        """The connection is over: forget it. What holds the caller, such as a collection that it began, may stay."""
        self.revoke, self.identified, self.gone, self.while_here = _cannot, _nothing, _always, _wait_for

    @property
    def host(self) -> str:
        """The peer without its port: who has many connections is one."""
        return host_of(self.peer)

    @property
    def group(self) -> str:
        """What limits and queues take for one with it."""
        return group_of(self.host)


def peer_of(host: str, port: int) -> str:
    """How logs call a peer."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def host_of(peer: str) -> str:
    """The host in HOST, HOST:PORT or [V6]:PORT, as logs call peers."""
    if peer.startswith("["):
        return peer[1:].partition("]")[0]
    host, _, port = peer.partition(":")
    if port.isdecimal() or not port:
        return host
    try:
        return str(ip_address(peer))
    except ValueError:
        return peer.rpartition(":")[0] or peer


class LoggedIn:
    """The callers that logged in or act as a user. A change of a user reaches them before it is acknowledged.

    So no request has to ask what a user may do today: the caller's identity is always current.
    """

    def __init__(self) -> None:
        self._callers: WeakSet[Caller] = WeakSet()

    def add(self, caller: Caller) -> None:
        """Call this as soon as the caller has the identity of a user, before anything is awaited."""
        self._callers.add(caller)

    def set_identity(self, identity: Identity) -> None:
        """A user's permissions changed."""
        for caller in list(self._callers):
            if caller.identity.username == identity.username:
                caller.identity = identity
            elif caller.login == identity.username:
                caller.revoke(f"the permissions of {caller.login}, which acts as another user here, changed")

    def usernames(self) -> set[str]:
        """The users that logged in, or that somebody acts as, on connections that are still there."""
        return {
            name for caller in self._callers for name in (caller.login, caller.identity.username) if name is not None
        }

    def expire(self, username: str, reason: str) -> None:
        """Close the connections that a user's token, and not a certificate, let in."""
        for caller in list(self._callers):
            if caller.login == username and caller.certified != username:
                caller.revoke(reason)

    def revoke(self, username: str, reason: str, keep: Caller | None = None) -> None:
        """Close the connections that logged in as a user or act as one, but for `keep`."""
        for caller in list(self._callers):
            if caller is not keep and username in (caller.identity.username, caller.login):
                caller.revoke(reason)

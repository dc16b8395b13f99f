"""Limits of what clients may take of a server, each a setting with a name, defaults and a word of help.

The first default is for a team's server, the second (`--public`) for one that anyone reaches. A refusal names the
limit; `--limit NAME=VALUE` changes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from shardhash.base import options
from shardhash.coordinator.permissions import Identity
from shardhash.errors import ConfigError
from shardhash.wire.limits import Limits
from shardhash.wire.messages import DB_ADMIN


def _room(text: str) -> int:
    """A size, or 0 for auto: what suits the disk."""
    return 0 if text.lower() in ("0", "auto") else options.size(text)


SHARED = (
    *("connections", "peer_connections", "user_connections", "memory", "log_lines"),
    *("peer_arrivals", "peer_requests", "user_requests", "peer_bytes", "user_bytes"),
    *("peer_logins", "user_logins", "peer_tokens", "user_tokens"),
    *("user_rows", "user_siginfo", "user_methods", "peer_rows", "peer_siginfo", "peer_methods"),
)
"""Limits of what all clients of a server, or of a host or user, take together."""
OF_ONE = tuple(name for name in SHARED if name.startswith(("peer_", "user_")))
"""Those of them of one host or user."""
_CONVERT = {"count": options.whole(1, 1_000_000_000), "size": options.size, "room": _room, "time": options.seconds}
_FORMS = {"count": "NUMBER", "size": "SIZE", "room": "SIZE", "time": "TIME"}


def _limit(default: float, public: float, kind: str, about: str) -> Any:
    return field(default=default, metadata={"public": public, "kind": kind, "help": about})


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Every limit of a server: counts, bytes, and seconds where the name ends with `_time`."""

    connections: int = _limit(10_000, 10_000, "count", "connections at one time; idle ones are closed first")
    peer_connections: int = _limit(4_000, 256, "count", "of them from one host")
    peer_arrivals: int = _limit(2_000, 100, "count", "new ones a second from one host, 2 s in one go; then they wait")
    user_connections: int = _limit(4_000, 256, "count", "of them logged in as one user")
    hello_time: float = _limit(30.0, 10.0, "time", "until a client has shaken hands, TLS and HTTP included")
    first_time: float = _limit(120.0, 30.0, "time", "from there to its first request")
    idle_time: float = _limit(6 * 3600.0, 900.0, "time", "between requests; stock clients connect again by themselves")
    message_time: float = _limit(60.0, 30.0, "time", "for a message to come in, and 1 s for each 256 KiB of it")
    write_time: float = _limit(60.0, 30.0, "time", "for which a client may leave its answers unread")
    memory: int = _limit(512 << 20, 256 << 20, "size", "received and unsent, in all; the largest connection is dropped")
    message: int = _limit(
        64 << 20, 64 << 20, "size", "of a request of a user who logged in with @db-admin; WebSocket 8M"
    )
    guest_message: int = _limit(8 << 20, 4 << 20, "size", "of a request of any other client")
    login_message: int = _limit(2 << 20, 1 << 20, "size", "of a request of a client that may only log in")
    values: int = _limit(20_000, 20_000, "count", "JSON values in a request")
    detail: int = _limit(1024, 1024, "size", "of the recipe, version, task or owner of a report; the rest is cut off")
    batch: int = _limit(65_536, 65_536, "count", "hashes in a native batch")
    pipelined: int = _limit(20_000, 10_000, "count", "requests or lines of a connection that wait for answers")
    peer_requests: int = _limit(100_000, 2_000, "count", "requests a second of a host, 10 s in one go; then they wait")
    user_requests: int = _limit(100_000, 2_000, "count", "of them of one user; 16 stream lines or hashes count as one")
    peer_bytes: int = _limit(512 << 20, 8 << 20, "size", "a second from one host, and of siginfo to it; then they wait")
    user_bytes: int = _limit(512 << 20, 8 << 20, "size", "of them from one user")
    peer_logins: int = _limit(600, 20, "count", "wrong logins a minute from one host, until its passwords are refused")
    user_logins: int = _limit(600, 60, "count", "as one user, from hosts where it did not log in before")
    peer_tokens: int = _limit(600, 30, "count", "new tokens a minute that are asked for from one host")
    user_tokens: int = _limit(600, 30, "count", "of them by one user")
    user_rows: int = _limit(20_000_000, 1_000_000, "count", "rows that a user stores in a day (UTC)")
    user_siginfo: int = _limit(64 << 30, 4 << 30, "size", "of outhash_siginfo that a user stores in a day")
    user_methods: int = _limit(1_000, 50, "count", "different methods of rows that a user stores in a day")
    peer_rows: int = _limit(20_000_000, 200_000, "count", "rows in a day from one host, of those who do not log in")
    peer_siginfo: int = _limit(64 << 30, 1 << 30, "size", "of their outhash_siginfo")
    peer_methods: int = _limit(1_000, 20, "count", "different methods of their rows")
    disk_warn: int = _limit(0, 0, "room", "free on the disk of the data, below which the log warns; auto: 2G or 10 %")
    disk_refuse: int = _limit(0, 0, "room", "below which reports are answered and not stored; auto: 512M or 5 %")
    log_lines: int = _limit(50, 20, "count", "lines a second in the log about refused and closed connections")

    def share(self, coordinators: int) -> ServerLimits:
        """The limits of each of so many coordinators, so that together they hold to these.

        But for the defaults of one host or user, which keep nobody from building: its connections may all be at one
        coordinator, and would have a part of them.
        """
        if coordinators == 1:
            return self
        given = {one.name for one in fields(self) if getattr(self, one.name) != one.default}
        ours = [name for name in SHARED if name not in OF_ONE or name in given]
        shared = {name: max(1, getattr(self, name) // coordinators) for name in ours}
        return replace(self, **shared | {"memory": max(shared["memory"], self.message)})

    def of(self, identity: Identity) -> Limits:
        """What one connection may send while it acts as somebody."""
        if identity.username is not None and DB_ADMIN in identity.permissions:
            message = self.message
        elif identity.username is not None or identity.permissions:
            message = min(self.message, self.guest_message)
        else:
            message = min(self.message, self.guest_message, self.login_message)
        return Limits(
            message=message,
            values=self.values,
            batch=self.batch,
            detail=self.detail,
            permissions=identity.permissions,
            pipelined=self.pipelined,
        )


def choose(given: Iterable[str], *, public: bool = False, **others: float) -> ServerLimits:
    """The limits that settings ask for: texts NAME=VALUE, over `others`, over the defaults. Raises ConfigError."""
    base: dict[str, Any] = {each.name: each.metadata["public"] for each in fields(ServerLimits)} if public else {}
    return replace(ServerLimits(**(base | others)), **dict[str, Any](map(parse, given)))


def parse(text: str) -> tuple[str, float]:
    """The name and value of a limit in NAME=VALUE. Raises ConfigError."""
    name, _, value = text.partition("=")
    for each in fields(ServerLimits):
        if each.name == name:
            if not value.strip():
                raise ConfigError(f"{name} needs a value: {name}={_FORMS[each.metadata['kind']]}")
            try:
                return name, _CONVERT[each.metadata["kind"]](value)
            except ConfigError as error:
                raise ConfigError(f"{name}: {error}") from None
    known = ", ".join(each.name for each in fields(ServerLimits))
    raise ConfigError(f"{text!r} is not a limit; write NAME=VALUE, where NAME is one of {known}")


def describe() -> str:
    """A line for each limit: its name, its defaults, what it limits."""
    lines = []
    for each in fields(ServerLimits):
        default, public, kind = each.default, each.metadata["public"], each.metadata["kind"]
        shown = _shown(default, kind) + (f", {_shown(public, kind)}" if public != default else "")
        lines.append(f"  {each.name:<18}{shown:<20}{each.metadata['help']}")
    return "\n".join(lines)


def in_force(limits: ServerLimits) -> dict[str, str]:
    """The value of each limit by its name, as `parse` takes it."""
    return {each.name: _shown(getattr(limits, each.name), each.metadata["kind"]) for each in fields(limits)}


def _shown(value: Any, kind: str) -> str:
    if kind == "room" and not value:
        return "auto"
    if kind in ("size", "room") and value % 1024:
        return str(int(value))
    if kind in ("size", "room") and value % (1 << 20):
        return f"{int(value) >> 10}K"
    if kind in ("size", "room"):
        return f"{int(value) >> 30}G" if value % (1 << 30) == 0 else f"{int(value) >> 20}M"
    if kind == "time":
        return f"{value / 3600:g}h" if value >= 3600 else f"{value:g}s"
    return f"{int(value)}"

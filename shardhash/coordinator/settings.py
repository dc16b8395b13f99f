"""Settings of a server: everything that its command line and environment decide, checked as a whole.

Each address has rules of its own for those who come in by it, so that one server may answer builders on a private
address and readers on a public one::

    Bind(parse_address("[::1]:8686"))
    Bind(parse_address("ws://hash.example.com:8484"), read_only=True, anon_perms=frozenset(("@read",)))
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, TypeAlias

from shardhash.coordinator.permissions import ALL, ANONYMOUS_DEFAULT, DB_ADMIN, USER_ADMIN
from shardhash.errors import ConfigError
from shardhash.wire.address import Address
from shardhash.wire.connection import Limits

Sync: TypeAlias = Literal["always", "interval", "off"]
"""When reports are on the disk: before they are acknowledged, within an interval, or when the system likes."""


@dataclass(frozen=True, slots=True)
class Bind:
    """An address to listen on, and the rules of those who come in by it. ConfigError for one that cannot be had."""

    address: Address
    read_only: bool = False
    anon_perms: frozenset[str] = ANONYMOUS_DEFAULT

    def __post_init__(self) -> None:
        if self.address.kind == "wss":
            plain = Address("ws", self.address.host, self.address.port, self.address.path)
            raise ConfigError(
                f"cannot listen on {self.address}: the server speaks no TLS; bind {plain} on a loopback address and"
                " put a TLS proxy (nginx, haproxy, caddy) in front of it"
            )
        if granted := self.anon_perms & {ALL, USER_ADMIN}:
            raise ConfigError(
                f"anonymous users of {self.address} cannot be given {' '.join(sorted(granted))}: whoever reaches the"
                " server would own it; create a user for that (--admin-user)"
            )

    @property
    def local(self) -> bool:
        """Whether only this machine reaches the address."""
        if self.address.kind == "unix" or self.address.host == "localhost":
            return True
        try:
            return ip_address(self.address.host.partition("%")[0]).is_loopback
        except ValueError:
            return False  # a name may lead anywhere, and an empty host everywhere


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """The server that is asked for what this one does not know, and who to be there. Times are seconds.

    `limit`: how long a question may take before the upstream counts as down. `remember_misses`: how long a hash that
    it does not know is not asked again.
    """

    address: Address
    username: str | None = None
    token: str | None = field(default=None, repr=False)
    limit: float = 5.0
    remember_misses: float = 60.0

    def __post_init__(self) -> None:
        if (self.username is None) != (self.token is None):
            raise ConfigError("an upstream user and token go together; give both or neither")


@dataclass(frozen=True, slots=True)
class Settings:
    """One server. `data` None keeps everything in memory only. Times are seconds.

    `notices` are remarks for the log, of whoever made the settings. ConfigError when they contradict each other.
    """

    binds: tuple[Bind, ...]
    workers: int
    data: Path | None
    sync: Sync = "always"
    sync_interval: float = 1.0
    snapshot_interval: float = 3600.0
    snapshot_bytes: int = 256 << 20
    keep_snapshots: int = 2
    limits: Limits = field(default_factory=Limits)
    shard_timeout: float = 30.0
    upstream: UpstreamSettings | None = None
    admin_user: str | None = None
    admin_password: str | None = field(default=None, repr=False)
    log_level: str = "INFO"
    notices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.binds:
            raise ConfigError("there is no address to listen on; give one with --bind")
        if self.workers < 1:
            raise ConfigError("a server needs one worker at least")
        if self.upstream is not None and all(bind.read_only for bind in self.binds):
            raise ConfigError(
                "an upstream and read-only do not go together: what the upstream knows could not be stored here;"
                " leave one of them out, or let clients read from the upstream itself"
            )
        if bool(self.admin_user) != bool(self.admin_password):
            given, missing = ("user", "password") if self.admin_user else ("password", "user")
            raise ConfigError(f"an admin {given} is given without an admin {missing}; give both or neither")

    def warnings(self) -> list[str]:
        """What the one who runs the server should know before a stranger finds out."""
        exposed = [b for b in self.binds if DB_ADMIN in b.anon_perms and not b.read_only and not b.local]
        return [
            f"ANYONE who reaches {bind.address} may DELETE what this server knows, for anonymous users hold {DB_ADMIN}"
            f" there. Unless everyone on that network is trusted, bind '{bind.address},anon=@read+@report', or"
            " '...,anon=@read' if builders log in, or give --anon-perms, and create users with --admin-user"
            for bind in exposed
        ]

"""Settings of a server: everything that its command line and environment decide, checked as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from shardhash.base.options import Value
from shardhash.base.text import counted
from shardhash.coordinator.bind import Bind, TlsFiles
from shardhash.coordinator.limits import ServerLimits
from shardhash.coordinator.origins import Browsers
from shardhash.errors import ConfigError
from shardhash.link import worker_options
from shardhash.stores.answers import ANSWER_CACHE, LEASE, MOST_LEASE
from shardhash.stores.chained.settings import UpstreamSettings
from shardhash.wire.address import Address
from shardhash.wire.messages import DB_ADMIN, REPORT

Sync: TypeAlias = Literal["always", "interval", "off"]
"""When reports are on the disk: before they are acknowledged, within an interval, or when the system likes."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """All that a server was told: the value of each option by its name, and the settings made of them."""

    values: Mapping[str, Value]
    settings: Settings


@dataclass(frozen=True, slots=True)
class Settings:
    """One server. `data` None keeps everything in memory only, or in the database that `store` names, which has no
    workers. Times are seconds.

    `notices` are remarks for the log, of whoever made the settings. ConfigError when they contradict each other.
    """

    binds: tuple[Bind, ...]
    workers: int
    data: Path | None
    sync: Sync = "always"
    sync_interval: float = worker_options.SYNC_INTERVAL
    snapshot_interval: float = worker_options.SNAPSHOT_INTERVAL
    snapshot_bytes: int = worker_options.SNAPSHOT_BYTES
    keep_snapshots: int = worker_options.KEEP_SNAPSHOTS
    limits: ServerLimits = field(default_factory=ServerLimits)
    shard_timeout: float = 30.0
    coordinators: int = 1
    """Processes that answer clients: the server itself, and its followers."""
    answer_cache: int = ANSWER_CACHE
    """Bytes that the coordinator keeps answers in, 0 for none."""
    store: str | None = field(default=None, repr=False)
    read_replica: str | None = field(default=None, repr=False)
    """A standby of `store`, for lookups."""
    answer_lease: float = LEASE
    """For how long answers are kept in use that other servers may have made wrong; see stores/postgresql/changes.py."""
    upstream: UpstreamSettings | None = None
    admin_user: str | None = None
    admin_password: str | None = field(default=None, repr=False)
    browsers: Browsers = field(default_factory=Browsers)
    tls: TlsFiles | None = None
    http: Bind | None = None
    """Where plain HTTP is answered, beside the WebSocket binds; its address is of kind tcp."""
    log_level: str = "INFO"
    log_format: str = "text"
    trust_proxies: tuple[str, ...] = ()
    """Hosts whose word on their clients counts (base/networks.py)."""
    slow: float | None = None
    """Requests that take so long are logged; None: none are."""
    idle: float | None = None
    """A server that was started on demand ends when nobody was connected for so long (on_demand.py)."""
    log_file: Path | None = None
    """Where its log goes instead of to standard error."""
    reasons: Mapping[str, str] = field(default_factory=dict, compare=False)
    """By the name of an option, why it is so where nobody gave it."""
    notices: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    """Warnings of whoever made the settings."""

    def __post_init__(self) -> None:
        if not self.binds:
            raise ConfigError("there is no address to listen on; give one with --bind")
        if (self.workers < 1) is (self.store is None):
            raise ConfigError("a server needs one worker at least, or a database and no workers")
        if self.read_replica is not None and self.store is None:
            raise ConfigError("--read-replica names a standby of a database, but there is no database; give --store")
        if self.answer_lease > MOST_LEASE:
            raise ConfigError(
                f"--answer-lease is at most {MOST_LEASE:g}s: a removal waits that long for a server that ended silently"
            )
        self._check_coordinators()
        self._check_forwarding()
        if self.tls is None:
            for bind in self.binds:
                _check_is_plain(bind.address)
        if self.upstream is not None and all(bind.read_only for bind in self.binds):
            raise ConfigError(
                "an upstream and read-only do not go together: what the upstream knows could not be stored here;"
                " leave one of them out, or let clients read from the upstream itself"
            )

    @property
    def forward(self) -> bool:
        """Whether reports are sent on."""
        return self.upstream is not None and self.upstream.forward

    def _check_forwarding(self) -> None:
        if self.forward and self.store is not None:
            raise ConfigError(
                "--forward keeps an outbox in the data directory, which a server on a database (--store) does not have:"
                " leave --forward out, and have an edge server with --data and --upstream forward to this one"
            )

    def _check_coordinators(self) -> None:
        if self.coordinators == 1:
            return
        if self.store is not None:
            raise ConfigError(
                "several coordinators and a database (--store) do not go together: leave --coordinators out, and start"
                " several servers on the database"
            )
        if self.upstream is not None:
            raise ConfigError(
                "several coordinators and an upstream do not go together: leave --coordinators or --upstream out, or"
                " put a server with one coordinator between this one and the upstream"
            )

    def describe_data(self) -> str:
        """Where its data is, for the log."""
        if self.store is not None:
            return "data in a database (--store)"
        where = "in memory only" if self.data is None else f"in {self.data}, sync {self.sync}"
        beside = "" if self.coordinators == 1 else f"{self.coordinators} coordinators, "
        return f"{beside}{counted(self.workers, 'worker')}, data {where}"

    def warnings(self) -> list[str]:
        """Security warnings for the operator."""
        notes = [*self.remarks]
        if self.read_replica is not None and not all(bind.read_only for bind in self.binds):
            notes.append(
                "lookups go to a replica (--read-replica), but clients may report here: what they just reported may be"
                " unknown to them for as long as the replica is behind. Such a server should be --read-only"
            )
        if self.forward and self.data is None:
            notes.append(
                "reports that wait for the upstream (--forward) are in memory only, and lost at the end (--memory)"
            )
        if self.tls is not None and not any(bind.address.encrypted for bind in self.binds):
            notes.append("a TLS certificate is given, but no address is tls:// or wss://: nothing is encrypted")
        if any(network in ("0.0.0.0/0", "::/0") for network in self.trust_proxies):
            notes.append(
                "--trust-proxy names every address: anyone may say that it is somebody else; name the proxies alone"
            )
        return [*notes, *filter(None, [_warning_of(bind) for bind in self.binds if not bind.local])]


def _check_is_plain(address: Address) -> None:
    """Refuse an address of TLS without a certificate: what people think encrypted must not be served plain."""
    if address.encrypted:
        plain = Address("ws" if address.kind == "wss" else "tcp", address.host, address.port, address.path)
        raise ConfigError(
            f"cannot listen on {address} without a certificate: give one with --tls-cert and --tls-key, or bind {plain}"
            " on a loopback address and put a TLS proxy (nginx, haproxy, caddy) in front of it"
        )


def _warning_of(bind: Bind) -> str:
    """A warning of what anonymous users may do where other machines reach; "" when they can only read."""
    if bind.read_only:
        return ""
    if DB_ADMIN in bind.anon_perms:
        return (
            f"ANYONE who reaches {bind.address} may DELETE what this server knows, and report what they like: anonymous"
            f" users hold {DB_ADMIN} there. Unless everyone on that network is trusted, bind"
            f" '{bind.address},anon=@read+@report', or '...,anon=@read' if builders log in, or give --anon-perms, and"
            " create users with --admin-user"
        )
    if bind.cautious:
        return (
            f"{bind.address} is reached by others than this machine, so anonymous users get"
            f" {' '.join(sorted(bind.anon_perms))} there, without the {DB_ADMIN} that the stock server gives them. For"
            f" less, where only those who log in may report: --bind '{bind.address},anon=@read'. For more, where"
            f" everyone who reaches it may also delete: {bind.option_for_more}"
        )
    if REPORT in bind.anon_perms:
        return (
            f"anyone who reaches {bind.address} may report what builds then reuse: anonymous users hold {REPORT} there."
            f" Unless everyone on that network is trusted, bind '{bind.address},anon=@read' and have builders log in"
        )
    return ""

"""Settings of a server: everything that the command line and the environment decide."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from shardhash.coordinator.permissions import ANONYMOUS_DEFAULT
from shardhash.wire.address import Address
from shardhash.wire.connection import Limits


@dataclass(frozen=True, slots=True)
class Bind:
    """An address to listen on, and the rules of those who come in by it."""

    address: Address
    read_only: bool = False
    anon_perms: frozenset[str] = ANONYMOUS_DEFAULT


@dataclass(frozen=True, slots=True)
class Settings:
    """One server."""

    binds: tuple[Bind, ...]
    workers: int
    data: Path | None
    sync: str = "always"
    limits: Limits = field(default_factory=Limits)
    shard_timeout: float = 30.0
    admin_user: str | None = None
    admin_password: str | None = None
    log_level: str = "INFO"

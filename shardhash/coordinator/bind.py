"""Binds: an address to listen on, and the rules for the clients that connect to it.

Each address has its own rules, so that one server can answer builders on a private address and readers on a public
one::

    Bind(parse_address("[::1]:8686"))
    Bind(parse_address("ws://hash.example.com:8484"), read_only=True, anon_perms=frozenset(("@read",)))
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from shardhash.coordinator.permissions import ALL, ANONYMOUS_DEFAULT, Identity
from shardhash.errors import ConfigError
from shardhash.wire.address import Address
from shardhash.wire.messages import USER_ADMIN


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Files of tls:// and wss:// addresses, PEM. The certificate's may hold the chain, and the key if `key` is None.

    With `client_ca` clients must have a certificate of one of the authorities there. One whose common name is that of a
    user acts as that user.
    """

    certificate: Path
    key: Path | None = None
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class Bind:
    """An address to listen on, and the rules of those who come in by it. ConfigError for one that cannot be had."""

    address: Address
    read_only: bool = False
    anon_perms: frozenset[str] = ANONYMOUS_DEFAULT
    cautious: bool = field(default=False, compare=False)
    """Whether `anon_perms` are less than usual because others reach the address, and nobody said what is wanted."""
    flag: str = field(default="--bind", compare=False)
    """The option that gives it."""

    def __post_init__(self) -> None:
        if granted := self.anon_perms & {ALL, USER_ADMIN}:
            raise ConfigError(
                f"anonymous users of {self.address} cannot be given {' '.join(sorted(granted))}: whoever reaches the"
                " server would own it; create a user for that (--admin-user)"
            )

    @property
    def anonymous(self) -> Identity:
        """The identity of anonymous users of this address."""
        hint = (
            f"; others than this machine reach {self.address}: log in, or have the server give anonymous users more by"
            f" {self.option_for_more}"
        )
        return Identity(None, self.anon_perms, hint if self.cautious else "")

    @property
    def option_for_more(self) -> str:
        """The option that gives anonymous users what `cautious` took from them."""
        return f"{self.flag} '{self.address},anon={'+'.join(sorted(ANONYMOUS_DEFAULT))}'"

    @property
    def local(self) -> bool:
        """Whether only this machine reaches the address."""
        return self.address.local

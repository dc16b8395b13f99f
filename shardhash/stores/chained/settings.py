"""Settings of the upstream: where it is, who logs in there, and how long an answer may take."""

from __future__ import annotations

from dataclasses import dataclass, field

from shardhash.errors import ConfigError
from shardhash.wire.address import Address

OUTBOX_SIZE = 1 << 30


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """The server that is asked for what this one does not know, and who to be there. Times are seconds.

    `limit`: how long a question may take before the upstream counts as down. `remember_misses`: how long a hash that
    it does not know is not asked again. `others` are asked, in this order, while `address` is down; the login is the
    same. `forward`: what clients report here is sent on there; `outbox_size` are the bytes that may wait for that.
    """

    address: Address
    username: str | None = None
    token: str | None = field(default=None, repr=False)
    limit: float = 5.0
    remember_misses: float = 60.0
    others: tuple[Address, ...] = ()
    forward: bool = False
    outbox_size: int = OUTBOX_SIZE

    def __post_init__(self) -> None:
        if (self.username is None) != (self.token is None):
            raise ConfigError("an upstream user and token go together; give both or neither")
        if len({self.address, *self.others}) <= len(self.others):
            raise ConfigError("an upstream is given twice; once is enough")

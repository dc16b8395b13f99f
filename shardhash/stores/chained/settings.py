"""Settings of the upstream: where it is, who logs in there, and how long an answer may take."""

from __future__ import annotations

from dataclasses import dataclass, field

from shardhash.errors import ConfigError
from shardhash.wire.address import Address


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

"""Messages: the requests of the protocol (PROTOCOL, "Messages").

A request is a JSON object with one command key; the key's value holds the fields. The table of
commands is in commands.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeAlias

from shardhash.wire.collecting import Collect
from shardhash.wire.imports import ImportBatch
from shardhash.wire.rows import Report
from shardhash.wire.search import Search

READ: Final = "@read"
REPORT: Final = "@report"
DB_ADMIN: Final = "@db-admin"
USER_ADMIN: Final = "@user-admin"


@dataclass(frozen=True, slots=True)
class Ping:
    pass


@dataclass(frozen=True, slots=True)
class Get:
    """The unihash of a taskhash; with `all` the oldest outhash row of it that has a mapping."""

    method: str
    taskhash: str
    all: bool


@dataclass(frozen=True, slots=True)
class GetOuthash:
    """The oldest row of an outhash. The taskhash, which may be empty, only matters to an upstream server."""

    method: str
    outhash: str
    taskhash: str
    with_unihash: bool


@dataclass(frozen=True, slots=True)
class ReportEquiv:
    """A mapping without a row. `unihash` is 64 lowercase hex digits."""

    method: str
    taskhash: str
    unihash: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Conditions, column to text, ANDed; nulls, and names of no column, are left out."""

    where: dict[str, str]


@dataclass(frozen=True, slots=True)
class CleanUnused:
    max_age_seconds: int


@dataclass(frozen=True, slots=True)
class GcMark:
    """`where` as in Remove."""

    mark: str
    where: dict[str, str]


@dataclass(frozen=True, slots=True)
class GcStatus:
    pass


@dataclass(frozen=True, slots=True)
class GcSweep:
    mark: str


@dataclass(frozen=True, slots=True)
class GetStats:
    pass


@dataclass(frozen=True, slots=True)
class ResetStats:
    pass


@dataclass(frozen=True, slots=True)
class GetDbUsage:
    pass


@dataclass(frozen=True, slots=True)
class GetDbQueryColumns:
    pass


@dataclass(frozen=True, slots=True)
class BackfillWait:
    pass


@dataclass(frozen=True, slots=True)
class Auth:
    username: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """`username` is None when the connected user is meant; so in the other requests about users.

    `lifetime`: seconds for which the token works, 0 without an end; None: as long as the one before.
    """

    username: str | None
    lifetime: int | None = None


@dataclass(frozen=True, slots=True)
class SetUserPerms:
    username: str
    permissions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GetUser:
    username: str | None


@dataclass(frozen=True, slots=True)
class GetAllUsers:
    pass


@dataclass(frozen=True, slots=True)
class ListUsers:
    """The same with what is known of their tokens."""


@dataclass(frozen=True, slots=True)
class NewUser:
    username: str
    permissions: tuple[str, ...]
    lifetime: int | None = None


@dataclass(frozen=True, slots=True)
class DeleteUser:
    username: str | None


@dataclass(frozen=True, slots=True)
class BecomeUser:
    username: str


@dataclass(frozen=True, slots=True)
class Find:
    """The newest rows that match a search (search.py), `limit` at most; `whole`: with their siginfo."""

    where: Search
    limit: int
    whole: bool = False


@dataclass(frozen=True, slots=True)
class GetRow:
    """One row with its siginfo, mapped or not."""

    method: str
    taskhash: str
    outhash: str


@dataclass(frozen=True, slots=True)
class Guess:
    """What tasks (PN, task) were mapped to when they were last reported."""

    method: str
    tasks: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Diverging:
    """Taskhashes with more than one outhash of which one matches; all without a search."""

    where: Search
    limit: int


@dataclass(frozen=True, slots=True)
class Saved:
    """Tasks reported since then, ISO 8601, that were given another task's unihash."""

    since: str


@dataclass(frozen=True, slots=True)
class Why:
    """The story of a taskhash. `recipe` and `task` say which others are near to one that is not known."""

    taskhash: str
    method: str | None
    recipe: str | None
    task: str | None


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Set aside what a search chooses; only count it for a `preview`."""

    where: Search
    reason: str
    preview: bool


@dataclass(frozen=True, slots=True)
class Quarantines:
    pass


@dataclass(frozen=True, slots=True)
class Release:
    name: str


@dataclass(frozen=True, slots=True)
class Discard:
    """Remove these rows, (method, taskhash, outhash), and the mappings of their tasks."""

    rows: list[tuple[str, str, str]]


@dataclass(frozen=True, slots=True)
class Forwarding:
    """How the reports stand that are sent on, with `limit` of the refused ones and of the conflicts."""

    limit: int


@dataclass(frozen=True, slots=True)
class ForwardRefused:
    pass


@dataclass(frozen=True, slots=True)
class DropRefused:
    pass


@dataclass(frozen=True, slots=True)
class GetStream:
    pass


@dataclass(frozen=True, slots=True)
class ExistsStream:
    pass


@dataclass(frozen=True, slots=True)
class GcMarkStream:
    pass


@dataclass(frozen=True, slots=True)
class GetBatch:
    """Native batch, JSON form (see wire/batch.py): taskhashes of any form, answered in order."""

    method: str
    taskhashes: list[str]


@dataclass(frozen=True, slots=True)
class ExistsBatch:
    """Native batch, JSON form: a unihash that is not 64 lowercase hex digits does not exist."""

    unihashes: list[str]


@dataclass(frozen=True, slots=True)
class ReportBatch:
    """Native batch, JSON form: many reports, answered by their unihashes.

    Those that share an outhash are carried out in this order, the others side by side.
    """

    reports: list[Report]


Request: TypeAlias = (
    Ping | Get | GetOuthash | Report | ReportEquiv | Remove | CleanUnused | GcMark | GcStatus | GcSweep
    | GetStats | ResetStats | GetDbUsage | GetDbQueryColumns | BackfillWait
    | Auth | RefreshToken | SetUserPerms | GetUser | GetAllUsers | ListUsers | NewUser | DeleteUser | BecomeUser
    | Find | GetRow | Diverging | Saved | Guess | Why | Quarantine | Quarantines | Release | Discard
    | GetStream | ExistsStream | GcMarkStream | GetBatch | ExistsBatch | ReportBatch | ImportBatch
    | Collect | Forwarding | ForwardRefused | DropRefused
)  # fmt: skip

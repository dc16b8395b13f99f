"""Imports: what another server has collected, taken in by one that runs (``import-batch``).

::

    {"import-batch": {"mappings": [{method, taskhash, unihash}, ...],
                      "rows": [{method, taskhash, outhash, created, owner, PN, PV, PR, task, outhash_siginfo}, ...],
                      "users": [{username, token, permissions}, ...]}}

Each list may be missing. `created` is in microseconds since 1970 UTC; optional columns may be missing or null; `token`
is what the stock server keeps of one, ``ALGORITHM:SALT:HEXDIGEST``. The answer has a value for each of them, in order::

    {"mappings": [V, ...], "rows": [V, ...], "users": [V, ...]}

``"new"``, ``"known"``, or: for a mapping the unihash that is in force instead; for a row ``"older"``, when it took the
place of one that was created later; for a user ``"conflict"``, when another of this name is here, and ``"unusable"``,
when the token can never be checked.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from shardhash.wire.fields import Fields, Rows
from shardhash.wire.long_text import Text
from shardhash.wire.rows import DETAILS, SIGINFO

CONFLICT: Final = "conflict"
UNUSABLE: Final = "unusable"
_USERS_AT_ONCE = 100
"""Users that are read in one step; 1 ms."""


class ImportedMapping(NamedTuple):
    """`unihash` is 64 lowercase hex digits."""

    method: str
    taskhash: str
    unihash: str


class ImportedRow(NamedTuple):
    """An outhash row; `created` in microseconds since 1970 UTC."""

    method: str
    taskhash: str
    outhash: str
    created: int
    owner: str | None = None
    PN: str | None = None
    PV: str | None = None
    PR: str | None = None
    task: str | None = None
    outhash_siginfo: Text | None = None


@dataclass(frozen=True, slots=True)
class ImportedUser:
    """A user of another server."""

    username: str
    token: str
    permissions: tuple[str, ...]

    def __repr__(self) -> str:
        return f"ImportedUser({self.username!r})"


@dataclass(frozen=True, slots=True)
class ImportBatch:
    """Some of what another server has collected."""

    mappings: list[ImportedMapping]
    rows: list[ImportedRow]
    users: list[ImportedUser]


def read_import_batch(fields: Fields) -> Generator[None, None, ImportBatch]:
    """The request, in steps of a millisecond. Raises InvalidRequestError."""
    mappings = yield from _read_mappings(fields.objects_or_none("mappings"))
    rows = yield from fields.objects_or_none("rows").read(_row_columns, ImportedRow._make, _read_row)
    users = []
    for place, user in enumerate(fields.objects_or_none("users"), 1):
        users.append(ImportedUser(user.name("username"), user.text("token"), user.permissions("permissions")))
        if place % _USERS_AT_ONCE == 0:
            yield
    return ImportBatch(mappings, rows, users)


def _read_mappings(rows: Rows) -> Generator[None, None, list[ImportedMapping]]:
    return rows.read(
        lambda some: [some.tokens("method"), some.tokens("taskhash"), some.unihashes("unihash")],
        ImportedMapping._make,
        lambda row: ImportedMapping(row.token("method"), row.token("taskhash"), row.unihash("unihash")),
    )


def _row_columns(rows: Rows) -> list[list[Any] | None]:
    return [
        *(rows.tokens(name) for name in ("method", "taskhash", "outhash")),
        rows.timestamps("created"),
        *map(rows.reported_texts, DETAILS),
        rows.siginfos(SIGINFO),
    ]


def _read_row(row: Fields) -> ImportedRow:
    return ImportedRow(
        row.token("method"),
        row.token("taskhash"),
        row.token("outhash"),
        row.timestamp("created"),
        **{name: row.reported_text(name) for name in DETAILS},
        outhash_siginfo=row.siginfo(SIGINFO),
    )

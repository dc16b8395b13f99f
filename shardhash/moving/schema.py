"""The stock server's database: its tables in all versions that people have, and what import and export say about them.

==============  ==============================================================================================
unihashes_v3    method, taskhash, unihash, gc_mark ('' for none); (method, taskhash) is unique
unihashes_v2    the same without gc_mark
outhashes_v2    method, taskhash, outhash, created, owner, PN, PV, PR, task, outhash_siginfo; the first three unique
tasks_v2, _v1   the columns of both in one; of several rows of a taskhash the oldest gives the unihash
users           username, token (base/tokens.py), permissions (words)
config          name, value; "gc-mark" is the current mark
==============  ==============================================================================================

Each has a column ``id`` besides. SQLAlchemy makes the same tables in other databases. `created` is ISO 8601 in SQLite:
local time without a zone and with a space for the T until BitBake of May 2025, UTC with ``+00:00`` since then, both in
one database perhaps; through SQLAlchemy it is local time without a zone to this day (times.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from shardhash.wire.rows import COLUMNS

MAPPINGS = "unihashes_v3"
MAPPINGS_V2 = "unihashes_v2"
ROWS = "outhashes_v2"
TASKS = ("tasks_v2", "tasks_v1")
USERS = "users"
CONFIG = "config"

MAPPING_COLUMNS = ("method", "taskhash", "unihash", "gc_mark")
ROW_COLUMNS = COLUMNS
USER_COLUMNS = ("username", "token", "permissions")
CONFIG_COLUMNS = ("name", "value")

_MAPPING = "method TEXT NOT NULL, taskhash TEXT NOT NULL, unihash TEXT NOT NULL, gc_mark TEXT NOT NULL"
_ROW = "method TEXT NOT NULL, taskhash TEXT NOT NULL, outhash TEXT NOT NULL, created {time}"
_DETAILS = 'owner TEXT, "PN" TEXT, "PV" TEXT, "PR" TEXT, task TEXT, outhash_siginfo TEXT'
DEFINITIONS = {
    MAPPINGS: f"id {{id}}, {_MAPPING}, UNIQUE (method, taskhash)",
    ROWS: f"id {{id}}, {_ROW}, {_DETAILS}, UNIQUE (method, taskhash, outhash)",
    USERS: "id {id}, username TEXT NOT NULL, token TEXT NOT NULL, permissions TEXT NOT NULL, UNIQUE (username)",
    CONFIG: "id {id}, name TEXT NOT NULL, value TEXT, UNIQUE (name)",
}
"""What the newest server makes, with the types `id` and `time` of the database."""
INDEXES = {
    "taskhash_lookup_v4": f"{MAPPINGS} (method, taskhash)",
    "unihash_lookup_v1": f"{MAPPINGS} (unihash)",
    "outhash_lookup_v3": f"{ROWS} (method, outhash)",
    "config_lookup": f"{CONFIG} (name)",
}
TABLE_COLUMNS = {MAPPINGS: MAPPING_COLUMNS, ROWS: ROW_COLUMNS, USERS: USER_COLUMNS, CONFIG: CONFIG_COLUMNS}

MappingTuple: TypeAlias = tuple[Any, Any, Any, Any]
"""The values of MAPPING_COLUMNS as the database gives them: text, if nobody meddled with it."""
RowTuple: TypeAlias = tuple[Any, ...]
"""The values of ROW_COLUMNS; `created` is text or a datetime."""
Tell: TypeAlias = Callable[[str], None]


class Source(Protocol):
    """A database that is read. Every iterator raises ConfigError when the database turns out to be broken."""

    name: str
    """How reports call it; without a password."""

    def mappings(self) -> Iterator[MappingTuple]:
        """Each mapping; a (method, taskhash) may come twice, then the first counts."""

    def rows(self) -> Iterator[RowTuple]:
        """Each outhash row."""

    def users(self) -> Iterator[tuple[Any, Any, Any]]:
        """USER_COLUMNS of each user."""

    def config(self) -> dict[str, str]:
        """The settings that have a text."""

    def size(self, what: str) -> int:
        """About how many of "mappings" or "rows" there are, for progress."""


OpenSource: TypeAlias = Callable[[], AbstractContextManager[Source]]
"""Opens a database for as long as the context lasts, in one transaction. ConfigError when it is none."""

LISTED = 1000
"""Conflicts, and things left out, that a report lists; it counts all."""


@dataclass(slots=True)
class SourceReport:
    """What became of one database. The counts of each table add up to what was read of it."""

    source: str
    mappings: dict[str, int] = field(default_factory=lambda: _counts("new", "known", "conflicts", "left_out"))
    rows: dict[str, int] = field(default_factory=lambda: _counts("new", "known", "older", "left_out"))
    users: dict[str, int] = field(default_factory=lambda: _counts("new", "known", "conflicts", "left_out"))
    users_refused: int = 0
    """Users among those left out that a server did not let its client add."""
    naive_times: int = 0
    """Rows whose time had no zone, which was taken as the source's."""
    bad_times: int = 0
    """Rows whose time could not be read; they count as the oldest, as the stock server sorts them."""
    marked: str = ""
    """The mark of the garbage collection that is in progress there."""
    takes_marks: bool = True
    """Whether it goes on here."""
    conflicts: list[dict[str, str]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def new(self) -> int:
        """How much of it changed what there is."""
        return self.mappings["new"] + self.rows["new"] + self.rows["older"] + self.users["new"]

    def conflict(self, kind: str, kept: str, dropped: str, **names: str) -> None:
        """Note two values for one thing."""
        counts = self.mappings if kind == "mapping" else self.users
        counts["conflicts"] += 1
        if len(self.conflicts) < LISTED:
            self.conflicts.append({"kind": kind, **names, "kept": kept, "dropped": dropped})

    def leave_out(self, counts: dict[str, int], what: str) -> None:
        """Note what is not taken over, and why."""
        counts["left_out"] += 1
        if len(self.left_out) < LISTED:
            self.left_out.append(what)

    def to_json(self) -> dict[str, Any]:
        """As ``--json`` shows it."""
        return {
            "source": self.source,
            "mappings": self.mappings,
            "rows": self.rows,
            "users": self.users,
            "naive_times": self.naive_times,
            "bad_times": self.bad_times,
            "gc_mark": self.marked or None,
            "gc_mark_taken": self.takes_marks and bool(self.marked),
            "conflicts": self.conflicts,
            "left_out": self.left_out,
        }


def _counts(*names: str) -> dict[str, int]:
    return dict.fromkeys(names, 0)

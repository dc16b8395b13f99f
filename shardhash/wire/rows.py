"""The outhash row: its columns, their order, and the subsets of them that commands use (PROTOCOL, "Terms").

The order of `Report` is the order in which reports travel to workers and stand in ``row`` records, so every module
that packs or unpacks a row takes its columns from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:  # orjson comes with it, which the command line need not
    from shardhash.wire.long_text import Text

Columns: TypeAlias = dict[str, Any]
"""A row as clients see it, column to text or None: `COLUMNS`, or `JOINED_COLUMNS` when joined with its mapping.

Its siginfo may be a LongText.
"""

Where: TypeAlias = dict[str, str]
"""Conditions, column to value, ANDed. Conditions whose value is null are dropped before this."""

KEY_COLUMNS: Final = ("method", "taskhash", "outhash")
"""Together unique."""
DETAILS: Final = ("owner", "PN", "PV", "PR", "task")
"""Optional texts, null when absent. Many rows share the same five."""
SIGINFO: Final = "outhash_siginfo"
"""Optional text, null when absent; up to hundreds of KiB."""
COLUMNS: Final = (*KEY_COLUMNS, "created", *DETAILS, SIGINFO)
"""All columns of a row; `created` is ISO 8601, UTC."""
JOINED_COLUMNS: Final = (*COLUMNS, "unihash", "gc_mark")
"""A row joined with the mapping of its taskhash."""

MAPPING_CONDITIONS: Final = ("method", "taskhash", "unihash", "gc_mark")
"""The columns of a mapping that conditions may name."""
ROW_CONDITIONS: Final = (*KEY_COLUMNS, *DETAILS, SIGINFO)
"""The columns of a row that conditions may name: all of its text columns."""
QUERY_COLUMNS: Final = tuple(dict.fromkeys((*MAPPING_CONDITIONS, *ROW_CONDITIONS)))
"""The columns that conditions may name in either table."""

NEW: Final = "new"
KNOWN: Final = "known"
OLDER: Final = "older"
"""What became of a row or mapping of another server (imports.py)."""


class Report(NamedTuple):
    """What a client reports of a task. `unihash` is 64 lowercase hex digits; an absent text is None.

    A tuple, because thousands come in one message: a dataclass takes four times as long to make.
    """

    method: str
    taskhash: str
    outhash: str
    unihash: str
    owner: str | None = None
    PN: str | None = None
    PV: str | None = None
    PR: str | None = None
    task: str | None = None
    outhash_siginfo: Text | None = None

"""Rows of another server, an upstream, as the protocol tells them: what of them a Store keeps."""

from __future__ import annotations

from shardhash.base.timestamps import from_iso
from shardhash.wire.rows import DETAILS, SIGINFO, Columns, Report


def report_of(row: Columns) -> Report:
    """A row that is joined with its mapping, as a report."""
    return Report(
        method=row["method"] or "",
        taskhash=row["taskhash"] or "",
        outhash=row["outhash"] or "",
        unihash=row["unihash"] or "",
        **{name: row.get(name) for name in (*DETAILS, SIGINFO)},
    )


def created_of(row: Columns) -> int | None:
    """When a row was created, microseconds; None unless that is a time from 1970 to 9999, UTC if it lacks the zone."""
    try:
        return from_iso(row.get("created") or "")
    except ValueError:
        return None

"""The report of an import, in words and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from shardhash.base.text import counted, printable
from shardhash.moving.schema import SourceReport

SHOWN = 10
"""Conflicts, and things left out, that the words show of each database; the JSON has more."""


def to_json(reports: Sequence[SourceReport], zone: str) -> dict[str, Any]:
    """As ``--json`` prints it."""
    return {"sources": [report.to_json() for report in reports], "source_timezone": zone}


def describe(reports: Sequence[SourceReport], zone: str) -> str:
    """In words, a paragraph for each database."""
    return printable_lines([line for report in reports for line in _lines(report, zone)])


def printable_lines(lines: Sequence[str]) -> str:
    """The lines as a text; nothing of a database can make a line or steer a terminal."""
    return "\n".join(map(printable, lines))


def _lines(report: SourceReport, zone: str) -> Iterator[str]:
    yield f"{report.source}:"
    yield f"  mappings      {_counted(report.mappings)}"
    yield f"  outhash rows  {_counted(report.rows)}"
    yield f"  users         {_counted(report.users)}"
    if report.naive_times:
        times = counted(report.naive_times, "time without a zone was", "times without a zone were")
        yield f"  {times} taken as {zone} (another: --source-timezone)"
    if report.bad_times:
        rows = counted(report.bad_times, "row has", "rows have")
        yield f"  {rows} no time that can be read, and so the oldest"
    if report.marked:
        fate = "" if report.takes_marks else "; a server that runs does not take it over, begin a new one there"
        yield f"  a garbage collection is in progress there, with the mark {report.marked}{fate}"
    for conflict in report.conflicts[:SHOWN]:
        what = " ".join(conflict[name] for name in ("method", "taskhash", "username") if name in conflict)
        yield f"  conflict: {conflict['kind']} {what}: kept {conflict['kept']}, not {conflict['dropped']}"
    yield from _more(report.mappings["conflicts"] + report.users["conflicts"], len(report.conflicts[:SHOWN]))
    for text in report.left_out[:SHOWN]:
        yield f"  left out: {text}"
    left_out = report.mappings["left_out"] + report.rows["left_out"] + report.users["left_out"]
    yield from _more(left_out, len(report.left_out[:SHOWN]))


def _counted(counts: dict[str, int]) -> str:
    words = {"known": "known already", "older": "older than what was here", "left_out": "left out"}
    parts = [f"{counts['new']:,} new"]
    parts += [f"{count:,} {words.get(name, name)}" for name, count in counts.items() if name != "new" and count]
    return ", ".join(parts)


def _more(count: int, shown: int) -> Iterator[str]:
    if count > shown:
        yield f"  ... and {count - shown:,} more (--json lists up to 1000)"

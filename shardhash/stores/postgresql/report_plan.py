"""What reports change, computed before anything is stored: PROTOCOL, "report, exactly", for reports that go together.

Pure. The reports of a round are decided one after the other, each seeing what those before it store, from what the
database had when their outhashes were locked: their own rows and mappings, and of each outhash the two oldest rows with
a mapping. Two are enough: a report takes the oldest that is not its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

Place: TypeAlias = tuple[int, bytes]
"""(method, taskhash) or (method, outhash), as the database has them."""


class Asked(NamedTuple):
    """A report. `elsewhere` is what an upstream answered; `ask` says that one is to be asked first."""

    method: int
    taskhash: bytes
    outhash: bytes
    unihash: bytes
    created: int | None = None
    elsewhere: bytes | None = None
    ask: bool = False


class Mapped(NamedTuple):
    """A row that has a mapping, of some outhash."""

    created: int
    taskhash: bytes
    unihash: bytes


@dataclass
class Line:
    """An outhash in the database: its latest row's `created` (-1: it has none), its oldest rows with a mapping.

    `barred`: it gives no unihash to other tasks (quarantine.py).
    """

    latest: int = -1
    barred: bool = False
    oldest: list[Mapped] = field(default_factory=list)
    rows: dict[bytes, int] = field(default_factory=dict)
    """`created` of the rows whose taskhashes are reported now."""

    def add(self, row: Mapped) -> None:
        """A row has a mapping."""
        self.oldest = sorted([*self.oldest, row])[:2]

    def equivalent(self, taskhash: bytes) -> bytes | None:
        """The unihash of the oldest row of another taskhash."""
        return None if self.barred else next((row.unihash for row in self.oldest if row.taskhash != taskhash), None)


@dataclass
class Plan:
    """Answers, None where an upstream is to be asked first; new mappings; positions and times of new rows."""

    answers: list[bytes | None]
    mappings: dict[Place, bytes]
    rows: list[tuple[int, int]]


def plan_reports(
    asked: Sequence[Asked],
    own: Sequence[tuple[int | None, bytes | None]],
    lines: dict[Place, Line],
    now: int,
) -> Plan:
    """Decide reports in their order.

    `own`: for each, when its row was created and its mapping, None where there is none. `lines`: what was found of the
    outhashes that have rows; the call changes them. `now`: microseconds, of the database's clock.
    """
    mappings: dict[Place, bytes] = {}
    reported: dict[Place, list[bytes]] = {}
    known: dict[Place, bytes] = {}
    for report, (created, unihash) in zip(asked, own, strict=True):
        line = lines.setdefault((report.method, report.outhash), Line())
        if created is not None:
            line.rows[report.taskhash] = created
        if unihash is not None:
            known[report.method, report.taskhash] = unihash
        reported.setdefault((report.method, report.taskhash), []).append(report.outhash)
    plan = Plan([], mappings, [])
    waiting: set[Place] = set()
    for position, report in enumerate(asked):
        outhash, place = (report.method, report.outhash), (report.method, report.taskhash)
        line = lines[outhash]
        if outhash in waiting:
            plan.answers.append(None)
            continue
        unihash = known.get(place)
        if unihash is None:
            equivalent = line.equivalent(report.taskhash)
            if equivalent is None and report.ask and not line.barred:
                waiting.add(outhash)
                plan.answers.append(None)
                continue
            unihash = equivalent or (None if line.barred else report.elsewhere) or report.unihash
            known[place] = mappings[place] = unihash
            for other in reported[place]:
                _has_mapping(lines[report.method, other], report.taskhash, unihash)
        if report.taskhash not in line.rows:
            created, now = _moment(report, line, now)
            line.latest = max(line.latest, created)
            line.rows[report.taskhash] = created
            _has_mapping(line, report.taskhash, unihash)
            plan.rows.append((position, created))
        plan.answers.append(unihash)
    return plan


def _moment(report: Asked, line: Line, now: int) -> tuple[int, int]:
    """When the row of a report is created, and the least for the next: of two rows the first reported is the older."""
    if report.created is not None:
        return report.created, now
    created = max(now, line.latest + 1)
    return created, created + 1


def _has_mapping(line: Line, taskhash: bytes, unihash: bytes) -> None:
    if taskhash in line.rows:
        line.add(Mapped(line.rows[taskhash], taskhash, unihash))

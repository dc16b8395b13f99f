"""A hash equivalence server as plainly as it can be said: a list of rows, a dict of mappings, one request at a time.

Methods bear the commands' names and answer what the commands answer. What is not the model's to decide, the time
of `created` and the id of a row, is left out of its answers (`stripped` takes them off a server's).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import permutations
from typing import Any

Row = dict[str, Any]
DETAILS = ("owner", "PN", "PV", "PR", "task", "outhash_siginfo")
MAPPING_COLUMNS = ("method", "taskhash", "unihash", "gc_mark")
ROW_COLUMNS = ("method", "taskhash", "outhash", *DETAILS)


class Model:
    """Rows stand in the order in which they were stored, so the first that fits is the oldest."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.mappings: dict[tuple[str, str], Row] = {}
        self.mark: str | None = None

    # ---------------------------------------------------------------------------------------------- reports

    def report(self, method: str, taskhash: str, outhash: str, unihash: str, **details: str) -> str:
        """The unihash in force."""
        unihash = self._decide(method, taskhash, outhash, unihash)
        return self._store(method, taskhash, outhash, unihash, **details)

    def _decide(self, method: str, taskhash: str, outhash: str, unihash: str, **_: str) -> str:
        """The unihash that a report would store now."""
        others = [row for row in self._rows_of(method, outhash) if row["taskhash"] != taskhash]
        equivalents: list[str] = [mapping["unihash"] for row in others if (mapping := self._mapping_of(row))]
        return equivalents[0] if equivalents else unihash

    def _store(self, method: str, taskhash: str, outhash: str, unihash: str, **details: str) -> str:
        if all(row["taskhash"] != taskhash for row in self._rows_of(method, outhash)):
            row = {"method": method, "taskhash": taskhash, "outhash": outhash}
            self.rows.append(row | {name: details.get(name) for name in DETAILS})
        return self.report_equiv(method, taskhash, unihash)

    def report_batch(self, reports: Sequence[Row], answers: Sequence[str]) -> bool:
        """Whether these may be the answers to reports that were made together; if so, they are made.

        Those that share an outhash go in the order given, the others side by side: one may decide before another has
        stored what it decided. Rows are as old as their place tells.
        """
        model = self._side_by_side(reports, answers, {}, frozenset())
        if model is None:
            return False
        for report in reports:
            self.report(**report)
        self.mappings = model.mappings
        return True

    def _side_by_side(
        self, reports: Sequence[Row], answers: Sequence[str], decided: dict[int, str], stored: frozenset[int]
    ) -> Model | None:
        """What the model becomes when the other reports go on in some way that gives these answers; None: none does."""
        if len(stored) == len(reports):
            return self
        for place, report in enumerate(reports):
            if place in stored:
                continue
            found = None
            if place in decided:
                model = deepcopy(self)
                if model._store(**report | {"unihash": decided[place]}) == answers[place]:
                    found = model._side_by_side(reports, answers, decided, stored | {place})
            elif all(before in stored or _outhash(reports[before]) != _outhash(report) for before in range(place)):
                decision = self._decide(**report)
                found = self._side_by_side(reports, answers, decided | {place: decision}, stored)
            if found is not None:
                return found
        return None

    def report_equiv(self, method: str, taskhash: str, unihash: str) -> str:
        """The unihash in force."""
        mapping = {"method": method, "taskhash": taskhash, "unihash": unihash, "gc_mark": self.mark or ""}
        found: str = self.mappings.setdefault((method, taskhash), mapping)["unihash"]
        return found

    # -------------------------------------------------------------------------------------------- questions

    def get(self, method: str, taskhash: str) -> str | None:
        """The unihash."""
        mapping = self.mappings.get((method, taskhash))
        return mapping["unihash"] if mapping else None

    def get_all(self, method: str, taskhash: str) -> Row | None:
        """The oldest row of a taskhash that has a mapping, joined with it."""
        rows = [row for row in self.rows if (row["method"], row["taskhash"]) == (method, taskhash)]
        return next((row | mapping for row in rows if (mapping := self._mapping_of(row))), None)

    def get_outhash(self, method: str, outhash: str, with_unihash: bool = True) -> Row | None:
        """The oldest row of an outhash, joined or not."""
        rows = self._rows_of(method, outhash)
        if not with_unihash:
            return dict(rows[0]) if rows else None
        return next((row | mapping for row in rows if (mapping := self._mapping_of(row))), None)

    def exists(self, unihash: str) -> bool:
        """Whether a mapping has this unihash."""
        return any(mapping["unihash"] == unihash for mapping in self.mappings.values())

    def usage(self) -> tuple[int, int]:
        """Rows of unihashes_v3 and outhashes_v2."""
        return len(self.mappings), len(self.rows)

    # --------------------------------------------------------------------------------------------- removals

    def remove(self, where: Mapping[str, str]) -> int:
        """Rows removed from both tables."""
        of_mappings = {name: value for name, value in where.items() if name in MAPPING_COLUMNS}
        of_rows = {name: value for name, value in where.items() if name in ROW_COLUMNS}
        gone = [key for key, mapping in self.mappings.items() if of_mappings and _fits(mapping, of_mappings)]
        for key in gone:
            del self.mappings[key]
        kept = [row for row in self.rows if not (of_rows and _fits(row, of_rows))]
        count = len(gone) + len(self.rows) - len(kept)
        self.rows = kept
        return count

    def clean_unused(self) -> int:
        """Rows of any age without a mapping."""
        kept = [row for row in self.rows if self._mapping_of(row)]
        count = len(self.rows) - len(kept)
        self.rows = kept
        return count

    # ------------------------------------------------------------------------------------ garbage collection

    def gc_mark(self, mark: str, where: Mapping[str, str]) -> int:
        """Mappings marked."""
        self.mark = mark
        conditions = {name: value for name, value in where.items() if name in MAPPING_COLUMNS}
        marked = [mapping for mapping in self.mappings.values() if conditions and _fits(mapping, conditions)]
        for mapping in marked:
            mapping["gc_mark"] = mark
        return len(marked)

    def gc_status(self) -> Row:
        """keep, remove, mark."""
        marks = [mapping["gc_mark"] for mapping in self.mappings.values()]
        keep = marks.count(self.mark or "")
        return {"keep": keep, "remove": len(marks) - keep, "mark": self.mark}

    def gc_sweep(self, mark: str) -> int | None:
        """Mappings deleted; None for a refusal."""
        if mark != self.mark:
            return None
        gone = [key for key, mapping in self.mappings.items() if mapping["gc_mark"] != mark]
        for key in gone:
            del self.mappings[key]
        self.mark = None
        return len(gone)

    def _rows_of(self, method: str, outhash: str) -> list[Row]:
        return [row for row in self.rows if (row["method"], row["outhash"]) == (method, outhash)]

    def _mapping_of(self, row: Row) -> Row | None:
        return self.mappings.get((row["method"], row["taskhash"]))


def orders(groups: Sequence[object]) -> Iterator[tuple[int, ...]]:
    """All orders of places in which those of the same group keep theirs; the one given first."""
    for order in permutations(range(len(groups))):
        inverse = sorted(order, key=order.__getitem__)
        pairs = ((i, j) for j in range(len(groups)) for i in range(j) if groups[i] == groups[j])
        if all(inverse[i] < inverse[j] for i, j in pairs):
            yield order


def stripped(row: Row | None) -> Row | None:
    """A server's row without what the model does not decide."""
    return None if row is None else {name: value for name, value in row.items() if name not in ("created", "id")}


def _fits(entry: Row, conditions: Mapping[str, str]) -> bool:
    return all(entry[name] == value for name, value in conditions.items())


def _outhash(report: Row) -> tuple[str, str]:
    return report["method"], report["outhash"]

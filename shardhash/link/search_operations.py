"""Operations of the explorer: searches that the coordinator asks of a worker (operations.py)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from shardhash.link.operation import Operation
from shardhash.link.pages import pages_of
from shardhash.wire.long_text import LongText


class FoundRows(NamedTuple):
    """What a search found: how many rows, the newest of them, and whether it looked at everything."""

    total: int
    rows: list[dict[str, Any]]
    complete: bool


class Diverging(NamedTuple):
    """Taskhashes with more than one outhash: how many, the rows of some in pages, and how many by recipe ("" for none).

    A page (pages.py) has a list of rows for each taskhash.
    """

    total: int
    pages: LongText
    recipes: list[tuple[str, int]]
    complete: bool

    def some(self) -> Iterator[list[list[dict[str, Any]]]]:
        """The rows of each taskhash, some at a time."""
        return pages_of(self.pages)


@dataclass(slots=True)
class FindRows(Operation[FoundRows]):
    """The newest rows that match a search (wire/search.py), whose times are microseconds here.

    `taskhashes`: where to look, None for everywhere. A row has `COLUMNS`, but of its siginfo, unless it is asked for
    `whole`, only whether there is one; its mapping's unihash, None without one, and mark. A mapping without a row has
    no outhash.
    """

    name = "find"
    bounded = False
    search: dict[str, Any]
    taskhashes: list[str] | None
    limit: int
    whole: bool

    @staticmethod
    def decode_result(result: Any) -> FoundRows:
        return FoundRows(*result)


Choice: TypeAlias = tuple[str, str, str, str | None]
"""method, taskhash, outhash, and unihash or None, of a row."""


class ChosenRows(NamedTuple):
    """Rows, in pages (pages.py), and whether these are all that match."""

    pages: LongText
    complete: bool

    def some(self) -> Iterator[list[Choice]]:
        """The rows, some at a time."""
        for page in pages_of(self.pages):
            yield [(method, taskhash, outhash, unihash) for method, taskhash, outhash, unihash in page]


@dataclass(slots=True)
class ChooseRows(Operation[ChosenRows]):
    """All rows that match; as `FindRows`. Incomplete if they are more than `limit`."""

    name = "choose"
    bounded = False
    search: dict[str, Any]
    taskhashes: list[str] | None
    limit: int

    @staticmethod
    def decode_result(result: Any) -> ChosenRows:
        return ChosenRows(*result)


@dataclass(slots=True)
class FindDiverging(Operation[Diverging]):
    """Taskhashes with more than one outhash of which one matches."""

    name = "diverging"
    bounded = False
    search: dict[str, Any]
    limit: int

    @staticmethod
    def decode_result(result: Any) -> Diverging:
        return Diverging(*result)


@dataclass(slots=True)
class CountSaved(Operation[list[tuple[str | None, int, int]]]):
    """(PN, begin of the week, count) of the tasks reported since then that were given another task's unihash."""

    name = "saved"
    bounded = False
    since: int


class TaskVariants(NamedTuple):
    """(created, taskhash, unihash or None for the same) for each task, newest first; whether that is of all rows."""

    variants: list[list[tuple[int, str, str | None]]]
    complete: bool


@dataclass(slots=True)
class GuessUnihashes(Operation[TaskVariants]):
    """What each task (PN, task) was mapped to when it was last reported."""

    name = "guess"
    method: str
    tasks: list[tuple[str, str]]

    @staticmethod
    def decode_result(result: Any) -> TaskVariants:
        return TaskVariants(*result)

"""Operations of a collection on one shard (wire/collecting.py). None as a result: it is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from shardhash.link.operation import Operation


class Doomed(NamedTuple):
    """What a collection would remove: mappings, their rows, how many are kept; (PN or None, mappings, rows)."""

    mappings: int
    rows: int
    kept: int
    recipes: list[tuple[str | None, int, int]]


class DoomedPage(NamedTuple):
    """Some of it: a mapping's method, taskhash, unihash, gc_mark and rows; where the next page begins."""

    tasks: list[dict[str, Any]]
    next: int | None


class Taken(NamedTuple):
    """What went: mappings, rows, and the (outhash, taskhash) of the rows by method."""

    mappings: int
    rows: int
    unindex: list[tuple[str, list[tuple[str, str]]]]


@dataclass(slots=True)
class BeginCollection(Operation[int]):
    """Follow from now on what is asked for and reported; how many mappings there are. Ends any other collection."""

    name = "collect-begin"
    collection: str


@dataclass(slots=True)
class KeepUnihashes(Operation[int | None]):
    """Keep the mappings of these unihashes, 64 digits each, end to end; how many are kept that were not before."""

    name = "collect-keep"
    bounded = False
    collection: str
    unihashes: str


@dataclass(slots=True)
class KeepUsed(Operation[int | None]):
    """Keep what was asked for or reported on this day or later, or may have been; how many more are kept."""

    name = "collect-keep-used"
    bounded = False
    collection: str
    day: int


@dataclass(slots=True)
class ChooseDoomed(Operation[Doomed | None]):
    """Fix what is not kept, to be shown and taken."""

    name = "collect-choose"
    bounded = False
    collection: str

    @staticmethod
    def decode_result(result: Any) -> Doomed | None:
        if result is None:
            return None
        mappings, rows, kept, recipes = result
        return Doomed(mappings, rows, kept, [tuple(recipe) for recipe in recipes])


@dataclass(slots=True)
class ShowDoomed(Operation[DoomedPage | None]):
    """Some of what was fixed and is not kept since, from a place on."""

    name = "collect-show"
    bounded = False
    collection: str
    after: int
    limit: int

    @staticmethod
    def decode_result(result: Any) -> DoomedPage | None:
        return None if result is None else DoomedPage(*result)


@dataclass(slots=True)
class TakeDoomed(Operation[Taken | None]):
    """Remove mappings, (method, taskhash, unihash), each if it is still this and is not kept since, and their rows."""

    name = "collect-take"
    bounded = False
    collection: str
    mappings: list[tuple[str, str, str]]

    @staticmethod
    def decode_result(result: Any) -> Taken | None:
        return None if result is None else Taken(*result)


@dataclass(slots=True)
class EndCollection(Operation[None]):
    """Forget it."""

    name = "collect-end"
    collection: str

"""Operations: what the coordinator asks of a worker, each with the types of its arguments and of its result.

An operation travels as ``[name, argument, ...]``, in the order of its fields; its result as JSON. Hashes are text,
unihashes 64 hex digits, times microseconds since 1970 UTC. Each may be carried out twice: a link that dropped asks
again. `tests/link/test_operations.py` holds that the worker's service has just these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from shardhash.base.figures import ProcessFigures, ShardFigures
from shardhash.link import collection_operations, follower_operations, import_operations, search_operations
from shardhash.link.messages import Refusal
from shardhash.link.operation import Operation
from shardhash.wire.long_text import LongText, Text
from shardhash.wire.rows import Columns, Where

PAGE = 16
"""Items of the first page of an index; usually its first one decides."""
LATER_PAGE = 1024
"""Items of each later page."""

Item: TypeAlias = tuple[int, str]
"""An item of an index: created, taskhash."""
Pairs: TypeAlias = list[tuple[str, str]]
Outhash: TypeAlias = tuple[str, str]
"""method, outhash"""


# ----------------------------------------------------------------------------------------------------------- reports


class Granted(NamedTuple):
    """What the holder of a report lock needs to know: the first page of the index, and which items were there before.

    `older`: the taskhashes of the request whose items were made by an earlier report. Its row may be missing, if the
    disk refused it; then the item must not keep its time. `newest`: 0, or the time of the newest item of others that is
    later than one of the request: it came first.
    """

    older: list[str]
    page: list[Item]
    newest: int = 0


@dataclass(slots=True)
class Lock(Operation[Granted]):
    """Wait for the report lock of an outhash, and for its index to hold these items, durably.

    `number` names the lock for `Release`; locks are granted in its order.
    """

    name = "lock"
    of_a_link = True
    method: str
    outhash: str
    items: list[Item]
    number: int

    @staticmethod
    def decode_result(result: Any) -> Granted:
        return Granted(*result)


@dataclass(slots=True)
class Release(Operation[None]):
    """End report locks, (method, outhash, number); each goes to the next in line."""

    name = "release"
    of_a_link = True
    locks: list[tuple[str, str, int]]


IndexStep: TypeAlias = tuple[Literal["index"], int, int, str, str, str]
"""number, created, method, taskhash, outhash: takes the report lock and adds the taskhash to the index. The answer is
true; or null, and nothing is done, unless the lock is free and the index empty; then `Lock` is next."""
StoreStep: TypeAlias = tuple[
    Literal["report", "commit"],
    int,
    int,
    str,
    str,
    str,
    str,
    str | None,
    str | None,
    str | None,
    str | None,
    str | None,
    Text | None,
]
"""number, created, method, taskhash, outhash, unihash, owner, PN, PV, PR, task, siginfo. "commit" stores row and
mapping, each unless it is there, and answers with `Stored`. "report" does what "index" and "commit" do, then the lock
ends; it is for a shard that owns the taskhash, too. So it is where the shard knows the outhash and its unihash."""
Step: TypeAlias = IndexStep | StoreStep
Revived: TypeAlias = tuple[str, list[str]]
Stored: TypeAlias = str | Revived
"""The unihash in force. With a list: the outhashes of older rows of this taskhash, which had no mapping until now."""
StepAnswer: TypeAlias = Stored | bool | dict[Literal["refused"], Refusal] | None


@dataclass(slots=True)
class Round(Operation[list[StepAnswer]]):
    """Steps of many reports, done in one group commit, answered once durable. One that fails fails alone."""

    name = "round"
    of_a_link = True
    steps: list[Step]


@dataclass(slots=True)
class Page(Operation[list[Item]]):
    """Items of an index above `after`, oldest first; from the first on if None. Empty at the end.

    `mapped`: only those that may have a mapping are of interest; `Skip` says which have none.
    """

    name = "page"
    method: str
    outhash: str
    after: Item | None
    mapped: bool


@dataclass(slots=True)
class Skip(Operation[None]):
    """No item up to this one has a row with a mapping. Valid until `Unskip`; forgotten with the worker.

    `bare`: some have no row. Then it is not done while another report waits for the lock, which may store that row.
    """

    name = "skip"
    method: str
    outhash: str
    upto: Item
    bare: bool


@dataclass(slots=True)
class Unskip(Operation[None]):
    """Forget what `Skip` said of these outhashes, of all if there are none: a row has a mapping again."""

    name = "unskip"
    outhashes: list[Outhash]


@dataclass(slots=True)
class Retime(Operation[None]):
    """Give these items of an index their times, durably."""

    name = "retime"
    method: str
    outhash: str
    items: list[Item]


@dataclass(slots=True)
class Equivalents(Operation[list[str | None]]):
    """For each taskhash: its unihash, "" when it has no mapping; None unless it has a row of this outhash."""

    name = "equivalents"
    method: str
    outhash: str
    taskhashes: list[str]


@dataclass(slots=True)
class Map(Operation[Stored]):
    """Insert a mapping unless there is one, durably."""

    name = "map"
    method: str
    taskhash: str
    unihash: str


# --------------------------------------------------------------------------------------------------------- questions


@dataclass(slots=True)
class Unihashes(Operation[list[str | None]]):
    """The unihash of each taskhash, of any form."""

    name = "unihashes"
    method: str
    taskhashes: list[str]


@dataclass(slots=True)
class ReadRow(Operation[Columns | None]):
    """One outhash row; `joined` with its mapping, then None without one."""

    name = "row"
    method: str
    taskhash: str
    outhash: str
    joined: bool


@dataclass(slots=True)
class OldestRow(Operation[Columns | None]):
    """The oldest row of a taskhash, joined with its mapping; None without one."""

    name = "oldest"
    method: str
    taskhash: str


@dataclass(slots=True)
class Counts(Operation[dict[str, int]]):
    """How many mappings, rows, index items, users and config entries there are."""

    name = "counts"


@dataclass(slots=True)
class Figures(Operation[ShardFigures]):
    """Figures of the shard, for monitoring."""

    name = "figures"

    @staticmethod
    def encode_result(result: ShardFigures) -> Any:
        return [*result[:-1], list(result.process)]

    @staticmethod
    def decode_result(result: Any) -> ShardFigures:
        *figures, process = result
        return ShardFigures._make((*figures, ProcessFigures._make(process)))


# ------------------------------------------------------------------------------------- removals, garbage collection


class Removed(NamedTuple):
    """What a part of a removal did. `unindex`: the (outhash, taskhash) of the rows that went, by method."""

    rows: int
    unindex: list[tuple[str, Pairs]]
    done: bool


class _Removing(Operation[Removed]):
    """Removes a part; asked again with the same job until `done`."""

    __slots__ = ()
    bounded = False

    @staticmethod
    def decode_result(result: Any) -> Removed:
        return Removed(*result)


@dataclass(slots=True)
class Watch(Operation[None]):
    """A removal of any shard begins: from now on, remember which outhashes have reports."""

    name = "watch"
    job: str


@dataclass(slots=True)
class RemoveMatching(_Removing):
    """Remove mappings and rows that match."""

    name = "remove"
    job: str
    where: Where


@dataclass(slots=True)
class RemoveRows(_Removing):
    """Remove these rows, (method, taskhash, outhash), and the mappings of their taskhashes."""

    name = "remove-rows"
    job: str
    named: list[tuple[str, str, str]]


@dataclass(slots=True)
class DropMappings(Operation[int]):
    """Delete these mappings, (method, taskhash, unihash), each if it is still this; how many."""

    name = "drop"
    bounded = False
    mappings: list[tuple[str, str, str]]


@dataclass(slots=True)
class Clean(_Removing):
    """Remove rows older than `before` whose taskhash has no mapping."""

    name = "clean"
    job: str
    before: int


@dataclass(slots=True)
class Unindex(Operation[None]):
    """Delete the index items of these (outhash, taskhash), unless a report had the lock since the watch began."""

    name = "unindex"
    bounded = False
    job: str
    method: str
    pairs: Pairs


@dataclass(slots=True)
class Unwatch(Operation[None]):
    """A removal is over, however it ended."""

    name = "unwatch"
    job: str


@dataclass(slots=True)
class SetMarks(Operation[list[int]]):
    """For each (mark, where): make the mark current, and set it on the mappings that match; how many each."""

    name = "marks"
    bounded = False
    marks: list[tuple[str, Where]]


@dataclass(slots=True)
class Sweep(_Removing):
    """Delete mappings without the mark. It needs no watch, but ends with `Unwatch` like a removal."""

    name = "sweep"
    job: str
    mark: str


@dataclass(slots=True)
class Status(Operation[tuple[int, int, str]]):
    """Mappings that carry the current mark (no mark, when none is current), all mappings, the mark or ""."""

    name = "status"


# ----------------------------------------------------------------------------------------------------------- entries


@dataclass(slots=True)
class GetEntry(Operation[Any]):
    """The value of an entry, None when there is none."""

    name = "get"
    kind: str
    key: str


@dataclass(slots=True)
class ListEntries(Operation[LongText]):
    """All entries of a kind, (name, value) in pages (pages.py); None for each value if only names are asked for."""

    name = "list"
    kind: str
    values: bool


@dataclass(slots=True)
class SetEntry(Operation[None]):
    """Set an entry, durably; None deletes it."""

    name = "set"
    kind: str
    key: str
    value: Any


@dataclass(slots=True)
class Snapshot(Operation[None]):
    """Write a snapshot; returns once it is verified."""

    name = "snapshot"
    bounded = False


_ROOMS = map(vars, (collection_operations, follower_operations, import_operations, search_operations))
OPERATIONS: dict[str, type[Operation[Any]]] = {
    kind.name: kind
    for names in [globals(), *_ROOMS]
    for kind in list(names.values())
    if isinstance(kind, type) and issubclass(kind, Operation) and hasattr(kind, "name")
}
"""Every operation by its name."""

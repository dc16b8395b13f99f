"""The Store: what a session asks for hashes, users and settings, whoever keeps them.

Every operation takes a batch where a caller can have one. `sharded.router.Router` keeps hashes in worker processes,
`chained.store.ChainedStore` adds an upstream to any Store. Nothing above this interface may assume worker processes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Mapping as AnyMapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

from shardhash.base.figures import Histogram, ShardFigures
from shardhash.wire.batch import Found
from shardhash.wire.hashes import Buffer, Key
from shardhash.wire.imports import ImportedMapping, ImportedRow
from shardhash.wire.rows import Columns, Report, Where


class Mapping(NamedTuple):
    """A mapping as the store holds it; `unihash` is the digest, `gc_mark` is '' when none."""

    unihash: bytes
    gc_mark: str


@dataclass(frozen=True, slots=True)
class CollectionStatus:
    """Mappings with the current mark, without it, and the mark.

    The mark is None when no collection runs; `keep` then counts the mappings without any mark.
    """

    keep: int
    remove: int
    mark: str | None


@dataclass(frozen=True, slots=True)
class ShardHealth:
    """One part of a store. Without `figures` it does not answer, and `why` says why, in words."""

    shard: int
    restarts: int
    figures: ShardFigures | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class ForwardingHealth:
    """How the reports stand that are sent on: how many wait, their bytes, since when (seconds since 1970 UTC, or 0).

    `results`: since the start, by accepted, refused, left-out (for want of room) and unreadable; `conflicts`: accepted
    ones that the upstream gave another unihash; `refused` and `conflicts_kept`: those that are listed; `trouble`: why
    it takes none.
    """

    waiting: int
    size: int
    limit: int
    oldest: float
    refused: int
    results: AnyMapping[str, int]
    conflicts: int
    conflicts_kept: int
    trouble: str


@dataclass(frozen=True, slots=True)
class UpstreamHealth:
    """An upstream: how many questions by (op, result), what those that were answered took, answers not yet stored.

    `places` says of several which one is asked.
    """

    down: bool
    questions: AnyMapping[tuple[str, str], int]
    seconds: Histogram
    backfill: int
    places: str = ""
    forwarding: ForwardingHealth | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """How what keeps the hashes stands. `database` says why one does not answer, "" when it does, None without one."""

    shards: Sequence[ShardHealth]
    upstream: UpstreamHealth | None = None
    database: str | None = None
    lease: bool | None = None
    """Whether what this server knows of other servers' changes is current; None where nobody else changes anything."""


EntryChanged: TypeAlias = Callable[[str, str | None], Awaitable[None]]
"""Takes kind and name of an entry that another server has changed, or may have; name None: any of this kind."""

GoesOn: TypeAlias = Callable[[], Awaitable[bool]]
"""Whether whoever began a collection is still there to go on with it."""

Otherwise: TypeAlias = Callable[[Report], Awaitable[bytes | None]]
"""Asked once for the unihash of a report whose outhash has no local equivalent (an upstream); None: it knows none."""


@runtime_checkable
class TakesImports(Protocol):
    """A Store that takes in what another server has collected (wire/imports.py). Raises what a Store does."""

    async def take_mappings(self, mappings: Sequence[ImportedMapping]) -> list[str]:
        """Insert each mapping unless there is one; "new", "known", or the unihash that is in force instead."""

    async def take_rows(self, rows: Sequence[ImportedRow]) -> list[str]:
        """Insert each row, without a mapping, unless it is there and at least as old; "new", "older" or "known"."""


@dataclass(frozen=True, slots=True)
class FoundRows:
    """What a search found: how many rows, the newest of them, and whether it looked at everything."""

    count: int
    rows: list[dict[str, Any]]
    complete: bool


@dataclass(frozen=True, slots=True)
class DivergingTasks:
    """Taskhashes with more than one outhash: how many, the rows of the newest, and how many by recipe ("" for none)."""

    count: int
    tasks: list[list[dict[str, Any]]]
    recipes: list[tuple[str, int]]
    complete: bool


class Guesses(NamedTuple):
    """(taskhash, unihash or None for the same) for each task that was asked for, `MOST_VARIANTS` at most, newest first.

    `complete`: whether everything was looked at.
    """

    guesses: list[list[tuple[str, str | None]]]
    complete: bool


class Explorer(Protocol):
    """Searches, for people: beside lookups, within a budget. Times are microseconds since 1970 UTC.

    A search is as wire/search.py says, its times as above. A row has all columns but the siginfo, of which it says
    whether there is one, and its mapping's unihash, None without one, and mark.
    """

    notes_asking: bool
    """Whether rows say when somebody last asked for their mapping."""

    async def find(self, search: AnyMapping[str, Any], limit: int, *, whole: bool = False) -> FoundRows:
        """The newest rows that match; `whole`: with their siginfo."""

    async def read_row(self, method: str, taskhash: str, outhash: str) -> Columns | None:
        """One row with its siginfo, mapped or not."""

    async def diverging(self, search: AnyMapping[str, Any], limit: int) -> DivergingTasks:
        """Taskhashes with more than one outhash of which one matches, the newest first."""

    async def guess(self, method: str, tasks: Sequence[tuple[str, str]]) -> Guesses:
        """What each task (PN, task) was mapped to when it was last reported; asks nothing of an upstream."""

    async def saved(self, since: int) -> list[tuple[str | None, int, int]]:
        """(PN, begin of the week, count) of tasks since then that were given another task's unihash."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a search chooses to set aside: rows, their mappings, the outhashes whose tasks are all chosen.

    `shared`: outhashes that tasks have, too, which are not chosen; these go on giving equivalences.
    """

    rows: int
    mappings: int
    outhashes: int
    shared: int


class Quarantine(Protocol):
    """What is set aside, so that builds make it again, or removed row by row. Times are microseconds in a search."""

    async def choose(self, search: AnyMapping[str, Any]) -> Chosen:
        """How much a search chooses. InvokeError when that is too much at one time."""

    async def begin(self, search: AnyMapping[str, Any], note: AnyMapping[str, Any]) -> dict[str, Any]:
        """Set aside what a search chooses: its name, the fields of `Chosen`, and those of `note`, JSON values."""

    async def entries(self) -> list[dict[str, Any]]:
        """What `begin` gave, of all that are not released, the newest first."""

    async def release(self, name: str) -> dict[str, Any]:
        """Put mappings back, each unless there is one; what `begin` gave, and how many were ``restored``."""

    async def discard(self, rows: Sequence[tuple[str, str, str]]) -> int:
        """Remove these rows (method, taskhash, outhash), and the mappings of their tasks; how many went of both."""


@dataclass(frozen=True, slots=True)
class Doomed:
    """What a collection would remove: mappings, their rows, how many are kept; (PN, mappings, rows), most first."""

    mappings: int
    rows: int
    kept: int
    recipes: list[tuple[str | None, int, int]]


@dataclass(frozen=True, slots=True)
class DoomedTasks:
    """Some of it: a mapping's method, taskhash, unihash, gc_mark and rows; where the next part begins."""

    tasks: list[dict[str, Any]]
    next: int | None


@dataclass(frozen=True, slots=True)
class Taken:
    """How much a collection removed."""

    mappings: int
    rows: int


class Collector(Protocol):
    """Removes what nobody uses, with a look at it first: wire/collecting.py says how. One collection at a time.

    Each method but `begin` raises InvokeError if the collection of this name is over.
    """

    knows_asked: bool
    """Whether it is known when mappings were asked for."""

    async def begin(self, name: str, goes_on: GoesOn) -> int:
        """From now on, whatever is asked for or reported is kept; how many mappings there are.

        InvokeError when another server has one under way; that takes it for over some time after `goes_on` denies.
        """

    async def keep(self, name: str, unihashes: Buffer) -> int:
        """Keep the mappings of these unihashes (n * 32 bytes); how many are kept that were not before."""

    async def keep_used(self, name: str, day: int) -> int:
        """Keep what was used on this day (since 1970 UTC) or later, or may have been; how many more."""

    async def choose(self, name: str) -> Doomed:
        """Fix what is not kept."""

    async def show(self, name: str, after: int, limit: int) -> DoomedTasks:
        """Some of it, from a place on."""

    async def take(self, name: str, mappings: Sequence[tuple[str, str, str]]) -> Taken:
        """Remove mappings (method, taskhash, unihash) that are still these and that nobody used, and their rows."""

    async def end(self, name: str) -> None:
        """Forget it."""


class Forwarding(Protocol):
    """Sends on what clients report. Rows are columns without the siginfo, newest first."""

    def health(self) -> ForwardingHealth:
        """How it stands."""

    async def refused(self, limit: int) -> list[dict[str, Any]]:
        """Reports that the upstream refused, with ``time`` (ISO 8601) and ``why``."""

    async def conflicts(self, limit: int) -> list[dict[str, Any]]:
        """Reports that the upstream gave another unihash, with ``time`` and ``upstream``, its unihash."""

    async def retry_refused(self) -> int:
        """Send those that were refused again; how many."""

    async def drop_refused(self) -> int:
        """Forget those that were refused; how many."""


@runtime_checkable
class Forwards(Protocol):
    """A Store that may send reports on."""

    @property
    def forwarding(self) -> Forwarding | None:
        """What sends them on, None where nothing does."""


class Store(Protocol):
    """Raises UnavailableError when what keeps the hashes does not answer in time, StorageError when it cannot store."""

    remote: bool
    """Whether a lookup may have to ask another server. A stream's blocks are then asked side by side."""

    @property
    def lapsed(self) -> bool:
        """Whether other servers may have changed entries unheard: what was read of a user has to be read again."""

    @property
    def quarantine(self) -> Quarantine:
        """What is set aside here."""

    @property
    def collector(self) -> Collector:
        """Removes what nobody uses."""

    @property
    def explorer(self) -> Explorer:
        """Searches of what is kept here."""

    async def lookup(self, method: str, digests: Buffer) -> Found:
        """The unihash of each taskhash; `digests` is n * 32 bytes, answered in order."""

    def find(self, method: str, digests: Buffer) -> Found | None:
        """The same without waiting, if all answers are at hand; None if `lookup` is to be asked."""

    async def lookup_keys(self, method: str, taskhashes: Sequence[Key]) -> list[bytes | None]:
        """The same for taskhashes of any form: a unihash digest or None for each."""

    async def exists(self, digests: Buffer) -> bytes:
        """For each unihash (n * 32 bytes) a byte: 1 when some mapping has it, else 0."""

    async def get_row(self, method: str, taskhash: str) -> Columns | None:
        """The oldest outhash row of a taskhash that has a mapping, joined with it (get with all)."""

    async def get_outhash(self, method: str, outhash: str, taskhash: str, with_unihash: bool) -> Columns | None:
        """The oldest row of an outhash: with its mapping and joined with it, or mapped or not and not joined.

        `taskhash`, who asks, only matters upstream.
        """

    def report(self, reports: Sequence[Report], otherwise: Otherwise | None = None) -> Awaitable[list[bytes]]:
        """Store reports (PROTOCOL, "report, exactly"); the unihashes in force, once all are durable.

        Reports of one outhash run in the order given. A report continues even if its caller was cancelled.
        """

    async def report_equiv(self, method: str, taskhash: str, unihash: bytes) -> bytes:
        """Insert a mapping unless there is one; the unihash in force, once it is durable."""

    async def store_row(self, row: Columns) -> None:
        """Insert a row and its mapping from elsewhere (upstream), each unless it is there. `created` is kept."""

    async def remove(self, where: Where) -> int:
        """PROTOCOL, "remove, exactly"; rows removed from both tables."""

    async def clean_unused(self, max_age_seconds: int) -> int:
        """Remove outhash rows older than this whose taskhash has no mapping; how many."""

    async def gc_mark(self, marks: Sequence[tuple[str, Where]]) -> list[int]:
        """For each (mark, where): make the mark current and set it on the mappings that match; how many each."""

    async def gc_status(self) -> CollectionStatus:
        """How a collection stands."""

    async def gc_sweep(self, mark: str) -> int:
        """Delete all mappings without the mark; how many. InvokeError unless it is the current mark."""

    async def usage(self) -> dict[str, int]:
        """Rows of each table: unihashes_v3, outhashes_v2, users, config."""

    async def health(self) -> Health:
        """How each part stands, within a few seconds, whatever has failed. Raises nothing."""

    async def get_entry(self, kind: str, name: str) -> Any:
        """An entry that is no hash (base/entry_kinds.py): its JSON value, None when there is none."""

    async def list_entries(self, kind: str) -> dict[str, Any]:
        """All entries of a kind, by name: the caller's own dict, which it may empty."""

    async def set_entry(self, kind: str, name: str, value: Any) -> None:
        """Set an entry, durably; None deletes it."""

    async def settled(self) -> None:
        """Wait until other servers act by the entries that were set here so far."""

    async def backfilled(self) -> int:
        """Wait until every mapping that an upstream gave is stored; how many were not when this was called."""

    def follow_entries(self, changed: EntryChanged) -> None:
        """Have `changed` called for entries that other servers change, until this store is closed.

        A store that no other server shares never calls it.
        """

    async def snapshot(self) -> None:
        """Write a snapshot of everything now; returns when it is verified."""

"""The dicts of one method in a shard's table: mappings, the way back from unihashes, GC marks, rows and index.

- ``mappings``: taskhash -> unihash, the dict that lookups read;
- ``marks``: taskhash -> GC mark, only for mappings that carry one;
- ``reverse``: unihash -> the taskhash that has it, or a set of them (exists, remove, gc-mark). The taskhash that is
  its own unihash, as most are, is not in there: ``mappings`` says so itself;
- ``rows``: taskhash -> set of outhash rows of that taskhash, oldest first (small_sets.py);
- ``unmapped``: the taskhashes that have rows and no mapping, which are few;
- ``index``: outhash -> set of taskhashes, oldest first. Its taskhashes may belong to any shard;
- ``asked``, ``asked_unihashes``: mappings that were looked up, unihashes that were found to exist, and not yet
  noted in ``days`` (asked_days.py): looking up costs no more than to put them aside.

``recent`` is what builds guess from (recent_tasks.py), once somebody asked for it.

``rare`` is the method's name if the table knows what it maps by unihash (table.py), else None.

A unihash that equals its taskhash or another mapping's unihash is the same object.
"""

from __future__ import annotations

from itertools import compress
from operator import eq

from shardhash.shard.state import one_or_many
from shardhash.shard.state.asked_days import AskedDays
from shardhash.shard.state.recent_tasks import RecentTasks
from shardhash.shard.state.small_sets import SmallSet
from shardhash.wire.hashes import Buffer, Key, split_digests


class MethodTable:
    """The dicts of one method; see the module."""

    __slots__ = (
        "asked",
        "asked_unihashes",
        "days",
        "index",
        "mappings",
        "marks",
        "rare",
        "recent",
        "reverse",
        "rows",
        "unmapped",
    )

    def __init__(self) -> None:
        self.mappings: dict[Key, bytes] = {}
        self.marks: dict[Key, str] = {}
        self.reverse: dict[bytes, Key | set[Key]] = {}
        self.rows: dict[Key, SmallSet] = {}
        self.unmapped: set[Key] = set()
        self.index: dict[Key, SmallSet] = {}
        self.rare: str | None = None
        self.asked: set[Key] = set()
        self.asked_unihashes: set[bytes] = set()
        self.days = AskedDays()
        self.recent: RecentTasks | None = None

    def take_asked(self) -> set[Key]:
        """The taskhashes that were asked for since this was last called.

        A unihash that was found to exist stands for one of the mappings that have it: one is enough for it to exist.
        """
        asked, self.asked = self.asked, set()
        unihashes, self.asked_unihashes = self.asked_unihashes, set()
        for unihash in unihashes:
            asked.update(self.holders(unihash)[-1:])
        return asked

    def holders(self, unihash: Key) -> list[Key]:
        """The taskhashes that have a unihash; none for a text."""
        found = self.reverse.get(unihash)  # type: ignore[arg-type]  # a text finds nothing
        holders = list(found) if isinstance(found, set) else [] if found is None else [found]
        if self.mappings.get(unihash) == unihash:
            holders.append(unihash)
        return holders

    def held(self, digests: Buffer) -> bytes:
        """For each unihash (n * 32 bytes) a byte: 1 when a taskhash has it. Some 100 ns each; it was asked for."""
        keys = list(split_digests(digests))
        own = bytes(map(eq, map(self.mappings.get, keys), keys))
        self.asked.update(compress(keys, own))
        if not self.reverse:
            return own
        others = bytes(map(self.reverse.__contains__, keys))
        self.asked_unihashes.update(compress(keys, others))
        return either(own, others)

    def link(self, taskhash: Key, unihash: bytes) -> None:
        """Note the way back from a unihash to a taskhash, unless they are equal."""
        if taskhash != unihash:
            one_or_many.add(self.reverse, unihash, taskhash)

    def unlink(self, taskhash: Key, unihash: bytes) -> None:
        """Forget the way back from a unihash to a taskhash. KeyError if there is none."""
        if taskhash != unihash:
            one_or_many.discard(self.reverse, unihash, taskhash)

    def shared(self, unihash: bytes) -> bytes:
        """The object that already stands for this unihash, so that it is in memory once."""
        holders = self.reverse.get(unihash)
        if holders is not None:
            return self.mappings[next(iter(holders)) if isinstance(holders, set) else holders]
        own = self.mappings.get(unihash)
        return own if own == unihash else unihash


def either(one: bytes, other: bytes) -> bytes:
    """Bytes that are 0 or 1: 1 where one of the two is. numpy is faster, but a worker does without its 10 MiB."""
    return (int.from_bytes(one) | int.from_bytes(other)).to_bytes(len(one))

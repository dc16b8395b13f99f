"""The dicts of one method in a shard's table: mappings, the way back from unihashes, GC marks, rows and index.

- ``mappings``: taskhash -> unihash, the dict that lookups read;
- ``marks``: taskhash -> GC mark, only for mappings that carry one;
- ``reverse``: unihash -> the taskhash that has it, or a set of them (exists, remove, gc-mark). The taskhash that is
  its own unihash, as most are, is not in there: ``mappings`` says so itself;
- ``rows``: taskhash -> set of outhash rows of that taskhash, oldest first (small_sets.py);
- ``unmapped``: the taskhashes that have rows and no mapping, which are few;
- ``index``: outhash -> set of taskhashes, oldest first. Its taskhashes may belong to any shard;
- ``asked``: taskhash -> unihash of mappings that were asked for today. Lookups try it first: it is small, so that it
  takes half the time of ``mappings`` with 150,000, and what is found in it needs not be put aside again. Those behind
  the first ``noted`` are not yet in ``days`` (asked_days.py);
- ``full``: whether nothing more is put aside on this day (`fill_asked`);
- ``asked_unihashes``: unihashes that were found to exist, and are not yet in ``days``.

``recent`` is what builds guess from (recent_tasks.py), once somebody asked for it.

``rare`` is the method's name if the table knows what it maps by unihash (table.py), else None.

A unihash that equals its taskhash or another mapping's unihash is the same object.
"""

from __future__ import annotations

from itertools import compress, islice
from operator import eq

from shardhash.base.letting_go import let_go
from shardhash.base.untracked import untracked
from shardhash.shard.state import one_or_many
from shardhash.shard.state.asked_days import AskedDays
from shardhash.shard.state.recent_tasks import RecentTasks
from shardhash.shard.state.small_sets import SmallSet
from shardhash.shard.state.spread import SpreadDict
from shardhash.wire.batch import Found
from shardhash.wire.hashes import Buffer, Key, hash_ahead, split_digests

SAMPLED = 256
"""One of so many taskhashes of a lookup tells whether it is worth a try to look for all of them in ``asked``."""


class MethodTable:
    """The dicts of one method; see the module."""

    __slots__ = (
        "asked",
        "asked_unihashes",
        "days",
        "full",
        "index",
        "mappings",
        "marks",
        "noted",
        "rare",
        "recent",
        "reverse",
        "rows",
        "unmapped",
    )

    def __init__(self) -> None:
        self.mappings: dict[Key, bytes] = {}
        self.marks: SpreadDict[str] = SpreadDict()
        self.reverse: dict[bytes, Key | set[Key]] = {}
        self.rows: dict[Key, SmallSet] = {}
        self.unmapped: set[Key] = untracked(set())
        self.index: dict[Key, SmallSet] = {}
        self.rare: str | None = None
        self.asked: dict[Key, bytes] = {}
        self.noted = 0
        self.full = False
        self.asked_unihashes: set[bytes] = untracked(set())
        self.days = AskedDays()
        self.recent: RecentTasks | None = None

    @property
    def aside(self) -> int:
        """How many mappings were put aside since `take_asked` was last called."""
        return len(self.asked) - self.noted

    def lookup(self, digests: Buffer) -> Found:
        """The unihash of each taskhash (n * 32 bytes); 50 ns each for those asked for today, else 100 to 800."""
        keys = list(split_digests(digests))
        asked, mappings = self.asked, self.mappings
        if all(map(asked.__contains__, keys[::SAMPLED])):
            try:
                return Found(b"".join(map(asked.get, keys)), None)  # type: ignore[arg-type]  # a None raises
            except TypeError:
                pass  # some were not asked for yet
        found = list(map(mappings.get, hash_ahead(keys, mappings)))
        if not self.full:
            asked.update(zip(compress(keys, found), filter(None, found), strict=True))
        return Found.of(found)

    def ask(self, taskhash: Key) -> bool:
        """Put a mapping aside; False when there is none."""
        unihash = self.mappings.get(taskhash)
        if unihash is not None and not self.full:
            self.asked[taskhash] = unihash
        return unihash is not None

    def take_asked(self) -> list[Key]:
        """The taskhashes that were put aside since this was last called.

        A unihash that was found to exist stands for one of the mappings that have it: one is enough for it to exist.
        """
        taken = untracked(list(islice(reversed(self.asked), self.aside)))
        self.noted = len(self.asked)
        unihashes, self.asked_unihashes = self.asked_unihashes, untracked(set())
        taken += filter(None, map(self.holder, unihashes))
        return taken

    def forget_asked(self, taskhash: Key) -> bool:
        """The mapping of a taskhash is gone, or is another; whether it was asked for today."""
        if self.asked.pop(taskhash, None) is None:
            return False
        if self.noted:
            self.noted -= 1  # if it was not among these, the last of them is noted twice
        return True

    def clear_asked(self) -> None:
        """Whatever is asked for from now on is put aside again."""
        let_go(self.asked)
        self.asked = {}
        self.noted = 0
        self.full = False

    def fill_asked(self, *, keep: bool) -> None:
        """Put nothing aside any more, until `clear_asked`; stay with what was, noted or not, or with nothing."""
        if not keep:
            self.clear_asked()
        self.noted = len(self.asked)
        self.full = True

    def holder(self, unihash: bytes) -> Key | None:
        """One of the taskhashes that have a unihash."""
        if self.mappings.get(unihash) == unihash:
            return unihash
        found = self.reverse.get(unihash)
        return next(iter(found)) if isinstance(found, set) else found

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
        own = bytes(map(eq, map(self.mappings.get, hash_ahead(keys, self.mappings)), keys))
        if not self.full:
            owned = list(compress(keys, own))
            self.asked.update(zip(owned, owned, strict=True))
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

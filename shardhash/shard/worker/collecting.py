"""A collection on one shard (wire/collecting.py): what is kept, what is not, and its removal.

Who asks for a mapping, or reports it again, while a collection runs keeps it:

1. From the begin on `Asking` tells which mappings are asked for, into the same sets that `keep` fills. Reports tell it
   as they are decided, so that the begin is answered once all that were decided before it are acknowledged.
2. `take` looks into them when it decides, in the writer's turn: every report that was acknowledged before is in them.
3. A lookup can still be answered until the removal is durable and applied. What was asked for in between is put back
   by another group commit, before anybody is told that it is gone; its index items never went.

Nothing of a collection is on the disk but what `take` does; a worker that ends forgets it; the next step is refused.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from time import perf_counter
from typing import Any, NamedTuple

from shardhash.base.letting_go import let_go
from shardhash.base.untracked import untracked
from shardhash.errors import StorageError
from shardhash.link import collection_operations as op
from shardhash.shard.state import small_sets
from shardhash.shard.state.method_table import MethodTable
from shardhash.shard.state.selection import columns
from shardhash.shard.state.spread import SpreadSet
from shardhash.shard.state.table import Row, Table
from shardhash.shard.state.transaction import RowFields, Transaction
from shardhash.shard.storage.recovery import AnyShard
from shardhash.shard.worker.asking import Asking, Followed
from shardhash.shard.worker.row_texts import RowTexts
from shardhash.shard.worker.writer import Writer
from shardhash.wire.hashes import Key, split_digests, to_key, to_text

SLICE = 100
"""Mappings looked at between one rest and the next: 0.1 ms, or 2 of those that nobody looked at for long."""
REST = 4
"""How many times as long as a slice took the worker then rests from it."""
TAKEN_AT_ONCE = 250
"""Mappings that one group commit removes; 2 ms to decide, and as long to do."""
KEPT_AT_ONCE = 1000
"""Unihashes that are looked for in each method before others run; 0.5 ms for a method."""
FULL_PAGE = 1 << 20
"""Characters of siginfo after which a page ends."""
SHOWN_AT_ONCE = 10
"""Mappings whose rows are read before others run; 2 ms."""


class _Gone(NamedTuple):
    """A mapping that a transaction removes, with what it takes to put it back."""

    method: str
    taskhash: Key
    unihash: bytes
    mark: str
    rows: list[Row]


class _Collection:
    """The one that is under way. `kept` and what was `chosen`, by method."""

    __slots__ = ("chosen", "following", "kept", "name", "taking")

    def __init__(self, name: str, following: str, kept: Followed) -> None:
        """`following`: the name by which it follows what is asked for, its alone."""
        self.name = name
        self.following = following
        self.kept = kept
        self.chosen: dict[str, list[Key]] = {}
        self.taking = 0
        """Removals under way, which look into `kept`, and put back what came into it, also when it is over."""

    def keeps(self, method: str, key: Key) -> bool:
        """Whether a mapping is kept."""
        return key in self.kept.get(method, ())


class Collecting:
    """What `Service` does for the operations of a collection."""

    def __init__(self, shard: AnyShard, writer: Writer, asking: Asking) -> None:
        self._texts = RowTexts(shard)
        self._table = shard.table
        self._write = writer.write
        self._asking = asking
        self._running: _Collection | None = None
        self._begun = 0
        self._pages: set[asyncio.Task[list[_Gone]]] = set()
        """Removals of some mappings, which end whatever becomes of the collection."""

    def drop(self) -> None:
        """The link is gone, and with it whoever collected."""
        over, self._running = self._running, None
        if over is not None and not over.taking:
            self._forget(over)

    def _forget(self, over: _Collection) -> None:
        self._asking.unfollow(over.following)
        kept = [part for keys in over.kept.values() for part in keys.parts.values()]
        let_go(*kept, *over.chosen.values())
        over.kept, over.chosen = {}, {}

    async def begin(self, asked: op.BeginCollection) -> int:
        """Begin, and end the one before."""
        self.drop()
        self._begun += 1
        following = f"collection {self._begun}"
        self._running = _Collection(asked.collection, following, self._asking.follow(following))
        with suppress(StorageError):  # what the disk refused together with this was not acknowledged
            await self._write(lambda _change: None)
        return self._table.counts()["mappings"]

    def end(self, asked: op.EndCollection) -> None:
        """Forget it."""
        if self._find(asked.collection) is not None:
            self.drop()

    async def keep(self, asked: op.KeepUnihashes) -> int | None:
        """Keep what has one of these unihashes."""
        collection = self._find(asked.collection)
        if collection is None:
            return None
        before = _size(collection.kept)
        unihashes = list(split_digests(bytes.fromhex(asked.unihashes)))
        for start in range(0, len(unihashes), KEPT_AT_ONCE):
            self._keep(collection, unihashes[start : start + KEPT_AT_ONCE])
            await asyncio.sleep(0)
        return _size(collection.kept) - before if self._find(asked.collection) is collection else None

    def _keep(self, collection: _Collection, unihashes: list[bytes]) -> None:
        for method, part in self._table.scanned.items():
            kept = collection.kept.setdefault(method, SpreadSet())
            for unihash in unihashes:
                if part.mappings.get(unihash) == unihash:
                    kept.add(part.mappings[unihash])  # the table's own object, not another
                if unihash in part.reverse:
                    kept.update(part.holders(unihash))
        for unihash in unihashes if self._table.rare else ():
            for method in self._table.rare.methods(unihash):
                collection.kept.setdefault(method, SpreadSet()).update(self._table.methods[method].holders(unihash))

    async def keep_used(self, asked: op.KeepUsed) -> int | None:
        """Keep what was used on this day or later."""
        collection = self._find(asked.collection)
        if collection is None:
            return None
        await self._asking.note()
        before = _size(collection.kept)
        pause = _Pause(self._table)
        for method, part, keys in self._slices():
            kept = collection.kept.setdefault(method, SpreadSet())
            kept.update([key for key in keys if key in part.mappings and self._table.last_used(part, key) >= asked.day])
            await pause.rest()
        return _size(collection.kept) - before if self._find(asked.collection) is collection else None

    async def choose(self, asked: op.ChooseDoomed) -> op.Doomed | None:
        """Fix what is not kept, and count it."""
        collection = self._find(asked.collection)
        if collection is None:
            return None
        self._asking.tell()
        let_go(*collection.chosen.values())
        collection.chosen = {}
        mappings: Counter[str | None] = Counter()
        rows: Counter[str | None] = Counter()
        kept = 0
        pause = _Pause(self._table)
        for method, part, keys in self._slices():
            doomed = [key for key in keys if key in part.mappings and not collection.keeps(method, key)]
            kept += len(keys) - len(doomed)
            collection.chosen.setdefault(method, untracked([])).extend(doomed)
            for key in doomed:
                small_set = part.rows.get(key)
                first = next(iter(small_sets.iterate(small_set)), None)
                recipe = None if first is None else self._table.unpack_row(first).details[1]
                mappings[recipe] += 1
                rows[recipe] += 0 if small_set is None else small_sets.size(small_set)
            await pause.rest()
        if self._find(asked.collection) is not collection:
            return None
        counted = [(recipe, count, rows[recipe]) for recipe, count in mappings.items()]
        return op.Doomed(mappings.total(), rows.total(), kept, counted)

    async def show(self, asked: op.ShowDoomed) -> op.DoomedPage | None:
        """Some of what was chosen, with the texts."""
        collection = self._find(asked.collection)
        if collection is None:
            return None
        self._asking.tell()
        tasks: list[dict[str, Any]] = []
        place, characters = asked.after, 0
        for method, key in self._chosen_from(collection, place):
            if len(tasks) >= asked.limit or characters >= FULL_PAGE:
                return op.DoomedPage(tasks, place)
            place += 1
            unihash = self._table.unihash(method, key)
            if unihash is None or collection.keeps(method, key):
                continue
            mark = self._table.mark(method, key)
            task = {"method": method, "taskhash": to_text(key), "unihash": unihash.hex(), "gc_mark": mark}
            rows = [columns(method, key, row, self._texts.begin) for row in self._table.rows(method, key)]
            for row in rows:
                characters += len((await self._texts.finish(row))["outhash_siginfo"] or "")
            tasks.append(task | {"rows": rows})
            if len(tasks) % SHOWN_AT_ONCE == 0:
                await asyncio.sleep(0)
        return op.DoomedPage(tasks, None) if self._find(asked.collection) is collection else None

    async def take(self, asked: op.TakeDoomed) -> op.Taken | None:
        """Remove what nobody used meanwhile."""
        collection = self._find(asked.collection)
        if collection is None:
            return None
        count, unindex = 0, dict[str, list[tuple[str, str]]]()
        for start in range(0, len(asked.mappings), TAKEN_AT_ONCE):
            some = asked.mappings[start : start + TAKEN_AT_ONCE]
            page = asyncio.get_running_loop().create_task(self._take(collection, some))
            collection.taking += 1
            self._pages.add(page)
            page.add_done_callback(partial(self._end_page, collection))
            for one in await asyncio.shield(page):  # the link may go, and what was asked for must come back
                count += 1
                pairs = unindex.setdefault(one.method, [])
                pairs += [(to_text(row.outhash), to_text(one.taskhash)) for row in one.rows]
        return op.Taken(count, sum(map(len, unindex.values())), list(unindex.items()))

    def _end_page(self, collection: _Collection, page: asyncio.Task[list[_Gone]]) -> None:
        self._pages.discard(page)
        collection.taking -= 1
        if not collection.taking and self._running is not collection:
            self._forget(collection)

    async def _take(self, collection: _Collection, mappings: Sequence[Sequence[str]]) -> list[_Gone]:
        """Remove some; those that stay removed."""
        gone: list[_Gone] = await self._write(partial(self._remove, collection, mappings))
        self._asking.tell()
        back = [one for one in gone if collection.keeps(one.method, one.taskhash)]
        if back:
            await self._write(partial(_put_back, back))
            gone = [one for one in gone if not collection.keeps(one.method, one.taskhash)]
        return gone

    def _remove(
        self, collection: _Collection, mappings: Sequence[Sequence[str]], transaction: Transaction
    ) -> list[_Gone]:
        self._asking.tell()
        gone: dict[tuple[str, Key], _Gone] = {}
        if self._running is not collection:  # it is over, and nobody tells what is asked for
            return []
        for method, taskhash, unihash in mappings:
            key = to_key(taskhash)
            found = transaction.unihash(method, key)
            if found is None or found.hex() != unihash or collection.keeps(method, key):
                continue
            rows = self._table.rows(method, key)
            gone[method, key] = _Gone(method, key, found, self._table.mark(method, key), rows)
        for method in {method for method, _ in gone}:
            ours = [one for one in gone.values() if one.method == method]
            transaction.delete_mappings(method, [one.taskhash for one in ours])
            transaction.delete_rows(
                method, [(to_text(one.taskhash), to_text(row.outhash)) for one in ours for row in one.rows]
            )
        return list(gone.values())

    def _find(self, name: str) -> _Collection | None:
        return self._running if self._running is not None and self._running.name == name else None

    def _slices(self) -> Iterator[tuple[str, MethodTable, list[Key]]]:
        """All mappings, which may change meanwhile."""
        for method, part in list(self._table.methods.items()):
            nothing: list[Key] = []
            keys = yield from self._table.copies.make((method, part, nothing), part.mappings)
            for some in keys.slices(SLICE):
                yield method, part, some

    @staticmethod
    def _chosen_from(collection: _Collection, place: int) -> Iterator[tuple[str, Key]]:
        for method, keys in list(collection.chosen.items()):
            if place < len(keys):
                for key in islice(keys, place, None):
                    yield method, key
            place = max(0, place - len(keys))


def _put_back(back: Sequence[_Gone], transaction: Transaction) -> None:
    """Store again what was asked for while it went, each unless a report was quicker."""
    for one in back:
        taskhash = to_text(one.taskhash)
        for row in one.rows:
            fields = RowFields(one.method, taskhash, to_text(row.outhash), row.created, *row.details)
            transaction.insert_row(fields, row.siginfo, one.unihash, keys=(one.taskhash, row.outhash))
        if transaction.insert_mapping(one.method, taskhash, one.unihash) == one.unihash and one.mark:
            transaction.set_mark(one.mark, one.method, [one.taskhash])


class _Pause:
    """Rests between slices."""

    def __init__(self, table: Table) -> None:
        self._copies = table.copies
        self._began = perf_counter()

    async def rest(self) -> None:
        """Rest from the slice that was done since the last rest; not while keys are copied, since writes wait."""
        await asyncio.sleep(0 if self._copies.under_way else REST * (perf_counter() - self._began))
        self._began = perf_counter()


def _size(kept: Followed) -> int:
    return sum(map(len, kept.values()))

"""Answers at hand: what workers or a database answered lately, so that a small lookup need not travel to them again.

A mapping is written once: the unihash of a taskhash stays what it is until a removal. So a unihash once answered may be
answered again, under these rules:

1. While a removal runs, nothing is answered from here and nothing is remembered (`removing`), so that nobody meets a
   mapping that is gone, and a report that follows it is not hidden. The removal is acknowledged after that.
2. An answer is remembered only if no removal began or ended since it was asked for (`Asked`): it may be older.
3. When another worker takes over a shard, all is forgotten: what was in memory only is lost (`forget`).
4. That a taskhash is unknown holds until a report of it ends, which forgets it before it is acknowledged (`written`),
   and it is remembered only if no report ended since it was asked for. It holds for `UNKNOWN_TIME` at most, because a
   report that ran into its time limit may be stored later. All reports of a server pass by here.
5. At the end of each day all is forgotten (end_of_day.py): workers note on which day something was last asked for.

Where other servers store, too, rule 4 cannot hold: there only what is known is remembered (`unknown`), and removals are
told by whoever follows the other servers (`begin_removal`, `end_removal`).

Memory is bounded by two generations: when the younger is full it becomes the older, whose entries are forgotten unless
they were asked for meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

from shardhash.base.letting_go import let_go
from shardhash.wire.batch import Found
from shardhash.wire.hashes import DIGEST_SIZE, Buffer, hash_ahead, split_digests, to_key

ANSWER_CACHE = 64 << 20
"""Bytes for answers at hand: a quarter of a million of them, about what the builds of some months ask for."""
LEASE = 10.0
"""Seconds for which a server among others answers from here without hearing of removals."""
MOST_LEASE = 60.0
ENTRY_SIZE = 256
"""Bytes that an entry takes at most: two digests of 65 bytes, their place in a dict, and a share of growth."""
LARGE = 2048
"""Hashes of a batch from which on workers, beside each other, are faster than one dict after the other here."""
UNKNOWN_TIME = 60.0
"""Seconds for which a taskhash may be taken for unknown without asking."""
_METHOD_COST = 8
"""What a method counts for, in entries: its dicts."""

_Known: TypeAlias = dict[str | None, dict[bytes, bytes]]
"""By method, unihashes by taskhash; under None the unihashes that exist."""


class Asked(NamedTuple):
    """When something was asked for: how many removals and how many reports there had been."""

    removals: int
    reports: int


class Answers:
    """See the module. Use from one event loop."""

    def __init__(self, size: int, *, unknown: bool = True, large: int = LARGE) -> None:
        """`size`: bytes that they may take, 0 to remember nothing. `unknown`: remember, too, what is unknown.

        `large`: hashes of a batch up to which `find_many` and `remember` take it.
        """
        self._keep_unknown = unknown
        self._large = large * DIGEST_SIZE
        self._most = size // ENTRY_SIZE // 2  # of a generation
        self._young: _Known = {}
        self._old: _Known = {}
        self._count = 0
        self._unknown: dict[str, set[bytes]] = {}
        self._unknown_count = 0
        self._unknown_until = 0.0
        self._removals = 0
        self._running = 0
        self._reports = 0

    def asked(self) -> Asked:
        """What `remember` and `remember_existing` are told of an answer that is asked for now."""
        return Asked(self._removals, self._reports)

    def find(self, method: str, digests: Buffer) -> Found | None:
        """The unihash of each taskhash (n * 32 bytes) of a small batch if all are at hand."""
        return None if len(digests) > LARGE * DIGEST_SIZE else self.find_many(method, digests)

    def find_many(self, method: str, digests: Buffer) -> Found | None:
        """The same of a larger batch, for who has taken its turn: 0.1 us for each hash."""
        if self._running or len(digests) > self._large:
            return None
        young = self._young.get(method, {})
        keys = hash_ahead(split_digests(digests), young)
        try:
            return Found(b"".join(map(young.get, keys)), None)  # type: ignore[arg-type]  # None raises
        except TypeError:
            return self._find_all(method, digests, young)

    def exist(self, digests: Buffer) -> bool:
        """Whether it is at hand that all these unihashes of a small batch exist."""
        if self._running or len(digests) > LARGE * DIGEST_SIZE:
            return False
        return self._find_each(None, list(split_digests(digests))) is not None

    def remember(self, method: str, digests: Buffer, found: Found, asked: Asked) -> None:
        """The answer to a lookup, and when it was asked for."""
        if self._running or asked.removals != self._removals or len(digests) > self._large:
            return
        keys = list(split_digests(digests))
        unihashes = found.unihashes()
        self._add(
            method,
            {
                key: key if key == unihash else unihash  # one object
                for key, unihash in zip(keys, unihashes, strict=True)
                if unihash is not None
            },
        )
        if found.known is not None and self._keep_unknown and asked.reports == self._reports:
            self._add_unknown(method, [key for key, unihash in zip(keys, unihashes, strict=True) if unihash is None])

    def remember_existing(self, digests: Buffer, status: bytes, asked: Asked) -> None:
        """The answer to an existence check, a byte for each unihash, and when it was asked for."""
        if not self._running and asked.removals == self._removals and len(digests) <= LARGE * DIGEST_SIZE:
            self._add(None, {key: key for key, there in zip(split_digests(digests), status, strict=True) if there})

    def written(self, method: str, taskhash: str) -> None:
        """A report of this taskhash ended, stored or not; call it before that is acknowledged."""
        self._reports += 1
        unknown = self._unknown.get(method)
        if unknown:
            unknown.discard(to_key(taskhash))

    @contextmanager
    def removing(self) -> Iterator[None]:
        """A removal of any kind, from before its first mapping goes until none goes any more."""
        self.begin_removal()
        try:
            yield
        finally:
            self.end_removal()

    def begin_removal(self) -> None:
        """Answer and remember nothing until each removal that began has ended."""
        self._running += 1
        self.forget()

    def end_removal(self) -> None:
        """None of its mappings goes any more."""
        self._running -= 1
        self._removals += 1

    def forget(self) -> None:
        """Forget everything, what is under way included."""
        self._removals += 1
        let_go(*self._young.values(), *self._old.values(), *self._unknown.values())
        self._young, self._old, self._unknown = {}, {}, {}
        self._count = self._unknown_count = 0

    def _find_all(self, method: str, digests: Buffer, young: dict[bytes, bytes]) -> Found | None:
        """The same, among entries of the older generation and taskhashes that are known to be unknown."""
        unknown = self._unknown.get(method)
        if unknown and time.monotonic() >= self._unknown_until:
            let_go(*self._unknown.values())
            self._unknown, self._unknown_count, unknown = {}, 0, None
        keys = list(split_digests(digests))
        if not unknown:
            unihashes = self._find_each(method, keys)
            return None if unihashes is None else Found.of(unihashes)
        found = [young.get(key) for key in keys]
        missing = [key for key, unihash in zip(keys, found, strict=True) if unihash is None and key not in unknown]
        if missing:
            old = self._find_each(method, missing)
            if old is None:
                return None
            rest = iter(old)
            found = [
                next(rest) if unihash is None and key not in unknown else unihash
                for key, unihash in zip(keys, found, strict=True)
            ]
        return Found.of(found)

    def _find_each(self, method: str | None, keys: list[bytes]) -> list[bytes | None] | None:
        """A unihash for each key, None unless all are at hand. Those of the older generation become young."""
        young, old = self._young.get(method, {}), self._old.get(method)
        found = [young.get(key) for key in keys]
        if None not in found:
            return found
        if not old:
            return None
        again = {}
        for place, key in enumerate(keys):
            if found[place] is None:
                unihash = found[place] = old.get(key)
                if unihash is None:
                    return None
                again[key] = unihash
        self._add(method, again)
        return found

    def _add(self, method: str | None, entries: dict[bytes, bytes]) -> None:
        if not entries or not self._most:
            return
        young = self._young.get(method)
        if young is None:
            young = self._young[method] = {}
            self._count += _METHOD_COST
        before = len(young)
        young.update(entries)
        self._count += len(young) - before
        if self._count > self._most:
            let_go(*self._old.values())
            self._old, self._young, self._count = self._young, {}, 0

    def _add_unknown(self, method: str, keys: list[bytes]) -> None:
        if not self._unknown_count:
            self._unknown_until = time.monotonic() + UNKNOWN_TIME
        self._unknown_count += len(keys) + (0 if method in self._unknown else _METHOD_COST)
        if self._unknown_count > self._most:
            let_go(*self._unknown.values())
            self._unknown, self._unknown_count = {}, 0
        else:
            self._unknown.setdefault(method, set()).update(keys)

"""Asking: on which day each mapping was last asked for, noted beside lookups.

1. A lookup puts what it found aside (`MethodTable.lookup`), one call for a batch of any size.
2. Every few seconds, and before anybody wants to know, what was put aside is noted with the day (asked_days.py), a
   slice at a time. It stays at hand until the day ends (UTC), so that it is put aside once a day.
   Where more is asked for than can be noted, the whole table counts as asked for on that day, and the rest of it is
   not put aside.
3. What answers without this worker, the coordinator's answers at hand, is forgotten at the end of each day
   (stores/end_of_day.py), so that it is asked for here at least once a day.
4. Snapshots hold the days; the log does not. A crash or a restart loses what was asked for since the last snapshot, at
   most; mappings that the log replays without a row count as asked for at the start.

A collection follows what is asked for while it runs (`follow`): that stays.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from time import perf_counter, time_ns
from typing import TypeAlias

from shardhash.base.letting_go import let_go
from shardhash.base.timestamps import DAY
from shardhash.base.untracked import untracked
from shardhash.shard.state.asked_days import day_of
from shardhash.shard.state.method_table import MethodTable
from shardhash.shard.state.spread import SpreadSet
from shardhash.shard.state.table import Table
from shardhash.wire.hashes import Key

SLICE = 400
"""Mappings noted between one look at other things and the next: 0.3 ms."""
REST = 5
"""How many times as long as a slice took the worker then rests from it."""
EVERY = 10.0
"""Seconds between two times of noting."""
MOST = 50_000
"""Mappings of a method from which on what was put aside is noted soon."""
TOO_MANY = 100_000
"""Mappings of a method that may be put aside, 10 MiB, which takes 3 ms to take. More come only from one who asks for
far more than builds do, and faster than can be noted: then all mappings count as asked for today, which costs a
collection something, and nothing more is put aside on that day. What was stays at hand, of one method."""

FOLLOWED_MOST = 3_000
"""Mappings, or unihashes, of a method from which on whoever follows is told of what was put aside: all that is left is
told at once when they want to know."""
AT_ONCE = 2_048
"""Mappings that whoever follows is told of at once; 1 ms, and as long to note them."""
LATER = 32
"""Lists of mappings that wait to be noted while somebody follows; with more, as many are noted as come."""

KEPT = 50_000
"""Mappings of all methods that may stay at hand once they are noted, 8 MiB. With more, they are put aside again."""

_DAY = DAY * 1000
"""Nanoseconds."""

Followed: TypeAlias = dict[str, SpreadSet]
"""By method, the mappings that were asked for since the following began."""


class Asking:
    """Notes what was asked for in a shard. Use from one event loop."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._taken: deque[tuple[str, list[Key], int]] = deque()
        """Methods, their mappings that are to be noted, and `Table.unmap_count` when these were taken."""
        self._found: deque[tuple[str | None, set[bytes]]] = deque()
        """By method, None for rare ones, unihashes that were found to exist."""
        self._followed: dict[str, Followed] = {}
        self._noted_at = 0.0
        self._crowded = False
        self._day_ends = 0
        self.most = MOST
        """Mappings of a method from which on there is to be room: call `make_room`."""
        self._given_up = -1
        """The day on which more was asked for than can be noted: the rest of it is not noted either."""
        self.days_written = True
        """Whether the newest snapshot holds all that is noted."""

    @property
    def followed(self) -> bool:
        """Whether anybody follows what is asked for."""
        return bool(self._followed)

    def look_at_clock(self) -> None:
        """Before each question: when a day has ended, all is put aside again."""
        now = time_ns()
        if not self._day_ends - _DAY <= now < self._day_ends:  # a clock may also be set back
            self._day_ends = now - now % _DAY + _DAY
            self._take()
            self._clear()

    def put_aside(self, method: str, key: Key) -> None:
        """One mapping was asked for, or reported again."""
        self.look_at_clock()
        self.put_aside_of(method, self._table.methods.get(method), key)

    def put_aside_of(self, method: str, part: MethodTable | None, key: Key) -> None:
        """The same, by one who looked at the clock and has the table of the method."""
        if (part is None or not part.ask(key)) and self._followed:  # it comes with the report
            self._tell(method, [key])

    def make_room(self, method: str, part: MethodTable, count: int) -> None:
        """A question of so many has put aside more than `most`: have them noted soon, or keep fewer now."""
        self._crowded = True
        if self._followed:  # who follows must know each
            some = [part.asked.popitem()[0] for _ in range(min(_some_of(count), part.aside))]
            self._tell(method, some)
            self._note_later(method, some)
        elif part.aside > TOO_MANY:
            part.fill_asked(keep=not any(other.full for other in self._table.methods.values()))
            self._give_up()

    def keep_room(self, method: str, count: int) -> None:
        """Reports or an import have put some aside: have them noted soon if they are many, and told to who follows."""
        part = self._table.methods.get(method)
        if part is not None and part.aside > self.most:
            self._crowded = True
            if self._followed:
                self.make_room(method, part, count)

    def found_existing(self, count: int) -> None:
        """A question for so many unihashes has put some aside: the same, where they are many."""
        for method, part in self._table.scanned.items():
            if part.aside > self.most:
                self.make_room(method, part, count)
            if len(part.asked_unihashes) > self.most and self._make_room_found(method, part.asked_unihashes, count):
                part.asked_unihashes = untracked(set())
        rare = self._table.rare
        if len(rare.asked) > self.most and self._make_room_found(None, rare.asked, count):
            rare.asked = untracked(set())

    def _make_room_found(self, method: str | None, unihashes: set[bytes], count: int) -> bool:
        """`make_room` among unihashes; whether all are to be forgotten."""
        self._crowded = True
        if self._followed:
            self._tell_found(method, unihashes, _some_of(count))
        elif len(unihashes) > TOO_MANY:
            self._give_up()
            let_go(unihashes)
            return True
        return False

    def _give_up(self) -> None:
        self._table.asked_from = self._given_up = day_of(time_ns() // 1000)
        self.days_written = False

    async def note_sometimes(self) -> None:
        """Note what was put aside, if that was not done lately, or there is much."""
        if self._crowded or perf_counter() - self._noted_at > EVERY:
            await self.note()

    async def note(self) -> None:
        """Note all that was put aside until now, beside lookups."""
        self._noted_at = perf_counter()
        self._crowded = False
        self._take()
        while self._taken or self._found:
            began = perf_counter()
            self._note_some(SLICE)
            await asyncio.sleep(REST * (perf_counter() - began) if self._taken or self._found else 0)

    def tell(self) -> None:
        """Tell whoever follows what was asked for until now; it is noted later."""
        self._take()

    def note_now(self) -> None:
        """The same at once."""
        self._take()
        while self._taken or self._found:
            self._note_some(MOST)

    def follow(self, name: str) -> Followed:
        """What is asked for from now on, until `unfollow`; complete after each `tell` and `note`."""
        self._take()
        self._clear()
        self.most = FOLLOWED_MOST
        return self._followed.setdefault(name, {})

    def unfollow(self, name: str) -> None:
        """End that."""
        self._followed.pop(name, None)
        if not self._followed:
            self.most = MOST

    def _take(self) -> None:
        gone, self._table.gone = self._table.gone, {}
        for method, removed in gone.items():
            self._tell(method, removed)
        rare = self._table.rare
        self._take_found(None, rare.asked)
        rare.asked = untracked(set())
        room = KEPT
        for method, part in self._table.methods.items():
            if part.asked_unihashes:
                self._take_found(method, part.asked_unihashes)
                part.asked_unihashes = untracked(set())
            if keys := part.take_asked():
                self._tell(method, keys)
                self._taken.append((method, keys, self._table.unmap_count))
            if part.full:
                continue
            if part.noted > room:
                part.clear_asked()
            room -= part.noted

    def _take_found(self, method: str | None, unihashes: set[bytes]) -> None:
        if self._followed:  # who follows must know each; what was found before they did is noted later
            self._tell_found(method, unihashes, len(unihashes))
        elif unihashes:
            self._found.append((method, unihashes))

    def _tell_found(self, method: str | None, unihashes: set[bytes], most: int) -> None:
        for name, keys in self._look_for(method, unihashes, most).items():
            self._tell(name, keys)
            self._note_later(name, keys)

    def _note_later(self, method: str, keys: list[Key]) -> None:
        left = len(keys)
        self._taken.append((method, keys, self._table.unmap_count))
        while left > 0 and len(self._taken) > LATER:  # more is asked for than is noted beside
            left -= self._note_some(left)

    def _look_for_some(self, most: int) -> None:
        """Take the mappings that some of the unihashes that were found stand for."""
        method, unihashes = self._found[0]
        by_method = self._look_for(method, unihashes, most)
        if not unihashes:
            self._found.popleft()
        self._taken.extend((name, keys, self._table.unmap_count) for name, keys in by_method.items())

    def _look_for(self, method: str | None, unihashes: set[bytes], most: int) -> dict[str, list[Key]]:
        """The mappings that some of these unihashes stand for, one for each method; those go."""
        some = [unihashes.pop() for _ in range(min(most, len(unihashes)))]
        by_method: dict[str, list[Key]] = {}
        for unihash in some:
            for name in self._table.rare.methods(unihash) if method is None else (method,):
                part = self._table.methods.get(name)
                if part is not None and (key := part.holder(unihash)) is not None:
                    by_method.setdefault(name, []).append(key)
        return by_method

    def _note_some(self, most: int) -> int:
        if not self._taken:
            self._look_for_some(most)
            return 0
        method, keys, unmaps = self._taken[0]
        some = keys[-most:]
        del keys[-most:]
        if not keys:
            self._taken.popleft()
        self._note(method, some, unmaps)
        return len(some)

    def _clear(self) -> None:
        for part in self._table.methods.values():
            part.clear_asked()

    def _tell(self, method: str, keys: Iterable[Key]) -> None:
        for followed in self._followed.values():
            followed.setdefault(method, SpreadSet()).update(keys)

    def _note(self, method: str, keys: list[Key], unmaps: int) -> None:
        part, day = self._table.methods.get(method), day_of(time_ns() // 1000)
        # With no part, all of it was removed meanwhile; if everything counts as asked for on this day, so does this.
        if part is not None and day != self._given_up:
            if unmaps != self._table.unmap_count:
                keys = [key for key in keys if key in part.mappings]  # in a large table, that takes as long as noting
            part.days.note(keys, day)
            self.days_written = False


def _some_of(count: int) -> int:
    """How many of those put aside to tell of when so many more may have come: these, and some of what is left."""
    return min(count + count // 4 + 1, AT_ONCE)

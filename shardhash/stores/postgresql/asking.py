"""Asking: on which day each mapping was last asked for, and what is asked for while a collection runs.

*Days* are in the table `asked`, those of who came without a row at once, all others a few seconds later:

1. What the database answered is put aside, one call for a batch of any size, without what was put aside lately
   (seen.py); so is what was reported again.
2. Every few seconds it is noted with the day, each mapping once a day. Asked for again and again, it was put aside
   once. A server that dies has not noted the last few seconds.
3. What is answered from memory is forgotten at the end of each day (stores/end_of_day.py), so that each server asks the
   database for it once a day.
4. What is not known counts as used: what was asked for before the table was there (`asked_from`), and, if more is asked
   for than can be noted, everything.

*A collection* (collector.py) keeps what is asked for from its begin on. As long as there is one, each statement that
looks something up says so, and what it found is written into the table `kept` and looked up once more before it is
answered (`keep`). That goes through the gate (locks.py), which each step of a removal closes: either the removal finds
it kept, or it is gone before it is answered. Reports keep their mappings in their own transaction. If it cannot be
written, the collection ends.

A server with a replica cannot ask it whether there is a collection, since that is in tables that no standby has. It
knows of one by what it follows of the primary, and keeps what it found there, as far as the primary answers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import compress, repeat
from typing import Final

from shardhash.base.tasks import BackgroundTasks
from shardhash.base.timestamps import DAY
from shardhash.errors import ServerFaultError, StorageError
from shardhash.stores.postgresql.addresses import Connection, describe
from shardhash.stores.postgresql.arrays import bytea_array, int_array
from shardhash.stores.postgresql.connections import Database, Work
from shardhash.stores.postgresql.locks import ENTER
from shardhash.stores.postgresql.methods import Methods
from shardhash.stores.postgresql.seen import Seen
from shardhash.wire.hashes import DIGEST_SIZE, Buffer, split_digests

log = logging.getLogger(__name__)

EVERY: Final = 10.0
"""Seconds between two times of noting."""
MOST: Final = 50_000
"""Mappings from which on what was put aside is noted soon."""
SEVERAL: Final = 64
"""Hashes of a question from which on those that were noted lately are left out first."""
TOO_MANY: Final = 400_000
"""Mappings that may be put aside, 40 MiB. Beyond that the database is away for long, or somebody asks for far more than
builds do: then all mappings count as asked for today."""
PART: Final = 5000
"""Mappings noted by one statement."""
REST: Final = 2
"""How many times as long as a part took passes before the next."""
LAST_LIMIT: Final = 3.0
"""Seconds for the last notes when the server stops."""
REPLICA_LIMIT: Final = 2.0
"""Seconds for which a server with a replica waits for the primary to keep what it answers."""

END_COLLECTION: Final = b"delete from shardhash.collection"
COLLECTING: Final = b"exists (select from shardhash.collection)"
"""Whether a collection runs; no standby can be asked that."""
KEEP: Final = b"""
insert into shardhash.kept (collection, method, taskhash)
select (select number from shardhash.collection limit 1), m.method, m.taskhash
from unnest(%b::int[], %b::bytea[]) as q (method, taskhash)
join shardhash.mapping as m on m.method = q.method and m.taskhash = q.taskhash
where (select number from shardhash.collection limit 1) is not null
order by 2, 3 on conflict do nothing
"""
_KEEP_UNIHASHES = b"""
insert into shardhash.kept (collection, method, taskhash)
select (select number from shardhash.collection limit 1), m.method, m.taskhash
from unnest(%b::bytea[]) as q (unihash)
cross join lateral (select method, taskhash from shardhash.mapping where unihash = q.unihash limit 1) as m
where (select number from shardhash.collection limit 1) is not null
order by 2, 3 on conflict do nothing
"""
"""One mapping is enough for a unihash to exist."""
_NOTED = b"""
and not exists (
    select from shardhash.asked as x where x.method = m.method and x.taskhash = m.taskhash and x.day >= %(day)b::int
)
order by 1, 2 on conflict (method, taskhash) do update set day = excluded.day where a.day < excluded.day
"""
NOTE: Final = (
    b"""
insert into shardhash.asked as a (method, taskhash, day)
select m.method, m.taskhash, %(day)b::int
from unnest(%(methods)b::int[], %(taskhashes)b::bytea[]) as m (method, taskhash)
where exists (select from shardhash.mapping as n where n.method = m.method and n.taskhash = m.taskhash)
"""
    + _NOTED
)
_NOTE_UNIHASHES = (
    b"""
insert into shardhash.asked as a (method, taskhash, day)
select m.method, m.taskhash, %(day)b::int
from unnest(%(unihashes)b::bytea[]) as q (unihash)
cross join lateral (select method, taskhash from shardhash.mapping where unihash = q.unihash limit 1) as m
where true
"""
    + _NOTED
)
_NOTE_ALL = b"update shardhash.asked_from set day = %b::int where day < %b::int"


def today() -> int:
    """The number of this day, from 1970-01-01 UTC."""
    return time.time_ns() // 1000 // DAY


async def note(connection: Connection, methods: Sequence[int], taskhashes: Sequence[bytes]) -> None:
    """Note that mappings are used today, each once, in the transaction that there is."""
    given = {"day": today(), "methods": int_array(methods), "taskhashes": bytea_array(taskhashes)}
    await connection.execute(NOTE, given)


async def keep(connection: Connection, methods: Sequence[int], taskhashes: Sequence[bytes]) -> None:
    """Keep mappings, if a collection runs, in the transaction that there is; it has to be in the gate."""
    await connection.execute(KEEP, [int_array(methods), bytea_array(taskhashes)])


class Asking:
    """What clients of this server ask for. `start` it. Use from one event loop."""

    def __init__(self, database: Database, methods: Methods, replica_collects: Callable[[], bool] | None) -> None:
        """`replica_collects`: lookups go to a replica; says whether a collection runs, as far as is known."""
        self.replica_collects = replica_collects
        self._database = database
        self._methods = methods
        self._seen = Seen()
        self._aside: dict[str, set[bytes]] = {}
        self._unihashes: set[bytes] = set()
        self._all = False
        self._many = asyncio.Event()
        self._complained = False
        self._tasks = BackgroundTasks()

    def start(self) -> None:
        """Begin to note."""
        self._tasks.start(self._run(), "noting what is asked for")

    async def close(self) -> None:
        """Note what is left, if that does not take long."""
        await self._tasks.close()
        with suppress(ServerFaultError, TimeoutError):
            async with asyncio.timeout(LAST_LIMIT):
                await self.note(rest=0)

    # --------------------------------------------------------------------------------------------- putting aside

    def found(self, method: str, digests: Buffer, known: bytes | None) -> None:
        """A lookup of n * 32 bytes of taskhashes was answered by the database; `known` as in `Found`."""
        if len(digests) >= SEVERAL * DIGEST_SIZE:
            digests, known = self._seen.new(method, digests, known), None
        self.put_aside(method, compress(split_digests(digests), repeat(1) if known is None else known))

    def exist(self, digests: Buffer, status: bytes) -> None:
        """The same of an existence check, a byte for each unihash."""
        if len(digests) >= SEVERAL * DIGEST_SIZE:
            digests = self._seen.new("", digests, status)
            status = b"\1" * (len(digests) // DIGEST_SIZE)
        self._unihashes.update(compress(split_digests(digests), status))
        self._look(len(self._unihashes))

    def day_ended(self) -> None:
        """What is asked for from now on is noted with another day."""
        self._seen.forget()

    def put_aside(self, method: str, taskhashes: Iterable[bytes]) -> None:
        """These mappings, as a column holds them, were asked for, or reported again."""
        aside = self._aside.get(method)
        if aside is None:
            aside = self._aside[method] = set()
        aside.update(taskhashes)
        self._look(len(aside))

    def _look(self, count: int) -> None:
        if count > MOST:
            self._many.set()
            if count > TOO_MANY:
                self._aside, self._unihashes, self._all = {}, set(), True

    # --------------------------------------------------------------------------------------------------- noting

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(EVERY):
                    await self._many.wait()
            self._many.clear()
            try:
                await self.note()
            except ServerFaultError as error:
                log.debug("what is asked for is not noted now: %s", error)
                await asyncio.sleep(EVERY)
            except Exception:  # go on: what nobody notes may be removed
                log.exception("internal error while what is asked for was noted; this is a bug")
                await asyncio.sleep(EVERY)

    async def note(self, rest: float = REST) -> None:
        """Note all that was put aside until now. What cannot be noted stays put aside. Raises what a Store does."""
        if self._all:
            await self._database.write(lambda connection: connection.execute(_NOTE_ALL, [today(), today()]))
            self._all = False
        for method in list(self._aside):
            number = await self._methods.find(method)
            keys = self._aside.pop(method, set())
            if number is not None:
                await self._note(partial(_note_some, number), keys, method, rest)
        unihashes, self._unihashes = self._unihashes, set()
        await self._note(_note_unihashes, unihashes, None, rest)

    async def _note(
        self,
        work: Callable[[list[bytes], Connection], Awaitable[None]],
        keys: set[bytes],
        method: str | None,
        rest: float,
    ) -> None:
        """Note these of a method, or unihashes, a part at a time, in ascending order within each."""
        left = sorted(keys)
        try:
            while left:
                began = time.perf_counter()
                await self._database.write(partial(work, left[-PART:]))
                del left[-PART:]
                await asyncio.sleep(rest * (time.perf_counter() - began))
        finally:
            if left:
                (self._unihashes if method is None else self._aside.setdefault(method, set())).update(left)

    # ------------------------------------------------------------------------------------------- collections

    async def keep(self, number: int, taskhashes: Sequence[bytes]) -> None:
        """A collection runs, and these mappings of a method are to be answered: keep them."""
        keys = sorted(taskhashes)
        await self._keep([int_array([number] * len(keys)), bytea_array(keys)], KEEP)

    async def keep_unihashes(self, unihashes: Sequence[bytes]) -> None:
        """The same of an existence check."""
        await self._keep([bytea_array(sorted(unihashes))], _KEEP_UNIHASHES)

    async def _keep(self, given: list[bytes], statement: bytes) -> None:
        async def write(connection: Connection) -> None:
            await connection.execute(ENTER)
            await connection.execute(statement, given)

        if self.replica_collects is None:
            await self._write_or_end(write)
            return
        try:
            async with asyncio.timeout(REPLICA_LIMIT):
                await self._write_or_end(write)
        except (ServerFaultError, TimeoutError) as error:
            level, self._complained = logging.DEBUG if self._complained else logging.WARNING, True
            log.log(level, "a collection runs, but what the replica answers is not kept: %s", describe(error))
        else:
            self._complained = False

    async def _write_or_end(self, write: Work[None]) -> None:
        """Write; a database that takes no more, as its disk is full, ends the collection, so that lookups go on."""
        try:
            await self._database.write(write)
        except StorageError as error:
            log.error("the collection ends, since what is asked for cannot be kept: %s", error)
            await self._database.write(lambda connection: connection.execute(END_COLLECTION))


async def _note_some(method: int, taskhashes: list[bytes], connection: Connection) -> None:
    await note(connection, [method] * len(taskhashes), taskhashes)


async def _note_unihashes(unihashes: list[bytes], connection: Connection) -> None:
    await connection.execute(_NOTE_UNIHASHES, {"day": today(), "unihashes": bytea_array(unihashes)})

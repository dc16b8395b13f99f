"""A collection on a database (wire/collecting.py), one at a time over all servers; asking.py has what it keeps.

=============  ========================================================================================
collection     the one that runs: its number and name, a beat, when it was last seen alive and last asked for a step
kept           mappings that stay, by the number of the collection
doomed         what was chosen to go, in an order
=============  ========================================================================================

These tables are *unlogged*: a crash of the database, or a standby that takes over, finds all three empty, so that the
collection is over and nothing more goes. Nothing else is written before `take`.

The begin closes the gate: reports that are under way end, all others see it. Then it waits until each server has
forgotten what it had at hand (changes.py). The server that makes it counts the beat up for as long as its client is
there; another server may begin `LEASE` seconds after the last beat or step, and a beat that stands still for longer is
ended by the others (following.py), so that lookups need keep nothing any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from shardhash.base.tasks import BackgroundTasks
from shardhash.errors import InvokeError, ServerFaultError
from shardhash.stores.interface import Doomed, DoomedTasks, GoesOn, Taken
from shardhash.stores.postgresql import collector_sql as sql
from shardhash.stores.postgresql.addresses import Connection
from shardhash.stores.postgresql.arrays import bytea_array, int_array
from shardhash.stores.postgresql.asking import END_COLLECTION
from shardhash.stores.postgresql.changes import COLLECTION, WAKE, Begin, Changes, tell
from shardhash.stores.postgresql.codec import pack_hash, pack_text, unpack_hash, unpack_row, unpack_text
from shardhash.stores.postgresql.connections import Database
from shardhash.stores.postgresql.locks import CLOSE
from shardhash.stores.postgresql.methods import Methods
from shardhash.wire.collecting import CollectedMapping
from shardhash.wire.hashes import Buffer, split_digests

log = logging.getLogger(__name__)

QUIET: Final = 120.0
"""Seconds without a step after which another server may begin."""
LEASE: Final = 3.0
"""Seconds without a beat after which it may: the server or its client has ended, most likely."""
BEAT: Final = 0.5
LEAST: Final = 2.0
"""Seconds that the begin waits at least for servers that have no lease (`--answer-lease 0`) to hear of it."""
LAST_LIMIT: Final = 2.0
"""Seconds for the end of a collection when the server stops."""
CLEARED: Final = 50_000
"""Entries of collections that are over which are forgotten in one transaction."""
FULL_PAGE: Final = 1 << 20
"""Bytes of siginfo after which a page ends."""
OVER: Final = (
    "the collection is over: another server began one, or the database started again or could not keep what is asked"
    " for. Nothing more is removed"
)


class PostgresqlCollector:
    """A Collector; see there. Use from one event loop."""

    knows_asked = True

    def __init__(self, database: Database, methods: Methods, changes: Changes) -> None:
        self._database = database
        self._methods = methods
        self._changes = changes
        self._beating = BackgroundTasks()
        self._name: str | None = None
        """The collection that this server makes, or made last."""

    async def close(self) -> None:
        """End what is under way, if that does not take long; else the others do."""
        await self._beating.close()
        if self._name is not None:
            with suppress(ServerFaultError, TimeoutError):
                async with asyncio.timeout(LAST_LIMIT):
                    await self._database.write(partial(_end, self._name))

    async def begin(self, name: str, goes_on: GoesOn) -> int:
        """See Collector."""

        async def write(connection: Connection) -> int:
            await connection.execute(CLOSE)
            await _refuse_if_another_runs(connection)
            await connection.execute(END_COLLECTION)
            await connection.execute(sql.BEGIN, [pack_text(name)])
            return await tell(connection, COLLECTION, pack_text(name))

        number = await self._database.write(write)
        self._name = name
        await self._beating.close()
        self._beating = BackgroundTasks()
        self._beating.start(self._beat(name, goes_on), "the beat of a collection")
        await self._changes.until_followed(number, LEAST)
        await self._clear()
        count = 0
        async for rows in self._slices(name, sql.COUNT, {}):
            count += rows[0][0]
        return count

    async def keep(self, name: str, unihashes: Buffer) -> int:
        """See Collector."""
        wanted = bytea_array(sorted(set(split_digests(unihashes))))

        async def write(connection: Connection) -> int:
            number = await _step(name, connection)
            (count,) = await _row(sql.KEEP_UNIHASHES, [number, wanted], connection)
            return int(count)

        return await self._database.write(write)

    async def keep_used(self, name: str, day: int) -> int:
        """See Collector."""
        count = 0
        async for rows in self._slices(name, sql.KEEP_USED, {"day": day}):
            count += rows[0][0]
        return count

    async def choose(self, name: str) -> Doomed:
        """See Collector."""

        async def forget(connection: Connection) -> None:
            await connection.execute(sql.CLEAR_DOOMED, [await _step(name, connection)])

        await self._database.write(forget)
        mappings: Counter[str | None] = Counter()
        of_rows: Counter[str | None] = Counter()
        looked_at = 0
        async for rows in self._slices(name, sql.CHOOSE, {}):
            for recipe, count, its_rows, method, _ in rows:
                if method is not None:
                    looked_at += count
                else:
                    known = None if recipe is None else unpack_text(recipe)
                    mappings[known] += count
                    of_rows[known] += its_rows
        recipes = [(recipe, count, of_rows[recipe]) for recipe, count in mappings.most_common()]
        return Doomed(mappings.total(), of_rows.total(), looked_at - mappings.total(), recipes)

    async def show(self, name: str, after: int, limit: int) -> DoomedTasks:
        """See Collector."""
        page, rows = await self._database.write(partial(_show, name, after, limit))
        names = {number: method for method, number in (await self._methods.all()).items()}
        tasks: list[dict[str, Any]] = []
        for place, (_, method, taskhash, unihash, mark, _) in enumerate(page.tasks, 1):
            if unihash is None:  # removed otherwise
                continue
            task = {"method": names[method], "taskhash": unpack_hash(taskhash), "unihash": unihash.hex()}
            own = [unpack_row(names[method], row) for row in rows.get(place, ())]
            tasks.append({**task, "gc_mark": unpack_text(mark), "rows": own})
        return DoomedTasks(tasks, page.next)

    async def take(self, name: str, mappings: Sequence[CollectedMapping]) -> Taken:
        """See Collector."""
        numbers = await self._methods.all()
        known = sorted(
            {
                (numbers[method], pack_hash(taskhash), bytes.fromhex(unihash))
                for method, taskhash, unihash in mappings
                if method in numbers
            }
        )
        given = {
            "methods": int_array([method for method, _, _ in known]),
            "taskhashes": bytea_array([taskhash for _, taskhash, _ in known]),
            "unihashes": bytea_array([unihash for _, _, unihash in known]),
        }
        async with self._changes.removal() as begin:
            return await self._database.write(partial(_take, name, begin, given))

    async def end(self, name: str) -> None:
        """See Collector."""
        await self._database.write(partial(_end, name))
        if self._name == name:
            self._name = None
            await self._beating.close()
        await self._clear()

    async def _beat(self, name: str, goes_on: GoesOn) -> None:
        """Say that a collection goes on, while it does."""
        while True:
            await asyncio.sleep(BEAT)
            try:
                if await goes_on():
                    await self._database.write(partial(_row_or_none, sql.BEAT, [pack_text(name)]))
            except ServerFaultError as error:
                log.debug("a collection does not say now that it goes on: %s", error)

    async def _clear(self) -> None:
        """Forget what collections that are over kept and chose."""
        for statement in sql.CLEAR:
            while (await self._database.write(partial(_row, statement, [CLEARED]))) != (0,):
                pass

    async def _slices(self, name: str, statement: bytes, given: dict[str, Any]) -> Any:
        """The rows of a statement that looks at all mappings, a slice after the other.

        The last two columns of one row are where the next slice begins; without a row all was looked at.
        """
        method, taskhash = 0, b""
        while True:
            places = {"method": method, "taskhash": taskhash}
            rows = await self._database.write(partial(_slice, name, statement, given | places))
            if not rows:
                return
            yield rows
            method, taskhash = next(row[-2:] for row in rows if row[-1] is not None)


class _Page:
    """What is shown: of each mapping place, method, taskhash, unihash, mark and bytes of siginfo; the next place."""

    def __init__(self, found: list[tuple[Any, ...]], limit: int) -> None:
        self.tasks: list[tuple[Any, ...]] = []
        self.next: int | None = None
        size = 0
        for task in found:
            if size >= FULL_PAGE:
                self.next = self.tasks[-1][0]
                return
            self.tasks.append(task)
            size += task[-1]
        if len(found) == limit:
            self.next = self.tasks[-1][0]


async def _refuse_if_another_runs(connection: Connection) -> None:
    row = await _row_or_none(sql.OTHER, [], connection)
    if row is not None and row[0] < QUIET and row[1] < LEASE:
        raise InvokeError(
            f"a collection is under way at another server of this database, its last step {row[0]:.0f} s ago; there is"
            f" one at a time. If that server or its client has ended, ask again in {LEASE:g} s"
        )


async def _end(name: str, connection: Connection) -> None:
    await connection.execute(sql.END, [pack_text(name)])
    await connection.execute(WAKE)


async def _step(name: str, connection: Connection) -> int:
    """A step of a collection begins; its number. InvokeError if it is over."""
    row = await _row_or_none(sql.STEP, [pack_text(name)], connection)
    if row is None:
        raise InvokeError(OVER)
    return int(row[0])


async def _slice(name: str, statement: bytes, given: dict[str, Any], connection: Connection) -> list[tuple[Any, ...]]:
    number = await _step(name, connection)
    cursor = connection.cursor(binary=True)
    return await (await cursor.execute(statement, given | {"number": number})).fetchall()


async def _show(
    name: str, after: int, limit: int, connection: Connection
) -> tuple[_Page, dict[int, list[tuple[Any, ...]]]]:
    number = await _step(name, connection)
    cursor = connection.cursor(binary=True)
    await cursor.execute(sql.SHOW, {"number": number, "after": after, "limit": limit})
    page = _Page(await cursor.fetchall(), limit)
    methods, taskhashes = [task[1] for task in page.tasks], [task[2] for task in page.tasks]
    await cursor.execute(sql.ROWS, [int_array(methods), bytea_array(taskhashes)])
    rows: dict[int, list[tuple[Any, ...]]] = {}
    for place, *row in await cursor.fetchall():
        rows.setdefault(place, []).append(tuple(row))
    return page, rows


async def _take(name: str, begin: Begin, given: dict[str, Any], connection: Connection) -> Taken:
    await begin(connection)
    number = await _step(name, connection)
    mappings, rows = await _row(sql.TAKE, given | {"number": number}, connection)
    return Taken(mappings, rows)


async def _row(statement: bytes, given: Any, connection: Connection) -> tuple[Any, ...]:
    row = await _row_or_none(statement, given, connection)
    assert row is not None, "an aggregate has a row"
    return row


async def _row_or_none(statement: bytes, given: Any, connection: Connection) -> tuple[Any, ...] | None:
    cursor = connection.cursor(binary=True)
    return await (await cursor.execute(statement, given)).fetchone()

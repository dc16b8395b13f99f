"""Garbage collection over a database that several servers share.

The current mark is the setting "gc-mark". It changes only behind the closed gate (locks.py), so every mapping that is
stored later carries it. Each slice of a sweep looks, behind the gate too, whether its mark still is the current one;
the sweep has happened when the mark is gone, and until then it can be asked again, after any crash, of any server.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from shardhash.errors import InvokeError
from shardhash.stores.interface import CollectionStatus
from shardhash.stores.postgresql.addresses import Connection
from shardhash.stores.postgresql.changes import Changes
from shardhash.stores.postgresql.codec import pack_hash, pack_text
from shardhash.stores.postgresql.connections import Database
from shardhash.stores.postgresql.entries import MARK, read_entry, write_entry
from shardhash.stores.postgresql.locks import CLOSE, ENTER
from shardhash.stores.postgresql.methods import Methods
from shardhash.stores.postgresql.walks import MAPPINGS, Condition, condition_of, walk
from shardhash.wire.rows import Where

MARKS_AT_ONCE = 5000
"""Unihashes of one statement; a whole sstate cache is marked by unihash, by the million."""

_MARK_UNIHASHES = b"""
with asked as (select * from unnest(%(unihashes)b::bytea[]) with ordinality as q (unihash, place)),
changed as (
    update shardhash.mapping as m set mark = %(mark)b::bytea
    from (select distinct unihash from asked) as q where m.unihash = q.unihash and m.mark <> %(mark)b::bytea
)
select (select count(*) from shardhash.mapping as m where m.unihash = q.unihash) from asked as q order by place
"""
_SET_MARK = "update {table} as t set mark = %(mark)b::bytea from part as s where {match}"
_DELETE = "delete from {table} as t using part as s where {match}"
_COUNT = b"select count(*) filter (where mark = %b::bytea), count(*) from shardhash.mapping"


class Collections:
    """Marks, and sweeps what has none."""

    def __init__(self, database: Database, methods: Methods, changes: Changes) -> None:
        self._database = database
        self._changes = changes
        self._methods = methods

    async def mark(self, marks: Sequence[tuple[str, Where]]) -> list[int]:
        """See Store.gc_mark."""
        counts: list[int] = []
        for (mark, by_unihash), some in groupby(marks, key=lambda one: (one[0], list(one[1]) == ["unihash"])):
            await self._make_current(mark)
            wheres = [where for _, where in some]
            if by_unihash:
                for start in range(0, len(wheres), MARKS_AT_ONCE):
                    unihashes = [pack_hash(where["unihash"]) for where in wheres[start : start + MARKS_AT_ONCE]]
                    counts += await self._mark_unihashes(mark, unihashes)
            else:
                counts += [await self._mark_matching(mark, where) for where in wheres]
        return counts

    async def _make_current(self, mark: str) -> None:
        async def write(connection: Connection) -> None:
            await connection.execute(CLOSE)
            await write_entry(connection, *MARK, mark)

        if await self._database.read(lambda connection: read_entry(connection, *MARK)) != mark:
            await self._database.write(write)

    async def _mark_unihashes(self, mark: str, unihashes: list[bytes]) -> list[int]:
        async def write(connection: Connection) -> list[int]:
            await connection.execute(ENTER)
            cursor = connection.cursor(binary=True)
            await cursor.execute(_MARK_UNIHASHES, {"unihashes": unihashes, "mark": pack_text(mark)})
            return [count for (count,) in await cursor.fetchall()]

        return await self._database.write(write)

    async def _mark_matching(self, mark: str, where: Where) -> int:
        condition = await condition_of(MAPPINGS, where, self._methods)
        if condition is None:
            return 0
        return await walk(self._database, MAPPINGS, condition, _SET_MARK, _enter, {"mark": pack_text(mark)})

    async def status(self) -> CollectionStatus:
        """See Store.gc_status."""

        async def read(connection: Connection) -> CollectionStatus:
            mark = await read_entry(connection, *MARK)
            cursor = connection.cursor(binary=True)
            row: Any = await (await cursor.execute(_COUNT, [pack_text(mark or "")])).fetchone()
            return CollectionStatus(row[0], row[1] - row[0], mark or None)

        return await self._database.read(read)

    async def sweep(self, mark: str) -> int:
        """See Store.gc_sweep."""

        async def check(connection: Connection) -> None:
            if not mark or await read_entry(connection, *MARK) != mark:
                raise InvokeError(f"'{mark}' is not the current mark. Refusing to sweep")

        async def forget_mark(connection: Connection) -> None:
            await connection.execute(CLOSE)
            if await read_entry(connection, *MARK) == mark:  # else another server has finished this sweep
                await write_entry(connection, *MARK, None)

        await self._database.read(check)
        unmarked = Condition("t.mark <> %(mark)b::bytea", {"mark": pack_text(mark)})
        async with self._changes.removal() as begin:

            async def begin_and_check(connection: Connection) -> None:
                await begin(connection)
                await check(connection)

            count = await walk(self._database, MAPPINGS, unmarked, _DELETE, begin_and_check, {})
        await self._database.write(forget_mark)
        return count


async def _enter(connection: Connection) -> None:
    await connection.execute(ENTER)

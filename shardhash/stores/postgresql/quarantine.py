"""Quarantine on a database: what stores/sharded/quarantine.py does, as one transaction behind the closed gate.

The same entries keep it, so that a copy from or to a data directory has it. Outhashes that equate nothing are
rows of the table `barred`, one for each quarantine that names them; a round of reports reads it with the lines of its
outhashes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from shardhash.base.entry_kinds import QUARANTINE, QUARANTINE_PART
from shardhash.errors import InvokeError
from shardhash.stores.interface import Chosen
from shardhash.stores.postgresql.addresses import Connection
from shardhash.stores.postgresql.changes import Begin, Changes
from shardhash.stores.postgresql.codec import pack_hash, pack_text, unpack_hash
from shardhash.stores.postgresql.connections import Database
from shardhash.stores.postgresql.entries import Entries, write_entry
from shardhash.stores.postgresql.explorer import PostgresqlExplorer, search_of
from shardhash.stores.postgresql.methods import Methods
from shardhash.stores.quarantines import (
    MOST,
    Restore,
    entry_of,
    entry_or_refusal,
    newest_first,
    part_name,
    parts_of,
    restore_parts,
)

_CHOOSE = """
select r.method, r.taskhash, r.outhash, m.unihash
from shardhash.outrow as r left join shardhash.mapping as m on m.method = r.method and m.taskhash = r.taskhash
where {rows} limit {limit}
"""
_WHOLE = b"""
with chosen as materialized (
    select * from unnest(%(methods)s::int[], %(taskhashes)b::bytea[], %(outhashes)b::bytea[])
        as q (method, taskhash, outhash)
)
select distinct c.method, c.outhash from chosen as c
where not exists (
    select from shardhash.outrow as r where r.method = c.method and r.outhash = c.outhash and not exists (
        select from chosen as other
        where other.method = r.method and other.taskhash = r.taskhash and other.outhash = r.outhash
    )
)
"""
_DROP_MAPPINGS = b"""
with gone as (
    delete from shardhash.mapping as m
    using unnest(%b::int[], %b::bytea[], %b::bytea[]) as q (method, taskhash, unihash)
    where m.method = q.method and m.taskhash = q.taskhash and m.unihash = q.unihash returning m.method, m.taskhash
)
delete from shardhash.asked as a using gone as g where a.method = g.method and a.taskhash = g.taskhash
"""
_BAR = b"""
insert into shardhash.barred (method, outhash, quarantine)
select method, outhash, %b::bytea from unnest(%b::int[], %b::bytea[]) as q (method, outhash) on conflict do nothing
"""
_UNBAR = b"delete from shardhash.barred where quarantine = %b::bytea"
_DISCARD_MAPPINGS = b"""
delete from shardhash.mapping as m using unnest(%b::int[], %b::bytea[], %b::bytea[]) as q (method, taskhash, outhash)
where m.method = q.method and m.taskhash = q.taskhash and exists (
    select from shardhash.outrow as r
    where r.method = q.method and r.taskhash = q.taskhash and r.outhash = q.outhash
)
"""
_DISCARD_ROWS = b"""
delete from shardhash.outrow as r using unnest(%b::int[], %b::bytea[], %b::bytea[]) as q (method, taskhash, outhash)
where r.method = q.method and r.taskhash = q.taskhash and r.outhash = q.outhash
"""

_Row: TypeAlias = tuple[int, bytes, bytes, bytes | None]
"""method, taskhash, outhash, unihash"""


class _Choice(NamedTuple):
    rows: int
    mappings: list[tuple[int, bytes, bytes]]
    """method, taskhash, unihash"""
    barred: list[tuple[int, bytes]]
    """method, outhash"""
    shared: int


class PostgresqlQuarantine:
    """A Quarantine; see there. `restore` puts mappings back."""

    def __init__(
        self,
        database: Database,
        methods: Methods,
        explorer: PostgresqlExplorer,
        entries: Entries,
        changes: Changes,
        restore: Restore,
    ) -> None:
        self._database = database
        self._methods = methods
        self._explorer = explorer
        self._entries = entries
        self._changes = changes
        self._restore = restore

    async def choose(self, search: Mapping[str, Any]) -> Chosen:
        """See Quarantine."""
        return _chosen(await self._choose(search))

    async def begin(self, search: Mapping[str, Any], note: Mapping[str, Any]) -> dict[str, Any]:
        """See Quarantine."""
        choice = await self._choose(search)
        names = {number: name for name, number in (await self._methods.all()).items()}
        mappings = [
            (names[method], unpack_hash(taskhash), unihash.hex()) for method, taskhash, unihash in choice.mappings
        ]
        barred = [(names[method], unpack_hash(outhash)) for method, outhash in choice.barred]
        parts = parts_of(mappings, barred)
        entry = entry_of(note, _chosen(choice), len(parts), done=True)
        async with self._changes.removal() as begin:
            await self._database.write(partial(_set_aside, begin, entry, parts, choice))
        return entry

    async def entries(self) -> list[dict[str, Any]]:
        """See Quarantine."""
        return newest_first(await self._entries.list(QUARANTINE))

    async def release(self, name: str) -> dict[str, Any]:
        """See Quarantine."""
        entry = entry_or_refusal(await self._entries.get(QUARANTINE, name), name)
        released = await restore_parts(entry, partial(self._entries.get, QUARANTINE_PART), self._restore)
        await self._database.write(partial(_forget, name, entry["parts"]))
        return released

    async def discard(self, rows: Sequence[tuple[str, str, str]]) -> int:
        """See Quarantine."""
        numbers = await self._methods.all()
        places = [
            (numbers[method], pack_hash(taskhash), pack_hash(outhash))
            for method, taskhash, outhash in rows
            if method in numbers
        ]
        if not places:
            return 0
        async with self._changes.removal() as begin:
            return await self._database.write(partial(_discard, begin, _columns(places, 3)))

    async def _choose(self, search: Mapping[str, Any]) -> _Choice:
        conditions = await search_of(search, self._methods)
        statement = _CHOOSE.format(rows=conditions.rows, limit=MOST + 1).encode()
        rows: list[_Row]
        (rows,) = await self._explorer.ask(conditions.given, statement)
        if len(rows) > MOST:
            raise InvokeError(f"more than {MOST} rows match: choose fewer at a time")
        methods, taskhashes, outhashes, _ = _columns(rows, 4)
        given = {"methods": methods, "taskhashes": taskhashes, "outhashes": outhashes}
        (barred,) = await self._explorer.ask(given, _WHOLE)
        mappings = {(method, taskhash): unihash for method, taskhash, _, unihash in rows if unihash is not None}
        return _Choice(
            len(rows),
            [(method, taskhash, unihash) for (method, taskhash), unihash in mappings.items()],
            [(method, outhash) for method, outhash in barred],
            len({(method, outhash) for method, _, outhash, _ in rows}) - len(barred),
        )


async def _set_aside(
    begin: Begin, entry: dict[str, Any], parts: Sequence[dict[str, Any]], choice: _Choice, connection: Connection
) -> None:
    await begin(connection)
    name = entry["name"]
    for number, part in enumerate(parts):
        await write_entry(connection, QUARANTINE_PART, part_name(name, number), part)
    await write_entry(connection, QUARANTINE, name, entry)
    await connection.execute(_BAR, [pack_text(name), *_columns(choice.barred, 2)])
    await connection.execute(_DROP_MAPPINGS, _columns(choice.mappings, 3))


async def _forget(name: str, parts: int, connection: Connection) -> None:
    await connection.execute(_UNBAR, [pack_text(name)])
    for number in range(parts):
        await write_entry(connection, QUARANTINE_PART, part_name(name, number), None)
    await write_entry(connection, QUARANTINE, name, None)


async def _discard(begin: Begin, columns: list[list[Any]], connection: Connection) -> int:
    await begin(connection)
    async with connection.pipeline():
        mappings = await connection.execute(_DISCARD_MAPPINGS, columns)
        rows = await connection.execute(_DISCARD_ROWS, columns)
    return mappings.rowcount + rows.rowcount


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [[row[place] for row in rows] for place in range(width)]


def _chosen(choice: _Choice) -> Chosen:
    return Chosen(choice.rows, len(choice.mappings), len(choice.barred), choice.shared)

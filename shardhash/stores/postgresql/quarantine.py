"""Quarantine on a database: what stores/sharded/quarantine.py does, as one transaction behind the closed gate.

The same entries keep it, so that a copy from or to a data directory has it. Outhashes that equate nothing are
rows of the table `barred`, one for each quarantine that names them; a round of reports reads it with the lines of its
outhashes.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

from shardhash.errors import InvokeError
from shardhash.stores.interface import Chosen
from shardhash.stores.postgresql.addresses import Connection
from shardhash.stores.postgresql.changes import Begin, Changes
from shardhash.stores.postgresql.codec import pack_hash, pack_text, unpack_hash
from shardhash.stores.postgresql.connections import Database
from shardhash.stores.postgresql.entries import Entries, write_entry
from shardhash.stores.postgresql.explorer import PostgresqlExplorer, search_of
from shardhash.stores.postgresql.methods import Methods
from shardhash.wire.imports import ImportedMapping

KIND: Final = "quarantine"
PARTS: Final = "quarantine-part"
MOST: Final = 20_000
"""Rows that one quarantine may choose."""
PART: Final = 500
"""Mappings, or outhashes, of a part."""

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
delete from shardhash.mapping as m using unnest(%b::int[], %b::bytea[], %b::bytea[]) as q (method, taskhash, unihash)
where m.method = q.method and m.taskhash = q.taskhash and m.unihash = q.unihash
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

Restore: TypeAlias = Callable[[Sequence[ImportedMapping]], Awaitable[list[str]]]
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
        parts = [
            {"mappings": mappings[start : start + PART], "outhashes": barred[start : start + PART]}
            for start in range(0, max(len(mappings), len(barred)), PART)
        ]
        chosen = _chosen(choice)
        entry = {
            **note, "name": secrets.token_hex(8), "rows": chosen.rows, "mappings": chosen.mappings,
            "outhashes": chosen.outhashes, "shared": chosen.shared, "parts": len(parts), "done": True,
        }  # fmt: skip
        async with self._changes.removal() as begin:
            await self._database.write(partial(_set_aside, begin, entry, parts, choice))
        return entry

    async def entries(self) -> list[dict[str, Any]]:
        """See Quarantine."""
        entries = await self._entries.list(KIND)
        return sorted(entries.values(), key=lambda entry: str(entry["time"]), reverse=True)

    async def release(self, name: str) -> dict[str, Any]:
        """See Quarantine."""
        entry = await self._entries.get(KIND, name)
        if entry is None:
            raise InvokeError(f"there is no quarantine {name[:80]!r}; `quarantines` lists them")
        restored = 0
        for number in range(entry["parts"]):
            part = await self._entries.get(PARTS, f"{name}.{number}")
            if part is not None:
                answers = await self._restore([ImportedMapping(*mapping) for mapping in part["mappings"]])
                restored += answers.count("new")
        await self._database.write(partial(_forget, name, entry["parts"]))
        return {**entry, "restored": restored}

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
        await write_entry(connection, PARTS, f"{name}.{number}", part)
    await write_entry(connection, KIND, name, entry)
    await connection.execute(_BAR, [pack_text(name), *_columns(choice.barred, 2)])
    await connection.execute(_DROP_MAPPINGS, _columns(choice.mappings, 3))


async def _forget(name: str, parts: int, connection: Connection) -> None:
    await connection.execute(_UNBAR, [pack_text(name)])
    for number in range(parts):
        await write_entry(connection, PARTS, f"{name}.{number}", None)
    await write_entry(connection, KIND, name, None)


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

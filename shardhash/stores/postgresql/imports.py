"""Imports into a running store: mappings and rows of another server, between reports and lookups.

Mappings go first, each unless there is one: a row that came before its mapping would get that of its local equivalents.
Rows of a part hold the locks of their outhashes like a round of reports (report_rounds.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from shardhash.stores.postgresql.addresses import Connection
from shardhash.stores.postgresql.asking import keep, note
from shardhash.stores.postgresql.codec import pack_hash, pack_optional, pack_text
from shardhash.stores.postgresql.connections import Database
from shardhash.stores.postgresql.entries import read_mark
from shardhash.stores.postgresql.locks import ENTER, LOCK_OUTHASHES, lock_key
from shardhash.stores.postgresql.methods import Methods
from shardhash.wire.imports import ImportedMapping, ImportedRow
from shardhash.wire.rows import KNOWN, NEW, OLDER

PART: Final = 500
"""Mappings or rows of one transaction."""

_INSERT_MAPPINGS = b"""
insert into shardhash.mapping (method, taskhash, unihash, mark)
select method, taskhash, unihash, %b::bytea
from unnest(%b::int[], %b::bytea[], %b::bytea[]) as q (method, taskhash, unihash)
on conflict do nothing returning method, taskhash
"""
_MAPPINGS = b"""
select (select unihash from shardhash.mapping as m where m.method = q.method and m.taskhash = q.taskhash)
from unnest(%b::int[], %b::bytea[]) with ordinality as q (method, taskhash, place) order by q.place
"""
_CREATED = b"""
select (
    select created from shardhash.outrow as r
    where r.method = q.method and r.taskhash = q.taskhash and r.outhash = q.outhash
)
from unnest(%b::int[], %b::bytea[], %b::bytea[]) with ordinality as q (method, taskhash, outhash, place)
order by q.place
"""
_PUT_ROWS = b"""
insert into shardhash.outrow as r (method, taskhash, outhash, created, owner, pn, pv, pr, task, siginfo)
select * from unnest(
    %b::int[], %b::bytea[], %b::bytea[], %b::bigint[],
    %b::bytea[], %b::bytea[], %b::bytea[], %b::bytea[], %b::bytea[], %b::bytea[]
)
on conflict (method, taskhash, outhash) do update set created = excluded.created, owner = excluded.owner,
    pn = excluded.pn, pv = excluded.pv, pr = excluded.pr, task = excluded.task, siginfo = excluded.siginfo
"""

_Place = tuple[int, bytes]


class Imports:
    """Takes in what another server has collected."""

    def __init__(self, database: Database, methods: Methods) -> None:
        self._database = database
        self._methods = methods

    async def take_mappings(self, mappings: Sequence[ImportedMapping]) -> list[str]:
        """See TakesImports."""
        answers: list[str] = []
        numbers = await self._methods.make({mapping.method for mapping in mappings})
        for start in range(0, len(mappings), PART):
            part = [
                ((numbers[method], pack_hash(taskhash)), bytes.fromhex(unihash))
                for method, taskhash, unihash in mappings[start : start + PART]
            ]
            answers += await self._database.write(partial(_take_mappings, part))
        return answers

    async def take_rows(self, rows: Sequence[ImportedRow]) -> list[str]:
        """See TakesImports."""
        answers: list[str] = []
        numbers = await self._methods.make({row.method for row in rows})
        for start in range(0, len(rows), PART):
            part = rows[start : start + PART]
            answers += await self._database.write(partial(_take_rows, numbers, part))
        return answers


async def _take_mappings(part: list[tuple[_Place, bytes]], connection: Connection) -> list[str]:
    await connection.execute(ENTER)
    mark = await read_mark(connection)
    first: dict[_Place, bytes] = {}
    for place, unihash in part:
        first.setdefault(place, unihash)
    places = sorted(first)
    methods, taskhashes = [method for method, _ in places], [taskhash for _, taskhash in places]
    inserted, in_force = connection.cursor(binary=True), connection.cursor(binary=True)
    await inserted.execute(_INSERT_MAPPINGS, [pack_text(mark), methods, taskhashes, [first[place] for place in places]])
    await in_force.execute(_MAPPINGS, [methods, taskhashes])
    await note(connection, methods, taskhashes)  # no row says when it came
    await keep(connection, methods, taskhashes)
    new = set(await inserted.fetchall())
    found = dict(zip(places, [unihash for (unihash,) in await in_force.fetchall()], strict=True))
    answers = []
    for place, unihash in part:
        if place in new:
            new.discard(place)
            answers.append(NEW)
        else:
            answers.append(KNOWN if found[place] == unihash else found[place].hex())
    return answers


async def _take_rows(numbers: dict[str, int], part: Sequence[ImportedRow], connection: Connection) -> list[str]:
    keys = [(numbers[row.method], pack_hash(row.taskhash), pack_hash(row.outhash)) for row in part]
    columns = [list(column) for column in zip(*keys, strict=True)]
    await connection.execute(ENTER)
    await connection.execute(LOCK_OUTHASHES, [sorted({lock_key(method, outhash) for method, _, outhash in keys})])
    cursor = connection.cursor(binary=True)
    await cursor.execute(_CREATED, columns)
    there: dict[tuple[int, bytes, bytes], int | None] = {
        key: created for key, (created,) in zip(keys, await cursor.fetchall(), strict=True)
    }
    answers, put = [], {}  # type: tuple[list[str], dict[tuple[int, bytes, bytes], ImportedRow]]
    for key, row in zip(keys, part, strict=True):
        created = there[key]
        if created is not None and created <= row.created:
            answers.append(KNOWN)
            continue
        answers.append(NEW if created is None else OLDER)
        there[key] = row.created
        put[key] = row
    if put:
        await connection.execute(_PUT_ROWS, _columns(put))
        places = sorted({(method, taskhash) for method, taskhash, _ in put})  # no undo file has these rows
        await keep(connection, [method for method, _ in places], [taskhash for _, taskhash in places])
    return answers


def _columns(put: dict[tuple[int, bytes, bytes], ImportedRow]) -> list[list[Any]]:
    rows = [(*key, row.created, *map(pack_optional, row[4:])) for key, row in sorted(put.items())]
    return [list(column) for column in zip(*rows, strict=True)]

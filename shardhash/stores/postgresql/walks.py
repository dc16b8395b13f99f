"""Walks: what removals, collections and `clean-unused` do to whole tables, a slice of keys at a time.

A slice is a transaction of its own, of some 10 ms, so that reports come in between. It remembers the last key, and the
next one begins behind it: rows that come meanwhile are met or not, as if they had come later.
Conditions are column to value, ANDed; each table takes those that are columns of its own, and one with none left is not
touched (PROTOCOL, "remove, exactly").
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from shardhash.stores.postgresql.addresses import Connection
from shardhash.stores.postgresql.changes import Begin
from shardhash.stores.postgresql.codec import pack_hash, pack_text
from shardhash.stores.postgresql.connections import Database
from shardhash.stores.postgresql.methods import Methods
from shardhash.wire.rows import MAPPING_CONDITIONS, ROW_CONDITIONS, Where

SLICE = 2000
"""Keys looked at in one transaction."""


class Table(NamedTuple):
    """A table, for walks: its key, its columns that conditions may name, and those of them that have an index."""

    name: str
    key: tuple[str, ...]
    conditions: tuple[str, ...]
    indexed: frozenset[str]


MAPPINGS = Table("shardhash.mapping", ("method", "taskhash"), MAPPING_CONDITIONS, frozenset({"taskhash", "unihash"}))
ROWS = Table("shardhash.outrow", ("method", "taskhash", "outhash"), ROW_CONDITIONS, frozenset({"taskhash", "outhash"}))
_COLUMNS = {"gc_mark": "mark", "outhash_siginfo": "siginfo"}
_HASHES = ("taskhash", "outhash", "unihash")
_FORGET_DAYS = """,
        forgotten as (
            delete from shardhash.asked as a using changed as c where a.method = c.method and a.taskhash = c.taskhash
        )"""
"""The days on which mappings were last asked for go with them."""
_FIRST: dict[str, Any] = {"method": 0, "taskhash": b"", "outhash": b""}


class Condition(NamedTuple):
    """SQL that says which rows of a table, named ``t``, and its parameters by name.

    `keys`: the part of it that the walk over the keys itself takes: the method, and what has an index.
    """

    text: str
    given: dict[str, Any]
    keys: str = "true"
    indexed: bool = False


async def condition_of(table: Table, where: Where, methods: Methods) -> Condition | None:
    """What the conditions say of a table; None when no column of it is among them."""
    named = {name: value for name, value in where.items() if name in table.conditions}
    if not named:
        return None
    texts: list[str] = []
    given: dict[str, Any] = {}
    if "method" in named:
        number = await methods.find(named.pop("method"))
        texts.append("t.method = %(method)s::int")
        given["method"] = -1 if number is None else number
    elif not {"taskhash", "outhash"}.isdisjoint(named):
        texts.append("t.method = any(%(methods)s::int[])")
        given["methods"] = list((await methods.all()).values())
    of_method = " and ".join(texts) or "true"
    for name, value in named.items():
        texts.append(f"t.{_COLUMNS.get(name, name.lower())} = %({name})b::bytea")
        given[name] = pack_hash(value) if name in _HASHES else pack_text(value)
    text = " and ".join(texts)
    indexed = not table.indexed.isdisjoint(named)
    return Condition(text, given, text if indexed else of_method, indexed)


async def walk(
    database: Database, table: Table, condition: Condition, change: str, begin: Begin, given: dict[str, Any]
) -> int:
    """Change the rows of a table that match, slice by slice; how many.

    `change`: ``delete from {table} as t using part as s where {match}``, or the like; `given`: its parameters by name.
    """
    statement = _statement(table, condition, change)
    last: tuple[Any, ...] | None = tuple(_FIRST[name] for name in table.key)
    count = 0
    while last is not None:
        places = {f"last_{name}": value for name, value in zip(table.key, last, strict=True)}
        parameters = condition.given | given | places
        changed, last = await database.write(partial(_change_slice, begin, statement, parameters))
        count += changed
    return count


def _statement(table: Table, condition: Condition, change: str) -> bytes:
    """The statement of a slice.

    Rows that an index finds are found first and then cut to slices; without one, the keys are walked, and the condition
    is looked at for each.
    """
    keys = ", ".join(table.key)
    keys_of_t = ", ".join(f"t.{name}" for name in table.key)
    last = ", ".join(f"%(last_{name})b::{'int' if name == 'method' else 'bytea'}" for name in table.key)
    forgotten = ""
    if table is MAPPINGS and change.startswith("delete"):
        forgotten = _FORGET_DAYS
    backwards = ", ".join(f"{name} desc" for name in table.key)
    match = " and ".join([*(f"t.{name} = s.{name}" for name in table.key), condition.text])
    return f"""
        with wanted as {"" if condition.indexed else "not "}materialized (
            select {keys_of_t} from {table.name} as t where ({keys_of_t}) > ({last}) and {condition.keys}
        ),
        part as materialized (select {keys} from wanted order by {keys} limit {SLICE}),
        changed as ({change.format(table=table.name, match=match)} returning {keys_of_t}){forgotten}
        select (select count(*) from changed), {keys} from part order by {backwards} limit 1
    """.encode()


async def _change_slice(
    begin: Begin, statement: bytes, given: dict[str, Any], connection: Connection
) -> tuple[int, tuple[Any, ...] | None]:
    await begin(connection)
    cursor = connection.cursor(binary=True)
    row = await (await cursor.execute(statement, given)).fetchone()
    return (0, None) if row is None else (row[0], row[1:])

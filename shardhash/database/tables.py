"""The tables of a database as items of a dump (admin/dump.py), read and written in bulk over one connection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import orjson
import psycopg

from shardhash.base.entry_kinds import QUARANTINE_PART
from shardhash.base.timestamps import from_iso
from shardhash.errors import ConfigError
from shardhash.stores.postgresql.addresses import connection_string, describe, hide_password
from shardhash.stores.postgresql.codec import (
    pack_hash,
    pack_optional,
    pack_text,
    unpack_hash,
    unpack_row,
    unpack_text,
)
from shardhash.stores.postgresql.locks import CLOSE
from shardhash.stores.postgresql.schema import VERSION
from shardhash.wire.rows import DETAILS, SIGINFO

PART: Final = 5000
"""Rows that travel together."""

_MAPPINGS = b"select method, taskhash, unihash, mark from shardhash.mapping"
_ROWS = b"select method, taskhash, outhash, created, owner, pn, pv, pr, task, siginfo from shardhash.outrow"
_DAYS = b"""
select method, taskhash, day from shardhash.asked as a where exists (
    select from shardhash.mapping as m where m.method = a.method and m.taskhash = a.taskhash
)
"""
_COLUMNS: Final = {
    "entry": ("shardhash.entry", "kind, name, value", ["text", "bytea", "bytea"]),
    "mapping": ("shardhash.mapping", "method, taskhash, unihash, mark", ["int4", "bytea", "bytea", "bytea"]),
    "row": (
        "shardhash.outrow",
        "method, taskhash, outhash, created, owner, pn, pv, pr, task, siginfo",
        ["int4", "bytea", "bytea", "int8", *["bytea"] * 6],
    ),
    "day": ("shardhash.asked", "method, taskhash, day", ["int4", "bytea", "int4"]),
    "barred": ("shardhash.barred", "method, outhash, quarantine", ["int4", "bytea", "bytea"]),
}

Connection = psycopg.Connection[tuple[Any, ...]]


@contextmanager
def opened(url: str, *, write: bool) -> Iterator[Tables]:
    """The tables of a database, in one transaction, which an error undoes. ConfigError, in words, for what goes wrong.

    What is read is of one moment. Who writes has the tables alone, as far as servers are concerned.
    """
    name = hide_password(url)
    try:
        with psycopg.connect(connection_string(url)) as connection:
            if not write:
                connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                connection.read_only = True
            tables = Tables(name, connection)
            if write:
                connection.execute(CLOSE)
                tables.check_empty()
            yield tables
    except psycopg.Error as error:
        raise ConfigError(f"{name}: {describe(error)}. Nothing was changed") from None


class Tables:
    """Reads all items, and writes items; `flush` after the last one."""

    def __init__(self, name: str, connection: Connection) -> None:
        self._name = name
        self._connection = connection
        self._methods: dict[str, int] = {}
        self._parts: dict[str, list[tuple[Any, ...]]] = {kind: [] for kind in _COLUMNS}
        self._check_version()

    def _check_version(self) -> None:
        there = self._connection.execute("select to_regclass('shardhash.version') is not null").fetchone()
        if not there or not there[0]:
            raise ConfigError(f"{self._name} has no tables of shardhash; make them with: shardhash migrate")
        row = self._connection.execute("select version from shardhash.version").fetchone()
        if row is None or row[0] != VERSION:
            raise ConfigError(f"{self._name} has tables of another version; see: shardhash migrate")

    def check_empty(self) -> None:
        """Raise ConfigError if something is in the tables. What is left of days of mappings that are gone goes."""
        self._connection.execute("delete from shardhash.asked")
        for table, _, _ in _COLUMNS.values():
            row = self._connection.execute(f"select exists (select from {table})".encode()).fetchone()
            if row is not None and row[0]:
                raise ConfigError(
                    f"{self._name} holds something already ({table}), and a copy needs an empty place: give another"
                    " database"
                )

    # ------------------------------------------------------------------------------------------------- reading

    def items(self) -> Iterator[dict[str, Any]]:
        """Every item."""
        methods = {number: unpack_text(name) for number, name in self._select(b"select id, name from shardhash.method")}
        for kind, name, value in self._select(b"select kind, name, value from shardhash.entry"):
            yield {"type": "entry", "kind": kind, "name": unpack_text(name), "value": orjson.loads(value)}
        for method, taskhash, unihash, mark in self._select(_MAPPINGS):
            yield {
                "type": "mapping",
                "method": methods[method],
                "taskhash": unpack_hash(taskhash),
                "unihash": unihash.hex(),
                "gc_mark": unpack_text(mark),
            }
        for method, *values in self._select(_ROWS):
            yield {"type": "row", **unpack_row(methods[method], values)}
        for method, taskhash, day in self._select(_DAYS):
            yield {"type": "day", "method": methods[method], "taskhash": unpack_hash(taskhash), "day": day}
        for (day,) in self._select(b"select day from shardhash.asked_from"):
            yield {"type": "days-from", "day": day}

    def _select(self, statement: bytes) -> Iterator[tuple[Any, ...]]:
        with psycopg.ServerCursor(self._connection, "reading") as cursor:
            cursor.itersize = PART
            yield from cursor.execute(statement, binary=True)

    # ------------------------------------------------------------------------------------------------- writing

    def write(self, item: dict[str, Any]) -> None:
        """One item."""
        kind = item["type"]
        if kind == "days-from":
            self._connection.execute("update shardhash.asked_from set day = %b", [item["day"]])
            return
        part = self._parts[kind]
        part.append(_pack_entry(item) if kind == "entry" else (self._method(item["method"]), *_PACKERS[kind](item)))
        if len(part) >= PART:
            self._copy(kind)
        if kind == "entry" and item["kind"] == QUARANTINE_PART:
            self._bar(item["name"].partition(".")[0], item["value"]["outhashes"])

    def _bar(self, quarantine: str, outhashes: Iterable[tuple[str, str]]) -> None:
        """What follows from a part of a quarantine: its outhashes give no unihash to other tasks."""
        rows = [(self._method(method), pack_hash(outhash), pack_text(quarantine)) for method, outhash in outhashes]
        self._parts["barred"] += rows

    def flush(self) -> None:
        """Write what is left, and have the planner know of it."""
        for kind in self._parts:
            self._copy(kind)
        self._connection.execute("analyze shardhash.mapping, shardhash.outrow, shardhash.entry, shardhash.asked")

    def _copy(self, kind: str) -> None:
        part, self._parts[kind] = self._parts[kind], []
        table, columns, types = _COLUMNS[kind]
        with (
            self._connection.cursor() as cursor,
            cursor.copy(f"copy {table} ({columns}) from stdin (format binary)".encode()) as copy,
        ):
            copy.set_types(types)
            for row in part:
                copy.write_row(row)

    def _method(self, name: str) -> int:
        if name not in self._methods:
            row = self._connection.execute(
                "insert into shardhash.method (name) values (%b)"
                " on conflict (name) do update set name = excluded.name returning id",
                [pack_text(name)],
            ).fetchone()
            assert row is not None, "it is there now"
            self._methods[name] = row[0]
        return self._methods[name]


def _pack_entry(item: dict[str, Any]) -> tuple[Any, ...]:
    return item["kind"], pack_text(item["name"]), orjson.dumps(item["value"])


def _pack_mapping(item: dict[str, Any]) -> tuple[Any, ...]:
    return pack_hash(item["taskhash"]), bytes.fromhex(item["unihash"]), pack_text(item["gc_mark"])


def _pack_row(item: dict[str, Any]) -> tuple[Any, ...]:
    details = (pack_optional(item[name]) for name in (*DETAILS, SIGINFO))
    return pack_hash(item["taskhash"]), pack_hash(item["outhash"]), from_iso(item["created"]), *details


def _pack_day(item: dict[str, Any]) -> tuple[Any, ...]:
    return pack_hash(item["taskhash"]), item["day"]


_PACKERS: Final[dict[str, Callable[[dict[str, Any]], tuple[Any, ...]]]] = {
    "mapping": _pack_mapping,
    "row": _pack_row,
    "day": _pack_day,
}
"""What stands behind the method's number."""

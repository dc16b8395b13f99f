"""Databases as the stock server writes them, in the versions of its schema that people have; for tests of the move."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

METHOD = "oe.sstatesig.OEOuthashBasic"
H = [f"{digit}" * 64 for digit in "0123456789abcdef"]
UTC_TIME = "2025-06-01T10:00:00.000001+00:00"
NAIVE_TIME = "2025-01-01 12:00:00.500000"

_MAPPINGS = "method text not null, taskhash text not null, unihash text not null"
_ROW = "method text not null, taskhash text not null, outhash text not null"
_MORE = "created datetime, owner text, PN text, PV text, PR text, task text, outhash_siginfo text"
TABLES = {
    "unihashes_v3": f"{_MAPPINGS}, gc_mark text not null, unique(method, taskhash)",
    "unihashes_v2": f"{_MAPPINGS}, unique(method, taskhash)",
    "outhashes_v2": f"{_ROW}, {_MORE}, unique(method, taskhash, outhash)",
    "tasks_v2": f"{_ROW}, unihash text not null, {_MORE}, unique(method, outhash, taskhash)",
    "users": "username text not null, token text not null, permissions text not null, unique(username)",
    "config": "name text not null, value text, unique(name)",
}
NEW = ("unihashes_v3", "outhashes_v2", "users", "config")
OLDER = ("unihashes_v2", "outhashes_v2", "users")
OLDEST = ("tasks_v2",)


def hash_of(*words: object) -> str:
    return hashlib.sha256(" ".join(map(str, words)).encode()).hexdigest()


def stock_token(token: str, salt: str = "c0ffee", algorithm: str = "sha256") -> str:
    digest = hashlib.new(algorithm, salt.encode() + token.encode()).hexdigest()
    return f"{algorithm}:{salt}:{digest}"


def make_tables(connection: sqlite3.Connection, tables: Iterable[str] = NEW) -> None:
    for table in tables:
        connection.execute(f"create table {table} (id integer primary key autoincrement, {TABLES[table]})")


def insert(connection: sqlite3.Connection, table: str, **values: Any) -> None:
    names, marks = ", ".join(values), ", ".join("?" * len(values))
    connection.execute(f"insert into {table} ({names}) values ({marks})", tuple(values.values()))


def put(connection: sqlite3.Connection, row: tuple[str, dict[str, Any]]) -> None:
    insert(connection, row[0], **row[1])


def mapping(taskhash: str, unihash: str, gc_mark: str | None = "", method: str = METHOD) -> tuple[str, dict[str, Any]]:
    values = {"method": method, "taskhash": taskhash, "unihash": unihash}
    return ("unihashes_v2", values) if gc_mark is None else ("unihashes_v3", values | {"gc_mark": gc_mark})


def row(taskhash: str, outhash: str, created: Any = UTC_TIME, **more: Any) -> tuple[str, dict[str, Any]]:
    return "outhashes_v2", {"method": METHOD, "taskhash": taskhash, "outhash": outhash, "created": created, **more}


def user(name: str, token: str, permissions: str = "@read @report") -> tuple[str, dict[str, Any]]:
    return "users", {"username": name, "token": token, "permissions": permissions}


def mark(value: str | None) -> tuple[str, dict[str, Any]]:
    return "config", {"name": "gc-mark", "value": value}


def write(path: Path, *rows: tuple[str, dict[str, Any]], tables: Iterable[str] = NEW) -> Path:
    """A database with these tables and rows."""
    with closing(sqlite3.connect(path)) as connection:
        make_tables(connection, tables)
        for one in rows:
            put(connection, one)
        connection.commit()
    return path


def write_many(path: Path, count: int, siginfo: int = 0, start: int = 0) -> Path:
    """A database with so many mappings and rows; every third row without a mapping, `siginfo` characters each."""
    with closing(sqlite3.connect(path)) as connection:
        make_tables(connection)
        numbers = range(start, start + count)
        connection.executemany(
            "insert into unihashes_v3 (method, taskhash, unihash, gc_mark) values (?, ?, ?, '')",
            ((METHOD, hash_of("task", n), hash_of("uni", n // 2)) for n in numbers if n % 3),
        )
        connection.executemany(
            "insert into outhashes_v2 (method, taskhash, outhash, created, PN, outhash_siginfo)"
            " values (?, ?, ?, ?, ?, ?)",
            (
                (
                    METHOD,
                    hash_of("task", n),
                    hash_of("out", n // 2),
                    f"2025-06-01T10:00:00.{n % 1000000:06}+00:00",
                    f"recipe-{n % 50}",
                    (f"siginfo of {n}\n" * (siginfo // 10 + 1))[:siginfo] if siginfo else None,
                )
                for n in numbers
            ),
        )
        connection.commit()
    return path

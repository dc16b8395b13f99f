"""Databases of the stock server that are written: a new file, or tables of a PostgreSQL database. All or nothing."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from shardhash.base.timestamps import to_iso
from shardhash.errors import ConfigError
from shardhash.moving import schema
from shardhash.moving.postgresql_source import connect, hide_password
from shardhash.moving.reading import sqlite_path
from shardhash.moving.times import local_time

if TYPE_CHECKING:
    import psycopg

_SPEED = ("journal_mode = off", "synchronous = off", "cache_size = -500000")
"""Of a file that does not count before it is whole and synced. The unique index of a million rows takes 200 MB, and
they come in no order of it."""


class Target(Protocol):
    """A database that is written."""

    name: str
    """How reports call it; without a password."""

    def add(self, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Rows of a table, the values of `schema.TABLE_COLUMNS`."""

    def created(self, moment: int) -> object:
        """A time (microseconds since 1970 UTC) as the stock server writes it there."""

    def clean(self, text: str) -> str:
        """A text that the database can hold: what it cannot is replaced."""

    def finish(self) -> None:
        """What comes after the last row: indexes."""


@contextmanager
def open_target(text: str, username: str | None, password: str | None, zone: tzinfo | None) -> Iterator[Target]:
    """The database that a file name or URL means; it counts once the block ends without an error.

    `zone`: that of the stock server's machine, for PostgreSQL; None for this machine's. ConfigError when there is
    something already, or it cannot be written.
    """
    path = sqlite_path(text)
    if path is not None:
        with _sqlite(path) as target:
            yield target
    else:
        with _postgresql(text, username, password, zone) as other:
            yield other


@contextmanager
def _sqlite(path: Path) -> Iterator[Target]:
    """A file that comes into being by rename, readable by its owner only."""
    for there in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-journal")):
        if there.exists():
            raise ConfigError(f"{there} is there already; name another file, or move it aside first")
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.unlink(missing_ok=True)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        with closing(sqlite3.connect(temporary, isolation_level=None)) as connection:
            yield SqliteTarget(str(path), connection)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (sqlite3.Error, OSError) as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(f"{path} cannot be written: {error}") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class SqliteTarget:
    """See Target."""

    def __init__(self, name: str, connection: sqlite3.Connection) -> None:
        self.name = name
        self._connection = connection
        for setting in _SPEED:
            connection.execute(f"pragma {setting}")
        connection.execute("begin")
        for table, definition in schema.DEFINITIONS.items():
            columns = definition.format(id="INTEGER PRIMARY KEY AUTOINCREMENT", time="DATETIME")
            connection.execute(f"create table {table} ({columns})")

    def add(self, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """See Target."""
        columns = schema.TABLE_COLUMNS[table]
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        self._connection.executemany(f"insert into {table} ({names}) values ({marks})", rows)

    def created(self, moment: int) -> str:
        """See Target. The newest server writes UTC."""
        return to_iso(moment)

    def clean(self, text: str) -> str:
        """See Target."""
        return text if text.isascii() else text.encode("utf-8", "replace").decode()

    def finish(self) -> None:
        """See Target."""
        for index, columns in schema.INDEXES.items():
            self._connection.execute(f"create index {index} on {columns}")
        self._connection.execute("commit")


@contextmanager
def _postgresql(url: str, username: str | None, password: str | None, zone: tzinfo | None) -> Iterator[Target]:
    """The tables of a database, in one transaction."""
    connection = connect(url, username, password)
    import psycopg

    name = hide_password(url)
    try:
        with connection:
            yield PostgresqlTarget(name, connection, zone)
    except psycopg.Error as error:
        raise ConfigError(f"{name} cannot be written, and was left as it was: {str(error).strip()}") from error


class PostgresqlTarget:
    """See Target."""

    def __init__(self, name: str, connection: psycopg.Connection[tuple[Any, ...]], zone: tzinfo | None) -> None:
        self.name = name
        self._connection = connection
        self._zone = zone
        for table, definition in schema.DEFINITIONS.items():
            columns = definition.format(id="SERIAL PRIMARY KEY", time="TIMESTAMP WITHOUT TIME ZONE")
            connection.execute(f"create table if not exists {table} ({columns})")
            if connection.execute(f"select 1 from {table} limit 1").fetchone() is not None:
                raise ConfigError(f"{name}: its table {table} is not empty; export to a new database")

    def add(self, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """See Target."""
        names = ", ".join(f'"{name}"' for name in schema.TABLE_COLUMNS[table])
        with self._connection.cursor() as cursor, cursor.copy(f"copy {table} ({names}) from stdin") as copy:
            for row in rows:
                copy.write_row(row)

    def created(self, moment: int) -> object:
        """See Target."""
        return local_time(moment, self._zone)

    def clean(self, text: str) -> str:
        """See Target."""
        text = text if text.isascii() else text.encode("utf-8", "replace").decode()
        return text.replace("\0", "�") if "\0" in text else text

    def finish(self) -> None:
        """See Target."""
        for index, columns in schema.INDEXES.items():
            self._connection.execute(f"create index if not exists {index} on {columns}")

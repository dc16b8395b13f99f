"""PostgreSQL databases of the stock server, read through psycopg 3 and never written, also while it runs.

All that is read is of the moment at which reading began (REPEATABLE READ). Rows come through cursors of the server, a
part at a time, so that memory does not grow with the database.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

from shardhash.errors import ConfigError
from shardhash.moving import schema
from shardhash.moving.schema import MappingTuple, RowTuple
from shardhash.moving.sqlite_source import check_tables

if TYPE_CHECKING:
    import psycopg

PART = 500
"""Rows that are fetched together."""
CONNECT_SECONDS = 15


def hide_password(text: str) -> str:
    """A URL without its password, also one that somebody forgot to escape or wrote behind the question mark."""
    text = re.sub(r"(://[^/@:]*):.*@", r"\1:***@", text, flags=re.DOTALL)
    return re.sub(r"([?&](?:ssl)?password=)[^&]*", r"\1***", text)


def _secrets(url: str, password: str | None) -> list[str]:
    """What must not be in a message of libpq, which shows what it could not make sense of."""
    found = re.findall(r"://[^/@:]*:(.*)@", url, re.DOTALL) + re.findall(r"[?&](?:ssl)?password=([^&]*)", url)
    return [secret for secret in [*found, *re.split(r"[@:/]", "".join(found)), password] if secret]


def _explain(error: Exception, url: str, password: str | None) -> str:
    text = " ".join(str(error).split())
    for secret in _secrets(url, password):
        text = text.replace(secret, "***")
    return text


def connect(url: str, username: str | None, password: str | None) -> psycopg.Connection[tuple[Any, ...]]:
    """A connection to the database of a URL as SQLAlchemy takes it. ConfigError says why there is none."""
    try:
        import psycopg  # an optional extra
    except ImportError:
        raise ConfigError(
            f"{hide_password(url)}: PostgreSQL needs psycopg 3: pip install 'shardhash[postgresql]'"
        ) from None
    given = {name: value for name, value in (("user", username), ("password", password)) if value}
    try:
        return psycopg.connect(_of_libpq(url), connect_timeout=CONNECT_SECONDS, **given)  # type: ignore[arg-type]
    except psycopg.Error as error:
        raise ConfigError(f"{hide_password(url)} cannot be reached: {_explain(error, url, password)}") from None


def _of_libpq(url: str) -> str:
    """The URL in the words of libpq: no driver in the scheme, `sslmode` for what another driver calls `ssl`."""
    rest, _, query = url.partition("://")[2].partition("?")
    options = [("sslmode" if name == "ssl" else name, value) for name, value in parse_qsl(query)]
    return f"postgresql://{rest}" + (f"?{urlencode(options)}" if options else "")


@contextmanager
def open_postgresql(url: str, username: str | None, password: str | None) -> Iterator[PostgresqlSource]:
    """A database, in one read-only transaction. ConfigError when it cannot be reached or is another's."""
    connection = connect(url, username, password)
    import psycopg

    name = hide_password(url)
    try:
        with connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            yield PostgresqlSource(name, connection)
    except psycopg.Error as error:
        raise ConfigError(f"{name} cannot be read: {str(error).strip()}. Nothing was imported") from error


class PostgresqlSource:
    """See schema.Source."""

    def __init__(self, name: str, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self.name = name
        self._connection = connection
        found = connection.execute(
            "select table_name, column_name from information_schema.columns"
            " where table_schema = any (current_schemas(false))"
        ).fetchall()
        tables = sorted({table for table, _ in found})
        known = (schema.MAPPINGS, schema.MAPPINGS_V2, schema.ROWS, schema.USERS, schema.CONFIG)
        self._columns = {
            table: {column for name, column in found if name == table} for table in known if table in tables
        }
        check_tables(name, self._columns, tables)

    def mappings(self) -> Iterator[MappingTuple]:
        """See schema.Source."""
        for table in (schema.MAPPINGS, schema.MAPPINGS_V2):
            yield from self._scan(table, schema.MAPPING_COLUMNS, {"gc_mark": "''"})

    def rows(self) -> Iterator[RowTuple]:
        """See schema.Source."""
        yield from self._scan(schema.ROWS, schema.ROW_COLUMNS)

    def users(self) -> Iterator[tuple[Any, Any, Any]]:
        """See schema.Source."""
        yield from self._scan(schema.USERS, schema.USER_COLUMNS)

    def config(self) -> dict[str, str]:
        """See schema.Source."""
        found = self._scan(schema.CONFIG, schema.CONFIG_COLUMNS)
        return {name: value for name, value in found if isinstance(value, str)}

    def size(self, what: str) -> int:
        """See schema.Source. An estimate of the server's, 0 if it has none yet."""
        tables = (schema.MAPPINGS, schema.MAPPINGS_V2) if what == "mappings" else (schema.ROWS,)
        found = self._connection.execute(
            "select coalesce(sum(greatest(reltuples, 0)), 0)::bigint from pg_class where oid = any"
            " (select to_regclass(name) from unnest(%s::text[]) as name)",
            [list(tables)],
        ).fetchone()
        return int(found[0]) if found else 0

    def _scan(self, table: str, columns: Sequence[str], instead: dict[str, str] | None = None) -> Iterator[Any]:
        """The rows of a table, if it is there; null, or what `instead` says, for columns that it has not."""
        if table not in self._columns:
            return
        there = self._columns[table]
        names = [f'"{name}"' if name in there else (instead or {}).get(name, "null") for name in columns]
        with self._connection.cursor(name=f"read_{table}") as cursor:
            cursor.itersize = PART
            yield from cursor.execute(f"select {', '.join(names)} from {table}")

"""SQLite databases of the stock server, read and never written, also while it runs.

The whole database is read in one transaction: a server in WAL mode, as the stock one is, goes on writing meanwhile, and
what is read is the state of the moment at which reading began.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from shardhash.errors import ConfigError
from shardhash.moving import schema
from shardhash.moving.schema import MappingTuple, RowTuple

MAGIC = b"SQLite format 3\0"
BUSY = 60.0
"""Seconds to wait for a lock of the server, which holds one for a moment only."""
CACHE = 32 << 10
"""KiB of pages."""
_DUMP = b'{"format":"shardhash dump"'


def is_sqlite(path: Path) -> bool:
    """Whether a file is an SQLite database. False when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


@contextmanager
def open_sqlite(path: Path) -> Iterator[SqliteSource]:
    """A database file, in one transaction. ConfigError says what else it is."""
    _check_file(path)
    try:
        with closing(_connect(path)) as connection:
            yield SqliteSource(str(path), connection)
    except sqlite3.Error as error:
        raise broken(path, error) from error


def broken(path: Path | str, error: Exception) -> ConfigError:
    """What to say when SQLite gives up."""
    if "locked" in str(error):
        return ConfigError(f"{path} is locked by another process for more than {BUSY:g} seconds; try again")
    if "readonly" in str(error) or "unable to open" in str(error):
        beside = ", ".join(map(str, unfinished_files(Path(path)))) or "its folder"
        return ConfigError(
            f"{path} cannot be read as it is: its last transaction has to be finished first, which takes the right to"
            f" write ({beside}). Run `sqlite3 {path} .tables` as the user that the old server ran as, then import again"
        )
    return ConfigError(
        f"{path} cannot be read as a database: {error}. Nothing was imported. If it is damaged, `sqlite3 {path}"
        " .recover | sqlite3 NEW.db` saves what can be read; import NEW.db then"
    )


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise ConfigError(
            f"{path} is a folder, not a database file; a data directory is copied by shardhash backup and restore"
        )
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    if head.startswith(_DUMP):
        raise ConfigError(f"{path} is a dump of shardhash: use shardhash load {path}")
    if not head.startswith(MAGIC):
        what = "is empty" if not head else "is no SQLite database"
        raise ConfigError(f"{path} {what}; name the file that the old server's --database (HASHSERVER_DB) names")


def _connect(path: Path) -> sqlite3.Connection:
    """A connection with a transaction begun, so that all that is read is of one moment."""
    name = f"file:{quote(str(path.absolute()))}"
    try:
        return _begin(f"{name}?mode=ro")
    except sqlite3.OperationalError:
        # In a folder that cannot be written to, SQLite does not read a database in WAL mode, unless it is told that
        # nobody writes; and nobody does when there is neither a log nor the journal of a transaction.
        if unfinished_files(path):
            raise
        return _begin(f"{name}?mode=ro&immutable=1")


def unfinished_files(path: Path) -> list[Path]:
    """The log and journal beside a database, where they hold something that is not in it."""
    files = [path.with_name(path.name + ending) for ending in ("-wal", "-journal")]
    return [file for file in files if file.exists() and file.stat().st_size]


def _begin(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY, isolation_level=None)
    try:
        connection.execute(f"pragma cache_size = -{CACHE}")
        connection.execute("begin")
        connection.execute("select count(*) from sqlite_master").fetchone()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


class SqliteSource:
    """See schema.Source."""

    def __init__(self, name: str, connection: sqlite3.Connection) -> None:
        self.name = name
        self._connection = connection
        tables = [table for (table,) in connection.execute("select name from sqlite_master where type = 'table'")]
        self._columns = {
            table: {column for _, column, *_ in connection.execute(f"pragma table_info({table})")}
            for table in (schema.MAPPINGS, schema.MAPPINGS_V2, schema.ROWS, *schema.TASKS, schema.USERS, schema.CONFIG)
            if table in tables
        }
        check_tables(name, self._columns, tables)

    def mappings(self) -> Iterator[MappingTuple]:
        """See schema.Source."""
        for table in (schema.MAPPINGS, schema.MAPPINGS_V2):
            yield from self._scan(table, schema.MAPPING_COLUMNS, {"gc_mark": "''"})
        for table in schema.TASKS:
            place = "row_number() over (partition by method, taskhash order by created, id)"
            oldest = f"(select *, {place} as place from {table}) where place = 1"
            yield from self._scan(table, schema.MAPPING_COLUMNS, {"gc_mark": "''"}, oldest)

    def rows(self) -> Iterator[RowTuple]:
        """See schema.Source."""
        for table in (schema.ROWS, *schema.TASKS):
            yield from self._scan(table, schema.ROW_COLUMNS)

    def users(self) -> Iterator[tuple[Any, Any, Any]]:
        """See schema.Source."""
        yield from self._scan(schema.USERS, schema.USER_COLUMNS)

    def config(self) -> dict[str, str]:
        """See schema.Source."""
        found = self._scan(schema.CONFIG, schema.CONFIG_COLUMNS)
        return {name: value for name, value in found if isinstance(name, str) and isinstance(value, str)}

    def size(self, what: str) -> int:
        """See schema.Source. The highest id, which costs nothing to find."""
        wanted = (schema.MAPPINGS, schema.MAPPINGS_V2) if what == "mappings" else (schema.ROWS,)
        tables = [table for table in (*wanted, *schema.TASKS) if table in self._columns]
        return sum(
            self._connection.execute(f"select coalesce(max(rowid), 0) from {table}").fetchone()[0] for table in tables
        )

    def _scan(
        self, table: str, columns: Sequence[str], instead: dict[str, str] | None = None, of: str = ""
    ) -> Iterator[Any]:
        """The rows of a table, if it is there; null, or what `instead` says, for columns that it has not."""
        if table not in self._columns:
            return
        there = self._columns[table]
        names = [f'"{name}"' if name in there else (instead or {}).get(name, "null") for name in columns]
        query = f"select {', '.join(names)} from {of or table}"
        done = 0
        try:
            for row in self._connection.execute(query):
                yield row
                done += 1
        except sqlite3.OperationalError as error:
            if "decode" not in str(error):
                raise
            # A text that is no UTF-8: from there on each is decoded with replacement characters, which takes longer.
            self._connection.text_factory = lambda data: data.decode("utf-8", "replace")
            yield from self._connection.execute(f"{query} limit -1 offset {done}")
            self._connection.text_factory = str


def check_tables(name: str, columns: dict[str, set[str]], tables: Sequence[str]) -> None:
    """ConfigError unless there are hashes of the stock server in these tables."""
    needed = {
        schema.MAPPINGS: {"method", "taskhash", "unihash"},
        schema.MAPPINGS_V2: {"method", "taskhash", "unihash"},
        schema.ROWS: {"method", "taskhash", "outhash"},
        **{table: {"method", "taskhash", "outhash", "unihash"} for table in schema.TASKS},
    }
    if not columns.keys() & needed.keys():
        there = ", ".join(sorted(tables)) or "none"
        raise ConfigError(
            f"{name} is not a database of a hash equivalence server: it has none of the tables"
            f" {', '.join(needed)} (its tables: {there})"
        )
    for table, wanted in needed.items():
        if table in columns and (missing := wanted - columns[table]):
            raise ConfigError(f"{name}: its table {table} lacks the columns {', '.join(sorted(missing))}")

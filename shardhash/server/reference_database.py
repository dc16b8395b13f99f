"""The stock server's database as its settings name it: what is to be said about it, since its data is not read."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from pathlib import Path
from urllib.parse import quote

from shardhash.errors import ConfigError

_MAGIC = b"SQLite format 3\0"
_TABLES = ("unihashes_v3", "unihashes_v2", "outhashes_v2", "users")


def hide_password(text: str) -> str:
    """A URL without its password, escaped or not."""
    return re.sub(r"(://[^/@:]*):.*@", r"\1:***@", text, flags=re.DOTALL)


def check_database(text: str, origin: str) -> str:
    """The path of a database file. ConfigError for a URL: shardhash keeps its own files, not a database's."""
    if "://" in text:
        raise ConfigError(
            f"{origin}: {hide_password(text)} is a database of the stock server, which shardhash does not use: it keeps"
            f" its own files. Bring its data by: shardhash import {hide_password(text)} --data DIR; then leave this"
            " setting out, and start with --data DIR"
        )
    return text


def describe_database(path: Path) -> str | None:
    """What lies in the stock server's file and is not served here; None if there is no such file."""
    try:
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                return None
    except OSError:
        return None
    counts = []
    with contextlib.suppress(sqlite3.Error):
        connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, timeout=1)
        with contextlib.closing(connection):
            names = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
            for table in _TABLES:
                if table in names:
                    (rows,) = connection.execute(f"select count(*) from {table}").fetchone()  # our names
                    counts.append(f"{rows:,} rows in {table}")
    return f"{path} is a database of the stock server ({', '.join(counts) or 'it cannot be read'})"

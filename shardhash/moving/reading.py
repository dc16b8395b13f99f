"""Which database a SOURCE of the command line means: a file, or a URL as SQLAlchemy and the stock server take it."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from shardhash.errors import ConfigError
from shardhash.moving.postgresql_source import hide_password, open_postgresql
from shardhash.moving.schema import OpenSource
from shardhash.moving.sqlite_source import open_sqlite

_URL = re.compile(r"([a-z0-9]+)(?:\+[a-z0-9_]+)?://(.*)", re.ASCII | re.DOTALL)


def sqlite_path(text: str) -> Path | None:
    """The file that a SOURCE means; None for a database that is none. ConfigError for other URLs."""
    match = _URL.fullmatch(text)
    if match is None:
        return Path(text)
    kind, rest = match[1], match[2]
    if kind == "sqlite":
        path = rest.partition("?")[0].removeprefix("/")  # sqlite:///relative and sqlite:////absolute
        if not path:
            raise ConfigError(f"{text}: this database is in memory only; there is no file to read")
        return Path(path)
    if kind in ("postgresql", "postgres"):
        return None
    raise ConfigError(
        f"{hide_password(text)}: databases of this kind are not read; known are SQLite files (PATH or sqlite:///PATH)"
        " and postgresql://USER@HOST/NAME"
    )


def to_source(text: str, username: str | None, password: str | None) -> OpenSource:
    """The database that a SOURCE means, to be opened; name and password are for a URL. ConfigError for another kind."""
    path = sqlite_path(text)
    if path is None:
        return partial(open_postgresql, text, username, password)
    return partial(open_sqlite, path)

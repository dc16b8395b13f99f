"""Addresses of databases: URLs as people write them, without their passwords where they are shown."""

from __future__ import annotations

import re
from typing import Any, Final, TypeAlias

import psycopg
from psycopg import AsyncConnection, conninfo

from shardhash.errors import ConfigError

Connection: TypeAlias = AsyncConnection[tuple[Any, ...]]

DEFAULTS: Final = {
    "application_name": "shardhash",
    "connect_timeout": "10",
    "target_session_attrs": "read-write",
    "tcp_user_timeout": "20000",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
}
"""What libpq is told unless the URL says otherwise: a standby is not asked, and a dead host is noticed."""


def hide_password(url: str) -> str:
    """A URL without its password, wherever it stands."""
    url = re.sub(r"(://[^/@:?]*):[^/]*@", r"\1:***@", url)
    return re.sub(r"((?:^|[?&\s])(?:ssl)?password=)[^&\s]*", r"\1***", url)


def describe(error: BaseException) -> str:
    """What went wrong, on one line."""
    text = " ".join(str(error).split())
    return text or type(error).__name__


def connection_string(url: str, *, read_only: bool = False) -> str:
    """What libpq is given for a URL. ConfigError unless it is one of PostgreSQL. `read_only`: a standby will do."""
    scheme, _, rest = url.partition("://")
    if scheme.partition("+")[0] not in ("postgresql", "postgres") or not rest:
        raise ConfigError(f"{hide_password(url)!r} names no database: write postgresql://USER@HOST/DATABASE")
    try:
        given = conninfo.conninfo_to_dict(f"postgresql://{rest}")
    except psycopg.ProgrammingError as error:
        raise ConfigError(f"{hide_password(url)!r} cannot be used: {describe(error)}") from None
    defaults = DEFAULTS | ({"target_session_attrs": "any"} if read_only else {})
    return conninfo.make_conninfo(**(defaults | {name: str(value) for name, value in given.items()}))


async def connect(url: str, *, read_only: bool = False) -> Connection:
    """One connection, in autocommit. ConfigError says why there is none; never with the password."""
    try:
        return await AsyncConnection.connect(connection_string(url, read_only=read_only), autocommit=True)
    except psycopg.Error as error:
        raise ConfigError(f"{hide_password(url)} cannot be reached: {describe(error)}") from None

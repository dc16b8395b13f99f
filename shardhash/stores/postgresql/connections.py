"""Connections to the database: a pool of them, what their errors mean, and what is tried again.

A statement that failed because the connection was cut, the server is starting, failing over or read-only for now, or
because two transactions met (40001, a deadlock), is run again on a new connection, for `limit` seconds at most: clients
see a pause. All that is run here may be run twice.

*Acknowledged is durable*, also with a synchronous standby. PostgreSQL makes a commit visible, and reports success with
a mere warning, when the wait for the standby is cancelled. So nothing here cancels a commit: no statement timeout holds
for it, no task that commits is cancelled, and that warning counts as a failure.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar
from weakref import WeakSet

import psycopg
from psycopg import AsyncConnection, conninfo
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from shardhash.errors import ConfigError, StorageError, UnavailableError

log = logging.getLogger(__name__)

Connection: TypeAlias = AsyncConnection[tuple[Any, ...]]
_T = TypeVar("_T")

CONNECT_SECONDS: Final = 10
DEFAULTS: Final = {
    "application_name": "shardhash",
    "connect_timeout": str(CONNECT_SECONDS),
    "target_session_attrs": "read-write",
    "tcp_user_timeout": "20000",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
}
"""What libpq is told unless the URL says otherwise: a standby is not asked, and a dead host is noticed."""
_CONFIRM = b"""
select set_config('statement_timeout', '0', true),
    case when current_setting('synchronous_standby_names') <> ''
        then pg_logical_emit_message(true, 'shardhash', '')::text end
"""
"""What a change ends with. The message makes the commit wait for the standby even if nothing was to be changed: a
report that was stored before may be here, and not yet there."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
_NOT_REPLICATED = "canceling wait for synchronous replication"

_SETTINGS = b"""
select set_config('jit', 'off', false), set_config('enable_seqscan', 'off', false),
    set_config('enable_hashjoin', 'off', false), set_config('enable_mergejoin', 'off', false),
    set_config('plan_cache_mode', 'force_generic_plan', false),
    set_config('statement_timeout', %s::text, false),
    set_config('idle_in_transaction_session_timeout', '0', false),
    set_config('synchronous_commit', 'on', false)
"""
"""Every statement here walks an index. A planner without statistics, as in a new database, thinks otherwise."""

_LATER = {
    "40001", "40P01",  # serialization failure, deadlock
    "25006",  # read-only: it became a standby
    "53300",  # too many connections
    "55000", "57P01", "57P02", "57P03", "57P05",  # it stops, starts, or has crashed
}  # fmt: skip
"""SQLSTATEs of what passes. Those of class 08, and none at all, are connections that were cut."""


def hide_password(url: str) -> str:
    """A URL without its password, wherever it stands."""
    url = re.sub(r"(://[^/@:?]*):[^/]*@", r"\1:***@", url)
    return re.sub(r"((?:^|[?&\s])(?:ssl)?password=)[^&\s]*", r"\1***", url)


def describe(error: BaseException) -> str:
    """What went wrong, on one line."""
    text = " ".join(str(error).split())
    return text or type(error).__name__


def connection_string(url: str) -> str:
    """What libpq is given for a URL. ConfigError unless it is one of PostgreSQL."""
    scheme, _, rest = url.partition("://")
    if scheme.partition("+")[0] not in ("postgresql", "postgres") or not rest:
        raise ConfigError(f"{hide_password(url)!r} names no database: write postgresql://USER@HOST/DATABASE")
    try:
        given = conninfo.conninfo_to_dict(f"postgresql://{rest}")
    except psycopg.ProgrammingError as error:
        raise ConfigError(f"{hide_password(url)!r} cannot be used: {describe(error)}") from None
    return conninfo.make_conninfo(**(DEFAULTS | {name: str(value) for name, value in given.items()}))


async def connect(url: str) -> Connection:
    """One connection, in autocommit. ConfigError says why there is none; never with the password."""
    try:
        return await AsyncConnection.connect(connection_string(url), autocommit=True)
    except psycopg.Error as error:
        raise ConfigError(f"{hide_password(url)} cannot be reached: {describe(error)}") from None


class Database:
    """A pool of connections to the database of a URL; `limit` seconds is the longest that it may be away."""

    def __init__(self, url: str, limit: float, connections: int) -> None:
        self.name = hide_password(url)
        self._limit = limit
        self._complained = False
        self._not_replicated: WeakSet[Connection] = WeakSet()
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            connection_string(url),
            kwargs={"autocommit": True},
            min_size=min(2, connections),
            max_size=connections,
            open=False,
            configure=self._configure,
            timeout=limit,
            reconnect_timeout=limit,
            name="postgresql",
        )

    async def open(self) -> None:
        """Begin to connect; `run` waits for that."""
        await self._pool.open()

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()

    async def _configure(self, connection: Connection) -> None:
        connection.prepare_threshold = 0
        connection.add_notice_handler(partial(self._notice, connection))
        await connection.execute(_SETTINGS, [str(int(self._limit * 1000))])

    def _notice(self, connection: Connection, diagnostic: psycopg.errors.Diagnostic) -> None:
        text = diagnostic.message_primary or ""
        if text.startswith(_NOT_REPLICATED):
            self._not_replicated.add(connection)
        log.debug("the database says: %s", text)

    @asynccontextmanager
    async def change(self, connection: Connection) -> AsyncIterator[None]:
        """A transaction whose commit waits for the disk, and the standby, for as long as it takes.

        Its statements are sent together until one of their results is asked for.
        """
        async with connection.pipeline(), connection.transaction():
            yield
            await connection.execute(_CONFIRM)
        if connection in self._not_replicated:
            self._not_replicated.discard(connection)
            await connection.close()
            raise NotReplicatedError

    async def run(self, work: Callable[[Connection], Awaitable[_T]]) -> _T:
        """Do some work on a connection, again if what stopped it passes. UnavailableError, StorageError."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._limit
        pause = _FIRST_PAUSE
        while True:
            try:
                async with self._pool.connection(max(0.1, end - loop.time())) as connection:
                    answer = await work(connection)
            except PoolClosed:
                raise UnavailableError("the server is shutting down") from None
            except PoolTimeout:
                raise UnavailableError(f"no connection to {self.name} was free for {self._limit:g} s") from None
            except psycopg.Error as error:
                refusal = self._refusal(error)
                if refusal is None:
                    raise
                if isinstance(refusal, StorageError) or loop.time() + pause > end:
                    raise refusal from None
                self._complain(error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                self._complained = False
                return answer

    def _refusal(self, error: psycopg.Error) -> UnavailableError | StorageError | None:
        """What is told of an error; StorageError need not be tried again, None is a bug."""
        state = error.sqlstate or ""
        text = f"{self.name}: {describe(error)}"
        cut = isinstance(error, psycopg.OperationalError) and state[:2] in ("", "08")
        if cut or state in _LATER:
            return UnavailableError(text)
        if state == "57014":
            return UnavailableError(f"{self.name} took more than {self._limit:g} s")
        if state[:2] in ("53", "58") or state == "42501":
            return StorageError(text)
        return None

    def _complain(self, error: psycopg.Error) -> None:
        """Say once what is tried again, until something works."""
        (log.debug if self._complained else log.warning)(
            "%s: %s; trying again for %g s", self.name, describe(error), self._limit
        )
        self._complained = True


class NotReplicatedError(psycopg.OperationalError):
    """A commit that no standby confirmed."""

    def __str__(self) -> str:
        return "a commit was not confirmed by the synchronous standby"

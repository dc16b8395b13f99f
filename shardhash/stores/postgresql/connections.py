"""Connections to the database: what is kept of them, what their errors mean, and what is tried again.

Work that failed because the connection was cut, the server is starting, failing over or read-only for now, or because
two transactions met (40001, a deadlock), is done again on a new connection, for `limit` seconds at most: clients see a
pause. So all work may be done twice. Connections are opened when they are needed, and all are left when one was cut.

*Acknowledged is durable*, also with a synchronous standby. PostgreSQL makes a commit visible, and reports success with
a mere warning, when the wait for the standby is cancelled. So nothing here cancels a commit: no statement timeout holds
for it, a caller that gives up leaves it alone, and that warning counts as a failure.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final, TypeAlias, TypeVar
from weakref import WeakSet

import psycopg
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus

from shardhash.errors import StorageError, UnavailableError
from shardhash.stores.postgresql.addresses import Connection, connection_string, describe, hide_password

log = logging.getLogger(__name__)

_T = TypeVar("_T")
Work: TypeAlias = Callable[[Connection], Awaitable[_T]]

GRACE: Final = 5.0
"""Seconds after the limit at which one who waits is told so, if the database has not said anything by then."""
CLOSE_LIMIT: Final = 5.0
"""Seconds that changes under way get to end when the server stops."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
_NOT_REPLICATED = "canceling wait for synchronous replication"

_SETTINGS = b"""
select set_config(name, value, false)
from (values
    ('jit', 'off'), ('plan_cache_mode', 'force_generic_plan'), ('enable_seqscan', 'off'), ('enable_hashjoin', 'off'),
    ('enable_mergejoin', 'off'), ('enable_material', 'off'), ('synchronous_commit', 'on'),
    ('idle_in_transaction_session_timeout', '0'), ('statement_timeout', %s::text)
) as setting (name, value)
"""
"""Every statement here walks an index. A planner without statistics, as in a new database, thinks otherwise."""

_CONFIRM = b"""
select set_config('statement_timeout', '0', true),
    case when current_setting('synchronous_standby_names') <> ''
        then pg_logical_emit_message(true, 'shardhash', '')::text end
"""
"""What a change ends with. The message makes the commit wait for the standby even if nothing was to be changed: a
report that was stored before may be here, and not yet there."""

_LATER = {
    "40001", "40P01",  # serialization failure, deadlock
    "25006",  # read-only: it became a standby
    "53300",  # too many connections
    "57P01", "57P02", "57P03", "57P05",  # it stops, starts, or has crashed
}  # fmt: skip
"""SQLSTATEs of what passes. Those of class 08, and none at all, are connections that were cut."""


class NotReplicatedError(psycopg.OperationalError):
    """A commit that no standby confirmed."""

    def __str__(self) -> str:
        return "a commit was not confirmed by the synchronous standby"


class Database:
    """Connections to the database of a URL; `limit` seconds is the longest that it may be away.

    `read_only`: it may be a standby. Use from one event loop.
    """

    def __init__(self, url: str, limit: float, connections: int, *, read_only: bool = False) -> None:
        self.name = hide_password(url)
        self._conninfo = connection_string(url, read_only=read_only)
        self._limit = limit
        self._most = connections
        self._free = asyncio.Semaphore(connections)
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._changes: set[asyncio.Task[object]] = set()
        self._not_replicated: WeakSet[Connection] = WeakSet()
        self._closed = False
        self._complaints: set[str] = set()

    async def close(self) -> None:
        """Let the changes that are under way end, for a while; then leave."""
        self._closed = True
        if self._changes:
            await asyncio.wait(self._changes, timeout=CLOSE_LIMIT)
        for connection in self._busy:
            connection.pgconn.finish()  # nothing is sent: to cancel a commit would be worse than to leave it
        for change in self._changes:
            change.cancel()
        await self._drop_idle()

    # ---------------------------------------------------------------------------------------------------- work

    async def read(self, work: Work[_T]) -> _T:
        """Do some work that changes nothing. UnavailableError, StorageError."""
        try:
            async with asyncio.timeout(self._limit + GRACE):
                return await self._do(work)
        except TimeoutError:
            raise self._too_slow() from None

    async def write(self, work: Work[_T]) -> _T:
        """Do some work in a transaction, whose commit waits for the disk and the standby as long as it takes.

        It goes on when its caller is cancelled or has waited for long enough. Its statements are sent together until
        one of their results is asked for. UnavailableError, StorageError.
        """
        change: asyncio.Task[_T] = asyncio.ensure_future(self._do(partial(self._change, work)))
        self._changes.add(change)
        change.add_done_callback(self._changed)
        done, _ = await asyncio.wait([change], timeout=self._limit + GRACE)
        if not done:
            raise self._too_slow()
        return change.result()

    def _changed(self, change: asyncio.Task[_T]) -> None:
        self._changes.discard(change)
        if not change.cancelled():
            change.exception()  # perhaps nobody waits for it any more

    async def _change(self, work: Work[_T], connection: Connection) -> _T:
        async with connection.pipeline(), connection.transaction():
            answer = await work(connection)
            await connection.execute(_CONFIRM)
        if connection in self._not_replicated:
            await connection.close()
            raise NotReplicatedError
        return answer

    async def _do(self, work: Work[_T]) -> _T:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._limit
        pause = _FIRST_PAUSE
        while True:
            try:
                async with self._connection(end) as connection:
                    answer = await work(connection)
            except psycopg.Error as error:
                refusal = self._refusal(error)
                if refusal is None:
                    raise
                if self._closed or isinstance(refusal, StorageError) or loop.time() + pause > end:
                    self._complain(error, "gave up")
                    raise refusal from None
                await self._drop_idle()
                self._complain(error, f"trying again for {self._limit:g} s")
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                self._complaints.clear()
                return answer

    # -------------------------------------------------------------------------------------------------- errors

    def _refusal(self, error: psycopg.Error) -> UnavailableError | StorageError | None:
        """What clients are told of an error; StorageError need not be tried again, None is a bug.

        Where the database is, and why it cannot be reached, is for the log only.
        """
        state = error.sqlstate or ""
        cut = isinstance(error, psycopg.OperationalError) and state[:2] in ("", "08")
        if cut or state in _LATER:
            return UnavailableError("the database cannot be reached now; the server's log says why")
        if state == "57014":
            return self._too_slow()
        if state[:2] in ("53", "58") or state == "42501":
            return StorageError(f"the database refused: {error.diag.message_primary or describe(error)}")
        return None

    def _too_slow(self) -> UnavailableError:
        return UnavailableError(f"the database did not answer within {self._limit:g} s")

    def _complain(self, error: psycopg.Error, done: str) -> None:
        """Say what went wrong, and what is done about it, once until something works."""
        text = f"{self.name}: {describe(error)}; {done}"
        log.log(logging.DEBUG if text in self._complaints else logging.WARNING, "%s", text)
        self._complaints.add(text)

    # --------------------------------------------------------------------------------------------- connections

    @asynccontextmanager
    async def _connection(self, end: float) -> AsyncIterator[Connection]:
        """A connection, by `end` (of the loop's clock) at the latest."""
        try:
            async with asyncio.timeout_at(end):
                await self._free.acquire()
        except TimeoutError:
            raise UnavailableError(
                f"all {self._most} connections to the database were busy for {self._limit:g} s"
            ) from None
        try:
            if self._closed:
                raise UnavailableError("the server is shutting down")
            connection = self._idle.pop() if self._idle else await self._connect()
            self._busy.add(connection)
            try:
                yield connection
            finally:
                self._busy.discard(connection)
                await self._keep(connection)
        finally:
            self._free.release()

    async def _connect(self) -> Connection:
        connection = await AsyncConnection.connect(self._conninfo, autocommit=True, prepare_threshold=0)
        connection.add_notice_handler(partial(self._notice, connection))
        await connection.execute(_SETTINGS, [str(int(self._limit * 1000))])
        return connection

    def _notice(self, connection: Connection, diagnostic: psycopg.errors.Diagnostic) -> None:
        text = diagnostic.message_primary or ""
        if text.startswith(_NOT_REPLICATED):
            self._not_replicated.add(connection)
        log.debug("the database says: %s", text)

    async def _keep(self, connection: Connection) -> None:
        """Keep a connection for the next one, unless something is left on it."""
        if self._closed or connection.closed or connection.info.transaction_status != TransactionStatus.IDLE:
            await connection.close()
        else:
            self._idle.append(connection)

    async def _drop_idle(self) -> None:
        """Leave the connections that nobody uses: when one was cut, most likely all were."""
        idle, self._idle = self._idle, []
        for connection in idle:
            with suppress(psycopg.Error):
                await connection.close()

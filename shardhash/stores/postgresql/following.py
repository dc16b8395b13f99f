"""Following: what other servers change is heard here, and for how long it may be trusted in. See changes.py.

One connection of its own reads what is new of the table `change`, several times a lease and whenever the database wakes
it (NOTIFY). All that is read is of one moment. Then:

1. Answers at hand are forgotten if mappings are being removed, and stay so until that has ended.
2. Whoever follows entries is told of those that changed.
3. The server's row says how far it has followed; only then does the lease last longer.

A server that was passed over, because it was away for longer than its lease, and one whose database is another now
than it was, finds its row missing or different: it forgets everything, and begins anew.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import AsyncConnection

from shardhash.base.entry_kinds import USER
from shardhash.base.tasks import BackgroundTasks
from shardhash.errors import ServerFaultError
from shardhash.stores.answers import Answers
from shardhash.stores.interface import EntryChanged
from shardhash.stores.postgresql.addresses import Connection, connection_string, describe
from shardhash.stores.postgresql.changes import CHANNEL, COLLECTION, REMOVAL, now
from shardhash.stores.postgresql.codec import unpack_text

log = logging.getLogger(__name__)

PAUSE: Final = 1.0
"""Seconds before it is tried again to connect."""
QUESTIONS: Final = 5
"""Questions for changes in the time of a lease, if nothing wakes this server."""
STILL: Final = 30.0
"""Seconds without a beat after which a removal, or a collection, is that of a dead server."""
_ANSWER_LIMIT: Final = 30.0
_LEAVE_LIMIT: Final = 2.0

_LISTEN = f"listen {CHANNEL}".encode()
_ENTER = b"""
insert into shardhash.follower (id, followed, lease)
select %b::bytea, coalesce(max(seq), 0), %b::float8 from shardhash.change
on conflict (id) do update set followed = excluded.followed, lease = excluded.lease
returning followed
"""
_READ = b"""
select 'follower', null::text, id, followed from shardhash.follower where id = %b::bytea
union all select 'removal', null, id, beat from shardhash.removal
union all select 'collection', null, name, beat from shardhash.collection
union all select 'change', kind, key, seq from shardhash.change where seq > %b::bigint
order by 1, 4
"""
_FOLLOWED = b"update shardhash.follower set followed = %b::bigint where id = %b::bytea"
_END = """
delete from shardhash.{table} where {key} = (
    select {key} from shardhash.{table} where {key} = %b::bytea and beat = %b::bigint for update skip locked
)
"""
_ENDS: Final = {
    "removal": _END.format(table="removal", key="id").encode(),
    "collection": _END.format(table="collection", key="name").encode(),
}
_LEAVE = b"delete from shardhash.follower where id = %b::bytea"


class _Read(NamedTuple):
    """What one question found: how far this server's row says that it has followed, None without a row."""

    own: int | None
    under_way: dict[tuple[str, bytes], int]
    """The beat of each removal and collection, by kind and name."""
    changes: Sequence[tuple[str, bytes, int]]


class Follower:
    """Follows, from `start` to `close`. Use from one event loop.

    `changed` is called for entries. `followed` is the number of the last change that `answers` know of; `collecting`
    says whether there was a collection then.
    """

    def __init__(self, url: str, lease: float, answers: Answers) -> None:
        """`lease`: seconds for which answers may be trusted in, 0 for never."""
        self.changed: EntryChanged = _ignore
        self.followed = -1
        self.collecting = False
        self._conninfo = connection_string(url)
        self._id = secrets.token_bytes(16)
        self._lease = lease
        self._answers = answers
        self._until = 0.0
        self._removing = False
        self._still: dict[tuple[str, bytes], tuple[int, float]] = {}
        """Of each removal and collection, its beat and when that was seen first."""
        self._complained = ""
        self._tasks = BackgroundTasks()

    def start(self) -> None:
        """Begin to follow."""
        self._tasks.start(self._run(), "following other servers")

    async def close(self) -> None:
        """Stop; the others need not wait for this server any more."""
        self._until = 0.0
        await self._tasks.close()
        with suppress(psycopg.Error, TimeoutError):
            async with asyncio.timeout(_LEAVE_LIMIT), await self._connect() as connection:
                await connection.execute(_LEAVE, [self._id])

    @property
    def lapsed(self) -> bool:
        """Whether other servers may have changed something unheard; 0.2 us."""
        return now() >= self._until

    async def _connect(self) -> Connection:
        return await AsyncConnection.connect(self._conninfo, autocommit=True, prepare_threshold=0)

    async def _run(self) -> None:
        while True:
            try:
                async with await self._connect() as connection:
                    await connection.execute(_LISTEN)
                    while True:
                        await self._follow(connection)
            except (psycopg.Error, ServerFaultError, TimeoutError) as error:
                self._complain(error)
            await asyncio.sleep(PAUSE)

    def _complain(self, error: Exception) -> None:
        """Say once why nothing can be followed. A database that is away is told of by those who ask it."""
        text = describe(error)
        if isinstance(error, psycopg.errors.InsufficientPrivilege) and text != self._complained:
            self._complained = text
            log.warning(
                "changes of other servers cannot be followed, so that nothing is answered from memory: %s; grant this"
                " user all rights on the tables of the schema shardhash",
                text,
            )
        else:
            log.debug("changes of other servers cannot be followed now: %s", text)

    async def _follow(self, connection: Connection) -> None:
        """Follow until this server's row is another's, or none."""
        async with asyncio.timeout(_ANSWER_LIMIT):
            self.followed = await self._enter(connection)
        self._answers.forget()  # also what was asked for before the row was there
        await self.changed(USER, None)
        while True:
            async with asyncio.timeout(_ANSWER_LIMIT):
                if not await self._follow_once(connection):
                    log.info("other servers passed this one over, or the database is another now: it begins anew")
                    return
            async for _ in connection.notifies(timeout=max(self._lease, 1.0) / QUESTIONS, stop_after=1):
                pass

    async def _enter(self, connection: Connection) -> int:
        cursor = connection.cursor(binary=True)
        row: Any = await (await cursor.execute(_ENTER, [self._id, self._lease])).fetchone()
        return int(row[0])

    async def _follow_once(self, connection: Connection) -> bool:
        """Ask once, and act by it; False if this server has no row any more."""
        began = now()
        read = await self._read(connection)
        if read.own != self.followed:
            return False
        self._hide_answers(read)
        for kind, key, _ in read.changes:
            if kind not in (REMOVAL, COLLECTION):
                await self.changed(kind, unpack_text(key))
        if read.changes:
            followed = read.changes[-1][2]
            cursor = await connection.execute(_FOLLOWED, [followed, self._id])
            if not cursor.rowcount:
                return False
            self.followed = followed
        self._until = began + self._lease
        await self._end_what_stands_still(connection, read.under_way)
        return True

    async def _read(self, connection: Connection) -> _Read:
        cursor = connection.cursor(binary=True)
        await cursor.execute(_READ, [self._id, self.followed])
        own: int | None = None
        under_way: dict[tuple[str, bytes], int] = {}
        changes: list[tuple[str, bytes, int]] = []
        for what, kind, key, number in await cursor.fetchall():
            if what == "follower":
                own = number
            elif what == "change":
                changes.append((kind, key, number))
            else:
                under_way[what, key] = number
        return _Read(own, under_way, changes)

    def _hide_answers(self, read: _Read) -> None:
        """Nothing is at hand while mappings are removed, and nothing of before when a collection begins."""
        kinds = {kind for kind, _ in read.under_way}
        self.collecting = "collection" in kinds
        if any(kind in (REMOVAL, COLLECTION) for kind, _, _ in read.changes):
            self._answers.forget()
        if ("removal" in kinds) is not self._removing:
            self._removing = not self._removing
            if self._removing:
                self._answers.begin_removal()
            else:
                self._answers.end_removal()

    async def _end_what_stands_still(self, connection: Connection, under_way: dict[tuple[str, bytes], int]) -> None:
        moment = now()
        still, self._still = self._still, {}
        for (kind, name), beat in under_way.items():
            seen, since = still.get((kind, name), (beat, moment))
            if seen != beat:
                since = moment
            elif moment - since > STILL:
                log.warning("a %s of another server stands still for %g s: it is taken for ended", kind, STILL)
                await connection.execute(_ENDS[kind], [name, beat])
            self._still[kind, name] = (beat, since)


async def _ignore(_kind: str, _name: str | None) -> None:
    """What `changed` is until somebody follows entries."""

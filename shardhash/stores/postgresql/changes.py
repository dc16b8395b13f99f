"""Changes: what makes answers of other servers wrong is told to all of them, before it counts.

Servers answer lookups from what they remember (stores/answers.py), and let users do what they read of them. Whatever
changes either is a row of the table `change`, and each server follows that table (following.py).

*Leases.* A server has a row of `follower`: up to which change it has followed, and a lease, in seconds. It trusts in
what it remembers until `lease` seconds after it *began* to read the table, and only once its row says that it
followed all it read. So whoever committed a change at a time T, by its own clock, knows at T + lease that no server
trusts in anything older any more, though it was frozen or cut off; and before that, if its row has come as far
(`until_followed`). Then the row of a server that was late is deleted: that server has to make another before it trusts
in anything again. Only the speed of clocks matters, and `SLACK` allows for that.

*A removal* deletes mappings slice by slice, and a report may store one of them anew in between, which is acknowledged.
So:
1. It is told, as a row of `removal` and a change, and awaited. From then on no server answers from what it remembers,
   or remembers anything.
2. Each slice's transaction first counts the removal's `beat` up. It fails if the row is gone.
3. The row is deleted: answers asked for from then on may be remembered. The removal is acknowledged.
If the server dies within, the others delete its row once the beat has stood still for a while. They wait for no slice,
because a transaction that runs holds the row locked.

*A collection* (collector.py) is told when it begins, so that all servers forget what they remember: from then on each
answer comes from the database, which notes it. That it runs is a row of `collection`, with a beat as above.

*A change of an entry* (a user) is told in its own transaction, and `settled` waits until all have followed it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, TypeAlias

from shardhash.errors import ServerFaultError, UnavailableError
from shardhash.stores.postgresql.addresses import Connection
from shardhash.stores.postgresql.connections import Database
from shardhash.stores.postgresql.locks import CLOSE, ORDER_CHANGES

log = logging.getLogger(__name__)

CHANNEL: Final = "shardhash_changes"
"""Wakes those who follow; what changed is in the table."""
REMOVAL: Final = "removal"
"""The kind of a change that makes remembered mappings wrong."""
COLLECTION: Final = "collection"
"""That of one after which the database has to be asked for everything once more. Other kinds are those of entries."""
SLACK: Final = 1.1
"""By how much clocks of two machines may differ in speed."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.1

_TELL = b"insert into shardhash.change (kind, key) values (%b, %b) returning seq"
_FORGET_OLD = b"delete from shardhash.change where seq < (select min(followed) from shardhash.follower)"
WAKE: Final = f"notify {CHANNEL}".encode()
_BEGIN = b"insert into shardhash.removal (id) values (%b) on conflict do nothing"
_BEAT = b"update shardhash.removal set beat = beat + 1 where id = %b returning beat"
_END = b"delete from shardhash.removal where id = %b"
_LATE = b"select id, lease from shardhash.follower where followed < %b::bigint"
_DROP = b"delete from shardhash.follower where id = any(%b::bytea[]) and followed < %b::bigint"

Begin: TypeAlias = Callable[[Connection], Awaitable[None]]
"""What a transaction begins with; it may raise."""


def now() -> float:
    """Seconds that also count while the machine sleeps."""
    return time.clock_gettime(_CLOCK)


_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


async def tell(connection: Connection, kind: str, key: bytes) -> int:
    """Tell of a change, in its transaction and at its end; its number."""
    await connection.execute(ORDER_CHANGES)
    cursor = connection.cursor(binary=True)
    await cursor.execute(_TELL, [kind, key])
    await connection.execute(_FORGET_OLD)
    await connection.execute(WAKE)
    row: Any = await cursor.fetchone()
    return int(row[0])


class Changes:
    """Tells other servers of changes, and waits for them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def removal(self) -> AsyncIterator[Begin]:
        """Mappings go within: yields what each transaction that deletes some has to begin with. It closes the gate."""
        name = secrets.token_bytes(16)

        async def begin(connection: Connection) -> int:
            await connection.execute(_BEGIN, [name])
            return await tell(connection, REMOVAL, name)

        async def end(connection: Connection) -> None:
            await connection.execute(_END, [name])
            await connection.execute(WAKE)

        try:
            await self.until_followed(await self._database.write(begin))
            yield partial(_beat, name)
        finally:
            try:
                await self._database.write(end)
            except ServerFaultError as error:
                log.warning("the end of a removal was not told, which other servers find out in a while: %s", error)

    async def until_followed(self, number: int, least: float = 0.0) -> None:
        """Wait until every server that answers by what it followed has followed a change, which is committed.

        `least`: seconds to wait for each at least, however short its lease is.
        """
        committed = now()
        pause = _FIRST_PAUSE
        while late := await self._database.read(partial(_late, number)):
            passed = now() - committed
            gone = [server for server, lease in late if passed > max(lease, least) * SLACK]
            if gone:
                log.warning("%d servers have not answered for the time of their lease: they are passed over", len(gone))
                await self._database.write(partial(_drop, gone, number))
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


async def _beat(name: bytes, connection: Connection) -> None:
    cursor = await connection.execute(_BEAT, [name])
    await connection.execute(CLOSE)  # the row first: others end no removal whose transaction waits for the gate
    if await cursor.fetchone() is None:
        raise UnavailableError("the removal stood still for too long, and other servers ended it; ask again")


async def _late(number: int, connection: Connection) -> list[tuple[bytes, float]]:
    cursor = connection.cursor(binary=True)
    return await (await cursor.execute(_LATE, [number])).fetchall()


async def _drop(servers: list[bytes], number: int, connection: Connection) -> None:
    await connection.execute(_DROP, [servers, number])

"""Following: what other servers change in users and settings, told here.

A change of an entry is notified by the database when it is committed (NOTIFY). One connection listens. Whoever follows
is told to look at everything when it begins to listen, and again whenever it has to begin anew, since something may
have changed meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import orjson
import psycopg
from psycopg import AsyncConnection

from shardhash.errors import ServerFaultError
from shardhash.stores.interface import EntryChanged
from shardhash.stores.postgresql.addresses import Connection, connection_string, describe

log = logging.getLogger(__name__)

CHANNEL: Final = "shardhash_entries"
LONGEST: Final = 7000
"""Bytes of a notification; PostgreSQL takes 8000. A change with a longer name is told as one of everything."""
PAUSE: Final = 1.0
"""Seconds before it is tried again to listen."""


async def notify(connection: Connection, kind: str, name: str) -> None:
    """Have all servers told of a change of an entry, once the transaction is committed."""
    text = orjson.dumps([kind, name]).decode()
    await connection.execute(
        b"select pg_notify(%s::text, %s::text)", [CHANNEL, text if len(text.encode()) <= LONGEST else ""]
    )


async def follow(url: str, changed: EntryChanged) -> None:
    """Tell of changes until cancelled."""
    while True:
        try:
            async with await AsyncConnection.connect(connection_string(url), autocommit=True) as connection:
                await connection.execute(f"listen {CHANNEL}".encode())
                await changed("user", None)
                async for notification in connection.notifies():
                    await _tell(notification.payload, changed)
        except psycopg.Error as error:
            log.debug("changes of other servers cannot be followed now: %s", describe(error))
        except ServerFaultError as error:
            log.debug("a change of another server cannot be looked at now: %s", error)
        await asyncio.sleep(PAUSE)


async def _tell(payload: str, changed: EntryChanged) -> None:
    try:
        kind, name = orjson.loads(payload)
    except ValueError:
        await changed("user", None)
    else:
        await changed(str(kind), str(name))

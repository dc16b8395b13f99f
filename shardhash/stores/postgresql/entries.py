"""Entries, which are not hashes: users and settings, JSON values by kind and name."""

from __future__ import annotations

from typing import Any

import orjson

from shardhash.base.entry_kinds import CONFIG, GC_MARK
from shardhash.stores.postgresql.addresses import Connection
from shardhash.stores.postgresql.changes import Changes, tell
from shardhash.stores.postgresql.codec import pack_text, unpack_text
from shardhash.stores.postgresql.connections import Database

MARK = (CONFIG, GC_MARK)
"""The entry of the current GC mark."""

_GET = b"select value from shardhash.entry where kind = %b and name = %b"
_LIST = b"select name, value from shardhash.entry where kind = %b order by name"
_SET = (
    b"insert into shardhash.entry (kind, name, value) values (%b, %b, %b)"
    b" on conflict (kind, name) do update set value = excluded.value"
)
_DELETE = b"delete from shardhash.entry where kind = %b and name = %b"


async def read_entry(connection: Connection, kind: str, name: str) -> Any:
    """The value of an entry; None when there is none."""
    cursor = connection.cursor(binary=True)
    row = await (await cursor.execute(_GET, [kind, pack_text(name)])).fetchone()
    return None if row is None else orjson.loads(row[0])


async def read_mark(connection: Connection) -> str:
    """The mark that new mappings carry, "" for none."""
    return str(await read_entry(connection, *MARK) or "")


async def write_entry(connection: Connection, kind: str, name: str, value: Any) -> None:
    """Set an entry, in the transaction that there is; None deletes it."""
    if value is None:
        await connection.execute(_DELETE, [kind, pack_text(name)])
    else:
        await connection.execute(_SET, [kind, pack_text(name), orjson.dumps(value)])


class Entries:
    """Entries, each read and written in a transaction of its own."""

    def __init__(self, database: Database, changes: Changes) -> None:
        self._database = database
        self._changes = changes
        self._latest = 0
        """The latest change of an entry that was told here."""

    async def get(self, kind: str, name: str) -> Any:
        """See Store.get_entry."""
        return await self._database.read(lambda connection: read_entry(connection, kind, name))

    async def list(self, kind: str) -> dict[str, Any]:
        """See Store.list_entries."""

        async def read(connection: Connection) -> dict[str, Any]:
            cursor = connection.cursor(binary=True)
            await cursor.execute(_LIST, [kind])
            return {unpack_text(name): orjson.loads(value) for name, value in await cursor.fetchall()}

        return await self._database.read(read)

    async def set(self, kind: str, name: str, value: Any) -> None:
        """See Store.set_entry."""

        async def write(connection: Connection) -> int:
            await write_entry(connection, kind, name, value)
            return await tell(connection, kind, pack_text(name))

        self._latest = max(self._latest, await self._database.write(write))

    async def settled(self) -> None:
        """See Store.settled."""
        await self._changes.until_followed(self._latest)

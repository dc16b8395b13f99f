"""Methods: the numbers that stand for their names in the database."""

from __future__ import annotations

from collections.abc import Iterable

from shardhash.stores.postgresql.addresses import Connection
from shardhash.stores.postgresql.codec import pack_text, unpack_text
from shardhash.stores.postgresql.connections import Database

_FIND = b"select id, name from shardhash.method where name = any(%b::bytea[])"
_ADD = b"insert into shardhash.method (name) select unnest(%b::bytea[]) on conflict do nothing"


class Methods:
    """Numbers of methods. One that is known stays so: no method is ever deleted."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._numbers: dict[str, int] = {}

    async def find(self, name: str) -> int | None:
        """A method's number; None when nothing was ever stored of it."""
        if name not in self._numbers:
            await self._read([name])
        return self._numbers.get(name)

    async def make(self, names: Iterable[str]) -> dict[str, int]:
        """The numbers of methods, for each that is new a new one."""
        if unknown := sorted(set(names) - self._numbers.keys()):
            await self._read(unknown)
        if unknown := [name for name in unknown if name not in self._numbers]:

            async def add(connection: Connection) -> None:
                await connection.execute(_ADD, [[pack_text(name) for name in unknown]])

            await self._database.write(add)
            await self._read(unknown)
        return self._numbers

    async def all(self) -> dict[str, int]:
        """Every method there is."""

        async def read(connection: Connection) -> list[tuple[int, bytes]]:
            cursor = connection.cursor(binary=True)
            return await (await cursor.execute(b"select id, name from shardhash.method")).fetchall()

        self._numbers.update((unpack_text(name), number) for number, name in await self._database.read(read))
        return self._numbers

    async def _read(self, names: list[str]) -> None:
        async def read(connection: Connection) -> list[tuple[int, bytes]]:
            cursor = connection.cursor(binary=True)
            return await (await cursor.execute(_FIND, [[pack_text(name) for name in names]])).fetchall()

        self._numbers.update((unpack_text(name), number) for number, name in await self._database.read(read))

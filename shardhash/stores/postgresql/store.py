"""The Store on PostgreSQL: every operation as the statements that carry it out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import compress
from typing import Any, Final

from shardhash.errors import ServerFaultError
from shardhash.stores.answers import ANSWER_CACHE, LEASE, Answers
from shardhash.stores.end_of_day import EndOfDay
from shardhash.stores.foreign_rows import created_of, report_of
from shardhash.stores.interface import CollectionStatus, EntryChanged, Health, Otherwise
from shardhash.stores.postgresql.addresses import Connection, connect
from shardhash.stores.postgresql.asking import COLLECTING, Asking, keep, note
from shardhash.stores.postgresql.changes import Changes
from shardhash.stores.postgresql.codec import pack_hash, pack_key, pack_text, unpack_row
from shardhash.stores.postgresql.collection import Collections
from shardhash.stores.postgresql.collector import PostgresqlCollector
from shardhash.stores.postgresql.connections import Database
from shardhash.stores.postgresql.entries import Entries, read_mark
from shardhash.stores.postgresql.explorer import PostgresqlExplorer
from shardhash.stores.postgresql.following import Follower
from shardhash.stores.postgresql.imports import Imports
from shardhash.stores.postgresql.locks import CLOSE, ENTER
from shardhash.stores.postgresql.lookups import Lookups
from shardhash.stores.postgresql.methods import Methods
from shardhash.stores.postgresql.quarantine import PostgresqlQuarantine
from shardhash.stores.postgresql.report_rounds import Reports
from shardhash.stores.postgresql.schema import check_version
from shardhash.stores.postgresql.walks import MAPPINGS, ROWS, Condition, condition_of, walk
from shardhash.wire.batch import Found
from shardhash.wire.hashes import DIGEST_SIZE, Buffer, Key
from shardhash.wire.rows import Columns, Report, Where

log = logging.getLogger(__name__)

CONNECTIONS: Final = 12
"""Of one server: 4 for lookups, 4 for questions whether unihashes exist, 3 for reports, and one for all else."""

LARGE_BATCH: Final = 10_000
"""Hashes of a batch from which on it is asked of the database, even if it may be at hand: 2 ms to look for."""

HEALTH_LIMIT: Final = 3.0
"""Seconds within which the database has to say that it is there."""

_LOOKUP_KEYS = b"""
select (select unihash from shardhash.mapping as m where m.taskhash = q.taskhash and m.method = %b::int), COLLECTING
from unnest(%b::bytea[]) with ordinality as q (taskhash, place)
order by q.place
"""
_ROW = "r.taskhash, r.outhash, r.created, r.owner, r.pn, r.pv, r.pr, r.task, r.siginfo"
_JOIN = "join shardhash.mapping as m on m.method = r.method and m.taskhash = r.taskhash"
_ROW_OF_TASKHASH = f"""
select {_ROW}, m.unihash, m.mark, COLLECTING from shardhash.outrow as r {_JOIN}
where r.method = %b::int and r.taskhash = %b::bytea order by r.created, r.outhash limit 1
""".encode()
_ROW_OF_OUTHASH = f"""
select {_ROW}, false from shardhash.outrow as r
where r.method = %b::int and r.outhash = %b::bytea order by r.created, r.taskhash limit 1
""".encode()
_MAPPED_ROW_OF_OUTHASH = f"""
select {_ROW}, m.unihash, m.mark, COLLECTING from shardhash.outrow as r {_JOIN}
where r.method = %b::int and r.outhash = %b::bytea and not exists (
    select from shardhash.barred as b where b.method = r.method and b.outhash = r.outhash
)
order by r.created, r.taskhash limit 1
""".encode()
_INSERT_MAPPING = b"""
insert into shardhash.mapping (method, taskhash, unihash, mark) values (%b::int, %b::bytea, %b::bytea, %b::bytea)
on conflict do nothing
"""
_MAPPING = b"select unihash from shardhash.mapping where method = %b::int and taskhash = %b::bytea"
_COUNTS = b"""
select (select count(*) from shardhash.mapping), (select count(*) from shardhash.outrow),
    (select count(*) from shardhash.entry where kind = 'user'),
    (select count(*) from shardhash.entry where kind = 'config')
"""
_DELETE = "delete from {table} as t using part as s where {match}"
_UNUSED = """t.created < %(before)b::bigint and not exists (
    select from shardhash.mapping as m where m.method = t.method and m.taskhash = t.taskhash
)"""


class PostgresqlStore:
    """A Store whose hashes lie in a PostgreSQL database, which other servers may share."""

    remote = True

    def __init__(
        self,
        url: str,
        limit: float,
        answer_cache: int = ANSWER_CACHE,
        lease: float = LEASE,
        replica: str | None = None,
    ) -> None:
        """`limit`: seconds that a request waits for the database, which may be failing over.

        `answer_cache`: bytes that answers may take which are kept at hand; `lease`: seconds for which they may be
        trusted in without hearing from the database. `replica`: the URL of a standby, which is asked what is not at
        hand, and which may be behind.
        """
        self._url = url
        self._replica = replica
        self._database = database = Database(url, limit, CONNECTIONS)
        self._methods = Methods(database)
        self._reading = database if replica is None else Database(replica, limit, CONNECTIONS, read_only=True)
        self._known_methods = self._methods if replica is None else Methods(self._reading)
        self._answers = Answers(answer_cache, unknown=False, large=LARGE_BATCH)
        self._follower = Follower(url, lease, self._answers)
        self._asking = Asking(database, self._methods, None if replica is None else self._replica_collects)
        self._lookups = Lookups(self._reading, self._known_methods, self._asking, behind=replica is not None)
        self._reports = Reports(database, self._methods, limit, self._asking)
        self._changes = Changes(database)
        self.collector = PostgresqlCollector(database, self._methods, self._changes)
        self._collections = Collections(database, self._methods, self._changes)
        self._entries = Entries(database, self._changes)
        self._end_of_day: EndOfDay | None = None
        imports = Imports(database, self._methods)
        self.explorer = PostgresqlExplorer(database, self._methods, self._asking)
        self.quarantine = PostgresqlQuarantine(
            database, self._methods, self.explorer, self._entries, self._changes, imports.take_mappings
        )
        self.take_mappings = imports.take_mappings
        self.take_rows = imports.take_rows

    async def open(self) -> None:
        """Connect. ConfigError when a database cannot be reached, or its tables are not those of this program."""
        for url in filter(None, (self._url, self._replica)):
            async with await connect(url, read_only=url is self._replica) as connection:
                await check_version(connection, url)
        self._follower.start()
        self._asking.start()
        self._end_of_day = EndOfDay(self._day_ended)

    async def close(self) -> None:
        """End what still runs; nobody waits for it any more."""
        if self._end_of_day is not None:
            self._end_of_day.cancel()
        await self.collector.close()
        await self._follower.close()
        await self._reports.close()
        await self._lookups.close()
        await self._asking.close()
        await self._database.close()
        if self._reading is not self._database:
            await self._reading.close()

    def _day_ended(self) -> None:
        self._answers.forget()
        self._asking.day_ended()

    @property
    def lapsed(self) -> bool:
        """See Store."""
        return self._follower.lapsed

    # ------------------------------------------------------------------------------------------- questions

    async def lookup(self, method: str, digests: Buffer) -> Found:
        """See Store."""
        found = None if self._follower.lapsed else self._answers.find_many(method, digests)
        if found is None:
            asked = self._answers.asked()
            current = self._lookups.position >= self._follower.followed
            found = await self._lookups.get(method, digests)
            if current:
                self._answers.remember(method, digests, found, asked)
        return found

    def find(self, method: str, digests: Buffer) -> Found | None:
        """See Store."""
        return None if self._follower.lapsed else self._answers.find(method, digests)

    async def lookup_keys(self, method: str, taskhashes: Sequence[Key]) -> list[bytes | None]:
        """See Store."""
        number = await self._known_methods.find(method)
        if number is None or not taskhashes:
            return [None] * len(taskhashes)
        keys = [pack_key(key) for key in taskhashes]
        found = await self._kept_rows(
            _LOOKUP_KEYS, [number, keys], number, lambda rows: compress(keys, (row[0] for row in rows))
        )
        self._asking.put_aside(method, compress(keys, (unihash for (unihash,) in found)))
        return [unihash for (unihash,) in found]

    async def exists(self, digests: Buffer) -> bytes:
        """See Store."""
        if not self._follower.lapsed and self._answers.exist(digests):
            return b"\1" * (len(digests) // DIGEST_SIZE)
        asked = self._answers.asked()
        current = self._lookups.position >= self._follower.followed
        status = await self._lookups.exists(digests)
        if current:
            self._answers.remember_existing(digests, status, asked)
        return status

    async def get_row(self, method: str, taskhash: str) -> Columns | None:
        """See Store."""
        return await self._row(_ROW_OF_TASKHASH, method, taskhash, joined=True)

    async def get_outhash(self, method: str, outhash: str, _taskhash: str, with_unihash: bool) -> Columns | None:
        """See Store."""
        statement = _MAPPED_ROW_OF_OUTHASH if with_unihash else _ROW_OF_OUTHASH
        return await self._row(statement, method, outhash, joined=with_unihash)

    async def _row(self, statement: bytes, method: str, key: str, *, joined: bool) -> Columns | None:
        number = await self._known_methods.find(method)
        if number is None:
            return None
        found = await self._kept_rows(
            statement, [number, pack_hash(key)], number, lambda rows: [row[0] for row in rows if joined]
        )
        if found and joined:
            self._asking.put_aside(method, (found[0][0],))
        return unpack_row(method, found[0]) if found else None

    def _replica_collects(self) -> bool:
        """Whether a collection runs, as far as is known."""
        return self._follower.collecting and not self._follower.lapsed

    async def _kept_rows(
        self,
        statement: bytes,
        given: Sequence[Any],
        method: int,
        asked: Callable[[list[tuple[Any, ...]]], Iterable[bytes]],
    ) -> list[tuple[Any, ...]]:
        """The rows of a statement, without their last column, which says whether a collection runs.

        It keeps the taskhashes that are `asked` for by them before they are answered (asking.py).
        """
        collects = self._asking.replica_collects
        if collects is not None:
            statement = statement.replace(b"COLLECTING", b"false")
        else:
            statement = statement.replace(b"COLLECTING", COLLECTING)
        rows = await self._rows(statement, given)
        if rows and (rows[0][-1] if collects is None else collects()) and (keys := list(asked(rows))):
            await self._asking.keep(method, keys)
            if collects is None:
                rows = await self._rows(statement, given)
        return [row[:-1] for row in rows]

    async def _rows(self, statement: bytes, given: Sequence[Any]) -> list[tuple[Any, ...]]:
        async def read(connection: Connection) -> list[tuple[Any, ...]]:
            cursor = connection.cursor(binary=True)
            return await (await cursor.execute(statement, given)).fetchall()

        return await self._reading.read(read)

    # --------------------------------------------------------------------------------------------- reports

    def report(self, reports: Sequence[Report], otherwise: Otherwise | None = None) -> Awaitable[list[bytes]]:
        """See Store."""
        return self._reports.report(reports, otherwise)

    async def report_equiv(self, method: str, taskhash: str, unihash: bytes) -> bytes:
        """See Store."""
        number = (await self._methods.make([method]))[method]
        place: list[Any] = [number, pack_hash(taskhash)]

        async def insert(connection: Connection) -> bytes:
            await connection.execute(ENTER)
            mark = await read_mark(connection)
            await connection.execute(_INSERT_MAPPING, [*place, unihash, pack_text(mark)])
            await note(connection, place[:1], place[1:])  # no row says when it came
            await keep(connection, place[:1], place[1:])
            cursor = connection.cursor(binary=True)
            row = await (await cursor.execute(_MAPPING, place)).fetchone()
            assert row is not None, "it is there, and no removal can come in between"
            return bytes(row[0])

        return await self._database.write(insert)

    async def store_row(self, row: Columns) -> None:
        """See Store."""
        report = report_of(row)
        # The mapping first: as a mere report, the row would get the unihash of its local equivalents.
        await self.report_equiv(report.method, report.taskhash, bytes.fromhex(report.unihash))
        await self._reports.report([report], None, created=created_of(row))

    # -------------------------------------------------------------------------------------------- removals

    async def remove(self, where: Where) -> int:
        """See Store."""
        count = 0
        mappings = await condition_of(MAPPINGS, where, self._methods)
        if mappings is not None:
            async with self._changes.removal() as begin:
                count = await walk(self._database, MAPPINGS, mappings, _DELETE, begin, {})
        rows = await condition_of(ROWS, where, self._methods)
        if rows is not None:
            count += await walk(self._database, ROWS, rows, _DELETE, _close, {})
        return count

    async def clean_unused(self, max_age_seconds: int) -> int:
        """See Store."""
        before = time.time_ns() // 1000 - max_age_seconds * 1_000_000
        return await walk(self._database, ROWS, Condition(_UNUSED, {"before": before}), _DELETE, _close, {})

    # ------------------------------------------------------------------------------------ garbage collection

    async def gc_mark(self, marks: Sequence[tuple[str, Where]]) -> list[int]:
        """See Store."""
        return await self._collections.mark(marks)

    async def gc_status(self) -> CollectionStatus:
        """See Store."""
        return await self._collections.status()

    async def gc_sweep(self, mark: str) -> int:
        """See Store."""
        return await self._collections.sweep(mark)

    # ---------------------------------------------------------------------------------------------- entries

    async def usage(self) -> dict[str, int]:
        """See Store."""
        ((mappings, rows, users, config),) = await self._rows(_COUNTS, [])
        return {"unihashes_v3": mappings, "outhashes_v2": rows, "users": users, "config": config}

    async def health(self) -> Health:
        """See Store."""
        why = await _state_of(self._database)
        if not why and self._reading is not self._database and (of_replica := await _state_of(self._reading)):
            why = f"the replica: {of_replica}"
        return Health([], database=why, lease=not self._follower.lapsed)

    async def get_entry(self, kind: str, name: str) -> Any:
        """See Store."""
        return await self._entries.get(kind, name)

    async def list_entries(self, kind: str) -> dict[str, Any]:
        """See Store."""
        return await self._entries.list(kind)

    async def set_entry(self, kind: str, name: str, value: Any) -> None:
        """See Store."""
        await self._entries.set(kind, name, value)

    async def backfilled(self) -> int:
        """See Store. There is no upstream."""
        return 0

    def follow_entries(self, changed: EntryChanged) -> None:
        """See Store."""
        self._follower.changed = changed

    async def settled(self) -> None:
        """See Store."""
        await self._entries.settled()

    async def snapshot(self) -> None:
        """See Store. The database has backups of its own."""
        log.info("there is nothing to write: %s keeps everything, and has backups of its own", self._database.name)


async def _state_of(database: Database) -> str:
    """Why a database does not answer; "" when it does."""
    try:
        async with asyncio.timeout(HEALTH_LIMIT):
            await database.read(_ask_for_nothing)
    except TimeoutError:
        return f"it did not answer within {HEALTH_LIMIT:g} s"
    except ServerFaultError as error:
        return str(error)
    return ""


async def _ask_for_nothing(connection: Connection) -> None:
    await connection.execute(b"select 1")


async def _close(connection: Connection) -> None:
    await connection.execute(CLOSE)

"""Reports: rounds of them, a transaction each.

1. Reports of one outhash form a *line*, here in this process: they keep their order, and only one round at a time has
   some of them.
2. The round's transaction takes the gate (locks.py) for changes, then an advisory lock for each outhash, in ascending
   order, so that rounds of all servers wait for each other without a deadlock.
3. It reads what it needs in one statement (report_plan.py decides), and inserts mappings and rows, each in ascending
   order, in another.
4. If fewer mappings were inserted than decided, another server has just mapped a taskhash through another outhash: the
   transaction is undone and begins anew, and sees it.
5. It commits, and answers.

Those are two round trips: 2 and the reading, then the rest, 4 being for the database to find out.

Reports that an upstream is to be asked about leave the round, with all that stand behind them in their line, ask
without a lock or a connection, and come back.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from functools import partial
from itertools import count, starmap
from typing import TypeAlias

import orjson
import psycopg

from shardhash.base.tasks import BackgroundTasks
from shardhash.errors import UnavailableError
from shardhash.stores.interface import Otherwise
from shardhash.stores.postgresql.addresses import Connection
from shardhash.stores.postgresql.arrays import bigint_array, bytea_array, int_array
from shardhash.stores.postgresql.asking import COLLECTING, Asking, keep
from shardhash.stores.postgresql.codec import pack_hash, pack_optional
from shardhash.stores.postgresql.connections import Database
from shardhash.stores.postgresql.locks import ENTER, LOCK_OUTHASHES, lock_key
from shardhash.stores.postgresql.methods import Methods
from shardhash.stores.postgresql.report_plan import Asked, Line, Mapped, Place, Plan, plan_reports
from shardhash.wire.rows import Report

log = logging.getLogger(__name__)

MOST_AT_ONCE = 3
"""Rounds at one time: one commits while the others work. Another begins once as much waits as is under way: a small
round costs nearly what a large one does."""
MOST_REPORTS = 500
"""Reports of one round. Each needs an advisory lock of the database, which has room for thousands."""

Outhash: TypeAlias = tuple[str, str]

BARRED = -2
"""What stands for the time of a row, and says that a quarantine names the outhash."""
_LOCK = ENTER + b" union all " + LOCK_OUTHASHES
_READ = b"""
select 'own', place, created, unihash, null::bytea
from (
    select place, (
        select created from shardhash.outrow as r
        where r.method = q.method and r.taskhash = q.taskhash and r.outhash = q.outhash
    ) as created, (
        select unihash from shardhash.mapping as m where m.method = q.method and m.taskhash = q.taskhash
    ) as unihash
    from unnest(%b::int[], %b::bytea[], %b::bytea[]) with ordinality as q (method, taskhash, outhash, place)
) as own
where created is not null or unihash is not null
union all
select 'line', q.place, x.created, x.unihash, x.taskhash
from unnest(%b::int[], %b::bytea[]) with ordinality as q (method, outhash, place)
cross join lateral (
    (
        select y.created, y.taskhash, y.unihash
        from (
            select r.created, r.taskhash, (
                select unihash from shardhash.mapping as m where m.method = r.method and m.taskhash = r.taskhash
            )
            from shardhash.outrow as r
            where r.method = q.method and r.outhash = q.outhash
        ) as y
        where y.unihash is not null
        order by y.created, y.taskhash limit 2
    )
    union all
    (
        select r.created, r.taskhash, null
        from shardhash.outrow as r
        where r.method = q.method and r.outhash = q.outhash
        order by r.created desc, r.taskhash desc limit 1
    )
    union all
    (
        select BARRED, ''::bytea, null
        from shardhash.barred as b
        where b.method = q.method and b.outhash = q.outhash limit 1
    )
) as x
union all
select 'moment', 0, (extract(epoch from clock_timestamp()) * 1000000)::bigint,
    (select value from shardhash.entry where kind = 'config' and name = 'gc-mark'::bytea),
    case when COLLECTING then ''::bytea end
""".replace(b"BARRED", b"%d" % BARRED).replace(b"COLLECTING", COLLECTING)
"""Of what is reported, all that is there already: its rows and mappings, its outhashes; and the time, the mark, and
whether a collection runs."""
_STORE = b"""
with mapped as (
    insert into shardhash.mapping (method, taskhash, unihash, mark)
    select method, taskhash, unihash, %b::bytea
    from unnest(%b::int[], %b::bytea[], %b::bytea[]) as q (method, taskhash, unihash)
    on conflict do nothing returning 1
), stored as (
    insert into shardhash.outrow (method, taskhash, outhash, created, owner, pn, pv, pr, task, siginfo)
    select * from unnest(
        %b::int[], %b::bytea[], %b::bytea[], %b::bigint[],
        %b::bytea[], %b::bytea[], %b::bytea[], %b::bytea[], %b::bytea[], %b::bytea[]
    )
    on conflict do nothing
)
select 1 / (case when (select count(*) from mapped) = %b::bigint then 1 else 0 end)
"""
"""Divides by zero if another server has just stored one of these mappings: nobody has to wait for the count."""


class _UnderWay:
    """A report between request and acknowledgement."""

    __slots__ = ("created", "elsewhere", "future", "number", "otherwise", "outhash", "report")

    def __init__(self, report: Report, otherwise: Otherwise | None, created: int | None, number: int) -> None:
        """`number`: its place among all reports, as they came."""
        self.report = report
        self.number = number
        self.otherwise = otherwise
        self.created = created
        self.elsewhere: bytes | None = None
        self.outhash: Outhash = (report.method, report.outhash)
        self.future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def fail(self, error: BaseException) -> None:
        """It is not stored."""
        if not self.future.done():
            self.future.set_exception(error)

    def finish(self, unihash: bytes) -> None:
        """It is stored."""
        if not self.future.done():
            self.future.set_result(unihash)


class Reports:
    """Carries reports out. Use from the event loop's thread."""

    def __init__(self, database: Database, methods: Methods, limit: float, asking: Asking) -> None:
        self._database = database
        self._asking = asking
        self._methods = methods
        self._limit = limit
        self._tasks = BackgroundTasks()
        self._lines: dict[Outhash, deque[_UnderWay]] = {}
        self._free: deque[Outhash] = deque()
        self._running = 0
        self._under_way = 0
        """Outhashes of the rounds that run."""
        self._scheduled = False
        self._numbers = count()

    async def close(self) -> None:
        """End what still runs; nobody waits for it any more."""
        await self._tasks.close()

    async def report(
        self, reports: Sequence[Report], otherwise: Otherwise | None = None, created: int | None = None
    ) -> list[bytes]:
        """The unihashes in force, once all are durable. UnavailableError after `limit` seconds, perhaps stored."""
        futures = [self._add(_UnderWay(report, otherwise, created, next(self._numbers))) for report in reports]
        if not futures:
            return []
        together = asyncio.gather(*futures)
        done, _ = await asyncio.wait([together], timeout=self._limit)
        if not done:
            together.add_done_callback(lambda late: late.cancelled() or late.exception())
            raise UnavailableError(f"the database did not store a report within {self._limit:g} s")
        return together.result()

    def _add(self, report: _UnderWay) -> asyncio.Future[bytes]:
        line = self._lines.get(report.outhash)
        if line is None:
            self._lines[report.outhash] = line = deque()
            self._free.append(report.outhash)
        line.append(report)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._begin)
        return report.future

    def _begin(self) -> None:
        self._scheduled = False
        while self._free and self._running < MOST_AT_ONCE and len(self._free) >= min(self._under_way, MOST_REPORTS):
            some: list[_UnderWay] = []
            outhashes = []
            while self._free and len(some) < MOST_REPORTS:
                outhash = self._free.popleft()
                outhashes.append(outhash)
                line = self._lines[outhash]
                while line and len(some) < MOST_REPORTS:
                    some.append(line.popleft())
            some.sort(key=lambda report: report.number)  # the oldest row of a taskhash is the one reported first
            self._running += 1
            self._under_way += len(outhashes)
            self._tasks.start(self._round(some, outhashes), "a round of reports")

    async def _round(self, some: list[_UnderWay], outhashes: list[Outhash]) -> None:
        back: dict[Outhash, list[_UnderWay]] = {}
        try:
            answers = await self._store(some)
        except asyncio.CancelledError:
            for report in some:
                report.future.cancel()
            raise
        except Exception as error:  # noqa: BLE001  # a bug too is told to who waits
            for report in some:
                report.fail(error)
        else:
            for report, answer in zip(some, answers, strict=True):
                if answer is None:
                    back.setdefault(report.outhash, []).append(report)
                else:
                    report.finish(answer)
        finally:
            self._running -= 1
            self._under_way -= len(outhashes)
            for outhash in outhashes:
                if outhash in back:
                    self._tasks.start(self._ask_elsewhere(outhash, back[outhash]), "a report")
                else:
                    self._release(outhash)
            self._begin()

    def _release(self, outhash: Outhash) -> None:
        """No round has reports of this outhash any more."""
        if self._lines[outhash]:
            self._free.append(outhash)
        else:
            del self._lines[outhash]

    async def _ask_elsewhere(self, outhash: Outhash, waiting: list[_UnderWay]) -> None:
        """Ask about the first of these, and put all back in front of their line."""
        first = waiting[0]
        try:
            assert first.otherwise is not None, "only a report that has someone to ask waits for an answer"
            first.elsewhere = await first.otherwise(first.report)
            first.otherwise = None
        except Exception as error:  # noqa: BLE001  # a bug too is told to who waits
            first.fail(error)
            del waiting[0]
        finally:
            self._lines[outhash].extendleft(reversed(waiting))
            self._release(outhash)
            self._begin()

    async def _store(self, some: list[_UnderWay]) -> list[bytes | None]:
        numbers = await self._methods.make({under_way.report.method for under_way in some})
        asked = [
            Asked(
                numbers[report.method],
                pack_hash(report.taskhash),
                pack_hash(report.outhash),
                bytes.fromhex(report.unihash),
                under_way.created,
                under_way.elsewhere,
                under_way.otherwise is not None,
            )
            for under_way in some
            for report in (under_way.report,)
        ]
        outhashes = {(report.method, report.outhash) for report in asked}
        keys = sorted(starmap(lock_key, outhashes))
        details = [under_way.report for under_way in some]
        while True:
            try:
                plan = await self._database.write(partial(_store_once, asked, keys, outhashes, details))
            except psycopg.errors.DivisionByZero:  # another server mapped a taskhash of this round
                continue
            new = {position for position, _ in plan.rows}
            for position, report in enumerate(details):
                if position not in new:  # reported again is as good as asked for; a row tells of the first time alone
                    self._asking.put_aside(report.method, (asked[position].taskhash,))
            return plan.answers


async def _store_once(
    asked: list[Asked], keys: list[int], outhashes: set[Place], details: list[Report], connection: Connection
) -> Plan:
    own, lines, now, mark, collecting = await _read(connection, asked, keys, list(outhashes))
    plan = plan_reports(asked, own, lines, now)
    if plan.mappings or plan.rows:
        await connection.execute(_STORE, _stored(asked, plan, mark, details))
    if collecting:
        places = sorted({(report.method, report.taskhash) for report in asked})
        await keep(connection, [method for method, _ in places], [taskhash for _, taskhash in places])
    return plan


async def _read(
    connection: Connection, asked: list[Asked], keys: list[int], places: list[Place]
) -> tuple[list[tuple[int | None, bytes | None]], dict[Place, Line], int, bytes, bool]:
    """Lock, and read: own rows and mappings, lines, the time, the mark of new mappings, whether a collection runs."""
    await connection.execute(_LOCK, [bigint_array(keys)])
    cursor = connection.cursor(binary=True)
    await cursor.execute(
        _READ,
        [
            int_array([one.method for one in asked]),
            bytea_array([one.taskhash for one in asked]),
            bytea_array([one.outhash for one in asked]),
            int_array([method for method, _ in places]),
            bytea_array([outhash for _, outhash in places]),
        ],
    )
    own: list[tuple[int | None, bytes | None]] = [(None, None)] * len(asked)
    lines: dict[Place, Line] = {}
    now, mark, collecting = 0, None, False
    for what, place, created, unihash, taskhash in await cursor.fetchall():
        if what == "own":
            own[place - 1] = created, unihash
        elif what == "moment":
            now, mark, collecting = created, unihash, taskhash is not None
        else:
            line = lines.setdefault(places[place - 1], Line())
            if created == BARRED:
                line.barred = True
            elif unihash is None:
                line.latest = created
            else:
                line.add(Mapped(created, taskhash, unihash))
    packed = b"" if mark is None else orjson.loads(mark).encode("utf-8", "surrogatepass")
    return own, lines, now, packed, collecting


def _stored(asked: list[Asked], plan: Plan, mark: bytes, details: list[Report]) -> list[bytes | int]:
    """The parameters of `_STORE`."""
    places = sorted(plan.mappings)
    rows = [(asked[position], created, details[position]) for position, created in plan.rows]
    columns = zip(*(map(pack_optional, report[4:]) for _, _, report in rows), strict=True) if rows else [()] * 6
    return [
        mark,
        int_array([method for method, _ in places]),
        bytea_array([taskhash for _, taskhash in places]),
        bytea_array([plan.mappings[place] for place in places]),
        int_array([one.method for one, _, _ in rows]),
        bytea_array([one.taskhash for one, _, _ in rows]),
        bytea_array([one.outhash for one, _, _ in rows]),
        bigint_array([created for _, created, _ in rows]),
        *map(bytea_array, columns),
        len(places),
    ]

"""The explorer on a database: searches as statements, each in a transaction that only reads and ends after a while.

A search may look at every row, so that the planner may do what lookups never do (read a table from end to end), and
the statement ends after `BUDGET` seconds. A server makes one search at a time (coordinator/exploring.py).

A hash that is whole, or its first digits, is a range of the primary key or of an index. Other conditions have no index:
one would cost every report, and a search is made a few times a day.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from operator import itemgetter
from typing import Any, Final, NamedTuple

import psycopg

from shardhash.base.timestamps import DAY, FIRST_MONDAY, WEEK, to_iso
from shardhash.errors import InvokeError, ServerFaultError
from shardhash.stores.interface import DivergingTasks, FoundRows, Guesses
from shardhash.stores.postgresql.addresses import Connection
from shardhash.stores.postgresql.asking import Asking
from shardhash.stores.postgresql.codec import (
    beginnings,
    pack_hash,
    pack_text,
    unpack_hash,
    unpack_row,
    unpack_siginfo,
    unpack_text,
)
from shardhash.stores.postgresql.connections import Database
from shardhash.stores.postgresql.methods import Methods
from shardhash.wire.hashes import DIGEST_SIZE
from shardhash.wire.rows import DETAILS, SIGINFO, Columns
from shardhash.wire.search import BUDGET, MOST_OUTHASHES, MOST_RECIPES, WHOLE

_DIGITS: Final = frozenset("0123456789abcdef")

_BEGIN = f"""
select set_config(name, value, true)
from (values
    ('statement_timeout', '{BUDGET * 1000}'), ('enable_seqscan', 'on'), ('enable_hashjoin', 'on'),
    ('enable_mergejoin', 'on'), ('enable_material', 'on'), ('plan_cache_mode', 'force_custom_plan')
) as setting (name, value)
""".encode()
_DETAILS = "owner, pn, pv, pr, task"
_MAPPED = "shardhash.outrow as r left join shardhash.mapping as m on m.method = r.method and m.taskhash = r.taskhash"
_ASKED = "left join shardhash.asked as a on a.method = m.method and a.taskhash = m.taskhash"
_HITS = f"""
select r.method, r.taskhash, r.outhash, r.created, {", ".join(f"r.{name}" for name in _DETAILS.split(", "))},
    r.siginfo is not null as has_siginfo, m.unihash, m.mark, a.day
from {_MAPPED} {_ASKED} where {{rows}}
"""
_BARE_HITS = f"""
union all
select m.method, m.taskhash, null, null, null, null, null, null, null, false, m.unihash, m.mark, a.day
from shardhash.mapping as m {_ASKED} where {{mappings}} and not exists (
    select from shardhash.outrow as r where r.method = m.method and r.taskhash = m.taskhash
)
"""
_SIGINFO = """(
    select x.siginfo from shardhash.outrow as x
    where x.method = hit.method and x.taskhash = hit.taskhash and x.outhash = hit.outhash
)"""
_DIVERGING = f"""
with task as materialized (
    select r.method, r.taskhash, max(r.created) as newest, (array_agg(r.pn order by r.created desc))[1] as pn
    from {_MAPPED} group by r.method, r.taskhash having count(*) > 1 and bool_or({{rows}})
)
(select null::int, null::bytea, pn, count(*) from task group by pn)
union all
(select method, taskhash, null, newest from task order by newest desc limit {{limit}})
"""
_ROWS_OF_TASKS = f"""
select hit.* from unnest(%(methods)s::int[], %(taskhashes)b::bytea[]) as q (method, taskhash)
cross join lateral ({_HITS.format(rows="r.method = q.method and r.taskhash = q.taskhash")}) as hit
order by hit.created, hit.outhash
"""
_SAVED = f"""
select first.pn, (first.created - {FIRST_MONDAY}) / {WEEK}, count(*)
from (
    select distinct on (r.method, r.taskhash) r.taskhash, r.created, r.pn, m.unihash
    from shardhash.outrow as r join shardhash.mapping as m on m.method = r.method and m.taskhash = r.taskhash
    where m.unihash <> m.taskhash order by r.method, r.taskhash, r.created
) as first
where first.created >= %(since)s::bigint group by 1, 2
""".encode()
_ROW = b"""
select taskhash, outhash, created, owner, pn, pv, pr, task, siginfo from shardhash.outrow
where method = %b::int and taskhash = %b::bytea and outhash = %b::bytea
"""


class Conditions(NamedTuple):
    """A search as SQL: what rows (``r``, with their mapping ``m``) match, and what mappings do that have no row.

    `mappings` is None when a mapping without a row cannot match.
    """

    rows: str
    mappings: str | None
    given: dict[str, Any]


async def search_of(search: Mapping[str, Any], methods: Methods) -> Conditions:
    """A search (wire/search.py), its times in microseconds, as conditions."""
    names = await methods.all()
    wanted = search.get("method")
    numbers = [number for name, number in names.items() if wanted is None or _matches(name, wanted)]
    rows, mappings = ["r.method = any(%(methods)s::int[])"], ["m.method = any(%(methods)s::int[])"]
    given: dict[str, Any] = {"methods": numbers}
    for name, tables in (("taskhash", "rm"), ("outhash", "r"), ("unihash", "m")):
        if name in search:
            text, parameters = _hash_condition(name, search[name])
            given |= parameters
            rows.append(text.format(f"{tables[0]}.{name}"))
            if "m" in tables:
                mappings.append(text.format(f"m.{name}"))
    named = [name for name in DETAILS if name in search]
    for name in named:
        column, text = f"r.{name.lower()}", search[name]
        given[name] = pack_text(text.removesuffix("*"))
        begin = f"substring({column} from 1 for {len(given[name])})" if text.endswith("*") else column
        rows.append(f"{begin} = %({name})b::bytea")
    times = [name for name in ("since", "until") if name in search]
    for name, relation in (("since", ">="), ("until", "<=")):
        if name in search:
            given[name] = search[name]
            rows.append(f"r.created {relation} %({name})s::bigint")
    bare = not named and not times and "outhash" not in search
    return Conditions(" and ".join(rows), " and ".join(mappings) if bare else None, given)


def _hash_condition(name: str, text: str) -> tuple[str, dict[str, Any]]:
    """A condition on a column, {0}: the whole hash, or what a digest, or another text, begins with.

    Each way is a range, which an index finds. UTF-8 has no byte 0xff.
    """
    if len(text) == WHOLE:
        return f"{{0}} = %({name})b::bytea", {name: pack_hash(text)}
    ranges = [("<>", begin, begin + b"\xff") for begin in beginnings(text)]
    if set(text) <= _DIGITS and len(text) < WHOLE:
        ranges.append(("=", bytes.fromhex(text.ljust(WHOLE, "0")), bytes.fromhex(text.ljust(WHOLE, "f"))))
    given: dict[str, Any] = {}
    ways = []
    for number, (relation, low, high) in enumerate(ranges):
        given |= {f"{name}_{number}": low, f"{name}_{number}_": high}
        ways.append(
            f"({{0}} between %({name}_{number})b::bytea and %({name}_{number}_)b::bytea"
            f" and octet_length({{0}}) {relation} {DIGEST_SIZE})"
        )
    return f"({' or '.join(ways)})", given


def _matches(value: str, wanted: str) -> bool:
    return value.startswith(wanted[:-1]) if wanted.endswith("*") else value == wanted


class PostgresqlExplorer:
    """An Explorer; see there."""

    notes_asking = True

    def __init__(self, database: Database, methods: Methods, asking: Asking) -> None:
        self._database = database
        self._asking = asking
        self._methods = methods

    async def find(self, search: Mapping[str, Any], limit: int, *, whole: bool = False) -> FoundRows:
        """See Explorer."""
        with suppress(ServerFaultError):
            await self._asking.note(rest=0)  # rows tell when they were last asked for
        conditions = await search_of(search, self._methods)
        hits = _HITS.format(rows=conditions.rows)
        if conditions.mappings is not None:
            hits += _BARE_HITS.format(mappings=conditions.mappings)
        count = f"select count(*) from ({hits}) as hit"
        newest = f"select hit.*{', ' + _SIGINFO if whole else ''} from ({hits}) as hit"
        newest += f" order by created desc nulls last, method, taskhash, outhash limit {int(limit)}"
        ((total,),), rows = await self.ask(conditions.given, count.encode(), newest.encode())
        return FoundRows(total, await self._described(rows), complete=True)

    async def read_row(self, method: str, taskhash: str, outhash: str) -> Columns | None:
        """See Explorer."""
        number = await self._methods.find(method)
        if number is None:
            return None

        async def read(connection: Connection) -> list[tuple[Any, ...]]:
            cursor = connection.cursor(binary=True)
            return await (await cursor.execute(_ROW, [number, pack_hash(taskhash), pack_hash(outhash)])).fetchall()

        found = await self._database.read(read)
        return unpack_row(method, found[0]) if found else None

    async def diverging(self, search: Mapping[str, Any], limit: int) -> DivergingTasks:
        """See Explorer."""
        conditions = await search_of(search, self._methods)
        (found,) = await self.ask(conditions.given, _DIVERGING.format(rows=conditions.rows, limit=int(limit)).encode())
        recipes: Counter[str] = Counter()
        places = []
        for method, taskhash, recipe, number in found:
            if method is None:
                recipes[unpack_text(recipe or b"")] += number
            else:
                places.append((method, taskhash))
        given = {"methods": [method for method, _ in places], "taskhashes": [taskhash for _, taskhash in places]}
        (rows,) = await self.ask(given, _ROWS_OF_TASKS.encode())
        by_task: dict[tuple[int, bytes], list[tuple[Any, ...]]] = {place: [] for place in places}
        for row in rows:
            by_task[row[0], row[1]].append(row)
        tasks = [await self._described(some[-MOST_OUTHASHES:]) for some in by_task.values() if some]
        return DivergingTasks(sum(recipes.values()), tasks, recipes.most_common(MOST_RECIPES), complete=True)

    async def guess(self, method: str, tasks: Sequence[tuple[str, str]]) -> Guesses:
        """None: without an index by recipe, which costs each report, the database would read all rows."""
        del method
        return Guesses([[] for _ in tasks], complete=False)

    async def saved(self, since: int) -> list[tuple[str | None, int, int]]:
        """See Explorer."""
        (found,) = await self.ask({"since": since}, _SAVED)
        counts = [
            (None if recipe is None else unpack_text(recipe), FIRST_MONDAY + week * WEEK, number)
            for recipe, week, number in found
        ]
        return sorted(counts, key=itemgetter(2), reverse=True)

    async def ask(self, given: Mapping[str, Any], *statements: bytes) -> list[list[tuple[Any, ...]]]:
        """The rows of each statement, all of one moment. InvokeError when it takes too long."""
        return await self._database.read(partial(_ask, given, statements))

    async def _described(self, rows: Sequence[tuple[Any, ...]]) -> list[dict[str, Any]]:
        names = {number: name for name, number in (await self._methods.all()).items()}
        return [_describe(names[row[0]], row) for row in rows]


async def _ask(given: Mapping[str, Any], statements: Sequence[bytes], connection: Connection) -> list[Any]:
    try:
        async with connection.transaction():
            await connection.execute(b"set transaction isolation level repeatable read read only")
            await connection.execute(_BEGIN)
            answers = []
            for statement in statements:
                cursor = connection.cursor(binary=True)
                # Not prepared: the values say which index is worth it.
                answers.append(await (await cursor.execute(statement, given, prepare=False)).fetchall())
            return answers
    except psycopg.errors.QueryCanceled:
        raise InvokeError(
            f"the search was ended after {BUDGET} seconds: the database holds much; say more of what you look for, such"
            " as a hash or its first 8 digits"
        ) from None


def _describe(method: str, row: Sequence[Any]) -> dict[str, Any]:
    """A hit as clients see it; with its siginfo if the row has one more column."""
    _, taskhash, outhash, created, *details, has_siginfo, unihash, mark, day = row[:13]
    texts = [None if value is None else unpack_text(value) for value in details]
    siginfo = {} if len(row) == 13 else {SIGINFO: unpack_siginfo(row[13])}
    return siginfo | {
        "method": method,
        "taskhash": unpack_hash(taskhash),
        "outhash": None if outhash is None else unpack_hash(outhash),
        "created": None if created is None else to_iso(created),
        **dict(zip(DETAILS, texts, strict=True)),
        "unihash": None if unihash is None else unihash.hex(),
        "gc_mark": "" if mark is None else unpack_text(mark),
        "asked": None if day is None else to_iso(day * DAY)[:10],
        "siginfo": has_siginfo,
    }

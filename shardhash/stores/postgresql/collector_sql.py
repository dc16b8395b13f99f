"""The statements of a collection (collector.py, which says what its tables hold)."""

from __future__ import annotations

from typing import Final

from shardhash.base.timestamps import DAY

SLICE: Final = 5000
"""Mappings of one transaction."""

OTHER = b"""
select extract(epoch from clock_timestamp() - stepped)::float8, extract(epoch from clock_timestamp() - seen)::float8
from shardhash.collection
"""
BEGIN = b"insert into shardhash.collection (name) values (%b)"
STEP = b"""
update shardhash.collection set beat = beat + 1, seen = clock_timestamp(), stepped = clock_timestamp()
where name = %b returning number
"""
BEAT = b"update shardhash.collection set beat = beat + 1, seen = clock_timestamp() where name = %b returning number"
END = b"delete from shardhash.collection where name = %b"
_LEFT_OVERS = b"""
with part as (
    select {key} from shardhash.{table} as t
    where not exists (select from shardhash.collection as c where c.number = t.collection) limit %b::int
), gone as (delete from shardhash.{table} as t using part as p where {match} returning 1)
select count(*) from gone
"""
CLEAR = [
    _LEFT_OVERS.replace(b"{table}", table)
    .replace(b"{key}", b", ".join(key))
    .replace(b"{match}", b" and ".join(b"t.%b = p.%b" % (name, name) for name in key))
    for table, key in ((b"kept", [b"collection", b"method", b"taskhash"]), (b"doomed", [b"collection", b"place"]))
]
CLEAR_DOOMED = b"delete from shardhash.doomed where collection = %b::bigint"

KEEP_UNIHASHES = b"""
with kept as (
    insert into shardhash.kept (collection, method, taskhash)
    select %b::bigint, m.method, m.taskhash
    from unnest(%b::bytea[]) as q (unihash) join shardhash.mapping as m on m.unihash = q.unihash
    order by 2, 3 on conflict do nothing returning 1
)
select count(*) from kept
"""
_PART = f"""
with part as materialized (
    select method, taskhash from shardhash.mapping
    where (method, taskhash) > (%(method)b::int, %(taskhash)b::bytea) order by method, taskhash limit {SLICE}
)"""
_LAST = "select {columns}, method, taskhash from part order by method desc, taskhash desc limit 1"
COUNT = f"{_PART} {_LAST.format(columns='(select count(*) from part)')}".encode()
KEEP_USED = f"""{_PART}, used as (
    select p.method, p.taskhash from part as p where greatest(
        (select day from shardhash.asked_from)::bigint,
        (select a.day from shardhash.asked as a where a.method = p.method and a.taskhash = p.taskhash)::bigint,
        (
            select max(r.created) from shardhash.outrow as r where r.method = p.method and r.taskhash = p.taskhash
        ) / {DAY}
    ) >= %(day)b::bigint
), kept as (
    insert into shardhash.kept (collection, method, taskhash) select %(number)b::bigint, method, taskhash from used
    order by 2, 3 on conflict do nothing returning 1
)
{_LAST.format(columns="(select count(*) from kept)")}
""".encode()
CHOOSE = f"""{_PART}, chosen as (
    insert into shardhash.doomed (collection, method, taskhash)
    select %(number)b::bigint, method, taskhash from part as p where not exists (
        select from shardhash.kept as k
        where k.collection = %(number)b::bigint and k.method = p.method and k.taskhash = p.taskhash
    )
    order by 2, 3 returning method, taskhash
), counted as (
    select x.recipe, count(*) as mappings, sum(x.rows)::bigint as rows
    from chosen as d cross join lateral (
        select count(*) as rows, (array_agg(r.pn order by r.created, r.outhash))[1] as recipe
        from shardhash.outrow as r where r.method = d.method and r.taskhash = d.taskhash
    ) as x
    group by x.recipe
)
select recipe, mappings, rows, null::int, null::bytea from counted
union all
({_LAST.format(columns="null, (select count(*) from part), 0")})
""".encode()
SHOW = b"""
with page as materialized (
    select place, method, taskhash from shardhash.doomed as d
    where d.collection = %(number)b::bigint and d.place > %(after)b::bigint and not exists (
        select from shardhash.kept as k
        where k.collection = %(number)b::bigint and k.method = d.method and k.taskhash = d.taskhash
    )
    order by d.place limit %(limit)b::int
)
select p.place, p.method, p.taskhash, (
    select m.unihash from shardhash.mapping as m where m.method = p.method and m.taskhash = p.taskhash
), (
    select m.mark from shardhash.mapping as m where m.method = p.method and m.taskhash = p.taskhash
), (
    select coalesce(sum(octet_length(r.siginfo)), 0)::bigint from shardhash.outrow as r
    where r.method = p.method and r.taskhash = p.taskhash
)
from page as p order by p.place
"""
ROWS = b"""
select q.place, r.taskhash, r.outhash, r.created, r.owner, r.pn, r.pv, r.pr, r.task, r.siginfo
from unnest(%b::int[], %b::bytea[]) with ordinality as q (method, taskhash, place)
join shardhash.outrow as r on r.method = q.method and r.taskhash = q.taskhash
order by q.place, r.created, r.outhash
"""
TAKE = b"""
with gone as (
    delete from shardhash.mapping as m
    using unnest(%(methods)b::int[], %(taskhashes)b::bytea[], %(unihashes)b::bytea[]) as q (method, taskhash, unihash)
    where m.method = q.method and m.taskhash = q.taskhash and m.unihash = q.unihash and not exists (
        select from shardhash.kept as k
        where k.collection = %(number)b::bigint and k.method = q.method and k.taskhash = q.taskhash
    )
    returning m.method, m.taskhash
), rows as (
    delete from shardhash.outrow as r using gone as g where r.method = g.method and r.taskhash = g.taskhash returning 1
), days as (
    delete from shardhash.asked as a using gone as g where a.method = g.method and a.taskhash = g.taskhash
)
select (select count(*) from gone), (select count(*) from rows)
"""

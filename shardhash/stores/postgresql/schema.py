"""The tables of the PostgreSQL store, in the schema ``shardhash``, and the migrations that lead to them.

==========  ==============================================================================================
method      a method's name and the number that stands for it everywhere else
mapping     (method, taskhash) -> unihash, with its GC mark ('' when none)
outrow      outhash rows; `created` is microseconds since 1970 UTC
entry       users and settings: (kind, name) -> a JSON value; the current GC mark is the setting "gc-mark"
change      what makes other servers' answers wrong, in the order of commits: (seq, kind, key); see changes.py
removal     removals that are under way, each with a counter that says that it goes on
follower    servers that answer by what they followed of `change`: how far, and for how long they trust in it
barred      outhashes that give no unihash to other tasks, each with the quarantine that names it (quarantine.py)
asked       the last day (since 1970 UTC) on which a mapping was asked for; asking.py has this and the next
asked_from  the one row with the day from which on that is known; until then everything was
collection  the collection that is under way, its `kept` mappings, and those that are `doomed`; collector.py has these
version     the one row that says which migrations were made
==========  ==============================================================================================

Hashes and texts are ``bytea`` (codec.py): a client's text may hold what no ``text`` column takes, and hashes are
compared as bytes anyway. `siginfo`, up to hundreds of KiB, needs no table of its own: PostgreSQL compresses what makes
a row longer than `toast_tuple_target` and keeps it apart.

A migration is never changed once it was released; a new one is appended. Old servers refuse a newer schema.
"""

from __future__ import annotations

import logging
from typing import Final

import psycopg

from shardhash.errors import ConfigError
from shardhash.stores.postgresql.addresses import Connection, connect, describe, hide_password

log = logging.getLogger(__name__)

FIRST = """
create table shardhash.method (
    id integer generated always as identity primary key,
    name bytea not null unique
);
create table shardhash.mapping (
    method integer not null,
    taskhash bytea not null,
    unihash bytea not null,
    mark bytea not null default '',
    primary key (method, taskhash)
);
create index mapping_unihash on shardhash.mapping (unihash);
create table shardhash.outrow (
    method integer not null,
    taskhash bytea not null,
    outhash bytea not null,
    created bigint not null,
    owner bytea,
    pn bytea,
    pv bytea,
    pr bytea,
    task bytea,
    siginfo bytea,
    primary key (method, taskhash, outhash)
) with (toast_tuple_target = 512);
create index outrow_outhash on shardhash.outrow (method, outhash, created, taskhash);
create table shardhash.entry (
    kind text not null,
    name bytea not null,
    value bytea not null,
    primary key (kind, name)
);
"""
SECOND = """
create table shardhash.change (
    seq bigint generated always as identity primary key,
    kind text not null,
    key bytea not null default ''
);
create table shardhash.removal (
    id bytea primary key,
    beat bigint not null default 0
);
create table shardhash.follower (
    id bytea primary key,
    followed bigint not null,
    lease double precision not null
);
"""
THIRD = """
create table shardhash.barred (
    method integer not null,
    outhash bytea not null,
    quarantine bytea not null,
    primary key (method, outhash, quarantine)
);
"""
FOURTH = """
create table shardhash.asked (
    method integer not null,
    taskhash bytea not null,
    day integer not null,
    primary key (method, taskhash)
);
create table shardhash.asked_from (
    day integer not null
);
insert into shardhash.asked_from select floor(extract(epoch from clock_timestamp()) / 86400)::int;
create unlogged table shardhash.collection (
    number bigint generated always as identity primary key,
    name bytea not null,
    beat bigint not null default 0,
    seen timestamptz not null default clock_timestamp(),
    stepped timestamptz not null default clock_timestamp()
);
create unlogged table shardhash.kept (
    collection bigint not null,
    method integer not null,
    taskhash bytea not null,
    primary key (collection, method, taskhash)
);
create unlogged table shardhash.doomed (
    collection bigint not null,
    place bigint generated always as identity,
    method integer not null,
    taskhash bytea not null,
    primary key (collection, place)
);
"""
MIGRATIONS: Final = (FIRST, SECOND, THIRD, FOURTH)
VERSION: Final = len(MIGRATIONS)
_LOCK = b"select pg_advisory_xact_lock(7563, 0)"
"""One migration at a time."""


async def read_version(connection: Connection) -> int:
    """The version of the schema; 0 when there is none."""
    cursor = await connection.execute(b"select to_regclass('shardhash.version') is not null")
    there = await cursor.fetchone()
    if there is None or not there[0]:
        return 0
    row = await (await connection.execute(b"select version from shardhash.version")).fetchone()
    return 0 if row is None else int(row[0])


async def check_version(connection: Connection, url: str) -> None:
    """Raise ConfigError, which says what to do, unless the schema is that of this program."""
    version = await read_version(connection)
    name = hide_password(url)
    if version > VERSION:
        raise ConfigError(
            f"{name} has version {version} of the tables, and this shardhash knows {VERSION}: a newer one has changed"
            " it. Run that one"
        )
    if version < VERSION:
        why = f"has version {version} of the tables, and this shardhash needs {VERSION}" if version else "has no tables"
        raise ConfigError(f"{name} {why}. Make them with: shardhash migrate '{name}'")


async def migrate(url: str) -> tuple[int, int]:
    """Bring the schema to the version of this program, in one transaction; the versions before and after.

    ConfigError when the database cannot be reached, has a newer schema, or refuses.
    """
    connection = await connect(url)
    try:
        async with connection, connection.transaction():
            await connection.execute(_LOCK)
            before = await read_version(connection)
            if before > VERSION:
                await check_version(connection, url)
            if before == 0:
                await connection.execute(b"create schema if not exists shardhash")
                await connection.execute(b"create table shardhash.version (version integer not null)")
                await connection.execute(b"insert into shardhash.version values (0)")
            for number, statements in enumerate(MIGRATIONS[before:], before + 1):
                for statement in filter(str.strip, statements.split(";")):
                    await connection.execute(statement.encode())
                await connection.execute(b"update shardhash.version set version = %s", [number])
    except psycopg.Error as error:
        raise ConfigError(
            f"{hide_password(url)}: the tables cannot be made: {describe(error)}. The user needs the right to create a"
            " schema in this database"
        ) from None
    return before, VERSION

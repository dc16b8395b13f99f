"""Arrays in PostgreSQL's binary form: the database reads what was given."""

from __future__ import annotations

import psycopg
from hypothesis import given, settings
from hypothesis import strategies as st

from shardhash.stores.postgresql.arrays import bigint_array, bytea_array, int_array
from tests.stores.postgresql_server import PostgresqlServer

INTS = st.integers(-(1 << 31), (1 << 31) - 1)
BIGINTS = st.integers(-(1 << 63), (1 << 63) - 1)
TEXTS = st.none() | st.binary(max_size=40) | st.integers(250, 70_000).map(bytes)


def test_the_database_reads_what_was_given(postgresql: PostgresqlServer) -> None:
    with psycopg.connect(postgresql.url(), autocommit=True) as connection:

        @settings(max_examples=200)
        @given(st.lists(INTS), st.lists(BIGINTS), st.lists(TEXTS))
        def check(ints: list[int], bigints: list[int], texts: list[bytes | None]) -> None:
            cursor = connection.cursor(binary=True)
            cursor.execute(
                b"select %b::int[], %b::bigint[], %b::bytea[]",
                [int_array(ints), bigint_array(bigints), bytea_array(texts)],
            )
            assert cursor.fetchone() == (ints, bigints, texts)
            cursor.execute(b"select count(*) from unnest(%b::bytea[]) as one", [bytea_array(texts)])
            assert cursor.fetchone() == (len(texts),)

        check()

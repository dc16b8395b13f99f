"""Imports into a store on PostgreSQL: what is there already stays, and the oldest row wins."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shardhash.stores.interface import TakesImports
from shardhash.stores.postgresql.schema import migrate
from shardhash.stores.postgresql.store import PostgresqlStore
from shardhash.wire.imports import ImportedMapping, ImportedRow
from tests.store_contract import M, a_report, new_hash, stored, unihash_of
from tests.stores.postgresql_server import PostgresqlServer


@pytest.fixture
async def store(postgresql: PostgresqlServer) -> AsyncIterator[PostgresqlStore]:
    url = postgresql.create_database()
    await migrate(url)
    store = PostgresqlStore(url, 30.0)
    await store.open()
    yield store
    await store.close()


async def test_mappings_are_written_once(store: PostgresqlStore) -> None:
    assert isinstance(store, TakesImports)
    report = a_report()
    await stored(store, report)
    new, other = new_hash(), new_hash()
    taken = [
        ImportedMapping(M, report.taskhash, report.unihash),
        ImportedMapping(M, report.taskhash, other),
        ImportedMapping(M, new, other),
        ImportedMapping(M, new, other),
        ImportedMapping("new-method", "no-digest", other),
    ]
    assert await store.take_mappings(taken) == ["known", report.unihash, "new", "known", "new"]
    assert await unihash_of(store, new) == other
    assert await store.take_mappings([]) == []


async def test_the_older_row_takes_the_place_of_a_later_one(store: PostgresqlStore) -> None:
    report = a_report(pn="here")
    await stored(store, report)
    early, later = 1_000_000, 2**52
    row = ImportedRow(M, report.taskhash, report.outhash, early, PN="there", outhash_siginfo="sig\0info")
    assert await store.take_rows([row._replace(created=later), row, row, row._replace(created=early - 1)]) == [
        "known", "older", "known", "older",
    ]  # fmt: skip
    found = await store.get_row(M, report.taskhash)
    assert found is not None
    assert (found["PN"], found["created"]) == ("there", "1970-01-01T00:00:00.999999+00:00")
    assert found["outhash_siginfo"] == "sig\0info"
    assert found["unihash"] == report.unihash


async def test_a_row_gives_its_mapping_to_later_reports(store: PostgresqlStore) -> None:
    taskhash, outhash, unihash = new_hash(), new_hash(), new_hash()
    assert await store.take_mappings([ImportedMapping(M, taskhash, unihash)]) == ["new"]
    many = [ImportedRow(M, new_hash(), new_hash(), number) for number in range(1200)]
    assert await store.take_rows([ImportedRow(M, taskhash, outhash, 5), *many]) == ["new"] * 1201
    assert await stored(store, a_report(outhash=outhash)) == unihash
    assert (await store.usage())["outhashes_v2"] == 1202

"""Searches over two real shards in this process, and over a database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shardhash.base.timestamps import from_iso
from shardhash.stores.interface import Guesses, Store
from shardhash.stores.postgresql.schema import migrate
from shardhash.stores.postgresql.store import PostgresqlStore
from shardhash.stores.sharded.router import Router
from shardhash.wire.rows import Report
from tests.stores.shards import running

A, B = "m", "other"


def digits(number: int) -> str:
    """Digits that land on either shard, by the number's lowest bit."""
    return f"{'00' if number % 2 else 'ff'}{number:062x}"


@asynccontextmanager
async def shards(_request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    async with running(2) as shards:
        router = Router([shard.link for shard in shards])
        yield router
        await router.close()


@asynccontextmanager
async def database(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    url = request.getfixturevalue("postgresql").create_database()
    await migrate(url)
    store = PostgresqlStore(url, 30.0)
    await store.open()
    yield store
    await store.close()


@pytest.fixture(params=[shards, database])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """Tasks 1 to 6 of zlib and busybox; 2 shares the outhash of 1, 3 has two outhashes; 9 is a mapping alone."""
    async with request.param(request) as store:
        for number, outhash, recipe, task in (
            (1, 101, "zlib", "do_compile"),
            (2, 101, "zlib", "do_compile"),
            (3, 103, "busybox", "do_install"),
            (3, 104, "busybox", "do_install"),
            (4, 105, "zlib-native", "do_compile"),
        ):
            report = Report(A, digits(number), digits(outhash), digits(number), "me", recipe, "1", "r0", task, "text")
            await store.report([report])
        await store.report([Report(B, digits(6), digits(101), digits(6), None, None)])
        await store.report_equiv(A, digits(9), bytes.fromhex(digits(8)))
        yield store


async def found(store: Store, limit: int = 100, **search: Any) -> tuple[int, list[int]]:
    """How many, and the numbers of the taskhashes, newest first."""
    answer = await store.explorer.find(search, limit)
    assert answer.complete
    return answer.count, [int(row["taskhash"][-4:], 16) for row in answer.rows]


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ({"PN": "zlib"}, [2, 1]),
        ({"PN": "zlib*"}, [4, 2, 1]),
        ({"PN": "*"}, [4, 3, 3, 2, 1]),
        ({"task": "do_install", "owner": "me"}, [3, 3]),
        ({"owner": "you"}, []),
        ({"method": B}, [6]),
        ({"method": "oth*"}, [6]),
        ({"taskhash": digits(3)}, [3, 3]),
        ({"taskhash": digits(3)[:8]}, [9, 3, 3, 1]),
        ({"taskhash": digits(9)}, [9]),
        ({"outhash": digits(101)}, [6, 2, 1]),
        ({"outhash": digits(101), "method": A}, [2, 1]),
        ({"outhash": digits(101), "method": A, "PN": "busybox"}, []),
        ({"unihash": digits(1)}, [2, 1]),
        ({"unihash": digits(8)}, [9]),
        ({"unihash": "0" * 63 + "9"}, []),
        ({"taskhash": "no-digest"}, []),
    ],
)
async def test_what_matches_is_found(store: Store, search: dict[str, Any], expected: list[int]) -> None:
    count, numbers = await found(store, **search)
    rows = [number for number in numbers if number != 9]
    assert sorted(numbers) == sorted(expected)
    assert rows == [number for number in expected if number != 9]  # newest first
    assert count == len(expected)


async def test_the_newest_are_shown_and_all_are_counted(store: Store) -> None:
    assert await found(store, 2, PN="*") == (5, [4, 3])


async def test_times_bound_what_is_found(store: Store) -> None:
    rows = (await store.explorer.find({"PN": "*"}, 100)).rows
    times = [from_iso(row["created"]) for row in rows]
    assert await found(store, PN="*", since=times[1], until=times[0]) == (2, [4, 3])
    assert await found(store, PN="*", until=times[-1]) == (1, [1])
    assert await found(store, since=times[0] + 1) == (1, [6])


async def test_a_row_says_what_it_is(store: Store) -> None:
    (row,) = (await store.explorer.find({"taskhash": digits(2)}, 10)).rows
    del row["created"]
    assert row == {
        "method": A, "taskhash": digits(2), "outhash": digits(101), "owner": "me", "PN": "zlib", "PV": "1", "PR": "r0",
        "task": "do_compile", "unihash": digits(1), "gc_mark": "", "siginfo": True, "asked": None,
    }  # fmt: skip
    (bare,) = (await store.explorer.find({"taskhash": digits(9)}, 10)).rows
    assert (bare["outhash"], bare["created"], bare["unihash"]) == (None, None, digits(8))
    read = await store.explorer.read_row(A, digits(2), digits(101))
    assert read is not None
    assert read["outhash_siginfo"] == "text"
    assert await store.explorer.read_row(A, digits(2), digits(999)) is None


async def test_diverging_tasks_are_those_with_more_than_one_outhash(store: Store) -> None:
    answer = await store.explorer.diverging({}, 10)
    assert (answer.count, answer.recipes, answer.complete) == (1, [("busybox", 1)], True)
    ((older, newer),) = answer.tasks
    assert [older["outhash"], newer["outhash"]] == [digits(103), digits(104)]
    assert (await store.explorer.diverging({"PN": "zlib"}, 10)).count == 0


async def test_saved_are_those_with_another_unihash_than_their_own_hash(store: Store) -> None:
    saved = await store.explorer.saved(0)
    assert [(recipe, count) for recipe, _, count in saved] == [("zlib", 1)]
    week = saved[0][1]
    assert week % (7 * 86400 * 10**6) == 4 * 86400 * 10**6  # a Monday
    assert await store.explorer.saved(week + 8 * 86400 * 10**6) == []


async def test_an_unmapped_row_is_found(store: Store) -> None:
    await store.remove({"unihash": digits(4)})
    (row,) = (await store.explorer.find({"PN": "zlib-native"}, 10)).rows
    assert row["unihash"] is None


async def test_rows_come_with_their_siginfo_if_asked_for(store: Store) -> None:
    rows = (await store.explorer.find({"taskhash": digits(3)}, 10, whole=True)).rows
    assert [row["outhash_siginfo"] for row in rows] == ["text", "text"]


async def test_texts_that_are_no_digests_are_found_by_their_beginning(store: Store) -> None:
    for taskhash in ("0123456789", "0123456789ab", "task-of-a-kind", "012345678x"):
        await store.report([Report("o", taskhash, "output-" + taskhash, digits(1))])
    for begin, expected in (("01234567", 3), ("0123456789", 2), ("task-of-", 1), ("0123456X", 0), ("output-0", 0)):
        assert (await store.explorer.find({"taskhash": begin}, 10)).count == expected, begin
    assert (await store.explorer.find({"outhash": "output-0"}, 10)).count == 3


async def test_guesses_are_the_newest_mapped_reports_of_each_task(store: Store) -> None:
    tasks = [("zlib", "do_compile"), ("busybox", "do_install"), ("zlib", "do_install"), ("none", "none")]
    answer = await store.explorer.guess(A, tasks)
    if not isinstance(store, Router):  # a database has no index for it, and says so
        assert answer == Guesses([[], [], [], []], complete=False)
        return
    assert answer.complete
    assert answer.guesses == [[(digits(2), digits(1)), (digits(1), None)], [(digits(3), None)], [], []]
    assert (await store.explorer.guess("no method", tasks)).guesses == [[], [], [], []]
    # What comes later is known at once, also beyond the number that is kept; what was removed is no guess.
    for number in range(11, 16):
        report = Report(A, digits(number), digits(200 + number), digits(number), None, "zlib", None, None, "do_compile")
        await store.report([report])
    await store.remove({"method": A, "taskhash": digits(14)})
    assert (await store.explorer.guess(A, tasks[:1])).guesses == [[(digits(n), None) for n in (15, 13, 12, 11)]]


async def test_the_tasks_of_an_outhash_are_asked_about_some_at_a_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shardhash.stores.sharded.explorer.ASKED_AT_ONCE", 3)
    numbers = list(range(20, 40))
    await store.report([Report(A, digits(n), digits(200), digits(n), "me", "many") for n in numbers])
    found = await store.explorer.find({"outhash": digits(200), "method": A}, 7)
    assert (found.count, found.complete, len(found.rows)) == (20, True, 7)
    whole = await store.explorer.find({"outhash": digits(200), "method": A}, 100)
    assert {row["taskhash"] for row in whole.rows} == set(map(digits, numbers))
    chosen = await store.quarantine.choose({"outhash": digits(200), "method": A})
    assert (chosen.rows, chosen.outhashes) == (20, 1)

"""The client against the real server: every method, with native batches and with streams, on every transport."""

from __future__ import annotations

import asyncio
import hashlib
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from shardhash.client import AsyncClient, Breaker, Client, InvokeError, create_async_client, create_client
from shardhash.wire.batch import Found
from tests.proxy import Proxy
from tests.servers import IN_MEMORY, ServerProcess

KINDS = ["tcp", "unix", "ws"]
ADMIN = ("--admin-user", "admin", "--admin-password", "password", "--anon-perms", "@read @report @db-admin")
StartServer = Callable[..., ServerProcess]


def some_hash(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The addresses, by kind, of a server for all of this file; each test has a method of its own."""
    path = tmp_path_factory.mktemp("socket") / "server.sock"
    with ServerProcess(*IN_MEMORY, *ADMIN, binds=["127.0.0.1:0", f"unix://{path}", "ws://127.0.0.1:0"]) as server:
        yield dict(zip(KINDS, server.addresses, strict=True))


@pytest.fixture
def address(running: dict[str, str], kind: str) -> str:
    return running[kind]


@pytest.fixture(params=[True, False], ids=["native", "streams"])
def native(request: pytest.FixtureRequest) -> bool:
    """Whether the client may send batches. Without, each report of many is a message whose answer it waits for."""
    return bool(request.param)


@pytest.fixture
async def client(native: bool, address: str) -> AsyncIterator[AsyncClient]:
    async with await create_async_client(address, native=native, block=1000) as client:
        yield client


@pytest.fixture
def method() -> str:
    """A method that no other test uses."""
    return uuid4().hex


async def test_lookups(client: AsyncClient, method: str) -> None:
    taskhashes = [some_hash(method, i) for i in range(3000)]
    known = {taskhash: some_hash("unihash", taskhash) for taskhash in taskhashes[::7]} | {"odd": some_hash(method)}
    for taskhash, unihash in known.items():
        await client.report_unihash_equiv(taskhash, method, unihash)
    asked = [*taskhashes, "odd", "odder", *taskhashes[:10]]
    unihashes = [known.get(taskhash) for taskhash in asked]
    assert await client.get_unihash_batch([(method, taskhash) for taskhash in asked]) == unihashes
    assert await client.get_unihash_batch([("no.method", taskhash) for taskhash in asked]) == [None] * len(asked)
    assert await client.get_unihash(method, taskhashes[0]) == unihashes[0]
    found = await client.get_unihashes(method, bytes.fromhex("".join(taskhashes)))
    assert [item and item.hex() for item in found.unihashes()] == unihashes[:3000]
    assert await client.get_unihashes(method, b"") == Found(b"", None)
    exist = await client.unihash_exists_batch(["short", *[unihash or some_hash("nobody's") for unihash in unihashes]])
    assert exist == [False, *map(bool, unihashes)]
    assert await client.unihash_exists(known["odd"])


async def test_reports_and_rows(client: AsyncClient, method: str) -> None:
    first, second, outhash = (some_hash(method, name) for name in ("first", "second", "outhash"))
    answer = await client.report_unihash(first, method, outhash, first, {"PN": "gcc", "owner": "me", "nonsense": 1})
    assert answer == {"method": method, "taskhash": first, "unihash": first}
    assert (await client.report_unihash(second, method, outhash, second))["unihash"] == first
    assert await client.get_taskhash(method, second) == {"method": method, "taskhash": second, "unihash": first}
    assert await client.get_taskhash(method, outhash) is None
    row = await client.get_taskhash(method, first, True)
    assert row is not None
    assert (row["PN"], row["owner"], row["outhash"]) == ("gcc", "me", outhash)
    row = await client.get_outhash(method, outhash, second)
    assert row is not None
    assert (row["taskhash"], row["unihash"]) == (first, first)
    row = await client.get_outhash(method, outhash, second, with_unihash=False)
    assert row is not None
    assert row["taskhash"] == first
    assert "unihash" not in row
    assert await client.remove({"method": method, "outhash": outhash}) == {"count": 4}
    assert await client.get_unihash(method, first) is None


def many_rows(method: str, count: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows, and the unihash that is due for each: every third outhash is one of seven, whose first row wins.

    At the end some of the rows stand a second time, with another unihash.
    """
    rows, due, first = [], list[str](), dict[str, str]()
    for i in range(count):
        taskhash, outhash = some_hash(method, i), some_hash("out", method, i if i % 3 else i % 7)
        rows.append({"taskhash": taskhash, "method": method, "outhash": outhash, "unihash": taskhash, "PN": f"p{i}"})
        due.append(first.setdefault(outhash, taskhash))
    again = [row | {"unihash": some_hash(0), "PN": "again"} for row in rows[: count // 5]]
    return rows + again, due + due[: len(again)]


async def test_many_reports(client: AsyncClient, native: bool, method: str) -> None:
    count = 2000 if native else 200
    rows, due = many_rows(method, count)
    before = await client.get_db_usage()
    assert await client.report_unihash_batch(iter(rows)) == due
    after = await client.get_db_usage()
    assert [after[name]["rows"] - before[name]["rows"] for name in ("unihashes_v3", "outhashes_v2")] == [count, count]
    assert await client.get_unihash_batch([(method, row["taskhash"]) for row in rows]) == due
    for row, unihash in list(zip(rows, due, strict=True))[:30]:
        found = await client.get_taskhash(method, row["taskhash"], all_properties=True)
        assert found is not None
        assert (found["PN"], found["outhash"], found["unihash"]) == (row["PN"], row["outhash"], unihash)
        first = await client.get_outhash(method, row["outhash"], "")
        assert first is not None
        assert first["taskhash"] == first["unihash"] == unihash
    assert await client.report_unihash_batch(rows) == due, "reported again"
    assert await client.get_db_usage() == after
    assert await client.report_unihash_batch([]) == []


async def test_the_reports_of_whole_builds(address: str, method: str) -> None:
    """From several clients at a time, which report much the same."""
    rows, due = many_rows(method, 8000)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(await create_async_client(address)) for _ in range(3)]
        answers = await asyncio.gather(
            *[client.report_unihash_batch(rows[n * 100 :]) for n, client in enumerate(clients)]
        )
        found = await clients[0].get_unihash_batch([(method, row["taskhash"]) for row in rows])
    for n, unihashes in enumerate(answers):
        assert unihashes == found[n * 100 :], "all are told the same"
    by_outhash: dict[str, set[str | None]] = {}
    for row, unihash in zip(rows, found, strict=True):
        by_outhash.setdefault(row["outhash"], set()).add(unihash)
    assert {len(unihashes) for unihashes in by_outhash.values()} == {1}
    assert len(by_outhash) == len({*due})


async def test_reports_with_long_texts(client: AsyncClient, method: str) -> None:
    """More than one message may hold."""
    texts = {some_hash(method, i): f"{i}: ü\n" * 300_000 for i in range(10)}
    rows = [
        {"taskhash": key, "method": method, "outhash": key, "unihash": key, "outhash_siginfo": text}
        for key, text in texts.items()
    ]
    short = [{"taskhash": some_hash(key), "method": method, "outhash": key, "unihash": some_hash(key)} for key in texts]
    mixed = [row for pair in zip(rows, short, strict=True) for row in pair]
    assert await client.report_unihash_batch(mixed) == [key for key in texts for _ in range(2)]
    for key, text in list(texts.items())[::3]:
        row = await client.get_outhash(method, key, "")
        assert row is not None
        assert (row["taskhash"], row["outhash_siginfo"] == text) == (key, True)


async def test_rows_of_any_form(client: AsyncClient, method: str) -> None:
    """Methods, hashes that are no digests, and rows that are not alike, in one call."""
    hashes = ["short", "ü" * 64, "A" * 64, some_hash(method)]
    methods = [method, f"{method}.ü"]
    rows = [
        {"taskhash": taskhash, "method": of, "outhash": outhash, "unihash": some_hash(of, taskhash, outhash)}
        for of in methods
        for outhash in hashes
        for taskhash in hashes
    ]
    rows[1] |= {"PV": "1.0", "task": "do_ü"}
    rows[2] |= {"nonsense": "x"}
    answers = await client.report_unihash_batch(rows)
    for of in methods:
        found = await client.get_unihash_batch([(of, taskhash) for taskhash in hashes])
        theirs = [(row["taskhash"], answer) for row, answer in zip(rows, answers, strict=True) if row["method"] == of]
        assert sorted({*theirs}) == sorted(zip(hashes, map(str, found), strict=True))
    row = await client.get_taskhash(method, hashes[1], all_properties=True)
    assert row is not None
    assert (row["PV"], row["task"]) == ("1.0", "do_ü")


@pytest.mark.parametrize("wrong", [{"unihash": "short"}, {"outhash": "a b"}, {"method": None}, {"unihash": "A" * 64}])
async def test_a_row_that_is_refused(client: AsyncClient, native: bool, method: str, wrong: dict[str, Any]) -> None:
    """What stands in the messages before it is stored; the client goes on to work."""
    count, place, stored = (4000, 2500, 2000) if native else (300, 250, 250)
    rows, due = many_rows(method, count)
    rows[place] = rows[place] | wrong
    with pytest.raises(InvokeError):
        await client.report_unihash_batch(rows)
    found = await client.get_unihash_batch([(method, row["taskhash"]) for row in rows[:count]])
    assert found[:stored] == due[:stored]
    assert found[place:] == [None] * (count - place)
    assert await client.report_unihash_batch(rows[:place]) == due[:place]


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("transport", ["tcp", "ws"])
async def test_a_batch_whose_connection_breaks(
    running: dict[str, str], method: str, transport: str, native: bool
) -> None:
    rows, due = many_rows(method, 3000 if native else 600)
    limits = (80_000, 180_000) if native else (20_000, 80_000)
    scheme = "ws://" if transport == "ws" else ""
    passed = 0

    def cut_twice(data: bytes) -> bytes | None:
        """In the midst of the answers, which are 67 bytes or more for each row."""
        nonlocal passed
        before, passed = passed, passed + len(data)
        return None if any(before < limit <= passed for limit in limits) else data

    async with Proxy(running[transport].removeprefix("ws://").removesuffix("/")) as proxy:
        address = f"{scheme}127.0.0.1:{proxy.port}"
        async with await create_async_client(address, native=native) as client:
            proxy.answers = cut_twice
            assert await client.report_unihash_batch(rows) == due
            assert proxy.connections == 3
            assert await client.get_unihash_batch([(method, row["taskhash"]) for row in rows]) == due


async def test_the_server_and_its_data(client: AsyncClient) -> None:
    assert await client.ping() == {"alive": True}
    assert {*await client.get_db_usage()} == {"unihashes_v3", "outhashes_v2", "users", "config"}
    assert "taskhash" in await client.get_db_query_columns()
    assert "num" in (await client.get_stats())["requests"]
    assert "num" in (await client.reset_stats())["requests"]
    assert await client.clean_unused(3600) == {"count": 0}
    assert await client.backfill_wait() == 0


async def test_garbage_collection(client: AsyncClient, method: str) -> None:
    mark = method  # one of its own: what another collection kept still bears the mark of that one
    hashes = [some_hash(method, i) for i in range(20)]
    for taskhash in hashes:
        await client.report_unihash_equiv(taskhash, method, taskhash)
    assert await client.gc_mark(mark, {"method": method, "unihash": hashes[0]}) == {"count": 1}
    rows = [f"method {method} taskhash {taskhash}" for taskhash in hashes[1:10]]
    assert await client.gc_mark_stream(mark, rows) == {"count": 9}
    assert await client.gc_mark_stream(mark, [{"method": method, "unihash": hashes[10]}]) == {"count": 1}
    status = await client.gc_status()
    assert (status["keep"], status["mark"]) == (11, mark)
    with pytest.raises(InvokeError, match="not the current mark"):
        await client.gc_sweep("another")
    assert (await client.gc_sweep(mark))["count"] == status["remove"] >= 9
    kept = await client.get_unihash_batch([(method, taskhash) for taskhash in hashes])
    assert kept == [*hashes[:11], *[None] * 9]


async def test_users(address: str) -> None:
    name = uuid4().hex
    async with await create_async_client(address, "admin", "password") as client:
        user = await client.new_user(name, ["@read"])
        assert {"username": name, "permissions": ["@read"]} in await client.get_all_users()
        assert (await client.set_user_perms(name, ["@none"]))["permissions"] == []
        async with await create_async_client(address, name, user["token"]) as other:
            with pytest.raises(InvokeError, match="not allowed"):
                await other.get_unihash("m", "t")
            with pytest.raises(InvokeError, match="not allowed"):
                await other.get_unihash_batch([("m", some_hash(i)) for i in range(5000)])
            assert (await other.refresh_token())["token"] != user["token"]
            await other.disconnect()
            assert await other.get_user() == {"username": name, "permissions": []}
        await client.become_user(name)
        await client.disconnect()
        with pytest.raises(InvokeError, match=f"{name} is not allowed"):
            await client.get_stats()
        assert (await client.auth("admin", "password"))["result"] is True
        assert await client.delete_user(name) == {"username": name}
        assert await client.get_user(name) is None
    with pytest.raises(InvokeError, match=f"Unable to authenticate as {name}"):
        await create_async_client(address, name, user["token"])


@pytest.mark.parametrize("native", [True, False])
async def test_a_denied_batch_says_so(start_server: StartServer, tmp_path: Path, native: bool) -> None:
    binds = ["127.0.0.1:0", f"unix://{tmp_path}/s", "ws://127.0.0.1:0"]
    for address in start_server(*IN_MEMORY, "--anon-perms", "@none", binds=binds).addresses:
        async with await create_async_client(address, native=native) as client:
            with pytest.raises(InvokeError, match="not allowed to access permissions"):
                await client.get_unihash_batch([("m", some_hash(i)) for i in range(5000)])
            with pytest.raises(InvokeError, match="not allowed to access permissions"):
                await client.unihash_exists(some_hash(0))
            assert await client.ping() == {"alive": True}


@pytest.mark.parametrize("native", [True, False])
async def test_a_whole_build_at_once(address: str, method: str, native: bool) -> None:
    """360,000 hashes in one call: more than any buffer between the two."""
    digests = hashlib.shake_256(method.encode()).digest(32 * 36_000) * 10
    last = digests[-32:].hex()
    async with await create_async_client(address, native=native) as client:
        await client.report_unihash_equiv(last, method, last)
        found = await client.get_unihashes(method, digests[-32 * 60_000 :] if not native else digests)
    unihashes = found.unihashes()
    assert unihashes[-1] == digests[-32:]
    assert len(unihashes) == (360_000 if native else 60_000)
    assert sum(unihash is not None for unihash in unihashes) == (10 if native else 2)


def test_the_blocking_twin(address: str, method: str) -> None:
    client: Client
    with create_client(address) as client:
        client.report_unihash(some_hash(1), method, some_hash(2), some_hash(3))
        unihashes: list[str | None] = client.get_unihash_batch([(method, some_hash(1)), (method, some_hash(4))])
        assert unihashes == [some_hash(3), None]
        rows, due = many_rows(method, 1500)
        assert client.report_unihash_batch(rows) == due
        assert client.report_unihash_batch([]) == []


@pytest.mark.parametrize("native", [True, False])
async def test_a_server_that_was_killed_and_came_back(
    start_server: StartServer, tmp_path: Path, method: str, native: bool, kind: str
) -> None:
    arguments = ("--data", str(tmp_path / "data"), "--workers", "2")
    bind = {"tcp": "127.0.0.1:0", "unix": f"unix://{tmp_path}/server.sock", "ws": "ws://127.0.0.1:0"}[kind]
    server = start_server(*arguments, binds=[bind])
    breaker = Breaker(first_hold=0.0)  # so that it is asked again at once
    async with await create_async_client(server.address, native=native, breaker=breaker) as client:
        await client.report_unihash(some_hash(1), method, some_hash(2), some_hash(3))
        assert await client.get_unihash(method, some_hash(1)) == some_hash(3)
        server.kill()
        with pytest.raises(ConnectionError):
            await client.get_unihash(method, some_hash(1))
        again = start_server(*arguments, binds=[server.address])
        assert again.address == server.address
        assert await client.get_unihash(method, some_hash(1)) == some_hash(3)
        again.stop(signal.SIGINT)


async def test_the_wrong_kind_of_address_is_told(running: dict[str, str], native: bool) -> None:
    """Who wrote the address forgot ws://, or wrote it, or tls://, where there is none."""
    lines, web = running["tcp"], running["ws"].removeprefix("ws://")
    for wrong, right in (
        (web, f"speaks WebSocket: try ws://{web}"),
        (f"ws://{lines}", f"speaks lines: try {lines}"),
        (f"tls://{lines}", f"nothing is encrypted here: try {lines}"),
        (f"wss://{web}", f"nothing is encrypted here: try ws://{web}"),
    ):
        with pytest.raises(ConnectionError, match=f"{right}$"):
            async with await create_async_client(wrong, native=native, breaker=None) as client:
                await client.ping()


def test_what_is_no_list_of_hashes_or_reports_is_told(running: dict[str, str]) -> None:
    digest = some_hash("digest")
    wrong: Any = [("m", digest, digest, digest)]
    with create_client(running["tcp"]) as client:
        with pytest.raises(TypeError, match="a report is a mapping with taskhash, method, outhash and unihash, not "):
            client.report_unihash_batch(wrong)
        with pytest.raises(TypeError, match="a report is a mapping with taskhash, method and unihash, not "):
            client.report_unihash_equiv_batch(wrong)
        wrong = [digest]
        with pytest.raises(TypeError, match=rf"a lookup takes pairs \(method, taskhash\), not '{digest}'"):
            client.get_unihash_batch(wrong)
        for wrong in (digest, [("m", digest)]):
            with pytest.raises(TypeError, match="hashes are a list of texts, not"):
                client.unihash_exists_batch(wrong)
        assert client.ping() == {"alive": True}

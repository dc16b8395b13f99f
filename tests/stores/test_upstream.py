"""A chained store: a real upstream behind a proxy that misbehaves, and a local store that is a dict."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from shardhash.client import AsyncClient, create_async_client
from shardhash.errors import StorageError
from shardhash.stores.chained import pool
from shardhash.stores.chained.pool import CONNECTIONS, FIRST_PAUSE, PROBE_METHOD
from shardhash.stores.chained.settings import UpstreamSettings
from shardhash.stores.chained.store import ChainedStore, Misses
from shardhash.stores.chained.upstream import Upstream
from shardhash.wire.address import parse_address
from shardhash.wire.batch import Found
from shardhash.wire.hashes import Buffer, Key
from shardhash.wire.long_text import PART, LongText
from shardhash.wire.rows import Report
from tests.client.older_server import OlderServer
from tests.proxy import Proxy
from tests.servers import IN_MEMORY, ServerProcess
from tests.stores.dict_store import DictStore

pytestmark = pytest.mark.once

METHOD = "oe.sstatesig.OEOuthashBasic"
PATIENT = 30.0
"""A limit that no healthy answer comes near."""
IMPATIENT = 1.0
DETAILS = {"owner": "builder", "PN": "zlib", "task": "do_compile", "outhash_siginfo": "what it was made of"}


@dataclass
class Pauses:
    """Sleeps that last until `go_on`."""

    slept: list[float] = field(default_factory=list)
    _sleeping: asyncio.Queue[asyncio.Future[None]] = field(default_factory=asyncio.Queue)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleeping.put_nowait(wake)
        await wake

    async def go_on(self) -> None:
        """Wait until somebody sleeps, and wake him."""
        (await self._sleeping.get()).set_result(None)

    async def asleep(self) -> None:
        """Wait until somebody sleeps."""
        wake = await self._sleeping.get()
        self._sleeping.put_nowait(wake)


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Chain:
    """What a test has in hand. `known` asks and tells the upstream past the proxy."""

    store: ChainedStore
    local: DictStore
    upstream: Upstream
    proxy: Proxy
    known: AsyncClient
    pauses: Pauses
    clock: Clock

    async def get(self, *taskhashes: str) -> list[str | None]:
        found = await self.store.lookup(METHOD, b"".join(map(bytes.fromhex, taskhashes)))
        return [None if unihash is None else unihash.hex() for unihash in found.unihashes()]

    async def asked(self, *taskhashes: str) -> bool:
        """Whether a lookup of these reached the upstream, or what stands for it."""
        before = self.proxy.asked
        await self.get(*taskhashes)
        return self.proxy.asked > before


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(*IN_MEMORY, binds=["127.0.0.1:0", "ws://127.0.0.1:0", "127.0.0.1:0,anon=@none"]) as process:
        yield process


@pytest.fixture
async def known(server: ServerProcess) -> AsyncIterator[AsyncClient]:
    async with await create_async_client(server.address) as client:
        yield client
        await client.remove({"method": METHOD})


@pytest.fixture(params=["tcp", "ws"])
async def chained(
    request: pytest.FixtureRequest, server: ServerProcess, known: AsyncClient
) -> AsyncIterator[Callable[..., object]]:
    """Makes a chain whose upstream is reached in this way."""
    async with AsyncExitStack() as stack:

        async def make(limit: float = PATIENT, bind: int | None = None, start: bool = True) -> Chain:
            which = {"tcp": 0, "ws": 1}[request.param] if bind is None else bind
            scheme = "ws://" if which == 1 else ""
            proxy = await stack.enter_async_context(Proxy(server.addresses[which].removeprefix("ws://")))
            settings = UpstreamSettings(parse_address(f"{scheme}127.0.0.1:{proxy.port}"), limit=limit)
            pauses, clock, local = Pauses(), Clock(), DictStore()
            upstream = Upstream(settings, pauses.sleep)
            store = ChainedStore(local, upstream, Misses(60.0, clock))
            if start:
                store.start()
            stack.push_async_callback(store.close)
            return Chain(store, local, upstream, proxy, known, pauses, clock)

        yield make


@pytest.fixture
async def chain(chained: Callable[..., object]) -> Chain:
    made = await chained()  # type: ignore[misc]  # a coroutine function
    assert isinstance(made, Chain)
    return made


def hash_of(number: int) -> str:
    return f"{number:064x}"


async def tell(known: AsyncClient, *numbers: int) -> None:
    """Let the upstream know tasks `number`, with outhashes 1000 and unihashes 2000 higher."""
    for number in numbers:
        await known.report_unihash(hash_of(number), METHOD, hash_of(number + 1000), hash_of(number + 2000), DETAILS)


# ----------------------------------------------------------------------------------------------------- what it answers


async def test_hits_are_answered_in_place_and_kept(chain: Chain) -> None:
    await tell(chain.known, 1, 3, 5)
    await chain.local.report_equiv(METHOD, hash_of(2), bytes.fromhex(hash_of(9)))
    asked = [hash_of(number) for number in (5, 4, 3, 2, 1, 5)]
    expected = [hash_of(2005), None, hash_of(2003), hash_of(9), hash_of(2001), hash_of(2005)]
    assert await chain.get(*asked) == expected
    await chain.store.backfilled()
    assert chain.local.model.usage() == (4, 0)
    chain.proxy.cut()
    assert await chain.get(*asked) == expected


async def test_other_forms_of_hashes(chain: Chain) -> None:
    short, unknown = "ab" * 20, "cd" * 20
    await chain.known.report_unihash(short, METHOD, hash_of(1), hash_of(2001))
    keys: list[Key] = [unknown, short, bytes.fromhex(hash_of(7))]
    assert await chain.store.lookup_keys(METHOD, keys) == [None, bytes.fromhex(hash_of(2001)), None]
    await chain.store.backfilled()
    assert chain.local.model.get(METHOD, short) == hash_of(2001)
    before = chain.proxy.asked
    assert await chain.store.lookup_keys(METHOD, keys) == [None, bytes.fromhex(hash_of(2001)), None]
    assert chain.proxy.asked == before


async def test_existence_is_asked_and_not_kept(chain: Chain) -> None:
    await tell(chain.known, 1)
    await chain.local.report_equiv(METHOD, hash_of(2), bytes.fromhex(hash_of(9)))
    digests = b"".join(bytes.fromhex(hash_of(number)) for number in (7, 2001, 9))
    assert await chain.store.exists(digests) == b"\0\1\1"
    assert chain.local.model.usage() == (1, 0)
    before = chain.proxy.asked
    assert await chain.store.exists(bytes.fromhex(hash_of(7))) == b"\0"  # remembered
    assert chain.proxy.asked == before


async def test_rows_come_with_all_columns_and_stay(chain: Chain) -> None:
    await tell(chain.known, 1, 2)
    theirs = await chain.known.get_taskhash(METHOD, hash_of(1), all_properties=True)
    assert theirs is not None
    assert await chain.store.get_row(METHOD, hash_of(1)) == theirs
    assert chain.local.model.usage() == (1, 1)
    other = await chain.store.get_outhash(METHOD, hash_of(1002), "whoever", True)
    assert other == await chain.known.get_outhash(METHOD, hash_of(1002), "whoever")
    assert chain.local.model.usage() == (2, 2)
    chain.proxy.cut()
    assert await chain.store.get_row(METHOD, hash_of(1)) == theirs  # `created` included
    assert await chain.store.get_outhash(METHOD, hash_of(1002), "whoever", True) == other


async def test_a_long_siginfo_is_read_in_parts_and_stays(
    chain: Chain, known: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = 'drwxr-xr-x "\u00e9" \\ \U0001f600\n' * 40_000
    await known.report_unihash(hash_of(1), METHOD, hash_of(11), hash_of(111), {"outhash_siginfo": text})
    most = 0

    def watched(data: bytes) -> Any:
        nonlocal most
        most = max(most, len(data))
        return loads(data)

    loads = orjson.loads
    monkeypatch.setattr(orjson, "loads", watched)
    row = await chain.store.get_outhash(METHOD, hash_of(11), hash_of(1), True)
    assert row is not None
    assert isinstance(row["outhash_siginfo"], LongText)
    assert row["outhash_siginfo"] == text
    assert 0 < most <= PART
    kept = await chain.local.get_row(METHOD, hash_of(1))
    assert kept is not None
    assert kept["outhash_siginfo"] == text


async def test_a_row_without_its_unihash_is_not_kept(chain: Chain) -> None:
    await tell(chain.known, 1)
    row = await chain.store.get_outhash(METHOD, hash_of(1001), "whoever", False)
    assert row == await chain.known.get_outhash(METHOD, hash_of(1001), "whoever", with_unihash=False)
    assert chain.local.model.usage() == (0, 0)
    assert await chain.store.get_row(METHOD, hash_of(8)) is None
    assert await chain.store.get_outhash(METHOD, hash_of(1008), "whoever", True) is None


async def test_reports_ask_and_never_tell(chain: Chain) -> None:
    await tell(chain.known, 1)
    before = await chain.known.get_db_usage()
    report = Report(METHOD, hash_of(10), hash_of(1001), hash_of(10))
    assert await chain.store.report([report]) == [bytes.fromhex(hash_of(2001))]
    alone = Report(METHOD, hash_of(11), hash_of(1011), hash_of(11))
    assert await chain.store.report([alone]) == [bytes.fromhex(hash_of(11))]
    assert await chain.known.get_db_usage() == before
    chain.proxy.cut()
    another = Report(METHOD, hash_of(12), hash_of(1001), hash_of(12))
    assert await chain.store.report([another]) == [bytes.fromhex(hash_of(2001))]  # equivalent here by now


# ------------------------------------------------------------------------------------------------ what it does not ask


async def test_misses_are_remembered_for_a_while(chain: Chain) -> None:
    assert await chain.asked(hash_of(1), hash_of(2))
    assert not await chain.asked(hash_of(2), hash_of(1))
    assert await chain.asked(hash_of(3), hash_of(1))
    await tell(chain.known, 1)
    chain.clock.now += 61.0
    assert await chain.get(hash_of(1)) == [hash_of(2001)]


async def test_a_report_clears_a_miss(chain: Chain) -> None:
    assert await chain.asked(hash_of(1))
    await chain.store.report([Report(METHOD, hash_of(1), hash_of(1001), hash_of(1))])
    await chain.store.remove({"method": METHOD})
    assert await chain.asked(hash_of(1))


async def test_lookups_at_one_time_are_few_questions(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many builders ask, there are so many questions as connections, and one more for all the rest."""
    await tell(chain.known, *range(50))
    questions = []
    ask = chain.upstream._pool.ask

    def counted(kind: str, question: Any) -> Any:
        questions.append(question)
        return ask(kind, question)

    monkeypatch.setattr(chain.upstream._pool, "ask", counted)
    answers = await asyncio.gather(*(chain.get(hash_of(number), hash_of(number + 100)) for number in range(50)))
    assert answers == [[hash_of(number + 2000), None] for number in range(50)]
    assert len(questions) <= CONNECTIONS + 1
    assert chain.proxy.connections <= CONNECTIONS


async def test_questions_about_rows_wait_for_a_connection_outside_of_the_limit(
    chained: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of reports is a question each: those at its end would be late by those before, and say it is down."""
    chain = await chained(start=False)  # type: ignore[misc]
    under_way, most = 0, 0
    ask_now = pool.Pool._ask_now

    async def counted(self: pool.Pool, question: pool.Inquiry[object]) -> object:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await ask_now(self, question)
        finally:
            under_way -= 1

    monkeypatch.setattr(pool.Pool, "_ask_now", counted)
    await tell(chain.known, *range(100, 150))
    questions = [chain.upstream.get_outhash(METHOD, hash_of(number + 1100), "t", True) for number in range(50)]
    questions += [chain.upstream.get_row(METHOD, hash_of(number + 100)) for number in range(50)]
    rows = await asyncio.gather(*questions)
    assert [row["taskhash"] for row in rows] == [hash_of(number % 50 + 100) for number in range(100)]
    assert most == CONNECTIONS


async def test_what_was_found_here_is_let_go_while_the_upstream_is_asked(chain: Chain) -> None:
    """It may be a part of the answers to many callers, and the upstream may take its time."""
    answers = bytearray(1 << 20)

    async def lookup(_method: str, _digests: Buffer) -> Found:
        return Found(memoryview(answers)[:64], bytes(2))

    chain.local.lookup = lookup  # type: ignore[method-assign, assignment]
    await tell(chain.known, 1)
    chain.proxy.stall()
    asked = asyncio.create_task(chain.get(hash_of(1), hash_of(2)))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not asked.done()
    answers.clear()  # raises BufferError if a part of it is held
    chain.proxy.heal()
    assert await asked == [hash_of(2001), None]


async def test_one_who_gives_up_takes_nobody_along(chain: Chain) -> None:
    await tell(chain.known, 1, 2)
    chain.proxy.stall()
    impatient = asyncio.create_task(chain.get(hash_of(1)))
    patient = asyncio.create_task(chain.get(hash_of(2)))
    for _ in range(10):
        await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait([impatient])
    chain.proxy.heal()
    assert impatient.cancelled()
    assert await patient == [hash_of(2002)]
    assert not chain.upstream.down


# ------------------------------------------------------------------------------------------------------------- trouble


async def test_dead_from_the_start(chained: Callable[..., object], caplog: pytest.LogCaptureFixture) -> None:
    chain = await chained(start=False)  # type: ignore[misc]  # a coroutine function
    chain.proxy.cut()
    chain.store.start()
    await chain.pauses.asleep()
    connections = chain.proxy.connections
    assert await chain.get(hash_of(1)) == [None]
    assert await chain.store.get_row(METHOD, hash_of(1)) is None
    assert await chain.store.report([Report(METHOD, hash_of(2), hash_of(3), hash_of(4))]) == [bytes.fromhex(hash_of(4))]
    assert chain.proxy.connections == connections  # nobody knocked
    assert len(warnings(caplog)) == 1


async def test_it_comes_back(chain: Chain, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "LAST_PAUSE", 6 * FIRST_PAUSE)
    await tell(chain.known, 1)
    chain.proxy.cut()
    assert await chain.get(hash_of(1)) == [None]
    for _ in range(4):
        await chain.pauses.go_on()
    await chain.pauses.asleep()
    assert chain.pauses.slept == [FIRST_PAUSE * factor for factor in (1, 2, 4, 6, 6)]
    assert len(warnings(caplog)) == 1
    assert await chain.get(hash_of(1)) == [None]  # not remembered as a miss
    chain.proxy.heal()
    await chain.pauses.go_on()
    await until(lambda: not chain.upstream.down)
    assert await chain.get(hash_of(1)) == [hash_of(2001)]
    assert len(warnings(caplog)) == 2
    chain.proxy.cut()
    assert await chain.get(hash_of(2)) == [None]
    await chain.pauses.asleep()
    assert chain.pauses.slept[-1] == FIRST_PAUSE


async def test_a_silent_one_costs_one_limit(chained: Callable[..., object]) -> None:
    chain = await chained(IMPATIENT)  # type: ignore[misc]  # a coroutine function
    await tell(chain.known, 1)
    assert await chain.get(hash_of(1)) == [hash_of(2001)]
    chain.proxy.stall()
    answers = await asyncio.gather(*(chain.get(hash_of(number)) for number in range(2, 60)))
    assert answers == [[None]] * 58
    assert chain.upstream.down
    assert await chain.get(hash_of(70)) == [None]
    chain.proxy.heal()
    await chain.pauses.go_on()
    await until(lambda: not chain.upstream.down)
    assert await chain.get(hash_of(70)) == [None]


@pytest.mark.parametrize("chained", ["tcp"], indirect=True)
async def test_one_that_refuses_is_left_alone(chained: Callable[..., object], caplog: pytest.LogCaptureFixture) -> None:
    """It answers pings all the time."""
    chain = await chained(bind=2)  # type: ignore[misc]  # a coroutine function
    assert await chain.get(hash_of(1)) == [None]
    for _ in range(4):
        await chain.pauses.go_on()
    await chain.pauses.asleep()
    assert chain.pauses.slept == [FIRST_PAUSE * 2**attempt for attempt in range(5)]
    (warning,) = warnings(caplog)
    assert "Anonymous user is not allowed" in warning


async def test_one_that_answers_only_probes_is_left_alone_more_and_more(
    chain: Chain, caplog: pytest.LogCaptureFixture
) -> None:
    await tell(chain.known, 1)
    known = {bytes.fromhex(hash_of(2001)), hash_of(2001).encode()}
    assert await chain.get(hash_of(9)) == [None]
    chain.proxy.answers = lambda data: None if any(form in data for form in known) else data
    for _ in range(4):
        assert await chain.get(hash_of(1)) == [None]
        assert chain.upstream.down
        await chain.pauses.go_on()
        await until(lambda: not chain.upstream.down)
    assert chain.pauses.slept == [FIRST_PAUSE * 2**attempt for attempt in range(4)]
    assert len(warnings(caplog)) == 1


async def test_a_probe_of_others_that_fails_takes_the_upstream_down(chain: Chain) -> None:
    assert await chain.get(hash_of(9)) == [None]
    chain.proxy.cut()
    await chain.store.lookup(PROBE_METHOD, bytes.fromhex(hash_of(1)))
    assert chain.upstream.down


async def test_a_probe_of_others_is_passed_on_once_and_not_for_long(chain: Chain) -> None:
    assert await chain.get(hash_of(9)) == [None]
    digest = bytes.fromhex(hash_of(1))
    chain.proxy.answers = lambda data: b""
    before = chain.proxy.asked
    first = asyncio.create_task(chain.store.lookup(PROBE_METHOD, digest))
    await until(lambda: chain.proxy.asked > before)
    before = chain.proxy.asked
    await chain.store.lookup(PROBE_METHOD, digest)
    assert not first.done(), "the second is answered at once"
    assert chain.proxy.asked == before
    async with asyncio.timeout(PATIENT / 4):
        await first
    assert not chain.upstream.down, "a question may take longer"
    chain.proxy.heal()
    before = chain.proxy.asked
    assert await chain.get(hash_of(8)) == [None]
    assert chain.proxy.asked >= before + 2, "its own probe comes before the question"


@pytest.mark.parametrize("lie", [b"\0", b"\n", b"{}\n", b'"ok"\n', b"null\n", b"[1, 2]\n", b"\xff\xfe\n", b"9" * 999])
async def test_nonsense_is_not_believed(lie: bytes, chained: Callable[..., object]) -> None:
    chain = await chained(IMPATIENT)  # type: ignore[misc]  # a coroutine function
    await tell(chain.known, 1)
    assert await chain.get(hash_of(1)) == [hash_of(2001)]
    await chain.store.backfilled()
    chain.proxy.answers = lambda data: lie
    assert await chain.get(hash_of(1), hash_of(2)) == [hash_of(2001), None]
    assert await chain.store.exists(bytes.fromhex(hash_of(2))) == b"\0"
    assert await chain.store.get_row(METHOD, hash_of(2)) is None
    assert chain.upstream.down


@pytest.mark.parametrize("chained", ["tcp"], indirect=True)
@pytest.mark.parametrize(
    ("truth", "lie"),
    [
        (hash_of(1), hash_of(3)),
        (METHOD, METHOD[::-1]),
        (hash_of(1001), hash_of(1001)[:-2] + "  "),
        (hash_of(2001), hash_of(2001)[:-1] + "X"),
        ('"zlib"', "[1, 2]"),
        ('"builder"', '{"a": "b"}'),
        ('"created"', '"cre\\u0000"'),
        ('"gc_mark":""', '"gc_mark":17'),
    ],
)
async def test_wrong_rows_are_not_believed(truth: str, lie: str, chain: Chain) -> None:
    await tell(chain.known, 1)
    chain.proxy.answers = lambda data: data.replace(truth.encode(), lie.encode())
    row = await chain.store.get_row(METHOD, hash_of(1))
    assert row is None or (truth == '"created"' and row["created"] is None)
    assert chain.local.model.usage() == ((0, 0) if row is None else (1, 1))


async def test_what_cannot_be_kept_is_answered_all_the_same(chain: Chain, caplog: pytest.LogCaptureFixture) -> None:
    await tell(chain.known, 1, 2)
    chain.local.trouble = StorageError("the disk is full")
    assert await chain.get(hash_of(1)) == [hash_of(2001)]
    await chain.store.backfilled()
    assert await chain.store.get_row(METHOD, hash_of(2)) is not None
    assert all("the disk is full" in warning for warning in warnings(caplog))
    chain.local.trouble = None
    assert await chain.get(hash_of(1)) == [hash_of(2001)]
    await chain.store.backfilled()
    assert chain.local.model.usage() == (1, 0)


async def test_what_is_queued_is_kept_at_the_end(chain: Chain) -> None:
    await tell(chain.known, *range(20))
    await chain.get(*map(hash_of, range(20)))
    await chain.store.close()
    assert chain.local.model.usage() == (20, 0)


def test_misses_end_in_time_and_number() -> None:
    clock = Clock()
    misses = Misses(10.0, clock)
    misses.add("m", ["a"])
    clock.now += 4.9
    misses.expire()
    assert misses.unknown("m", "a")
    assert not misses.unknown("n", "a")
    clock.now += 5.1
    misses.expire()
    misses.expire()
    assert not misses.unknown("m", "a")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def until(condition: Callable[[], bool]) -> None:
    """Let others go on until it holds."""
    while not condition():  # noqa: ASYNC110  # nobody tells; it needs other tasks to run, not time to pass
        await asyncio.sleep(0)


@pytest.mark.parametrize("kind", ["tcp", "ws"])
async def test_an_upstream_that_never_answers_with_headers_is_asked_by_streams(kind: str, tmp_path: Path) -> None:
    """One before BitBake 2.8."""
    older = OlderServer()
    older.tells_headers = False
    older.mappings[METHOD, hash_of(1)] = hash_of(2)
    async with older.listen(kind, tmp_path) as address:
        settings = UpstreamSettings(parse_address(address), limit=PATIENT)
        store = ChainedStore(DictStore(), Upstream(settings), Misses(60.0))
        store.start()
        try:
            found = await store.lookup(METHOD, bytes.fromhex(hash_of(1) + hash_of(3)))
        finally:
            await store.close()
    assert found.unihashes() == [bytes.fromhex(hash_of(2)), None]

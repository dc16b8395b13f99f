"""Forwarding: a real upstream that goes away, refuses, or answers otherwise; an outbox in memory and on the disk."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from shardhash.client import AsyncClient, create_async_client
from shardhash.errors import StorageError
from shardhash.outbox.journal import Item, Journal, MemoryJournal, Place
from shardhash.server.outbox import open_journals
from shardhash.shard.storage.filesystem import OsFileSystem
from shardhash.stores.chained.pool import FIRST_PAUSE
from shardhash.stores.chained.settings import UpstreamSettings
from shardhash.stores.chained.store import ChainedStore, Misses
from shardhash.stores.chained.upstream import Upstream
from shardhash.stores.forwarding import forwarder, sender
from shardhash.stores.forwarding.forwarder import Forwarder
from shardhash.stores.forwarding.records import (
    REFUSED,
    decode_report,
    decode_reports,
    describe_remark,
    encode_long_remark,
    encode_long_report,
    encode_remark,
    encode_report,
)
from shardhash.wire.address import Address, parse_address
from shardhash.wire.long_text import PART, LongText, cut_parts
from shardhash.wire.rows import Report
from tests.proxy import Proxy
from tests.servers import IN_MEMORY, ServerProcess
from tests.stores.dict_store import DictStore

pytestmark = pytest.mark.once

METHOD = "oe.sstatesig.OEOuthashBasic"
LIMIT = 64 << 20


def hash_of(number: int) -> str:
    return f"{number:064x}"


def report_of(number: int, outhash: int | None = None, **details: Any) -> Report:
    """The report of a task, which proposes its own taskhash."""
    return Report(METHOD, hash_of(number), hash_of(outhash or number + 100_000), hash_of(number), **details)


@dataclass
class Edge:
    """A store that forwards. `there` asks the upstream past the proxy."""

    store: ChainedStore
    forwarder: Forwarder
    proxy: Proxy
    there: AsyncClient

    async def report(self, *reports: Report) -> list[str]:
        return [unihash.hex() for unihash in await self.store.report(reports)]

    async def arrived(self, *numbers: int) -> None:
        """Wait until the upstream knows these tasks."""
        pairs = [(METHOD, hash_of(number)) for number in numbers]
        async with asyncio.timeout(30):
            while None in await self.there.get_unihash_batch(pairs):  # noqa: ASYNC110  # in another process
                await asyncio.sleep(0.01)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110  # figures, which tell nobody
                await asyncio.sleep(0.01)

    async def sent(self) -> None:
        """Wait until nothing waits."""
        await self.until(lambda: not self.forwarder.health().waiting)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """Its addresses: anybody may report; everybody may read; one that is read-only."""
    binds = ["127.0.0.1:0", "127.0.0.1:0,anon=@read", "127.0.0.1:0,read-only", "127.0.0.1:0,anon=@none"]
    binds.append("ws://127.0.0.1:0")
    options = ("--admin-user", "admin", "--admin-password", "password", "--limit", "guest_message=700K")
    with ServerProcess(*IN_MEMORY, *options, binds=binds) as process:
        yield process


@pytest.fixture
async def there(server: ServerProcess) -> AsyncIterator[AsyncClient]:
    async with await create_async_client(server.address, "admin", "password") as client:
        yield client
        await client.remove({"method": METHOD})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(sender, "LAST_PAUSE", 0.1)


Make = Callable[..., Any]


@pytest.fixture
async def edge_of(server: ServerProcess, there: AsyncClient) -> AsyncIterator[Make]:
    """Makes edges, which end with the test."""
    async with AsyncExitStack() as stack:

        async def make(
            bind: int = 0,
            journals: list[Journal] | None = None,
            limit: int = LIMIT,
            local: DictStore | None = None,
            others: tuple[Address, ...] = (),
            login: tuple[str | None, str | None] = (None, None),
            sync: str = "always",
            silence: float = 5.0,
        ) -> Edge:
            proxy = await stack.enter_async_context(Proxy(server.addresses[bind].removeprefix("ws://").rstrip("/")))
            scheme = "ws://" if server.addresses[bind].startswith("ws://") else ""
            settings = UpstreamSettings(
                parse_address(f"{scheme}127.0.0.1:{proxy.port}"), *login, silence, others=others
            )

            async def sleep(seconds: float) -> None:
                await asyncio.sleep(seconds / FIRST_PAUSE * 0.01)

            upstream = Upstream(settings, sleep)
            sending = Forwarder(
                upstream.pools, journals or [MemoryJournal() for _ in range(3)], limit, sync=sync, sync_interval=0.05
            )
            store = ChainedStore(local or DictStore(), upstream, Misses(60.0), sending)
            store.start()
            stack.push_async_callback(store.close)
            return Edge(store, sending, proxy, there)

        yield make


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_reports_and_equivalences_go_up_with_all_columns(edge_of: Make) -> None:
    edge = await edge_of()
    details: dict[str, Any] = {"owner": "me", "PN": "zlib", "PV": "1", "PR": "r0", "task": "do_compile"}
    details["outhash_siginfo"] = "made of"
    assert await edge.report(report_of(1, **details), report_of(2, 100_001)) == [hash_of(1), hash_of(1)]
    await edge.store.report_equiv(METHOD, hash_of(3), bytes.fromhex(hash_of(1)))
    await edge.report(report_of(4))
    await edge.arrived(1, 2, 3, 4)
    row = await edge.there.get_row(METHOD, hash_of(1), hash_of(100_001))
    assert row is not None
    assert {name: row[name] for name in details} == details
    found = await edge.there.get_unihash_batch([(METHOD, hash_of(number)) for number in (1, 2, 3, 4)])
    assert found == [hash_of(1), hash_of(1), hash_of(1), hash_of(4)]
    await edge.sent()
    health = edge.forwarder.health()
    assert (health.results["accepted"], health.conflicts, health.refused, health.trouble) == (4, 0, 0, "")
    assert (health.size, health.oldest) == (0, 0)


async def test_only_what_clients_reported_goes_up(edge_of: Make, there: AsyncClient) -> None:
    await there.report_unihash(hash_of(1), METHOD, hash_of(100_001), hash_of(7))
    edge = await edge_of()
    found = await edge.store.lookup(METHOD, bytes.fromhex(hash_of(1)))
    assert found.unihashes() == [bytes.fromhex(hash_of(7))]
    assert await edge.store.get_row(METHOD, hash_of(1)) is not None
    await edge.store.backfilled()
    await edge.report(report_of(2))
    await edge.arrived(2)
    await edge.sent()
    assert edge.forwarder.health().results["accepted"] == 1


async def test_what_the_upstream_knows_better_is_given_out(edge_of: Make, there: AsyncClient) -> None:
    await there.report_unihash(hash_of(1), METHOD, hash_of(100_001), hash_of(7))
    edge = await edge_of()
    assert await edge.report(report_of(2, 100_001)) == [hash_of(7)]
    await edge.arrived(2)
    await edge.sent()
    assert edge.forwarder.health().conflicts == 0


async def test_a_conflict_is_listed_and_nothing_changes(edge_of: Make, there: AsyncClient) -> None:
    edge = await edge_of()
    edge.proxy.cut()
    assert await edge.report(report_of(1, PN="zlib", outhash_siginfo="long")) == [hash_of(1)]
    await there.report_unihash(hash_of(1), METHOD, hash_of(100_001), hash_of(7))
    edge.proxy.heal()
    await edge.until(lambda: edge.forwarder.health().conflicts == 1)
    (conflict,) = await edge.forwarder.conflicts(10)
    assert (conflict["taskhash"], conflict["unihash"], conflict["upstream"]) == (hash_of(1), hash_of(1), hash_of(7))
    assert conflict["PN"] == "zlib"
    assert "outhash_siginfo" not in conflict
    found = await edge.store.lookup(METHOD, bytes.fromhex(hash_of(1)))
    assert found.unihashes() == [bytes.fromhex(hash_of(1))]
    await edge.sent()


async def test_an_upstream_that_is_away_costs_one_warning(edge_of: Make, caplog: pytest.LogCaptureFixture) -> None:
    edge = await edge_of()
    edge.proxy.cut()
    for first in range(1, 1501, 50):
        await edge.report(*(report_of(number) for number in range(first, first + 50)))
    assert edge.forwarder.health().waiting == 1500
    assert edge.forwarder.health().oldest > 0
    edge.proxy.heal()
    await edge.arrived(*range(1, 1501))
    await edge.sent()
    assert len([text for text in warnings(caplog) if "left alone" in text]) == 1
    assert edge.forwarder.health().results["accepted"] == 1500


async def test_what_waits_survives_a_start(edge_of: Make, tmp_path: Path) -> None:
    edge = await edge_of(journals=open_journals(OsFileSystem(), tmp_path))
    edge.proxy.cut()
    await edge.report(*(report_of(number) for number in range(1, 100)))
    await edge.store.close()
    again = await edge_of(journals=open_journals(OsFileSystem(), tmp_path))
    assert again.forwarder.health().waiting == 99
    await again.arrived(*range(1, 100))
    await again.sent()
    await again.store.close()
    third = open_journals(OsFileSystem(), tmp_path)
    assert [journal.count for journal in third] == [0, 0, 0]


@pytest.mark.parametrize("bind", [1, 2])
async def test_one_that_stores_nothing_is_found_out(
    bind: int, edge_of: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It answers reports as if it stored them."""
    edge = await edge_of(bind, journals=open_journals(OsFileSystem(), tmp_path))
    await edge.report(*(report_of(number) for number in range(1, 50)))
    await edge.until(lambda: bool(edge.forwarder.health().trouble))
    await asyncio.sleep(0.2)  # some more attempts
    health = edge.forwarder.health()
    assert (health.waiting, health.refused, health.results["accepted"]) == (49, 0, 0)
    assert len([text for text in warnings(caplog) if "takes no reports" in text and "@report" in text]) == 1
    await edge.store.close()
    able = await edge_of(journals=open_journals(OsFileSystem(), tmp_path))
    await able.arrived(*range(1, 50))
    await able.sent()


@pytest.mark.parametrize("bind", [1, 2])
@pytest.mark.parametrize("known", [True, False])
async def test_one_that_became_read_only_is_found_out(bind: int, known: bool, edge_of: Make, tmp_path: Path) -> None:
    """It took reports before, and answers for those that it knows; neither proves that it stores anything now."""
    edge = await edge_of(journals=open_journals(OsFileSystem(), tmp_path))
    await edge.report(report_of(1), report_of(2))
    await edge.arrived(1, 2)
    await edge.sent()
    await edge.store.close()
    readonly = await edge_of(bind, journals=open_journals(OsFileSystem(), tmp_path))
    await readonly.report(report_of(2, 777) if known else report_of(3))
    await readonly.until(lambda: "@report" in readonly.forwarder.health().trouble)
    await asyncio.sleep(0.3)  # some more attempts
    health = readonly.forwarder.health()
    assert (health.waiting, health.refused, health.results["accepted"]) == (1, 0, 0)
    await readonly.store.close()
    able = await edge_of(journals=open_journals(OsFileSystem(), tmp_path))
    await able.sent()
    assert await able.there.get_row(METHOD, hash_of(2 if known else 3), hash_of(777 if known else 100_003)) is not None


async def test_a_login_that_is_refused_is_tried_again(edge_of: Make, there: AsyncClient) -> None:
    token = (await there.new_user("edge", ["@read"]))["token"]
    edge = await edge_of(3, login=("edge", token))
    await edge.report(report_of(1))
    await edge.until(lambda: "without storing" in edge.forwarder.health().trouble)
    await there.set_user_perms("edge", ["@read", "@report"])
    await edge.arrived(1)
    await edge.sent()
    row = await there.get_taskhash(METHOD, hash_of(1), all_properties=True)
    assert row is not None
    assert row["owner"] == "edge"
    await there.delete_user("edge")


async def test_one_that_is_at_fault_is_kept_apart(
    edge_of: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its siginfo is longer than the upstream takes of anybody."""
    edge = await edge_of(journals=open_journals(OsFileSystem(), tmp_path))
    long = "x" * (800 << 10)
    edge.proxy.cut()
    for number in range(1, 8):
        await edge.report(report_of(number, outhash_siginfo=long) if number == 5 else report_of(number))
    edge.proxy.heal()
    await edge.arrived(1, 2, 3, 4, 6, 7)
    await edge.sent()
    refused = await edge.forwarder.refused(10)
    assert [row["taskhash"] for row in refused] == [hash_of(5)]
    assert "the connection breaks" in refused[0]["why"]
    assert "with 800 KiB" in refused[0]["why"]
    assert any("kept apart" in text and "forward-refused" in text for text in warnings(caplog))
    assert edge.forwarder.health().refused == 1
    await edge.store.close()
    again = await edge_of(journals=open_journals(OsFileSystem(), tmp_path))
    assert again.forwarder.health().refused == 1
    assert await again.forwarder.retry_refused() == 1
    assert (again.forwarder.health().refused, again.forwarder.health().waiting) == (0, 1)
    await again.forwarder._refused.add([encode_remark(REFUSED, "too long", report_of(8))])
    assert await again.forwarder.drop_refused() == 1
    assert again.forwarder.health().refused == 0


async def test_a_full_outbox_fails_nobody(edge_of: Make, caplog: pytest.LogCaptureFixture) -> None:
    edge = await edge_of(limit=2000)
    edge.proxy.cut()
    for number in range(1, 50):
        assert await edge.report(report_of(number)) == [hash_of(number)]
    health = edge.forwarder.health()
    assert 0 < health.waiting < 49
    assert health.size <= 2000
    assert health.results["left-out"] == 49 - health.waiting
    assert len([text for text in warnings(caplog) if "outbox is full" in text]) == 1
    edge.proxy.heal()
    await edge.arrived(1)
    await edge.sent()
    await edge.report(report_of(100))
    await edge.arrived(100)


async def test_a_disk_that_refuses_the_outbox_fails_nobody(edge_of: Make, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(MemoryJournal):
        def append(self, *_arguments: object, **_options: object) -> None:
            raise StorageError("No space left on device")

    edge = await edge_of(journals=[Broken(), MemoryJournal(), MemoryJournal()])
    assert await edge.report(report_of(1)) == [hash_of(1)]
    assert edge.forwarder.health().results["left-out"] == 1
    assert any("No space left" in text for text in warnings(caplog))


async def test_a_report_that_the_store_refuses_is_not_sent_on(edge_of: Make) -> None:
    local = DictStore()
    edge = await edge_of(local=local)
    local.trouble = StorageError("the disk is full")
    with pytest.raises(StorageError):
        await edge.report(report_of(1))
    assert edge.forwarder.health().waiting == 0


async def test_who_leaves_takes_no_report_along(edge_of: Make) -> None:
    edge = await edge_of()
    edge.proxy.cut()
    leaving = asyncio.create_task(edge.report(report_of(1)))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait([leaving])
    await edge.until(lambda: edge.forwarder.health().waiting == 1)


async def test_the_next_upstream_takes_over(
    edge_of: Make, server: ServerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    edge = await edge_of(others=(parse_address(server.addresses[1]),))
    second = await edge_of(others=(parse_address(server.address),))
    await edge.report(report_of(1))
    await edge.arrived(1)
    second.proxy.cut()
    found = await second.store.lookup(METHOD, bytes.fromhex(hash_of(1)))
    assert found.unihashes() == [bytes.fromhex(hash_of(1))]
    await second.report(report_of(2))
    await second.arrived(2)
    await second.sent()
    (warning,) = [text for text in warnings(caplog) if "left alone" in text]
    assert f"{server.address} is asked instead" in warning
    health = await second.store.health()
    assert health.upstream is not None
    assert not health.upstream.down
    assert health.upstream.places.count("is down") == 1
    second.proxy.heal()
    await second.until(lambda: second.store._upstream.pools.first() is second.store._upstream.pools._pools[0])
    before = second.proxy.asked
    await second.store.lookup(METHOD, bytes.fromhex(hash_of(99)))
    assert second.proxy.asked > before


async def test_an_outbox_that_cannot_be_read_is_tried_again(
    edge_of: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journals = open_journals(OsFileSystem(), tmp_path)
    read, failures = journals[0].read, [OSError("I/O error"), RuntimeError("a bug"), OSError("I/O error")]

    def failing(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return read(*arguments)

    journals[0].read = failing  # type: ignore[method-assign, assignment]
    edge = await edge_of(journals=journals)
    await edge.report(report_of(1))
    await edge.arrived(1)
    assert any("cannot be read: I/O error" in text for text in warnings(caplog))
    assert any("this is a bug" in text for text in warnings(caplog))


async def test_a_bug_in_the_outbox_fails_nobody(edge_of: Make) -> None:
    class Broken(MemoryJournal):
        def append(self, *_arguments: object, **_options: object) -> None:
            raise RuntimeError("a bug")

    edge = await edge_of(journals=[Broken(), MemoryJournal(), MemoryJournal()])
    assert await edge.report(report_of(1)) == [hash_of(1)]
    assert await edge.report(report_of(2)) == [hash_of(2)]
    assert edge.forwarder.health().results["left-out"] == 2


@pytest.mark.parametrize("sync", ["interval", "off"])
async def test_what_need_not_be_durable_waits_for_no_disk(
    sync: str, edge_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journals = open_journals(OsFileSystem(), tmp_path)
    synced: list[bool] = []
    append, sync_now = journals[0].append, journals[0].sync

    def noted(payloads: Any, time: int, *, sync: bool) -> None:
        synced.append(sync)
        append(payloads, time, sync=sync)

    later: list[None] = []
    journals[0].append = noted  # type: ignore[method-assign]
    journals[0].sync = lambda: (sync_now(), later.append(None))[0]  # type: ignore[method-assign, func-returns-value]
    edge = await edge_of(journals=journals, sync=sync)
    edge.proxy.cut()
    await edge.report(report_of(1))
    assert synced == [False]
    if sync == "interval":
        await edge.until(lambda: bool(later))
    await edge.store.close()
    assert bool(later) == (sync == "interval")
    assert open_journals(OsFileSystem(), tmp_path)[0].count == 1


async def test_what_is_in_memory_only_is_sent_at_the_end(
    edge_of: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = await edge_of()
    edge.proxy.delay = 0.05
    await edge.report(*(report_of(number) for number in range(1, 20)))
    await edge.store.close()
    assert not any("are lost" in text for text in warnings(caplog))
    await edge.arrived(*range(1, 20))
    monkeypatch.setattr(forwarder, "LAST_SECONDS", 0.1)
    away = await edge_of()
    away.proxy.cut()
    await away.report(report_of(30))
    await away.store.close()
    assert any("1 report that waited for the upstream: lost" in text for text in warnings(caplog))


async def test_many_equivalences_between_reports(edge_of: Make, there: AsyncClient) -> None:
    edge = await edge_of()
    edge.proxy.cut()
    for number in range(1, 200):
        if number % 3:
            await edge.store.report_equiv(METHOD, hash_of(number), bytes.fromhex(hash_of(number + 500)))
        else:
            await edge.report(report_of(number))
    edge.proxy.heal()
    await edge.arrived(*range(1, 200))
    await edge.sent()
    found = await there.get_unihash_batch([(METHOD, hash_of(number)) for number in range(1, 200)])
    assert found == [hash_of(number + 500 if number % 3 else number) for number in range(1, 200)]


TROUBLES = ("none", "none", "slow", "cut", "torn", "stalled", "away", "refusing", "start")


async def misbehave(edge: Edge, trouble: str, chance: random.Random) -> None:
    """Have something happen to the network or the upstream."""
    proxy = edge.proxy
    if trouble == "slow":
        proxy.delay = 0.01
    elif trouble == "cut":
        proxy.cut()
        proxy.heal()
    elif trouble == "torn":
        proxy.answers = lambda data: data if chance.random() < 0.8 else None
    elif trouble == "stalled":
        proxy.stall()
    elif trouble == "away":
        proxy.cut()
    elif trouble == "refusing":
        await edge.there.set_user_perms("edge", ["@read"])


@pytest.mark.soak
async def test_a_thousand_rounds_of_trouble(
    edge_of: Make, there: AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "PATIENCE", 0.3)
    chance = random.Random(seed := secrets.randbits(32))
    print(f"seed {seed}")
    token = (await there.new_user("edge", ["@read", "@report"]))["token"]
    login, fs = ("edge", token), OsFileSystem()
    edge = await edge_of(3, journals=open_journals(fs, tmp_path), login=login, silence=0.3)
    count = 0
    for _ in range(1000):
        trouble = chance.choice(TROUBLES)
        if trouble == "start":
            await edge.store.close()
            edge = await edge_of(3, journals=open_journals(fs, tmp_path), login=login, silence=0.3)
        await misbehave(edge, trouble, chance)
        for _ in range(chance.randint(1, 4)):
            some = [report_of(number) for number in range(count + 1, count + chance.randint(2, 20))]
            count += len(some)
            assert await edge.report(*some) == [report.unihash for report in some]
            await asyncio.sleep(chance.random() * 0.03)
        edge.proxy.delay = 0.0
        edge.proxy.heal()
        await there.set_user_perms("edge", ["@read", "@report"])
    await edge.sent()
    while await edge.forwarder.retry_refused():  # nobody was at fault, but luck may have been bad thrice
        await edge.sent()
    await edge.arrived(*range(1, count + 1))
    for number in range(1, count + 1, 50):
        assert await there.get_row(METHOD, hash_of(number), hash_of(number + 100_000)) is not None
    assert edge.forwarder.health().results["left-out"] == 0
    await there.delete_user("edge")


TEXT = 'drwxr-xr-x "\u00e9" \\\\ \U0001f600\n' * 40_000
"""A siginfo of a megabyte, which is a LongText in a server."""


def long_text(text: str = TEXT) -> LongText:
    return LongText(cut_parts(text.encode(), more=False)[0])


class Watched:
    """Counts the bytes of JSON that are made or read in one go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most = 0
        monkeypatch.setattr(orjson, "loads", self._watch(orjson.loads, len))
        monkeypatch.setattr(orjson, "dumps", self._watch(orjson.dumps, len, of_result=True))

    def _watch(self, work: Callable[..., Any], size: Callable[[Any], int], *, of_result: bool = False) -> Any:
        def watched(value: Any, *arguments: Any) -> Any:
            result = work(value, *arguments)
            self.most = max(self.most, size(result if of_result else value))
            return result

        return watched


async def test_a_report_with_a_long_text_is_a_record_as_any(monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report("m", "t", "o", "ab" * 32, PN='a "name"', outhash_siginfo=long_text())
    plain = report._replace(outhash_siginfo=TEXT)
    record = await encode_long_report(report)
    assert record == encode_report(plain)
    assert decode_report(record) == plain
    refused = await encode_long_remark(REFUSED, 'no \\ "room"', report)
    assert refused == encode_remark(REFUSED, 'no \\ "room"', plain)
    others = [encode_report(report._replace(outhash_siginfo=None)), encode_report(plain._replace(PN="x" * 60_000))]
    items = [Item(1, 2, payload, Place(0, 0)) for payload in (record, refused, *others)]
    watched = Watched(monkeypatch)
    one, same, short, detailed = await decode_reports(items)
    assert one == same == report
    assert isinstance(one.outhash_siginfo, LongText)
    assert short == report._replace(outhash_siginfo=None)
    assert detailed == report._replace(PN="x" * 60_000)
    described = describe_remark(items[1])
    assert described["remark"] == 'no \\ "room"'
    assert described["PN"] == 'a "name"'
    assert 0 < watched.most <= 2 * PART


async def test_a_record_of_a_later_version_is_left_out_whatever_its_length() -> None:
    later = encode_report(Report("m", "t", "o", "ab" * 32, outhash_siginfo=TEXT))[:-1] + b',"more"]'
    assert await decode_reports([Item(1, 2, later, Place(0, 0))]) == [None]


@pytest.mark.parametrize("bind", [3, 4])
async def test_a_long_text_goes_up_in_parts(bind: int, edge_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over lines and over a WebSocket; with others in one batch; and what is refused is kept."""
    edge = await edge_of(bind=bind, login=("admin", "password"))
    watched = Watched(monkeypatch)
    await edge.report(report_of(1, PN="a"), report_of(2, PN="b", outhash_siginfo=long_text()), report_of(3))
    await edge.arrived(1, 2, 3)
    await edge.sent()
    monkeypatch.undo()
    row = await edge.there.get_row(METHOD, hash_of(2), hash_of(100_002))
    assert row is not None
    assert (row["PN"], row["outhash_siginfo"]) == ("b", TEXT)
    assert 0 < watched.most <= 2 * PART


async def test_a_long_text_that_is_refused_can_be_sent_again(
    edge_of: Make, there: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = await edge_of()  # as a guest, whose messages have 700 KB at most
    await edge.report(report_of(2))
    await edge.sent()
    watched = Watched(monkeypatch)
    await edge.report(report_of(1, outhash_siginfo=long_text()), report_of(3))
    await edge.until(lambda: edge.forwarder.health().refused == 1)
    (refused,) = await edge.forwarder.refused(10)
    assert refused["taskhash"] == hash_of(1)
    assert await edge.forwarder.retry_refused() == 1
    await edge.until(lambda: edge.forwarder.health().refused == 1)
    assert 0 < watched.most <= 2 * PART

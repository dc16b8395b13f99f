"""What a session lets wait: requests and lines are counted, and so are their bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import count

import pytest

from shardhash.coordinator import session as session_module
from shardhash.coordinator.callers import Caller
from shardhash.coordinator.handlers import Handlers
from shardhash.coordinator.permissions import ANONYMOUS_DEFAULT, Identity
from shardhash.coordinator.reporting import REPORTS_AT_ONCE
from shardhash.coordinator.services import Services
from shardhash.coordinator.session import Session
from shardhash.coordinator.stats import Stats
from shardhash.coordinator.stream_answers import MOST_AT_HAND
from shardhash.coordinator.users import Users
from shardhash.stores.interface import Otherwise
from shardhash.wire.batch import Found
from shardhash.wire.commands import COMMANDS
from shardhash.wire.connection import ServerConnection
from shardhash.wire.framing import encode_json
from shardhash.wire.hashes import Buffer
from shardhash.wire.messages import ReportBatch
from shardhash.wire.rows import Report
from tests.stores.plain_store import PlainStore

HELLO = b"OEHASHEQUIV 1.1\nneeds-headers: false\n\n"
SIGINFO = b"x" * 1_000_000
REPORT = b'{"report": {"method": "m", "taskhash": "t", "outhash": "o", "unihash": "%s", "outhash_siginfo": "%s"}}'


class Sink:
    """An Output that takes all."""

    async def send_raw(self, data: bytes) -> None:
        pass

    async def send_json(self, value: object) -> None:
        pass

    async def send_lines(self, lines: bytes) -> None:
        pass

    async def send_frame(self, frame: bytes) -> None:
        pass


def session(*, remote: bool = False) -> Session:
    store = PlainStore()
    store.remote = remote
    services = Services(store=store, users=Users(store), stats=Stats())
    return Session(
        services, Handlers(services), Caller(Identity(None, ANONYMOUS_DEFAULT), read_only=False), Sink(), "peer"
    )


@pytest.mark.parametrize(
    ("data", "least"),
    [
        (b'{"ping": {}}\n' * 100, 100),
        (encode_json(REPORT % (b"a" * 64, SIGINFO)) * 3, 3 + 3 * 976),
        (b'{"get-stream": null}\n' + b"m t\n" * 100 + b"END\n", 102),
        (b'{"get-stream": null}\n' + (b"m " + b"t" * 100_000 + b"\n") * 50, 50 + 50 * 97),
    ],
)
@pytest.mark.parametrize("remote", [False, True])
async def test_what_waits_is_weighed_and_nothing_is_left_when_all_is_answered(
    data: bytes, least: int, remote: bool
) -> None:
    """A thousand requests of megabytes would else be as little as a thousand pings."""
    connection, asking = ServerConnection(), session(remote=remote)
    for start in range(0, len(data), 70_000):
        part = data[start : start + 70_000]
        asking.feed(connection.receive_data(HELLO + part if not start else part))
    assert least <= asking.waiting <= least * 1.3
    asking.feed_end()
    await asking.run(lambda: None)
    assert asking.waiting == 0


async def test_statistics_count_each_question_of_a_message_and_time_them_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ticks = count()
    monkeypatch.setattr(session_module, "perf_counter", lambda: float(next(ticks)))
    store, stats = PlainStore(), Stats()
    services = Services(store=store, users=Users(store), stats=stats)
    asking = Session(
        services, Handlers(services), Caller(Identity(None, ANONYMOUS_DEFAULT), read_only=False), Sink(), "peer"
    )
    connection = ServerConnection()
    data = b'{"ping": {}}\n{"get-batch": {"method": "m", "taskhashes": ["a", "b", "c"]}}\n{"gc-mark-stream": null}\n'
    asking.feed(
        connection.receive_data(HELLO + data + b'{"mark": "one", "where": {"unihash": "x"}}\n' * 1000 + b"END\n")
    )
    asking.feed_end()
    await asking.run(lambda: None)
    figures = stats.figures()
    assert figures["num"] == 1 + 3 + 1 + 1000
    assert figures["total_time"] <= next(ticks), "no more than what passed"


@pytest.mark.parametrize("read_only", [False, True])
async def test_the_reports_of_a_long_message_are_under_way_a_part_at_a_time(
    read_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message holds 400,000 of them; each that waits, for a turn or an answer, takes kilobytes."""
    store, sizes, under_way, most = PlainStore(), list[int](), 0, 0
    report = store.report

    async def counted(reports: Sequence[Report], otherwise: Otherwise | None = None) -> list[bytes]:
        sizes.append(len(reports))
        return await report(reports, otherwise)

    async def get_outhash(*_: object) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1

    monkeypatch.setattr(store, "report", counted)
    monkeypatch.setattr(store, "get_outhash", get_outhash)
    handlers = Handlers(Services(store=store, users=Users(store), stats=Stats()))
    unihashes = [f"{number:064x}" for number in range(2 * REPORTS_AT_ONCE + 1)]
    request = ReportBatch([Report("m", unihash, unihash, unihash) for unihash in unihashes])
    caller = Caller(Identity(None, ANONYMOUS_DEFAULT), read_only)
    assert await handlers.answer(caller, COMMANDS["report-batch"], request) == {"unihashes": unihashes}
    assert sizes == ([] if read_only else [REPORTS_AT_ONCE, REPORTS_AT_ONCE, 1])
    assert most == (REPORTS_AT_ONCE if read_only else 0)


class KnowingStore(PlainStore):
    """Has every taskhash at hand, its own unihash, while `knows`."""

    knows = True

    def find(self, method: str, digests: Buffer) -> Found | None:
        return Found(bytes(digests), None) if self.knows else None


class Recorder(Sink):
    """An Output that keeps what it is given."""

    def __init__(self) -> None:
        self.lines = b""
        self.written = asyncio.Event()

    async def send_lines(self, lines: bytes) -> None:
        self.lines += lines
        self.written.set()


async def test_what_is_at_hand_is_answered_at_once_but_never_out_of_turn() -> None:
    store, output = KnowingStore(), Recorder()
    services = Services(store=store, users=Users(store), stats=Stats())
    caller = Caller(Identity(None, ANONYMOUS_DEFAULT), read_only=False)
    asking = Session(services, Handlers(services), caller, output, "peer")
    connection = ServerConnection()
    line = b"m " + b"ab" * 32 + b"\n"
    asking.feed(connection.receive_data(HELLO + b'{"get-stream": null}\n'))
    events = connection.receive_data(line * 2)
    assert asking.at_once.answer(events) is None, "the command before it is not answered"
    running = asyncio.create_task(asking.run(lambda: None))
    await asyncio.sleep(0)
    assert asking.at_once.answer(events) == (b"ab" * 32 + b"\n") * 2
    assert services.counters.stream_lines == 2
    store.knows = False
    assert asking.at_once.answer(events) is None
    asking.feed(events)
    store.knows = True
    assert asking.at_once.answer(events) is None, "others wait before it"
    async with asyncio.timeout(5):
        await output.written.wait()
    assert output.lines == b"\n" * 2
    long = connection.receive_data(line * (MOST_AT_HAND // len(line) + 1))
    assert asking.at_once.answer(long) is None
    for odd in (b"m other\n", b"n " + b"ab" * 32 + b"\n" + line, b"one\n"):
        assert asking.at_once.answer(connection.receive_data(odd)) is None
    caller.identity = Identity(None, frozenset())
    assert asking.at_once.answer(events) is None
    caller.identity = Identity(None, ANONYMOUS_DEFAULT)
    asking.feed_end()
    assert asking.at_once.answer(events) is None
    await running

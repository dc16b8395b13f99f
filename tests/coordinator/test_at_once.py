"""Reports that are answered as they are stored: in order, whatever happens to them or to their client meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import orjson
import pytest

from shardhash.coordinator.callers import Caller
from shardhash.coordinator.handlers import Handlers
from shardhash.coordinator.limits import ServerLimits
from shardhash.coordinator.permissions import ANONYMOUS_DEFAULT, Identity
from shardhash.coordinator.services import Services
from shardhash.coordinator.session import Session
from shardhash.coordinator.stats import Stats
from shardhash.coordinator.users import Users
from shardhash.errors import StorageError, UnavailableError
from shardhash.stores.interface import Otherwise
from shardhash.wire.commands import COMMANDS
from shardhash.wire.connection import ServerConnection
from shardhash.wire.events import Asked, Event
from shardhash.wire.rows import Report
from tests.stores.plain_store import PlainStore

UNIHASH = "ab" * 32
ANSWER = {"taskhash": "t", "method": "m", "unihash": UNIHASH}
LIMIT = 5.0


class SlowStore(PlainStore):
    """Stores a report when it is told to."""

    remote = False

    def __init__(self) -> None:
        super().__init__()
        self.reports: list[Report] = []
        self.stored: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()

    def report(  # type: ignore[override]  # an awaitable as well
        self, reports: Sequence[Report], _otherwise: Otherwise | None = None
    ) -> asyncio.Future[list[bytes]]:
        self.reports += reports
        return self.stored

    def acknowledge(self) -> None:
        self.stored.set_result([bytes.fromhex(UNIHASH)])


class Answers:
    """An Output that keeps what it is given."""

    def __init__(self) -> None:
        self.given: list[object] = []

    def write(self, text: bytes) -> None:
        self.given.append(orjson.loads(text))

    async def send_raw(self, data: bytes) -> None:
        raise AssertionError(data)

    async def send_json(self, value: object) -> None:
        self.given.append(value)

    async def send_lines(self, lines: bytes) -> None:
        self.given.append(lines)

    async def send_frame(self, frame: bytes) -> None:
        raise AssertionError(frame)


class Connection:
    """A session that waits for events, its store and its answers."""

    def __init__(self, username: str | None = None, permissions: frozenset[str] = ANONYMOUS_DEFAULT) -> None:
        self.store, self.output, self.drained = SlowStore(), Answers(), 0
        self.services = Services(store=self.store, users=Users(self.store), stats=Stats())
        self.caller = Caller(Identity(username, permissions), read_only=False)
        self.session = Session(self.services, Handlers(self.services), self.caller, self.output, "peer")
        self.running = asyncio.create_task(self.session.run(self._count))
        self._machine = ServerConnection()
        self._machine.receive_data(b"OEHASHEQUIV 1.1\n\n")

    def _count(self) -> None:
        self.drained += 1

    def events(self, data: bytes) -> list[Event]:
        return self._machine.receive_data(data)

    def begin(self, **fields: str) -> bool:
        """Begin a report."""
        row = {"method": "m", "taskhash": "t", "outhash": "o", "unihash": UNIHASH} | fields
        (event,) = self.events(orjson.dumps({"report": row}) + b"\n")
        assert isinstance(event, Asked)
        return self.session.at_once.begin_report(event, self.output.write)

    async def ended(self) -> None:
        async with asyncio.timeout(LIMIT):
            await self.running


@asynccontextmanager
async def connected(username: str | None = None) -> AsyncIterator[Connection]:
    connection = Connection(username)
    connection.session.feed(connection.events(b'{"ping": {}}\n'))  # with the first request it draws from its rates
    await asyncio.sleep(0.01)
    assert connection.output.given == [{"alive": True}]
    connection.output.given.clear()
    connection.drained = 0
    try:
        yield connection
    finally:
        connection.session.feed_lost()
        if not connection.store.stored.done():
            connection.store.acknowledge()
        await connection.ended()


async def test_a_report_is_answered_as_it_is_stored_and_the_next_one_may_come() -> None:
    async with connected() as connection:
        for number in range(3):
            connection.store.stored = asyncio.get_running_loop().create_future()
            assert connection.begin(taskhash=f"t{number}")
            assert connection.session.is_busy()
            assert connection.output.given == [ANSWER | {"taskhash": f"t{before}"} for before in range(number)]
            connection.store.acknowledge()
            await asyncio.sleep(0)
            assert not connection.session.is_busy()
        assert [report.taskhash for report in connection.store.reports] == ["t0", "t1", "t2"]
        counters = connection.services.counters
        assert counters.reports_stored == 3
        assert counters.requests["report", "ok"] == 3
        assert connection.services.stats.num == 1 + 3
        assert connection.drained == 3
        assert connection.session.waiting == connection.session.held == 0


async def test_a_user_owns_what_it_reports() -> None:
    async with connected("builder") as connection:
        assert connection.begin(owner="another")
        assert connection.store.reports[0].owner == "builder"


async def test_what_comes_meanwhile_is_answered_behind_it() -> None:
    async with connected() as connection:
        assert connection.begin()
        connection.session.feed(connection.events(b'{"ping": {}}\n'))
        assert not connection.begin(), "one is under way"
        await asyncio.sleep(0.01)
        assert connection.output.given == []
        connection.store.acknowledge()
        await asyncio.sleep(0.01)
        assert connection.output.given == [ANSWER, {"alive": True}]
        assert connection.session.waiting == 0
        connection.store.stored = asyncio.get_running_loop().create_future()
        assert connection.begin()


@pytest.mark.parametrize("error", [StorageError("full"), UnavailableError("away"), RuntimeError("a bug")])
async def test_one_that_is_not_stored_closes_the_connection(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async with connected() as connection:
        assert connection.begin()
        connection.session.feed(connection.events(b'{"ping": {}}\n'))
        with caplog.at_level("INFO"):
            connection.store.stored.set_exception(error)
            await connection.ended()
        assert connection.output.given == [], "a build survives a closed connection, and no refusal"
        assert ("this is a bug" in caplog.text) == isinstance(error, RuntimeError)
        assert str(error) in caplog.text
        assert connection.services.counters.requests["report", "failed"] == 1
        assert not connection.begin()


async def test_one_that_failed_is_told_in_words_to_who_asked_for_them() -> None:
    async with connected() as connection:
        connection.caller.in_words = True
        assert connection.begin()
        connection.store.stored.set_exception(StorageError("the disk is full"))
        await connection.ended()
        assert connection.output.given == [{"invoke-error": {"message": "the disk is full"}}]


@pytest.mark.parametrize("how", ["stop", "revoke", "feed_end", "feed_lost"])
async def test_a_session_that_ends_waits_for_the_report_that_is_under_way(how: str) -> None:
    async with connected() as connection:
        assert connection.begin()
        end = getattr(connection.session, how)
        end("no more rights") if how == "revoke" else end()
        await asyncio.sleep(0.01)
        assert not connection.running.done()
        connection.store.acknowledge()
        await connection.ended()
        assert connection.output.given == [ANSWER]
        assert connection.services.counters.reports_stored == 1


async def test_who_may_not_report_or_stores_too_much_goes_another_way() -> None:
    async with connected() as connection:
        for identity in (Identity(None, frozenset(("@read",))), Identity(None, frozenset(("@report",)))):
            assert (identity.may(COMMANDS["report"].needs)) == ("@read" in identity.permissions)
            connection.caller.identity = identity
            assert not connection.begin()
        connection.caller.identity = Identity(None, ANONYMOUS_DEFAULT)
        connection.caller.read_only = True
        assert not connection.begin()
        connection.caller.read_only = False
        connection.services.room.low = True
        assert not connection.begin()
        connection.services.room.low = False
        connection.services.quotas.limits = ServerLimits(peer_rows=0)
        assert not connection.begin()
        assert not connection.store.reports
        assert not connection.services.counters.limits_hit, "it is told and counted where it is answered"
        connection.services.quotas.limits = ServerLimits(peer_rows=1)
        assert connection.begin()

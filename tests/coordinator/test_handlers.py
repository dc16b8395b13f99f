"""Handlers: what each command asks of the Store, and how its answer looks."""

from __future__ import annotations

from typing import Any

import pytest

from shardhash.coordinator import blocks
from shardhash.coordinator.callers import Caller
from shardhash.coordinator.counters import Counters
from shardhash.coordinator.handlers import Handlers
from shardhash.coordinator.limits import ServerLimits
from shardhash.coordinator.permissions import ANONYMOUS_DEFAULT, Identity
from shardhash.coordinator.services import Services
from shardhash.coordinator.stats import Stats
from shardhash.coordinator.users import Users
from shardhash.errors import InvokeError, StorageError
from shardhash.wire import batch
from shardhash.wire.batch import Batch
from shardhash.wire.commands import COMMANDS
from shardhash.wire.messages import USER_ADMIN
from shardhash.wire.rows import QUERY_COLUMNS
from tests.stores.dict_store import DictStore

TASK, OTHER, OUT, UNI, NEW = ("ab" * 32, "cd" * 32, "ef" * 32, "01" * 32, "23" * 32)
ROW = {"method": "m", "taskhash": TASK, "outhash": OUT, "unihash": UNI, "owner": "me", "PN": "zlib"}


class Asking:
    """Handlers over the plain model, asked by the text of a command."""

    def __init__(self) -> None:
        self.store = DictStore()
        self.users = Users(self.store)
        self.counters = Counters()
        self.handlers = Handlers(Services(self.store, self.users, Stats(), counters=self.counters))
        self.caller = Caller(Identity(None, ANONYMOUS_DEFAULT), read_only=False)

    async def __call__(self, command: str, **fields: Any) -> Any:
        known = COMMANDS[command]
        return await self.handlers.answer(self.caller, known, known.parse(fields))


@pytest.fixture
def ask() -> Asking:
    return Asking()


async def test_a_report_is_answered_by_the_mapping_in_force(ask: Asking) -> None:
    assert await ask("report", **ROW) == {"method": "m", "taskhash": TASK, "unihash": UNI}
    again = await ask("report", **ROW | {"unihash": NEW})
    assert again == {"method": "m", "taskhash": TASK, "unihash": UNI}, "a mapping is written once"
    other = await ask("report", **ROW | {"taskhash": OTHER, "unihash": NEW})
    assert other == {"method": "m", "taskhash": OTHER, "unihash": UNI}, "the outhash is known"
    assert ask.counters.reports_stored == 3
    assert ask.counters.equivalences == 2


async def test_a_mapping_and_its_row_are_found(ask: Asking) -> None:
    await ask("report", **ROW)
    assert await ask("get", method="m", taskhash=TASK) == {"method": "m", "taskhash": TASK, "unihash": UNI}
    row = await ask("get", method="m", taskhash=TASK, all=True)
    assert (row["outhash"], row["unihash"], row["owner"], row["PN"]) == (OUT, UNI, "me", "zlib")
    assert (await ask("get-outhash", method="m", outhash=OUT, taskhash=TASK))["unihash"] == UNI
    for command, fields in (
        ("get", {"taskhash": OTHER}),
        ("get", {"taskhash": OTHER, "all": True}),
        ("get-outhash", {"outhash": NEW, "taskhash": TASK}),
    ):
        assert await ask(command, method="m", **fields) is None
    assert (ask.counters.hits, ask.counters.misses) == (1, 1)


async def test_batches_are_answered_in_order(ask: Asking) -> None:
    await ask("report", **ROW)
    answer = await ask("get-batch", method="m", taskhashes=[OTHER, TASK, "no-digest", TASK])
    assert answer == {"unihashes": [None, UNI, None, UNI]}
    assert await ask("exists-batch", unihashes=[UNI, "no-digest", NEW]) == {"exists": [True, False, False]}
    reports = [ROW, ROW | {"taskhash": OTHER, "unihash": NEW}]
    assert await ask("report-batch", reports=reports) == {"unihashes": [UNI, UNI]}


async def test_frames_are_answered_by_frames(ask: Asking) -> None:
    await ask("report", **ROW)
    digests = bytes.fromhex(TASK + OTHER)
    frame = await ask.handlers.answer_frame(ask.caller, Batch(batch.GET, "m", digests))
    found = batch.decode_answer(frame)
    assert isinstance(found, batch.Found)
    assert found.unihashes() == [bytes.fromhex(UNI), None]
    frame = await ask.handlers.answer_frame(ask.caller, Batch(batch.EXISTS, "", bytes.fromhex(UNI + NEW)))
    assert batch.decode_answer(frame) == b"\1\0"


async def test_who_logged_in_is_the_owner(ask: Asking) -> None:
    ask.caller.identity = Identity("builder", ANONYMOUS_DEFAULT)
    await ask("report", **ROW)
    assert (await ask("get", method="m", taskhash=TASK, all=True))["owner"] == "builder"


@pytest.mark.parametrize("read_only", [False, True])
async def test_who_may_not_report_is_told_what_would_be_in_force(ask: Asking, read_only: bool) -> None:
    await ask("report", **ROW)
    ask.caller.identity = Identity(None, ANONYMOUS_DEFAULT if read_only else frozenset({"@read"}))
    ask.caller.read_only = read_only
    known = await ask("report", **ROW | {"taskhash": OTHER, "unihash": NEW})
    unknown = await ask("report", **ROW | {"taskhash": OTHER, "outhash": OTHER, "unihash": NEW})
    assert [answer["unihash"] for answer in (known, unknown)] == [UNI, NEW]
    assert await ask("get", method="m", taskhash=OTHER) is None
    assert ask.counters.reports_dropped.total() == 2


async def test_a_report_that_cannot_be_stored_is_counted_and_raised(ask: Asking) -> None:
    ask.store.trouble = StorageError("the disk is full")
    with pytest.raises(StorageError, match="the disk is full"):
        await ask("report", **ROW)
    assert ask.counters.reports_dropped["disk"] == 1


async def test_administration_counts_rows(ask: Asking) -> None:
    await ask("report", **ROW)
    await ask("report-equiv", method="m", taskhash=OTHER, unihash=NEW)
    assert (await ask("get-db-usage"))["usage"]["unihashes_v3"] == {"rows": 2}
    assert await ask("get-db-query-columns") == {"columns": list(QUERY_COLUMNS)}
    assert await ask("gc-mark", mark="keep", where={"unihash": UNI}) == {"count": 1}
    assert await ask("gc-status") == {"keep": 1, "remove": 1, "mark": "keep"}
    with pytest.raises(InvokeError, match="not the current mark"):
        await ask("gc-sweep", mark="other")
    assert await ask("gc-sweep", mark="keep") == {"count": 1}
    assert await ask("remove", where={"taskhash": TASK}) == {"count": 2}
    assert await ask("clean-unused", max_age_seconds=1) == {"count": 0}
    assert await ask("backfill-wait") == {"tasks": 0}


async def test_a_command_needs_its_permission(ask: Asking) -> None:
    ask.caller.identity = Identity(None, frozenset())
    with pytest.raises(InvokeError, match="Anonymous user is not allowed"):
        await ask("get", method="m", taskhash=TASK)
    assert await ask("ping") == {"alive": True}


async def test_users_come_and_go(ask: Asking) -> None:
    ask.caller.identity = Identity("admin", frozenset({USER_ADMIN}))
    created = await ask("new-user", username="builder", permissions=["@read"])
    assert {**created, "token": ""} == {"username": "builder", "permissions": ["@read"], "token": ""}
    changed = await ask("set-user-perms", username="builder", permissions=["@report", "@read"])
    assert changed == {"username": "builder", "permissions": ["@read", "@report"]}
    assert await ask("get-user", username="builder") == changed
    assert await ask("get-all-users") == {"users": [changed]}
    fresh = await ask("refresh-token", username="builder")
    assert fresh["token"] != created["token"]
    assert await ask("delete-user", username="builder") == {"username": "builder"}
    assert await ask("get-user", username="builder") is None


async def test_what_names_no_user_means_oneself(ask: Asking) -> None:
    with pytest.raises(InvokeError, match="not allowed"):
        await ask("get-user")
    token = (await ask.users.new("builder", frozenset({"@read"})))[1]
    answer = await ask("auth", username="builder", token=token)
    assert answer == {"result": True, "username": "builder", "permissions": ["@read"]}
    assert await ask("get-user") == {"username": "builder", "permissions": ["@read"]}


async def test_a_frame_that_is_answered_in_parts_is_answered_whole(
    ask: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BULK", 2)
    await ask("report", **ROW)
    digests = bytes.fromhex(TASK + NEW + TASK + TASK + TASK)
    frame = await ask.handlers.answer_frame(ask.caller, Batch(batch.GET, "m", digests))
    found = batch.decode_answer(frame)
    assert isinstance(found, batch.Found)
    assert found.unihashes() == [bytes.fromhex(UNI), None, *[bytes.fromhex(UNI)] * 3]
    frame = await ask.handlers.answer_frame(ask.caller, Batch(batch.EXISTS, "", bytes.fromhex(NEW + UNI + UNI)))
    assert batch.decode_answer(frame) == bytes([0, 1, 1])
    frame = await ask.handlers.answer_frame(ask.caller, Batch(batch.GET, "m", bytes.fromhex(TASK) * 3))
    assert batch.decode_answer(frame) == batch.Found(bytes.fromhex(UNI) * 3, None)


@pytest.mark.parametrize("command", ["report-batch", "report-equiv"])
async def test_reports_that_were_not_stored_count_for_no_quota(ask: Asking, command: str) -> None:
    """Of a batch in parts, those behind the part that failed are not stored either."""
    services = Services(ask.store, ask.users, Stats())
    services.set_limits(ServerLimits(peer_rows=2500))
    handlers, known = Handlers(services), COMMANDS[command]

    async def full(*_: Any) -> Any:
        raise StorageError("the disk is full")

    rows = [{"method": "m", "taskhash": f"{n:064x}", "outhash": f"{n:064x}", "unihash": UNI} for n in range(2500)]
    request = known.parse({"reports": rows} if command == "report-batch" else rows[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ask.store, "report", full)
        patch.setattr(ask.store, "report_equiv", full)
        for _ in range(2):
            with pytest.raises(StorageError):
                await handlers.answer(ask.caller, known, request)
    known = COMMANDS["report-batch"]
    await handlers.answer(ask.caller, known, known.parse({"reports": rows}))
    assert (await ask.store.usage())["outhashes_v2"] == 2500

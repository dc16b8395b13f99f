"""Who may ask what: every command, by every set of permissions, as anonymous, user, self and become; none left out.

The expectation is written down here from PROTOCOL, not taken from the table that the server goes by. Each question
goes over a unix socket through a session of its own; only the hashes are missing (`PlainStore`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shardhash.client import create_async_client
from shardhash.coordinator.bind import Bind
from shardhash.coordinator.limits import ServerLimits
from shardhash.coordinator.listeners import Listeners
from shardhash.coordinator.origins import Browsers
from shardhash.coordinator.permissions import expand
from shardhash.coordinator.services import Services
from shardhash.coordinator.stats import Stats
from shardhash.coordinator.users import Users
from shardhash.wire import batch
from shardhash.wire.address import Address
from shardhash.wire.commands import COMMANDS
from tests.servers import IN_MEMORY, ServerProcess
from tests.stores.plain_store import PlainStore

HASH = "a" * 64
ROW = {"method": "m", "taskhash": HASH, "outhash": HASH, "unihash": HASH}

NEEDS: dict[str, tuple[str, ...]] = {
    "ping": (),
    "auth": (),
    "get": ("@read",),
    "get-outhash": ("@read",),
    "get-stream": ("@read",),
    "exists-stream": ("@read",),
    "get-batch": ("@read",),
    "exists-batch": ("@read",),
    "report": ("@read",),
    "report-batch": ("@read",),
    "report-equiv": ("@read", "@report"),
    "get-stats": ("@read",),
    "backfill-wait": ("@read",),
    "import-batch": ("@db-admin",),
    "find": ("@read",),
    "get-row": ("@read",),
    "diverging": ("@read",),
    "saved": ("@read",),
    "guess": ("@read",),
    "why": ("@read",),
    "quarantine": ("@db-admin",),
    "quarantines": ("@db-admin",),
    "release": ("@db-admin",),
    "discard": ("@db-admin",),
    "collect": ("@db-admin",),
    "forwarding": ("@db-admin",),
    "forward-refused": ("@db-admin",),
    "drop-refused": ("@db-admin",),
    "remove": ("@db-admin",),
    "clean-unused": ("@db-admin",),
    "gc-mark": ("@db-admin",),
    "gc-mark-stream": ("@db-admin",),
    "gc-status": ("@db-admin",),
    "gc-sweep": ("@db-admin",),
    "reset-stats": ("@db-admin",),
    "get-db-usage": ("@read",),
    "get-db-query-columns": ("@db-admin",),
    "refresh-token": ("@user-admin",),
    "set-user-perms": ("@user-admin",),
    "get-user": ("@user-admin",),
    "get-all-users": ("@user-admin",),
    "list-users": ("@user-admin",),
    "new-user": ("@user-admin",),
    "delete-user": ("@user-admin",),
    "become-user": ("@user-admin",),
}
OR_SELF = ("refresh-token", "get-user", "delete-user")
"""Commands that ask nothing of one who asks about himself."""
NAME_A_USER = (*OR_SELF, "set-user-perms", "become-user")

FIELDS: dict[str, Any] = {
    "get": {"method": "m", "taskhash": HASH},
    "get-outhash": {"method": "m", "taskhash": HASH, "outhash": HASH},
    "get-batch": {"method": "m", "taskhashes": [HASH]},
    "exists-batch": {"unihashes": [HASH]},
    "report": ROW,
    "report-batch": {"reports": [ROW]},
    "report-equiv": {"method": "m", "taskhash": HASH, "unihash": HASH},
    "import-batch": {"mappings": [{"method": "m", "taskhash": HASH, "unihash": HASH}]},
    "remove": {"where": {"method": "m"}},
    "clean-unused": {"max_age_seconds": 0},
    "gc-mark": {"mark": "x", "where": {}},
    "gc-sweep": {"mark": "x"},
    "find": {"where": {"PN": "zlib"}},
    "get-row": {"method": "m", "taskhash": HASH, "outhash": HASH},
    "saved": {"since": "2026-11-28"},
    "guess": {"method": "m", "tasks": [["zlib", "compile"]]},
    "why": {"taskhash": HASH},
    "quarantine": {"where": {"PN": "zlib"}, "reason": "poisoned"},
    "release": {"name": "q"},
    "discard": {"rows": [{"method": "m", "taskhash": HASH, "outhash": HASH}]},
    "collect": {"step": "begin"},
    "set-user-perms": {"permissions": ["@all"]},
    "new-user": {"username": "new", "permissions": ["@all"]},
}
"""The fields of a request, besides the user that it names."""

GRANTS = ("@read", "@report", "@db-admin", "@user-admin")
SETS = [frozenset(names) for names in chain.from_iterable(combinations(GRANTS, count) for count in range(5))]
SETS_OF_USERS = [*SETS, frozenset(("@all",))]
SETS_OF_ANONYMOUS = [names for names in SETS if "@user-admin" not in names]
WAYS = [
    *(("anonymous", names) for names in SETS_OF_ANONYMOUS),
    *((way, names) for way in ("user", "become") for names in SETS_OF_USERS),
]


def spell(value: str | frozenset[str]) -> str:
    """The name of a case."""
    return value if isinstance(value, str) else "+".join(sorted(value)) or "@none"


@dataclass(frozen=True)
class Question:
    """A command, with the user that it names, or None when it names none."""

    command: str
    named: str | None

    def request(self, tokens: dict[str, str]) -> dict[str, Any]:
        fields = dict(FIELDS.get(self.command, {}))
        if self.command == "auth":
            fields = {"username": "other", "token": tokens["other"]}
        if self.named is not None:
            fields["username"] = self.named
        return {self.command: fields}


def questions() -> Iterator[Question]:
    """Every command; those about users also about another one, oneself, and the administrator."""
    for command in NEEDS:
        if command not in NAME_A_USER or command in OR_SELF:
            yield Question(command, None)
        if command in NAME_A_USER:
            yield from (Question(command, named) for named in ("other", "me", "admin"))


def may(question: Question, actor: str | None, held: frozenset[str]) -> bool:
    """What PROTOCOL says."""
    about_self = question.command in OR_SELF and actor is not None and question.named in (None, actor)
    return about_self or frozenset(NEEDS[question.command]) <= expand(held)


def path_of(folder: Path, anonymous: frozenset[str]) -> Path:
    """The socket of those who come in with these permissions."""
    return folder / f"{spell(anonymous)}.sock"


class Server:
    """A server with the users admin, me and other, who are as they were at first whenever somebody connects."""

    def __init__(self, store: PlainStore, folder: Path, tokens: dict[str, str]) -> None:
        self.store = store
        self.tokens = tokens
        self._folder = folder
        self._at_first = dict(store.entries)

    async def connect(self, way: str, held: frozenset[str]) -> Peer:
        """A connection that acts as one who holds these permissions."""
        await self._reset(held)
        peer = await Peer.open(path_of(self._folder, held if way == "anonymous" else frozenset()))
        if way == "user":
            assert (await peer.ask({"auth": {"username": "me", "token": self.tokens["me"]}}))["result"] is True
        elif way == "become":
            await peer.ask({"auth": {"username": "admin", "token": self.tokens["admin"]}})
            assert (await peer.ask({"become-user": {"username": "me"}}))["permissions"] == sorted(expand(held))
        return peer

    async def administrator(self) -> Peer:
        """A connection that logged in as the administrator. The users stay as they are."""
        peer = await Peer.open(path_of(self._folder, frozenset()))
        assert (await peer.ask({"auth": {"username": "admin", "token": self.tokens["admin"]}}))["result"] is True
        return peer

    async def _reset(self, held: frozenset[str]) -> None:
        """The users as they were, but `me` with other permissions."""
        self.store.entries = dict(self._at_first)
        entry = await self.store.get_entry("user", "me")
        await self.store.set_entry("user", "me", entry | {"permissions": sorted(held)})
        self.store.written.clear()


class Peer:
    """A client that speaks lines."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, path: Path) -> Peer:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"OEHASHEQUIV 1.1\nneeds-headers: false\n\n")
        return cls(reader, writer)

    async def ask(self, request: dict[str, Any]) -> Any:
        self._writer.write(json.dumps(request).encode() + b"\n")
        return json.loads(await self._reader.readline())

    async def send_line(self, line: str) -> None:
        self._writer.write(line.encode() + b"\n")
        await self._writer.drain()

    async def closed_by_server(self) -> bool:
        return await self._reader.read() == b""

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Server]:
    """A server with an address for each set of permissions that anonymous users can have."""
    binds = [Bind(Address("unix", path=str(path_of(folder, held))), anon_perms=held) for held in SETS_OF_ANONYMOUS]
    async with serving_at(*binds) as (_, store, users):
        grants = {"admin": frozenset(("@all",)), "me": frozenset[str](), "other": frozenset(("@read",))}
        tokens = {name: (await users.new(name, held))[1] for name, held in grants.items()}
        yield Server(store, folder, tokens)


@asynccontextmanager
async def serving_at(
    *binds: Bind, browsers: Browsers | None = None
) -> AsyncIterator[tuple[Address, PlainStore, Users]]:
    """The outside of a coordinator, without hashes; the first address, with its real port, its Store and users."""

    async def no_pause(_seconds: float) -> None:
        """New tokens and failed logins wait for nobody here."""

    store = PlainStore()
    users = Users(store, sleep=no_pause)
    services = Services(store=store, users=users, stats=Stats())
    listeners = Listeners(services, ServerLimits(), browsers)
    try:
        addresses = [await listeners.open(bind) for bind in binds]
        yield addresses[0], store, users
    finally:
        await listeners.close()


def test_the_table_is_complete() -> None:
    assert set(NEEDS) == set(COMMANDS)
    assert len(SETS) == 16
    asked = {question.command for question in questions()}
    assert asked == set(NEEDS)


@pytest.mark.parametrize(
    ("way", "held"), WAYS, ids=lambda value: value if isinstance(value, str) else "+".join(sorted(value)) or "@none"
)
async def test_every_command(way: str, held: frozenset[str], tmp_path: Path) -> None:
    actor = None if way == "anonymous" else "me"
    name = "Anonymous user" if actor is None else actor
    async with serving(tmp_path) as server:
        for question in questions():
            peer = await server.connect(way, held)
            answer = await peer.ask(question.request(server.tokens))
            refused = isinstance(answer, dict) and "invoke-error" in answer
            if may(question, actor, held):
                assert not refused, f"{question}: {answer}"
                if question.command in ("report", "report-batch"):
                    assert ("report" in server.store.written) == ("@report" in expand(held))
            else:
                needs = " ".join(sorted(NEEDS[question.command]))
                message = f"{name} is not allowed to access permissions(s) {needs}"
                assert answer == {"invoke-error": {"message": message}}, question
                assert await peer.closed_by_server()
                assert server.store.written == [], question
            await peer.close()


@pytest.mark.parametrize("held", SETS_OF_ANONYMOUS, ids=spell)
@pytest.mark.parametrize("op", [batch.GET, batch.EXISTS])
async def test_native_batches_need_read(op: int, held: frozenset[str]) -> None:
    """They are no commands: binary frames over a WebSocket."""
    bind = Bind(Address("ws", "127.0.0.1"), anon_perms=held)
    async with (
        serving_at(bind) as (address, _, _),
        aiohttp.ClientSession() as session,
        session.ws_connect(str(address)) as socket,
    ):
        for line in ("OEHASHEQUIV 1.1", "needs-headers: true", ""):
            await socket.send_str(line)
        while await socket.receive_str():
            pass
        await socket.send_bytes(batch.encode_request(batch.Batch(op, "m" if op == batch.GET else "", bytes(32))))
        answer = await socket.receive()
        if "@read" in held:
            assert answer.type is aiohttp.WSMsgType.BINARY
        else:
            message = "Anonymous user is not allowed to access permissions(s) @read"
            assert json.loads(answer.data) == {"invoke-error": {"message": message}}
            assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE


async def test_what_becomes_is_not_what_was(tmp_path: Path) -> None:
    """One who becomes another may do what the other may, and no more."""
    async with serving(tmp_path) as server:
        peer = await server.connect("become", frozenset(("@read",)))
        assert (await peer.ask({"get-user": {}}))["username"] == "me"
        assert "invoke-error" in await peer.ask({"get-user": {"username": "admin"}})
        await peer.close()


async def test_permissions_of_a_connection_are_those_of_today(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        peer = await server.connect("user", frozenset(("@user-admin",)))
        await peer.ask({"set-user-perms": {"username": "me", "permissions": ["@none"]}})
        assert await peer.ask({"get-user": {"username": "me"}}) == {"username": "me", "permissions": []}
        assert "invoke-error" in await peer.ask({"get-all-users": {}})
        await peer.close()


async def test_a_stream_ends_with_the_right_to_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        reader = await server.connect("user", frozenset(("@read",)))
        assert await reader.ask({"get-stream": None}) == "ok"
        admin = await server.administrator()
        await admin.ask({"set-user-perms": {"username": "me", "permissions": ["@report"]}})
        await reader.send_line("m " + "0" * 64)
        assert await reader.closed_by_server()
        await admin.close()
        await reader.close()


async def test_a_deleted_user_is_gone_from_open_connections(tmp_path: Path) -> None:
    """Else a new user of the same name would be served on them, or the old one with the rights of the new."""
    async with serving(tmp_path) as server:
        peer = await server.connect("user", frozenset(("@read",)))
        admin = await server.administrator()
        await admin.ask({"delete-user": {"username": "me"}})
        assert await peer.closed_by_server()
        await admin.close()
        await peer.close()


async def test_changes_are_in_the_audit_trail(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="shardhash.audit"):
        async with serving(tmp_path) as server:
            admin = await server.administrator()
            await admin.ask({"set-user-perms": {"username": "me", "permissions": ["@read"]}})
            await admin.ask({"remove": {"where": {"method": "m\n"}}})
            await admin.ask({"become-user": {"username": "me"}})
            await admin.close()
    trail = [json.loads(record.getMessage()) for record in caplog.records if record.name == "shardhash.audit"]
    common = {"user": "admin", "peer": "unix client"}
    assert trail == [
        common | {"command": "set-user-perms", "username": "me", "permissions": ["@read"]},
        common | {"command": "remove", "where": {"method": "m\n"}, "rows": 0},
        common | {"command": "become-user", "user": "me", "login": "admin", "username": "me"},
    ]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 101),
        ({"Host": "hash.example.com:8686"}, 101),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://evil.example:80", "Host": "evil.example:80"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://builds.example.com"}, 101),
        ({"Origin": "http://hash.example.com", "Host": "hash.example.com"}, 101),
        ({"Origin": "http://127.0.0.1:9", "Host": "127.0.0.1:9"}, 101),
        ({"Origin": "http://127.0.0.1:10", "Host": "127.0.0.1:9"}, 403),
        ({"Origin": "http://localhost:9", "Host": "LOCALHOST:9"}, 101),
    ],
)
async def test_which_web_pages_may_connect(headers: dict[str, str], status: int) -> None:
    browsers = Browsers(frozenset(("https://builds.example.com",)), frozenset(("hash.example.com",)))
    async with (
        serving_at(Bind(Address("ws", "127.0.0.1")), browsers=browsers) as (address, _, _),
        aiohttp.ClientSession() as session,
    ):
        try:
            async with session.ws_connect(str(address), headers=headers):
                found = 101
        except aiohttp.WSServerHandshakeError as error:
            found = error.status
    assert found == status


def row_of(number: int, outhash: int) -> dict[str, str]:
    """A report by numbers; it proposes its own taskhash."""
    return {"method": "m", "taskhash": f"{number:064x}", "outhash": f"{outhash:064x}", "unihash": f"{number:064x}"}


@pytest.mark.parametrize("native", [True, False])
async def test_a_username_takes_the_place_of_owner_in_a_batch(
    start_server: Callable[..., ServerProcess], native: bool
) -> None:
    server = start_server(*IN_MEMORY, "--admin-user", "admin", "--admin-password", "password")
    rows = [row_of(n, n // 2) | owner for n in range(4) for owner in [{"owner": "someone"} if n % 2 else {}]]
    others = [row_of(n, n) | {"owner": "someone"} for n in (8, 9)]
    async with (
        await create_async_client(server.address, "admin", "password", native=native) as admin,
        await create_async_client(server.address, native=native) as anonymous,
    ):
        assert await admin.report_unihash_batch(rows) == [rows[n - n % 2]["unihash"] for n in range(4)]
        assert await anonymous.report_unihash_batch(others) == [row["unihash"] for row in others]
        found = [await admin.get_taskhash("m", row["taskhash"], all_properties=True) for row in rows + others]
    assert [row and row["owner"] for row in found] == ["admin"] * 4 + ["someone"] * 2


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("way", ["read-only", "anonymous"])
async def test_a_batch_of_one_who_may_not_report_writes_nothing(
    start_server: Callable[..., ServerProcess], way: str, native: bool
) -> None:
    """He is told the unihash of an outhash that is known, else his own, as for single reports."""
    login = ("--admin-user", "admin", "--admin-password", "password")
    permitted = () if way == "read-only" else ("--anon-perms", "@read")
    binds = ["127.0.0.1:0", "127.0.0.1:0,read-only"]
    server = start_server(*IN_MEMORY, *login, *permitted, binds=binds)
    address = server.addresses[1 if way == "read-only" else 0]
    known = [row_of(n, n) for n in range(50)]
    asked = [row_of(100 + n, n) for n in range(100)]
    due = [row["unihash"] for row in known + asked[50:]]
    async with (
        await create_async_client(server.address, "admin", "password") as admin,
        await create_async_client(address, native=native) as reader,
    ):
        await admin.report_unihash_batch(known)
        before = await admin.get_db_usage()
        assert await reader.report_unihash_batch(asked) == due
        assert [(await reader.report_unihash(**row, extra=None))["unihash"] for row in asked] == due
        assert await admin.get_db_usage() == before
        assert await admin.get_unihash_batch([("m", row["taskhash"]) for row in asked]) == [None] * 100
        assert await admin.report_unihash_batch(asked) == due, "he was told what he would get"

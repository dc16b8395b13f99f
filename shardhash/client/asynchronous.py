"""The client for asyncio: every command by its well-known name, over a connection that is made again when it breaks.

A call that fails because the connection broke is tried again on a new one (reconnecting.py), and asks only for what is
still unanswered. Every command can be sent twice without harm, but the second new-user or delete-user of the same name
is refused.

Calls from several tasks take turns on the one connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from shardhash.client import json_text
from shardhash.client.connection import Connection
from shardhash.client.exploring import Exploring
from shardhash.client.questions import ExistenceOfDigests, Lookup, Question, UnihashesOfDigests, check_texts
from shardhash.client.reconnecting import ClientOptions, Reconnecting
from shardhash.client.reports import EquivalenceList, ReportList
from shardhash.client.waiting import Waiting
from shardhash.wire.batch import Found
from shardhash.wire.hashes import is_digest_text, join_digests

MARKS_AT_ONCE = 50_000
"""Rows of one gc_mark_stream exchange: bounds memory, and a round trip costs little beside them."""

_T = TypeVar("_T")


async def create_async_client(
    address: str,
    username: str | None = None,
    password: str | None = None,
    **options: Unpack[ClientOptions],
) -> AsyncClient:
    """A connected client of the server at ``unix://PATH``, ``HOST:PORT``, ``tls://HOST:PORT``, ``ws://...`` or ``wss://...``.

    `password` is the user's token. Without a username, credentials come from .netrc if it has any for the address, as
    it is written here; with `netrc_hosts` also from an entry for its host.
    `native=False` does without native batches; `block` is the number of hashes in one request of them.
    `timeout`: seconds that the server may be silent, and that a connection may take to make, 30 unless given. A frozen
    server, and one that only trickles, costs a call this once. `deadline`: seconds that a call may take as a whole,
    None for no such limit: a large batch takes as long as it makes progress.
    `breaker`: after a call that could not connect or ran into a limit of time, calls fail at once for a while
    (`Breaker`). Each client has one of its own unless given one, to be shared by clients of one server, also in forked
    processes; None does without.
    Raises ConfigError for a bad address, ConnectionError, and InvokeError for wrong credentials.
    """
    client = AsyncClient(address, username, password, **options)
    await client.connect()
    return client


class AsyncClient(Exploring):
    """A client of one server. Make it with `create_async_client`.

    Every method that asks the server raises ConnectionError when it cannot be reached, InvokeError when it refuses.
    """

    def __init__(
        self,
        address: str,
        username: str | None = None,
        password: str | None = None,
        **options: Unpack[ClientOptions],
    ) -> None:
        self._server = Reconnecting(self._new_waiting(), address, username, password, **options)

    def _new_waiting(self) -> Waiting:
        from shardhash.client.event_loop import EventLoop  # and asyncio, which the blocking client does not need

        return EventLoop()

    # -- connecting and closing ----------------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Connect now, unless connected; otherwise the first call does."""

        async def nothing(connection: Connection) -> None:
            pass

        await self._server.attempt(nothing)

    async def close(self) -> None:
        """Say goodbye. The client is of no more use."""
        await self._server.close()

    async def disconnect(self) -> None:
        """Close the connection at once, whatever is under way; the next call makes a new one."""
        await self._server.disconnect()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _invoke(self, command: str, arguments: Mapping[str, Any] | None) -> Any:
        return await self._server.attempt(lambda connection: connection.invoke({command: arguments}))

    async def _object_or_none(self, command: str, arguments: Mapping[str, Any] | None) -> dict[str, Any] | None:
        answer = await self._invoke(command, arguments)
        if answer is None or isinstance(answer, dict):
            return answer
        raise self._malformed(command)

    async def _object(self, command: str, arguments: Mapping[str, Any] | None) -> dict[str, Any]:
        answer = await self._object_or_none(command, arguments)
        if answer is None:
            raise self._malformed(command)
        return answer

    async def _field(self, command: str, arguments: Mapping[str, Any] | None, name: str, kind: type[_T]) -> _T:
        field = (await self._object(command, arguments)).get(name)
        if not isinstance(field, kind):
            raise self._malformed(command)
        return field

    def _malformed(self, command: str) -> ConnectionError:
        return ConnectionError(f"{self._server.address}: the answer to {command} is not what the protocol says")

    async def _ask(self, questions: Sequence[Question]) -> None:
        async def ask(connection: Connection) -> None:
            for question in questions:
                await connection.ask(question)

        if questions:
            await self._server.attempt(ask)

    # -- lookups -------------------------------------------------------------------------------------------------------

    async def get_unihash(self, method: str, taskhash: str) -> str | None:
        """The unihash of a taskhash, None if unknown."""
        return (await self.get_unihash_batch([(method, taskhash)]))[0]

    async def get_unihash_batch(self, args: Iterable[tuple[str, str]]) -> list[str | None]:
        """The unihash of each (method, taskhash), in order; None where unknown. Many thousands are welcome."""
        lookup = Lookup(args)
        await self._ask(lookup.questions)
        return lookup.unihashes()

    async def get_unihashes(self, method: str, digests: bytes) -> Found:
        """The unihash of each taskhash of a method, for callers that hold digests: the fastest form.

        `digests` holds 32 bytes for each; so does the answer (wire/batch.py). Nothing is turned into text.
        """
        question = UnihashesOfDigests(method, digests)
        await self._ask([question])
        return question.found()

    async def get_taskhash(self, method: str, taskhash: str, all_properties: bool = False) -> dict[str, Any] | None:
        """``{taskhash, method, unihash}`` of a taskhash, or None; with `all_properties` its oldest outhash row too."""
        arguments = {"method": method, "taskhash": taskhash, "all": all_properties}
        return await self._object_or_none("get", arguments)

    async def get_outhash(
        self, method: str, outhash: str, taskhash: str, with_unihash: bool = True
    ) -> dict[str, Any] | None:
        """The oldest row of an outhash that has a unihash, or None; any oldest row if not `with_unihash`."""
        arguments = {"method": method, "outhash": outhash, "taskhash": taskhash, "with_unihash": with_unihash}
        return await self._object_or_none("get-outhash", arguments)

    async def get_long_row(self, command: str, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
        """`get` or `get-outhash` for who keeps the row: its outhash_siginfo may be a LongText (wire/long_text.py)."""
        row = await self._server.attempt(lambda connection: connection.invoke_for_row({command: arguments}))
        if row is None or isinstance(row, dict):
            return row
        raise self._malformed(command)

    async def unihash_exists(self, unihash: str) -> bool:
        """Whether the unihash is that of some mapping."""
        return (await self.unihash_exists_batch([unihash]))[0]

    async def unihash_exists_batch(self, unihashes: Iterable[str]) -> list[bool]:
        """Whether each unihash is that of some mapping, in order."""
        texts = list(unihashes)
        if (digests := join_digests(texts)) is None:
            check_texts(unihashes, texts)
            # What is not 64 hex digits is nobody's unihash (PROTOCOL, Terms) and need not be asked.
            well_formed = list(map(is_digest_text, texts))
            answers = iter(await self.unihash_exists_batch(compress(texts, well_formed)))
            return [good and next(answers) for good in well_formed]
        question = ExistenceOfDigests(digests)
        await self._ask([question])
        return list(map(bool, question.status()))

    # -- reports -------------------------------------------------------------------------------------------------------

    async def report_unihash(
        self, taskhash: str, method: str, outhash: str, unihash: str, extra: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Report what a task produced; ``{taskhash, method, unihash}`` with the unihash that is now in force.

        `extra` may hold owner, PN, PV, PR, task and outhash_siginfo.
        """
        row = {"taskhash": taskhash, "method": method, "outhash": outhash, "unihash": unihash}
        return await self._object("report", {**(extra or {}), **row})

    async def report_unihash_batch(self, reports: Iterable[Mapping[str, Any]]) -> list[str]:
        """Report what many tasks produced; the unihash that is now in force for each, in order.

        Each report holds taskhash, method, outhash and unihash, and may hold what `extra` of `report_unihash` may.
        Many thousands are welcome: to a shardhash server 1000 travel in one message.
        """
        rows = ReportList(reports)
        if not rows.complete:
            await self._server.attempt(lambda connection: connection.report(rows))
        return rows.unihashes

    async def report_unihash_equiv(
        self, taskhash: str, method: str, unihash: str, extra: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Give a taskhash a unihash unless it has one; ``{taskhash, method, unihash}`` in force."""
        row = {"taskhash": taskhash, "method": method, "unihash": unihash}
        return await self._object("report-equiv", {**(extra or {}), **row})

    async def report_unihash_equiv_batch(self, mappings: Iterable[Mapping[str, Any]]) -> list[str]:
        """Give many taskhashes a unihash each, as `report_unihash_equiv` does; those in force, in order.

        Each holds taskhash, method and unihash. They travel one behind the other, and no answer is waited for.
        """
        rows = EquivalenceList(mappings)
        if not rows.complete:
            await self._server.attempt(lambda connection: connection.report(rows))
        return rows.unihashes

    async def import_batch(
        self,
        mappings: Sequence[Mapping[str, Any]] = (),
        rows: Sequence[Mapping[str, Any]] = (),
        users: Sequence[Mapping[str, Any]] = (),
    ) -> dict[str, list[str]]:
        """Have a shardhash server take in what another server has collected; what became of each (wire/imports.py)."""
        given = {"mappings": list(mappings), "rows": list(rows), "users": list(users)}
        answer = await self._object("import-batch", given)
        if any(len(answer.get(name, ())) != len(sent) for name, sent in given.items()):
            raise self._malformed("import-batch")
        return answer

    # -- the server and its data ---------------------------------------------------------------------------------------

    async def ping(self) -> dict[str, Any]:
        """``{"alive": True}``."""
        return await self._object("ping", {})

    async def get_stats(self) -> dict[str, Any]:
        """``{"requests": {num, total_time, max_time, average, stdev}}``."""
        return await self._object("get-stats", None)

    async def reset_stats(self) -> dict[str, Any]:
        """The same figures, as they were before they are set to zero."""
        return await self._object("reset-stats", None)

    async def get_db_usage(self) -> dict[str, Any]:
        """``{table: {"rows": n}}``."""
        return await self._field("get-db-usage", {}, "usage", dict)

    async def get_db_query_columns(self) -> list[str]:
        """The columns that `remove` takes."""
        return await self._field("get-db-query-columns", {}, "columns", list)

    async def backfill_wait(self) -> int:
        """Wait until the upstream's answers are stored; how many were queued."""
        return await self._field("backfill-wait", None, "tasks", int)

    async def remove(self, where: Mapping[str, Any]) -> dict[str, Any]:
        """Remove what matches all columns given, from each table that has such columns; ``{"count": n}``."""
        return await self._object("remove", {"where": dict(where)})

    async def clean_unused(self, max_age: int) -> dict[str, Any]:
        """Remove outhash rows without a unihash that are older than `max_age` seconds; ``{"count": n}``."""
        return await self._object("clean-unused", {"max_age_seconds": max_age})

    # -- garbage collection --------------------------------------------------------------------------------------------

    async def gc_mark(self, mark: str, where: Mapping[str, Any]) -> dict[str, Any]:
        """Mark the mappings that match, to be kept by the sweep; ``{"count": n}``."""
        return await self._object("gc-mark", {"mark": mark, "where": dict(where)})

    async def gc_mark_stream(self, mark: str, rows: Iterable[str | Mapping[str, Any]]) -> dict[str, Any]:
        """Mark for each row, which is a condition or its text ``COLUMN VALUE [COLUMN VALUE ...]``; ``{"count": n}``.

        Rows may be millions: they are taken from the iterable as they are sent.
        """
        count = 0
        lines: list[str] = []
        for row in rows:
            lines.append(_mark_line(mark, row))
            if len(lines) == MARKS_AT_ONCE:
                count += await self._mark(lines)
                lines = []
        if lines:
            count += await self._mark(lines)
        return {"count": count}

    async def _mark(self, lines: list[str]) -> int:
        answers: list[bytes] = []
        await self._server.attempt(
            lambda connection: connection.stream("gc-mark-stream", lines[len(answers) :], answers)
        )
        try:
            return sum(int(item["count"]) for item in json_text.decode(b"[" + b",".join(answers) + b"]"))
        except (ValueError, TypeError, KeyError):
            raise self._malformed("gc-mark-stream") from None

    async def gc_status(self) -> dict[str, Any]:
        """``{keep, remove, mark}``: mappings with the current mark, and without it."""
        return await self._object("gc-status", {})

    async def gc_sweep(self, mark: str) -> dict[str, Any]:
        """Remove all mappings without the mark, which must be the current one; ``{"count": n}``."""
        return await self._object("gc-sweep", {"mark": mark})

    # -- users ---------------------------------------------------------------------------------------------------------

    async def auth(self, username: str, token: str) -> dict[str, Any]:
        """Log in; also on later connections. ``{"result": True, username, permissions}``."""
        answer = await self._object("auth", {"username": username, "token": token})
        self._server.credentials = (username, token)
        self._server.become = None
        return answer

    async def refresh_token(self, username: str | None = None, expires_in: int | None = None) -> dict[str, Any]:
        """Replace a user's token, one's own without a name; ``{username, token}``. The old one stops working.

        `expires_in`: seconds for which it works, 0 without an end; the answer has ``expires`` then. Without, the new
        one works as long as the one before.
        """
        answer = await self._object("refresh-token", {**_named(username), **_expiring(expires_in)})
        if self._server.credentials is not None and self._server.credentials[0] == answer["username"]:
            self._server.credentials = (answer["username"], answer["token"])
        return answer

    async def set_user_perms(self, username: str, permissions: Sequence[str]) -> dict[str, Any]:
        """Give a user just these permissions; ``{username, permissions}``."""
        arguments = {"username": username, "permissions": list(permissions)}
        return await self._object("set-user-perms", arguments)

    async def get_user(self, username: str | None = None) -> dict[str, Any] | None:
        """``{username, permissions}`` of a user, oneself without a name; None if there is none."""
        return await self._object_or_none("get-user", _named(username))

    async def get_all_users(self) -> list[dict[str, Any]]:
        """``{username, permissions}`` of each user."""
        return await self._field("get-all-users", {}, "users", list)

    async def list_users(self) -> list[dict[str, Any]]:
        """``{username, permissions, expires, used}`` of each user: until when the token works, and its last use."""
        return await self._field("list-users", {}, "users", list)

    async def new_user(
        self, username: str, permissions: Sequence[str], expires_in: int | None = None
    ) -> dict[str, Any]:
        """Create a user; ``{username, permissions, token}``. `expires_in`: as in `refresh_token`."""
        arguments = {"username": username, "permissions": list(permissions), **_expiring(expires_in)}
        return await self._object("new-user", arguments)

    async def delete_user(self, username: str) -> dict[str, Any]:
        """Delete a user; ``{username}``."""
        return await self._object("delete-user", {"username": username})

    async def become_user(self, username: str) -> dict[str, Any]:
        """Act as another user from now on, on later connections too; ``{username, permissions}``."""
        answer = await self._object("become-user", {"username": username})
        self._server.become = username
        return answer


def _named(username: str | None) -> dict[str, str]:
    return {} if username is None else {"username": username}


def _mark_line(mark: str, row: str | Mapping[str, Any]) -> str:
    """The stream line of a row; about 1 us. Raises ValueError for a text that is not pairs of words."""
    if isinstance(row, str):
        words = row.split()
        if len(words) % 2:
            raise ValueError(f"{row!r} is not pairs of COLUMN VALUE")
        row = dict(zip(words[::2], words[1::2], strict=True))
    return json_text.encode({"mark": mark, "where": dict(row)}).decode()


def _expiring(expires_in: int | None) -> dict[str, int]:
    return {} if expires_in is None else {"expires_in": expires_in}

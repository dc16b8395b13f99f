"""Lookups: the questions of one tick, from all connections, as one statement a method.

A statement takes digests end to end and answers unihashes end to end, so that no Python code runs for each hash: the
database cuts them apart and looks each up in its index. A scalar subquery does that, also where the planner knows
nothing of the tables yet; a join it would carry out by reading all of a method for each. While `MOST_AT_ONCE`
statements run, questions gather for the next.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import compress, repeat
from typing import Any, Generic, TypeVar

from shardhash.base.tasks import BackgroundTasks
from shardhash.stores.postgresql.addresses import Connection
from shardhash.stores.postgresql.asking import COLLECTING, Asking
from shardhash.stores.postgresql.connections import Database
from shardhash.stores.postgresql.methods import Methods
from shardhash.wire.batch import Found
from shardhash.wire.hashes import DIGEST_SIZE, Buffer, split_digests

MOST_AT_ONCE = 4
"""Statements of a kind that run at one time: a connection each, and a core of the database each."""
MOST_HASHES = 8192
"""Hashes of one statement, some 20 ms of work; one caller's question is never cut."""

_POSITION = b", (select coalesce(max(seq), 0) from shardhash.change)"
_COLLECTING = b", " + COLLECTING
_GET = b"""
select coalesce(string_agg(coalesce(unihash, %(zero)b::bytea), ''), ''),
    case when count(unihash) < count(*)
        then string_agg(case when unihash is null then '\\x00'::bytea else '\\x01'::bytea end, '') end{more}
from (
    select (
        select unihash from shardhash.mapping
        where method = %(method)b::int and taskhash = substring(%(digests)b::bytea from place * 32 + 1 for 32)
    )
    from generate_series(0, %(count)b::int - 1) as place
    order by place
) as found
"""
_EXISTS = b"""
select coalesce(string_agg(case when there is not null then '\\x01'::bytea else '\\x00'::bytea end, ''), ''){more}
from (
    select (
        select true from shardhash.mapping
        where unihash = substring(%(digests)b::bytea from place * 32 + 1 for 32) limit 1
    ) as there
    from generate_series(0, %(count)b::int - 1) as place
    order by place
) as found
"""
_ZERO = bytes(DIGEST_SIZE)
_Answer = TypeVar("_Answer")


class Lookups:
    """Gathers the questions of a tick and asks them. Use from the event loop's thread."""

    def __init__(self, database: Database, methods: Methods, asking: Asking, *, behind: bool = False) -> None:
        """`asking` keeps what is found while a collection runs.

        `behind`: the database is a standby that may be behind; `position` says how far.
        """
        self._asking = asking
        self.position: float = -1 if behind else math.inf
        """The number of the last change (changes.py) that lookups asked for from now on are certain to see."""
        self._behind = behind
        self._get, self._is_there = (
            statement.replace(b"{more}", _POSITION if behind else _COLLECTING) for statement in (_GET, _EXISTS)
        )
        self._database = database
        self._methods = methods
        self._tasks = BackgroundTasks()
        self._gets: dict[str, _Gatherer[Found]] = {}
        self._exists = _Gatherer(self._ask_exists, lambda status, start, end: status[start:end], self._tasks)

    async def close(self) -> None:
        """End the questions that are still asked; nobody waits for them."""
        await self._tasks.close()

    def get(self, method: str, digests: Buffer) -> asyncio.Future[Found]:
        """The unihashes of n * 32 bytes of taskhashes."""
        gatherer = self._gets.get(method)
        if gatherer is None:
            gatherer = _Gatherer(lambda joined: self._ask_get(method, joined), Found.part, self._tasks)
            gatherer.idle = lambda: self._gets.pop(method, None)
            self._gets[method] = gatherer
        return gatherer.add(digests)

    def exists(self, digests: Buffer) -> asyncio.Future[bytes]:
        """A byte for each of n * 32 bytes of unihashes: 1 when a mapping has it."""
        return self._exists.add(digests)

    async def _ask_get(self, method: str, digests: Buffer) -> Found:
        number = await self._methods.find(method)
        count = len(digests) // DIGEST_SIZE
        if number is None:
            return Found(bytes(len(digests)), bytes(count) if count else None)
        (unihashes, known), collecting = await self._ask(self._get, digests, method=number, zero=_ZERO)
        if collecting and (known is None or 1 in known):
            await self._asking.keep(number, list(compress(split_digests(digests), known or repeat(1))))
            if not self._behind:  # what was removed before it could be kept is not found again; all else is kept
                (unihashes, known), _ = await self._ask(self._get, digests, method=number, zero=_ZERO)
        self._asking.found(method, digests, known)
        return Found(unihashes, known)

    async def _ask_exists(self, digests: Buffer) -> bytes:
        (status,), collecting = await self._ask(self._is_there, digests)
        if collecting and 1 in status:
            await self._asking.keep_unihashes(list(compress(split_digests(digests), status)))
            if not self._behind:
                (status,), _ = await self._ask(self._is_there, digests)
        self._asking.exist(digests, status)
        return bytes(status)

    async def _ask(self, statement: bytes, digests: Buffer, **more: Any) -> tuple[tuple[Any, ...], bool]:
        """The answer, and whether a collection runs."""
        given = {"digests": digests, "count": len(digests) // DIGEST_SIZE} | more

        async def ask(connection: Connection) -> tuple[Any, ...]:
            cursor = connection.cursor(binary=True)
            row = await (await cursor.execute(statement, given)).fetchone()
            assert row is not None, "an aggregate has a row"
            return row

        row = await self._database.read(ask)
        if self._asking.replica_collects is None:
            return row[:-1], row[-1]
        self.position = row[-1]
        return row[:-1], self._asking.replica_collects()


class _Gatherer(Generic[_Answer]):
    """Questions of one kind: those that came while others were asked go together."""

    def __init__(
        self,
        ask: Callable[[Buffer], Awaitable[_Answer]],
        part: Callable[[_Answer, int, int], _Answer],
        tasks: BackgroundTasks,
    ) -> None:
        self.idle: Callable[[], object] = lambda: None
        self._ask = ask
        self._part = part
        self._tasks = tasks
        self._waiting: deque[tuple[Buffer, asyncio.Future[_Answer]]] = deque()
        self._running = 0
        self._scheduled = False

    def add(self, digests: Buffer) -> asyncio.Future[_Answer]:
        """Ask with the others of this tick."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_Answer] = loop.create_future()
        self._waiting.append((digests, future))
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._begin)  # after all that is readable now has been read
        return future

    def _begin(self) -> None:
        self._scheduled = False
        while self._waiting and self._running < MOST_AT_ONCE:
            some = [self._waiting.popleft()]
            size = len(some[0][0])
            while self._waiting and size + len(self._waiting[0][0]) <= MOST_HASHES * DIGEST_SIZE:
                some.append(self._waiting.popleft())
                size += len(some[-1][0])
            self._running += 1
            self._tasks.start(self._round(some), "a lookup")
        if not self._running:
            self.idle()

    async def _round(self, callers: list[tuple[Buffer, asyncio.Future[_Answer]]]) -> None:
        try:
            answer = await self._ask(callers[0][0] if len(callers) == 1 else b"".join(part for part, _ in callers))
        except asyncio.CancelledError:
            for _, future in callers:
                future.cancel()
            raise
        except Exception as error:  # noqa: BLE001  # a bug too is told to who waits
            for _, future in callers:
                if not future.done():
                    future.set_exception(error)
        else:
            self._deliver(callers, answer)
        finally:
            self._running -= 1
            self._begin()

    def _deliver(self, callers: list[tuple[Buffer, asyncio.Future[_Answer]]], answer: _Answer) -> None:
        start = 0
        for digests, future in callers:
            end = start + len(digests) // DIGEST_SIZE
            if not future.done():  # a caller whose client went away has cancelled it
                future.set_result(answer if len(callers) == 1 else self._part(answer, start, end))
            start = end

"""The upstream: a server that is asked what this one does not know (PROTOCOL, "Upstream").

Lookups that miss together go up together: what is asked while all connections are busy is one question (a *round*) as
soon as one is free, whoever asked. Answers are checked: the client checks the form of hashes, this module that a
row is well-formed, and the one that was asked for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeVar

from shardhash.base.figures import Histogram
from shardhash.base.tasks import Sleep
from shardhash.client import AsyncClient
from shardhash.client.questions import hex_texts
from shardhash.errors import InvokeError
from shardhash.stores.chained.pool import CONNECTIONS, Inquiry
from shardhash.stores.chained.pools import Pools
from shardhash.stores.chained.settings import UpstreamSettings
from shardhash.wire.batch import Found
from shardhash.wire.commands import COMMANDS
from shardhash.wire.hashes import DIGEST_SIZE
from shardhash.wire.long_text import LongText
from shardhash.wire.rows import COLUMNS, JOINED_COLUMNS, Columns
from shardhash.wire.values import reported

log = logging.getLogger(__name__)

GATHER = 0.001
"""Seconds that a round waits for more lookups: little beside a round trip, and a client that sends its lines one by
one, as over WebSockets, would else fill every connection with its first few."""

_A = TypeVar("_A")


class Upstream:
    """The upstream as questions see it: each answers None while it is down, for "it does not know"."""

    def __init__(self, settings: UpstreamSettings, sleep: Sleep = asyncio.sleep) -> None:
        self._pool = self.pools = Pools(settings, sleep)
        self._lookups: dict[str, _Round[Found]] = {}
        self._existences: dict[str, _Round[bytes]] = {}
        self._rows = asyncio.Semaphore(CONNECTIONS)

    def start(self) -> None:
        """Connect in the background."""
        self._pool.start()

    async def close(self) -> None:
        """Close all connections; who waits for an answer gets None."""
        await self._pool.close()

    @property
    def down(self) -> bool:
        """Whether it is not asked at present."""
        return self._pool.down

    @property
    def questions(self) -> Mapping[tuple[str, str], int]:
        """How many questions there were, by kind and result."""
        return self._pool.questions

    @property
    def seconds(self) -> Histogram:
        """What its answers took."""
        return self._pool.seconds

    async def lookup(self, method: str, digests: bytes) -> Found | None:
        """The unihashes of taskhashes, n * 32 bytes."""

        def ask(client: AsyncClient, joined: bytes) -> Awaitable[Found]:
            return client.get_unihashes(method, joined)

        if self.down:
            return None
        joined, part = self._join("lookup", self._lookups, method, digests, ask)
        # Shielded, because others wait for the same answer.
        found = await asyncio.shield(joined.answer)
        if found is None or part == slice(0, len(found.digests) // DIGEST_SIZE):
            return found
        known = None if found.known is None else found.known[part]
        return Found(found.digests[part.start * DIGEST_SIZE : part.stop * DIGEST_SIZE], known)

    async def exists(self, digests: bytes) -> bytes | None:
        """A byte for each unihash, n * 32 bytes: 1 when it has one like that, else 0."""
        if self.down:
            return None
        joined, part = self._join("exists", self._existences, "", digests, _existence)
        status = await asyncio.shield(joined.answer)
        return None if status is None else status[part]

    async def lookup_texts(self, method: str, taskhashes: list[str]) -> list[str | None] | None:
        """The unihashes of taskhashes of any form."""
        pairs = [(method, taskhash) for taskhash in taskhashes]
        return await self._pool.ask("lookup", lambda client: client.get_unihash_batch(pairs))

    async def get_row(self, method: str, taskhash: str) -> Columns | None:
        """The oldest row of a taskhash, joined with its mapping."""
        asked = {"method": method, "taskhash": taskhash, "all": True}
        row = await self._ask_row(lambda client: client.get_long_row("get", asked))
        return _checked(row, JOINED_COLUMNS, method=method, taskhash=taskhash)

    async def get_outhash(self, method: str, outhash: str, taskhash: str, with_unihash: bool) -> Columns | None:
        """The oldest row of an outhash."""
        asked = {"method": method, "outhash": outhash, "taskhash": taskhash, "with_unihash": with_unihash}
        row = await self._ask_row(lambda client: client.get_long_row("get-outhash", asked))
        return _checked(row, JOINED_COLUMNS if with_unihash else COLUMNS, method=method, outhash=outhash)

    async def _ask_row(self, question: Inquiry[_A]) -> _A | None:
        """Ask about one row. Those of a batch of reports wait here, where the limit of a question does not run."""
        async with self._rows:
            return await self._pool.ask("row", question)

    def _join(
        self,
        kind: str,
        rounds: dict[str, _Round[_A]],
        key: str,
        digests: bytes,
        ask: Callable[[AsyncClient, bytes], Awaitable[_A]],
    ) -> tuple[_Round[_A], slice]:
        """Join the open round of `key`, or open one; its future, and the slice of the answer that is ours."""
        if (joined := rounds.get(key)) is None:
            joined = rounds[key] = _Round()
            self._pool.spawn(self._run(kind, rounds, key, ask))
        return joined, joined.add(digests)

    async def _run(
        self, kind: str, rounds: dict[str, _Round[_A]], key: str, ask: Callable[[AsyncClient, bytes], Awaitable[_A]]
    ) -> None:
        this = rounds[key]

        def question(client: AsyncClient) -> Awaitable[_A]:
            if rounds.get(key) is this:
                del rounds[key]  # who comes now opens the next one
            return ask(client, b"".join(this.digests))

        answer: _A | None = None
        try:
            await asyncio.sleep(GATHER)
            answer = await self._pool.ask(kind, question)
        finally:
            if rounds.get(key) is this:
                del rounds[key]
            this.answer.set_result(answer)


class _Round(Generic[_A]):
    """Digests of several callers, asked as one question."""

    def __init__(self) -> None:
        self.digests: list[bytes] = []
        self.size = 0
        self.answer: asyncio.Future[_A | None] = asyncio.get_running_loop().create_future()

    def add(self, digests: bytes) -> slice:
        """The slice of the answers that belongs to these."""
        start = self.size
        self.size += len(digests) // DIGEST_SIZE
        self.digests.append(digests)
        return slice(start, self.size)


async def _existence(client: AsyncClient, digests: bytes) -> bytes:
    return bytes(await client.unihash_exists_batch(hex_texts(digests)))


def _checked(row: dict[str, object] | None, columns: tuple[str, ...], **asked: str) -> Columns | None:
    """A row that the upstream sent; None, with a warning, when it is not the one asked for, or malformed."""
    if row is None:
        return None
    try:
        COMMANDS["report"].parse(row if "unihash" in columns else row | {"unihash": "0" * 64})
    except InvokeError as error:
        log.warning("the upstream's row for %s is ignored: %s", asked, error)
        return None
    checked: Columns = {
        name: reported(value, None) if isinstance(value, str) else value
        for name in columns
        if (value := row.get(name)) is None or isinstance(value, str | LongText)
    }
    if len(checked) < len(columns) or any(checked[name] != value for name, value in asked.items()):
        log.warning("the upstream's row for %s is ignored: it is not what was asked for", asked)
        return None
    return checked

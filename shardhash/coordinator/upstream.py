"""The upstream: a server that is asked what this one does not know (PROTOCOL, "Upstream").

Users must not suffer from it. Questions that miss together go up together, over a small pool of connections that
stay open. When the upstream is down, refuses, or is slower than the limit, local answers go out at once: one warning
is logged, nobody asks any more, and a task in the background tries again with growing pauses.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shardhash.client import AsyncClient
from shardhash.coordinator.settings import UpstreamSettings
from shardhash.coordinator.store import Columns
from shardhash.errors import InvokeError, ProtocolError
from shardhash.wire.batch import Found
from shardhash.wire.fields import is_token
from shardhash.wire.hashes import is_digest_text

log = logging.getLogger(__name__)

CONNECTIONS = 4
"""Connections to the upstream: so many questions are under way at one time."""
FIRST_PAUSE = 0.5
LAST_PAUSE = 60.0
"""Seconds between attempts to reach an upstream that is down; each pause is twice the one before."""

_T = TypeVar("_T")


class Upstream:
    """The upstream as questions see it: each answers None while it is down, for "it does not know"."""

    def __init__(self, settings: UpstreamSettings) -> None:
        self._settings = settings
        self._idle: asyncio.LifoQueue[AsyncClient] = asyncio.LifoQueue()
        self._clients = [self._client() for _ in range(CONNECTIONS)]
        for client in self._clients:
            self._idle.put_nowait(client)
        self._down = False
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Connect in the background, so that the first question need not."""
        self._spawn(self._warm_up())

    async def close(self) -> None:
        """Close all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in self._clients:
            await client.close()

    @property
    def down(self) -> bool:
        """Whether it is not asked at present."""
        return self._down

    # ------------------------------------------------------------------------------------------- questions

    async def lookup(self, method: str, digests: bytes) -> Found | None:
        """The unihashes of taskhashes, n * 32 bytes."""
        return await self._ask(lambda client: client.get_unihashes(method, digests))

    async def lookup_texts(self, method: str, taskhashes: list[str]) -> list[str | None] | None:
        """The unihashes of taskhashes of any form."""
        return await self._ask(lambda client: client.get_unihash_batch((method, text) for text in taskhashes))

    async def exists(self, unihashes: list[str]) -> list[bool] | None:
        """Which unihashes there are."""
        return await self._ask(lambda client: client.unihash_exists_batch(unihashes))

    async def get_row(self, method: str, taskhash: str) -> Columns | None:
        """The oldest row of a taskhash, joined with its mapping."""
        row = await self._ask(lambda client: client.get_taskhash(method, taskhash, all_properties=True))
        return _checked(row, mapped=True, method=method, taskhash=taskhash)

    async def get_outhash(self, method: str, outhash: str, taskhash: str, with_unihash: bool) -> Columns | None:
        """The oldest row of an outhash."""
        row = await self._ask(lambda client: client.get_outhash(method, outhash, taskhash, with_unihash))
        return _checked(row, mapped=with_unihash, method=method, outhash=outhash)

    async def _ask(self, question: Callable[[AsyncClient], Awaitable[_T]]) -> _T | None:
        if self._down:
            return None
        client: AsyncClient | None = None
        try:
            async with asyncio.timeout(self._settings.limit):
                client = await self._idle.get()
                return await question(client)
        except TimeoutError:
            self._go_down(f"no answer within {self._settings.limit:g} s")
        except (OSError, InvokeError, ProtocolError) as error:
            self._go_down(str(error))
        finally:
            if client is not None:
                self._idle.put_nowait(client)
        return None

    # -------------------------------------------------------------------------------------------- connections

    def _client(self) -> AsyncClient:
        settings = self._settings
        return AsyncClient(str(settings.address), settings.username, settings.token, timeout=settings.limit)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _go_down(self, why: str) -> None:
        if not self._down:
            self._down = True
            log.warning("upstream %s: %s; answering from local data until it is back", self._settings.address, why)
            self._spawn(self._come_back())

    async def _warm_up(self) -> None:
        for client in self._clients:
            if self._down or not await self._reach(client):
                self._go_down("cannot be reached")
                return

    async def _come_back(self) -> None:
        pause = FIRST_PAUSE
        while True:
            await asyncio.sleep(pause)
            if await self._reach(self._clients[0]):
                self._down = False
                log.info("upstream %s is back", self._settings.address)
                return
            pause = min(LAST_PAUSE, pause * 2)

    async def _reach(self, client: AsyncClient) -> bool:
        try:
            async with asyncio.timeout(self._settings.limit):
                await client.ping()
        except (OSError, TimeoutError, InvokeError, ProtocolError) as error:
            log.debug("upstream %s: %s", self._settings.address, error)
            return False
        return True


def _checked(row: dict[str, object] | None, *, mapped: bool, **asked: str) -> Columns | None:
    """A row that the upstream sent, unless it is not what was asked for or not what a row can be."""
    if row is None:
        return None
    texts = {name: value for name, value in row.items() if value is None or isinstance(value, str)}
    tokens = [texts.get(name) for name in ("method", "taskhash", "outhash")]
    good = all(texts.get(name) == value for name, value in asked.items())
    good = good and all(token is not None and is_token(token) for token in tokens)
    if not good or (mapped and not is_digest_text(texts.get("unihash") or "")):
        log.warning("the upstream's row for %s is not what was asked for; ignored", asked)
        return None
    return texts

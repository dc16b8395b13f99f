"""Upstreams in order: the first one that is up is asked, and no other.

A question that fails there is put to the next one at once. One that was left alone and is back is asked first again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from shardhash.base.figures import SECONDS, Histogram
from shardhash.base.tasks import BackgroundTasks, Sleep
from shardhash.stores.chained.pool import Inquiry, NotAnsweredError, Pool
from shardhash.stores.chained.settings import UpstreamSettings

_T = TypeVar("_T")

CIRCLE = "leads back to this server"


class Pools:
    """A pool for each upstream. Use from one event loop."""

    def __init__(self, settings: UpstreamSettings, sleep: Sleep = asyncio.sleep) -> None:
        self._pools: list[Pool] = []
        for address in (settings.address, *settings.others):
            pool = Pool(replace(settings, address=address, others=()), sleep)
            pool.back, pool.instead = self._is_back, self._describe_instead
            pool.left = self._forget_proofs
            self._pools.append(pool)
        self._tasks = BackgroundTasks()
        self.waiting = ""
        """What the log says more of an upstream that went away."""
        self.back: Callable[[], None] = lambda: None
        """Called when an upstream may be asked again."""

    def start(self) -> None:
        """Connect to the first in the background; to others when they are asked."""
        self._pools[0].start()

    async def close(self) -> None:
        """Close all connections and end what was spawned."""
        await asyncio.gather(*(pool.close() for pool in self._pools))
        await self._tasks.close()

    def first(self) -> Pool | None:
        """The one that is asked at present."""
        return next((pool for pool in self._pools if not pool.down), None)

    @property
    def down(self) -> bool:
        """Whether none is asked at present."""
        return self.first() is None

    @property
    def questions(self) -> Mapping[tuple[str, str], int]:
        """How many, by kind and by what came of them, of all."""
        total: Counter[tuple[str, str]] = Counter()
        for pool in self._pools:
            total.update(pool.questions)
        return total

    @property
    def seconds(self) -> Histogram:
        """What the answers took, of all."""
        total = Histogram(SECONDS)
        for pool in self._pools:
            total.take(pool.seconds)
        return total

    async def ask(self, kind: str, question: Inquiry[_T]) -> _T | None:
        """The outcome of a question; None when no upstream answers. `question` may be called once for each of them."""
        for pool in self._pools:
            if not pool.down:
                try:
                    return await pool.ask(kind, question)
                except NotAnsweredError:
                    continue
        return None

    async def take_probe(self, digest: bytes) -> None:
        """A server asks for a hash that nobody has (pool.py): it is one of this server, or is passed on."""
        if any(pool.recognize(digest) for pool in self._pools):
            return
        pool = next((pool for pool in self._pools if pool.passes_probes), None)
        if pool is not None:
            await pool.pass_on(digest)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a task that ends with the pools at the latest."""
        self._tasks.start(work, "a question to the upstream")

    def describe(self) -> str:
        """Which ones are asked, in words; "" of a single one with which all is as usual."""
        if len(self._pools) == 1:
            return CIRCLE if self._pools[0].circle else ""
        first = self.first()
        return ", ".join(f"{pool.address} {_state(pool, first)}" for pool in self._pools)

    def _forget_proofs(self) -> None:
        """Another one is asked from now on, and so by others who ask here."""
        for pool in self._pools:
            pool.forget_proof()

    def _is_back(self) -> None:
        self.back()

    def _describe_instead(self) -> str:
        first = self.first()
        return f"local data answers{self.waiting}" if first is None else f"{first.address} is asked instead"


def _state(pool: Pool, first: Pool | None) -> str:
    if pool is first:
        return "is asked"
    if pool.circle:
        return CIRCLE
    return "is down" if pool.down else "would be next"

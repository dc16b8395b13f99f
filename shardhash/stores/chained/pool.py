"""The pool: a few connections to the upstream that stay open, and whether it is asked at all.

====  ================================================================================================================
up    Questions are asked. One that fails, is refused or takes longer than the limit takes the upstream down.
down  Nobody asks. In the background a *probe*, a lookup of a hash that nobody has, is tried after pauses that grow;
      when it is answered, the upstream is up. A ping would not do: a server that refuses or delays lookups may
      answer that. Pauses start anew only when a question was answered, so that a server which answers probes and
      nothing else is left alone more and more.
====  ================================================================================================================

One warning is logged from the first failure to the next answer.

An upstream must not lead back to this server: two servers that are each other's upstream, or more in a circle, would
ask each other without an end for what none of them knows, and send each other the same reports. So nothing is asked
before a probe went well, at the start and whenever the upstream is back. A probe is a lookup of a new random hash.
Servers pass it on to their upstreams (`pass_on`), and if it comes back here as a question, this upstream is left alone
as one that is down, until a later probe does not come back. While a probe is under way here, probes of others are
passed on, too; so of several servers that close a circle at the same moment, one notices at least.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from time import perf_counter
from typing import Any, TypeAlias, TypeVar

from shardhash.base.figures import SECONDS, Histogram
from shardhash.base.tasks import BackgroundTasks, Sleep
from shardhash.client import AsyncClient
from shardhash.errors import InvokeError, ProtocolError
from shardhash.stores.chained.settings import UpstreamSettings
from shardhash.wire.hashes import DIGEST_SIZE

log = logging.getLogger(__name__)

CONNECTIONS = 8
"""Connections to the upstream, and so questions under way at one time."""
FIRST_PAUSE = 0.5
LAST_PAUSE = 60.0
"""Seconds between attempts to reach an upstream that is down; each pause is twice the one before."""
PROBES_PASSED = 2
"""Probes of others that are passed on at one time, so that they leave connections to questions."""
LONGEST_PASS = 0.5
"""Seconds for which a probe of others is passed on, at most."""
PROBE_METHOD = "shardhash.probe"


class NotAnsweredError(Exception):
    """The upstream is left alone, or did not answer."""


_T = TypeVar("_T")
Inquiry: TypeAlias = Callable[[AsyncClient], Awaitable[_T]]


class Pool:
    """Connections to one upstream. Use from one event loop."""

    def __init__(self, settings: UpstreamSettings, sleep: Sleep = asyncio.sleep) -> None:
        self.questions: Counter[tuple[str, str]] = Counter()
        """How many, by kind and by what came of them: answered, or failed."""
        self.seconds = Histogram(SECONDS)
        """What those that were answered took, the wait for a connection included."""
        self.address = settings.address
        self.instead: Callable[[], str] = lambda: "local data answers"
        """What is done while it is down, for the log."""
        self.back: Callable[[], None] = lambda: None
        """Called when it is to be asked again."""
        self.left: Callable[[], None] = lambda: None
        """Called when it is left alone."""
        self.circle = False
        """Whether it is left alone because it leads back to this server."""
        self._settings = settings
        self._sleep = sleep
        self._clients = [self.client(0.0) for _ in range(CONNECTIONS)]
        self._idle: asyncio.LifoQueue[AsyncClient] = asyncio.LifoQueue()
        for client in self._clients:
            self._idle.put_nowait(client)
        self._tasks = BackgroundTasks()
        self._closed = False
        self._down = False
        self._warned = False
        self._pause = FIRST_PAUSE
        self._proved = False
        self._proof = asyncio.Lock()
        self._passing = asyncio.Semaphore(PROBES_PASSED)
        self._probes: dict[bytes, bool] = {}
        """Probes under way, and whether they came back as a question."""
        self._passed: set[bytes] = set()
        """Probes of others that are being passed on."""

    def start(self) -> None:
        """Connect in the background, so that the first questions need not."""
        for _ in self._clients:
            self.spawn(self._connect())

    async def close(self) -> None:
        """Close all connections and end what was spawned."""
        self._closed = self._down = True
        await self._tasks.close()
        await asyncio.gather(*(client.close() for client in self._clients))

    @property
    def down(self) -> bool:
        """Whether the upstream is not asked at present."""
        return self._down

    async def ask(self, kind: str, question: Inquiry[_T]) -> _T:
        """The outcome of a question on a connection that is free, within the limit. NotAnsweredError else.

        `question` is called when a connection is free, so it may gather until then what it asks. `kind` is a word that
        it is counted by.
        """
        if self._down:
            raise NotAnsweredError
        if not self._proved and not await self.prove():
            self.questions[kind, "failed"] += 1
            raise NotAnsweredError
        began = perf_counter()
        try:
            answer = await self._ask_now(question)
        except (OSError, InvokeError, ProtocolError) as error:
            self.questions[kind, "failed"] += 1
            self.fail(error)
            raise NotAnsweredError from error
        self.questions[kind, "answered"] += 1
        self.seconds.add(perf_counter() - began)
        self._recovered()
        return answer

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a task that ends with the pool at the latest."""
        self._tasks.start(work, "a question to the upstream")

    async def _ask_now(self, question: Inquiry[_T]) -> _T:
        """Ask, up or down. Raises OSError (TimeoutError too), InvokeError, ProtocolError."""
        async with asyncio.timeout(self._settings.limit):
            client = await self._idle.get()
            try:
                return await question(client)
            finally:
                self._idle.put_nowait(client)

    # ------------------------------------------------------------------------------------------ circles

    async def prove(self) -> bool:
        """Whether it may be asked: it answers, and does not lead back here. One probe for all who ask meanwhile."""
        async with self._proof:
            if not self._proved and not self._down:
                try:
                    self._take_proof(leads_back=await self._probe())
                except (OSError, InvokeError, ProtocolError) as error:
                    self.fail(error)
        return self._proved and not self._down

    def forget_proof(self) -> None:
        """Probe it again before it is asked: what it leads to may have changed."""
        self._proved = False

    def recognize(self, digest: bytes) -> bool:
        """Take note if this is a probe of this pool that came back."""
        if digest in self._probes:
            self._probes[digest] = True
            return True
        return False

    @property
    def passes_probes(self) -> bool:
        """Whether probes of others are passed on to it."""
        return not self._down or bool(self._probes)

    async def pass_on(self, digest: bytes) -> None:
        """Pass a probe on, for half of the time that who asks will wait for it, or less. What comes of it matters only
        when it fails: the upstream, and what it leads to, are then to be proved anew."""
        if digest in self._passed:
            return  # it came back here: this server is in a circle that who asked is not in
        self._passed.add(digest)
        asked = False
        try:
            async with asyncio.timeout(min(self._settings.limit / 2, LONGEST_PASS)), self._passing:
                asked = True
                await self._ask_now(lambda client: client.get_unihashes(PROBE_METHOD, digest))
        except TimeoutError:
            if asked:  # that was less than a question may take
                self.forget_proof()
        except (OSError, InvokeError, ProtocolError) as error:
            self.fail(error)
        finally:
            self._passed.discard(digest)

    async def _probe(self) -> bool:
        """Whether a probe comes back here. Raises what `_ask_now` does."""
        digest = secrets.token_bytes(DIGEST_SIZE)
        self._probes[digest] = False
        try:
            await self._ask_now(lambda client: client.get_unihashes(PROBE_METHOD, digest))
        except (OSError, InvokeError, ProtocolError):
            if not self._probes[digest]:
                raise
        finally:
            leads_back = self._probes.pop(digest)
        return leads_back

    def _take_proof(self, *, leads_back: bool) -> None:
        self._proved = not leads_back
        if not leads_back:
            if self.circle:
                log.warning("the upstream %s leads back to this server no longer, and is asked again", self.address)
            self.circle = False
            return
        self.questions["probe", "circle"] += 1
        if not self.circle:
            log.error(
                "the upstreams go round in a circle: this server asks %s, which asks this server, or others that do. It"
                " is left alone, and %s. To undo that, start one server of the circle without --upstream",
                self.address,
                self.instead(),
            )
        self.circle = True
        if not self._down:
            self._leave()

    # ------------------------------------------------------------------------------------------ up and down

    def fail(self, error: Exception) -> None:
        """It did not do what it was asked to: leave it alone until a probe is answered."""
        if self._down:
            return
        self._leave()
        address = self.address
        log.log(
            logging.DEBUG if self._warned else logging.WARNING,
            "the upstream is left alone until it is back, %s: %s",
            self.instead(),
            f"{address}: no answer within {self._settings.limit:g} s" if isinstance(error, TimeoutError) else error,
        )
        self._warned = True

    def _leave(self) -> None:
        self._down, self._proved = True, False
        self.spawn(self._come_back())
        self.left()

    async def _come_back(self) -> None:
        while self._down:
            # By chance, so that of those who left each other alone one is the first to try again.
            await self._sleep(self._pause * (random.uniform(0.5, 1.0) if self.circle else 1.0))
            self._pause = min(LAST_PAUSE, self._pause * 2)
            try:
                self._take_proof(leads_back=await self._probe())
            except (OSError, InvokeError, ProtocolError) as error:
                log.debug("the upstream is not back: %s", error)
            else:
                if self._proved:
                    self._down = self._closed
                    self.back()

    def _recovered(self) -> None:
        self._pause = FIRST_PAUSE
        if self._warned:
            self._warned = False
            log.warning("the upstream answers again: %s", self.address)

    # ------------------------------------------------------------------------------------------ connections

    def client(self, patience: float) -> AsyncClient:
        """A client of its own, which waits longer than a question may take. Whoever makes it closes it."""
        settings = self._settings
        limit = max(patience, settings.limit)
        # Without a breaker: this pool decides when the upstream is left alone.
        return AsyncClient(str(self.address), settings.username, settings.token, timeout=limit, breaker=None)

    async def _connect(self) -> None:
        with suppress(NotAnsweredError):
            await self.ask("connect", AsyncClient.connect)

"""A session: answers the requests of one connection, in order, over any transport.

The transport feeds events of the connection's state machine. The session answers one after the other; stream lines
that came in while it was busy are one block. What waits unanswered is bounded: past the limit the transport is told
to stop reading.

Some blocks take long: lookups behind an upstream, which may be at the other end of the world, and marks of a
collection, which come by the million. Lines that come in meanwhile are begun as well, in order (`_answer_ahead`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from time import perf_counter
from typing import Any

from shardhash.base.turns import Slice
from shardhash.base.wakeup import Wakeup
from shardhash.coordinator.at_once import AtOnce
from shardhash.coordinator.callers import Caller
from shardhash.coordinator.counters import FAILED, OK, REFUSED
from shardhash.coordinator.handlers import Handlers
from shardhash.coordinator.output import Output
from shardhash.coordinator.pending import Pending
from shardhash.coordinator.services import Services
from shardhash.coordinator.stream_answers import StreamAnswers
from shardhash.coordinator.tally import Tally
from shardhash.coordinator.weights import ROWS, take_block
from shardhash.errors import InvokeError, ProtocolError, ServerFaultError, StorageError
from shardhash.wire import batch
from shardhash.wire.commands import COMMANDS, Command
from shardhash.wire.events import Asked, BatchAsked, Ended, Event, Refused, Send, StreamEnd, StreamLines

log = logging.getLogger(__name__)

BLOCKS_AHEAD = 16
"""Blocks of one stream under way at one time."""


class Session:
    """One connection. `feed` and `feed_end` come from the transport; `run` is the task that answers."""

    def __init__(self, services: Services, handlers: Handlers, caller: Caller, output: Output, peer: str) -> None:
        """`handlers`: of these services; all sessions share them."""
        self._store = services.store
        self._users = services.users
        self._counters = services.counters
        self._handlers = handlers
        self._caller = caller
        caller.peer = peer
        caller.build = services.counters.build_of(caller.host)
        caller.revoke = self.revoke
        self._tally = Tally(services, caller, peer)
        caller.gone = lambda: self._left
        caller.while_here = self._while_here
        self._output = output
        self._peer = peer
        self._pending = Pending()
        self._events = self._pending.events
        self._wakeup = Wakeup()
        self._input_ended = False
        self._left = False
        """Whether the peer ended its side: what takes long is of no use then."""
        self._lost = False
        self._stopping = False
        self._revoked = False
        self.refused = False
        """Whether it ended by a refusal, which the peer should get to read."""
        self.is_busy = self._pending.is_busy
        self.more: Callable[[], bool] = bool  # False
        """Parses a part of what the transport has, if there is any, and feeds it."""
        self.is_gone: Callable[[], bool] = bool  # False
        """Whether the peer reset the connection, which nobody is told of while nothing is read from it."""
        self._slice = Slice(services.turns)
        self._lines = StreamAnswers(services, caller, self._slice, lambda: self._lost or self.is_gone())
        self._job: asyncio.Task[object] | None = None
        self.at_once = AtOnce(
            self._handlers,
            self._lines,
            self._tally,
            caller,
            self._pending,
            self._wakeup,
            self._may_ask,
        )

    @property
    def caller(self) -> Caller:
        """Who acts on the connection."""
        return self._caller

    def feed(self, events: list[Event]) -> None:
        """Take events to answer."""
        if self._revoked:
            return
        self._pending.feed(events)
        self._wakeup.wake()

    def begin_slice(self) -> None:
        """Count from here how long this runs without a rest."""
        _ = self._slice.used

    @property
    def waiting(self) -> int:
        """What is not answered (`Pending.count`)."""
        return self._pending.count

    @property
    def held(self) -> int:
        """Bytes of what is not answered."""
        return self._pending.held

    def feed_end(self) -> None:
        """The peer sends no more; what came before is still answered, but a long job of administration is ended."""
        self._input_ended = True
        self.leave()

    def leave(self) -> None:
        """The peer ended its side, which may be known before all that came in is read."""
        self._left = True
        if self._job is not None:
            self._job.cancel()
        self._wakeup.wake()

    def feed_lost(self) -> None:
        """The peer is gone, and reads no answers."""
        self._lost = True
        self._events.clear()
        self.feed_end()

    def stop(self) -> None:
        """Answer what is under way, then end: the server goes down."""
        self._stopping = True
        self._wakeup.wake()

    def revoke(self, reason: str) -> None:
        """Answer only what is under way: the user of this connection lost the right to more."""
        log.info("%s: closed: %s", self._peer, reason)
        self._revoked = True
        self._events.clear()
        self._wakeup.wake()

    async def run(self, drained: Callable[[], None]) -> None:
        """Answer until either side ends. `drained` is called whenever less waits than before."""
        try:
            if self._caller.certified is not None:
                await self._handlers.certify(self._caller, self._caller.certified)
            self.at_once.drained = drained
            await self._answer_all()
        except ProtocolError as error:
            log.info("%s: closed: %s", self._peer, error)
        except ConnectionError:
            log.debug("%s: gone", self._peer)
        except ServerFaultError as error:
            log.warning("%s: closed: %s", self._peer, error)
        except Exception:
            log.exception("%s: closed by an internal error; this is a bug", self._peer)
        finally:
            self.at_once.idle = False
            self._tally.purse.close()
            self._lines.record_marks()
            self._events.clear()
            self._let_go()

    def _let_go(self) -> None:
        """Forget those who know this session, so that each is freed as soon as nobody needs it.

        Else a collector has to find them, and everybody waits meanwhile: a third of a second for ten thousand
        connections that came and went.
        """
        self.more = self.is_gone = bool
        self._caller.let_go()
        self._lines.let_go()
        self.at_once.let_go()
        del self._output  # nothing is sent any more

    async def _answer_all(self) -> None:
        while await self._next_ready():
            if self.at_once.undone is not None:
                await self._tell(self.at_once.undone, COMMANDS["report"])
                return
            if self._unheard:
                await self._users.check_again(self._caller)
                if not self._events:  # the client left, or lost the right to be here
                    continue
            if self._tally.purse.empty:
                await self._pause(self._tally.purse.refill(self._caller.identity.username, self._peer))
                continue  # who acts here may have lost the right to meanwhile
            if not await self._answer(self._events.popleft()):
                return
            self.at_once.drained()
            if self._slice.used:
                await self._slice.turn()

    async def _pause(self, seconds: float) -> None:
        """Answer nothing for so long, or until the connection ends."""
        end = perf_counter() + seconds
        while (left := end - perf_counter()) > 0 and not (self._stopping or self._revoked or self._lost):
            await self._wakeup.wait_for(left)

    async def _next_ready(self) -> bool:
        while self.at_once.undone is None and (self.at_once.begun is not None or not self._events):
            if self.at_once.begun is not None:
                await self._wakeup.wait()
            elif self._stopping or self._revoked or self._lost:
                return False
            elif self.more():
                if self._slice.used:
                    await self._slice.turn()
            elif self._input_ended:
                return False
            else:
                self.at_once.idle = True
                await self._wakeup.wait()
                self.at_once.idle = False
        return True

    @property
    def _unheard(self) -> bool:
        """Whether other servers may have changed the user of this connection unheard."""
        return self._caller.identity.username is not None and self._store.lapsed

    def _may_ask(self) -> bool:
        return not (self._input_ended or self._stopping or self._revoked or self._unheard)

    async def _answer(self, event: Event) -> bool:
        """Answer one event; whether to go on."""
        started = perf_counter()
        result = OK
        going_on = True
        match event:
            case StreamLines():
                return await self._answer_block(event, started)
            case Asked():
                result = await self._answer_request(event)
            case BatchAsked():
                result = await self._answer_batch(event.batch)
            case StreamEnd():
                await self._output.send_lines(b"ok\n")
                self._lines.record_marks()
            case Send():
                self._caller.in_words = True
                await self._output.send_raw(event.data)
            case Refused():
                await self._refuse(event.error)
                going_on = False
            case Ended():
                log.info("%s: closed: %s", self._peer, event.reason)
                if event.limit:
                    self._counters.limits_hit[event.limit] += 1
                going_on = False
        self._pending.done(event)
        if isinstance(event, Asked | BatchAsked):
            self._tally.count(event, result, perf_counter() - started)
        return going_on and result == OK

    async def _answer_request(self, event: Asked) -> str:
        """Answer a request; what came of it."""
        try:
            answer = self._handlers.answer(self._caller, event.command, event.request)
            value = await (self._while_here(answer) if event.command.long else answer)
        except (InvokeError, ServerFaultError) as error:
            return await self._tell(error, event.command)
        await self._output.send_json(value)
        if event.command.name in ROWS:
            if isinstance(value, dict):  # a question of a few bytes may have megabytes for an answer
                self._tally.purse.bytes -= len(value.get("outhash_siginfo") or "")
            await self._slice.turn()  # others first: its siginfo may be megabytes, of which each part takes a moment
        return OK

    async def _while_here(self, answer: Coroutine[Any, Any, Any]) -> Any:
        """The answer to what takes long and is of no use without its client; ConnectionResetError once that left."""
        job = self._job = asyncio.get_running_loop().create_task(answer)
        if self._left:
            job.cancel()
        try:
            return await job
        except asyncio.CancelledError:
            if self._left and job.cancelled():
                raise ConnectionResetError("the client left") from None
            raise
        finally:
            self._job = None

    async def _answer_batch(self, asked: batch.Batch) -> str:
        try:
            frame = await self._handlers.answer_frame(self._caller, asked)
        except (InvokeError, ServerFaultError) as error:
            await self._refuse(error)
            return REFUSED if isinstance(error, InvokeError) else FAILED
        await self._output.send_frame(frame)
        return OK

    async def _answer_block(self, event: StreamLines, started: float) -> bool:
        """Answer a block of stream lines; whether to go on."""
        if not self._caller.identity.may(event.command.needs):  # the right to it was taken since the stream began
            log.info("%s: closed: %s is not allowed any more", self._peer, event.command.name)
            return False
        if self._store.remote or event.command.name == "gc-mark-stream":
            await self._answer_ahead(event)
        else:
            await self._answer_lines(event, started)
        return True

    async def _answer_lines(self, event: StreamLines, started: float) -> None:
        block = take_block(event, self._events)
        await self._send_answers(block, await self._lines.answer(block), started)

    async def _answer_ahead(self, event: StreamLines) -> None:
        """Answer a block, and those that come in before it is answered; the oldest first."""
        under_way = deque([self._begin(event)])
        try:
            while under_way:
                if self._lost or (self._left and self._lines.scans):
                    raise ConnectionResetError("the client left")
                block, answers, started = under_way[0]
                if answers.done():
                    await self._send_answers(block, answers.result(), started)
                    under_way.popleft()
                elif len(under_way) < BLOCKS_AHEAD and self._more_lines and not self._tally.purse.empty:
                    under_way.append(self._begin(self._events.popleft()))
                else:
                    await self._wakeup.wait()
        finally:
            for _, answers, _ in under_way:
                answers.cancel()
            await asyncio.gather(*(answers for _, answers, _ in under_way), return_exceptions=True)

    @property
    def _more_lines(self) -> bool:
        return bool(self._events) and isinstance(self._events[0], StreamLines) and not self._unheard

    def _begin(self, event: Event) -> tuple[StreamLines, asyncio.Task[bytes], float]:
        """Begin to answer a block: the block, its answers, and when it began."""
        assert isinstance(event, StreamLines)
        block = take_block(event, self._events)
        answers = asyncio.get_running_loop().create_task(self._lines.answer(block))
        answers.add_done_callback(lambda _: self._wakeup.wake())
        return block, answers, perf_counter()

    async def _send_answers(self, block: StreamLines, answers: bytes, started: float) -> None:
        await self._output.send_lines(answers)
        self._pending.done_lines(block)
        self._tally.count_lines(block.command.name, block.count, len(block.text), perf_counter() - started)

    async def _tell(self, error: BaseException, command: Command) -> str:
        """Tell the client, or the log, why a request failed; what came of it. A bug is raised."""
        if isinstance(error, InvokeError):
            await self._refuse(error)
            return REFUSED
        if not isinstance(error, ServerFaultError):
            raise error
        await self._fail(error, command)
        return FAILED

    async def _fail(self, error: Exception, command: Command) -> None:
        """The client did not cause this error (PROTOCOL, "On purpose different", 7).

        To a build's task a closed connection is a warning, while an `invoke-error` fails it. Whoever asked for headers,
        or sent a command of administration, is told in words.
        """
        if self._caller.in_words or not command.from_builds:
            await self._refuse(error)
        else:
            # Of a disk that refuses writes the shard has told, once for all of its reports.
            level = logging.INFO if isinstance(error, StorageError) else logging.WARNING
            log.log(level, "%s: closed at %s, which the build survives: %s", self._peer, command.name, error)

    async def _refuse(self, error: Exception) -> None:
        log.info("%s: refused: %s", self._peer, error)
        self.refused = True
        await self._output.send_json({"invoke-error": {"message": str(error)}})

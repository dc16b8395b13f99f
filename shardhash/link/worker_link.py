"""Links: the coordinator's end of the WebSocket to each worker (messages.py).

A link outlives its worker. When the worker is gone, requests wait; the next worker of the shard is told first which
report locks are held, then asked again all that is unanswered, in order: every operation is idempotent. Limits:

- Without a worker for the limit of time, what waits fails with UnavailableError, and so does, at once, what is asked
  then, until a worker answers again.
- A worker that is there has twice that time for each bounded operation: a disk that hangs holds nobody for ever. Within
  the time itself a worker that stands still is replaced, and its successor answers.
- A request that was under way when a worker ended is asked again twice. It may be what ended the worker.
- A request that is too long for a message fails alone.

Requests that are made in one tick of the event loop travel in one message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from aiohttp import ClientWebSocketResponse, WSMsgType

from shardhash.base.turns import Slice, Turns
from shardhash.base.wakeup import Wakeup
from shardhash.errors import InternalError, ServerFaultError, UnavailableError
from shardhash.link import messages
from shardhash.link.operation import Operation
from shardhash.link.operations import Granted, Lock, Release
from shardhash.wire import batch
from shardhash.wire.batch import Batch

MOST_ATTEMPTS = 3
"""How often a request is asked of workers that end before they answer it."""
RELEASE_PAUSE = 0.002
"""Seconds that released locks wait for a message to go with: one of their own costs as much as a report. Who waits for
such a lock sends a message."""
CHECKS = 4
"""How often within the limit of time the link looks for requests that are over it."""

_R = TypeVar("_R")
_Decode: TypeAlias = Callable[[Any], Any]


class _Request:
    """A request that waits for its answer; `sent` is its message, bytes for a batch frame, else the JSON item."""

    __slots__ = ("asked", "attempts", "bounded", "decode", "future", "sent")

    def __init__(
        self,
        sent: bytes | list[Any],
        future: asyncio.Future[Any],
        decode: _Decode | None,
        asked: float,
        *,
        bounded: bool,
    ) -> None:
        self.sent = sent
        self.future = future
        self.decode = decode
        self.asked = asked
        self.bounded = bounded
        self.attempts = 0


class WorkerLink:
    """One shard, as the coordinator sees it."""

    def __init__(self, shard: int, limit: float) -> None:
        """`limit`: seconds that a request may wait."""
        self.shard = shard
        self.connected = asyncio.Event()
        self.heard = 0
        """Messages and pongs of the worker so far."""
        self.reconnected: Callable[[], None] = _nothing
        """Called when another worker takes over, before it is asked anything."""
        self.restarts = 0
        """How often another worker took over."""
        self._limit = limit
        self._most = 2 * limit
        self._socket: ClientWebSocketResponse | None = None
        self._served = False
        self._loop = asyncio.get_running_loop()
        self._number = messages.NO_ANSWER
        self._waiting: dict[int, _Request] = {}
        self._frames: list[bytes] = []
        self._requests: list[list[Any]] = []
        self._locks: dict[int, Lock] = {}
        self._released: list[tuple[str, str, int]] = []
        self._texts = messages.Texts()
        self._wakeup = Wakeup()
        self._gave_up: str | None = None
        self._away: asyncio.TimerHandle | None = None
        self._check: asyncio.TimerHandle | None = None
        self._check_due = 0.0

    # -------------------------------------------------------------------------------------------- requests

    def request(self, operation: Operation[_R]) -> asyncio.Future[_R]:
        """The result of an operation. Raises a ServerFaultError: UnavailableError past the limit, StorageError when the
        disk refuses, InternalError for a bug."""
        number = self._next_number()
        sent = [number, *operation.encode()]
        self._ask_releases()
        future = self._wait(number, sent, operation.decode_result, bounded=operation.bounded)
        self._requests.append(sent)
        return future

    def lookup(self, asked: Batch) -> asyncio.Future[memoryview]:
        """The answer frame to a batch. Raises as `request` does."""
        number = self._next_number()
        message = batch.encode_request(asked, messages.lookup_head(number))
        future = self._wait(number, message, None, bounded=True)
        self._frames.append(message)
        return future

    def tell(self, operation: Operation[None]) -> None:
        """Ask for something whose answer nobody waits for, and which a worker that is not there need not be told."""
        if self.connected.is_set():
            self._ask_releases()
            self._requests.append([messages.NO_ANSWER, *operation.encode()])
            self._wakeup.wake()

    async def lock(self, lock: Lock) -> Granted:
        """Wait for a report lock and hold it, over restarts of the worker, until `release`."""
        try:
            granted = await self.request(lock)
        except BaseException:
            self.release(lock)  # it may hold it, or wait in the queue
            raise
        self.hold(lock)
        return granted

    def hold(self, lock: Lock) -> None:
        """The worker granted this lock: hold it, over restarts of the worker, until `release`."""
        self._locks[lock.number] = lock

    def release(self, lock: Lock) -> None:
        """Let the next in line go on. Nobody waits for an answer, and a link that drops ends its locks by itself."""
        self._locks.pop(lock.number, None)
        if self.connected.is_set():
            if not self._released:
                self._loop.call_later(RELEASE_PAUSE, self._wakeup.wake)
            self._released.append((lock.method, lock.outhash, lock.number))

    def _ask_releases(self) -> None:
        """Ask the releases so far: behind the requests for these locks, before what is asked from now on."""
        if self._released:
            self._requests.append([messages.NO_ANSWER, *Release(self._released).encode()])
            self._released = []

    def _next_number(self) -> int:
        if self._gave_up is not None:
            raise UnavailableError(self._gave_up)
        while True:
            self._number = self._number % messages.MOST_NUMBER + 1  # never NO_ANSWER
            if self._number not in self._waiting:
                return self._number

    def _wait(
        self, number: int, sent: bytes | list[Any], decode: _Decode | None, *, bounded: bool
    ) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting[number] = _Request(sent, future, decode, self._loop.time(), bounded=bounded)
        if self._check is None:
            self._look_later()
        self._wakeup.wake()
        return future

    # ------------------------------------------------------------------------------------------ the socket

    async def serve(self, socket: ClientWebSocketResponse) -> None:
        """Use a socket to a worker that has recovered; returns when it drops. Raises an ExceptionGroup for a bug."""
        self._stop_timer()
        self._gave_up = None
        if self._served:
            self.restarts += 1
            self.reconnected()
        self._served = True
        # Without those nobody waits for: asked again, a lock that was given up would never be released.
        self._waiting = {number: request for number, request in self._waiting.items() if not request.future.done()}
        unanswered = [request.sent for request in self._waiting.values()]
        self._frames = [message for message in unanswered if isinstance(message, bytes)]
        held = [[messages.NO_ANSWER, *lock.encode()] for lock in self._locks.values()]
        self._requests = held + [request for request in unanswered if isinstance(request, list)]
        self._released = []
        self._texts = messages.Texts()
        self._wakeup.wake()
        self._socket = socket
        self.connected.set()
        try:
            async with asyncio.TaskGroup() as tasks:  # whatever ends the sender ends the link
                sender = tasks.create_task(self._send(socket))
                piece = Slice(Turns())
                async for message in socket:
                    self.heard += 1
                    if message.type is WSMsgType.BINARY:
                        if piece.used:  # many messages may be here already
                            await piece.renew()
                        self._receive(message.data)
                    elif message.type is not WSMsgType.PONG:
                        break
                sender.cancel()
        finally:
            self.connected.clear()
            self._socket = None
            self._count_attempts()

    def lost(self, why: str) -> None:
        """No worker is there; past the limit, what waits fails. `why` is for people who read the errors."""
        if self._away is None and self._gave_up is None:
            self._away = self._loop.call_later(self._limit, self.give_up, why)

    def give_up(self, why: str) -> None:
        """Fail all that waits, and all that is asked until a worker answers again."""
        self._stop_timer()
        self._gave_up = f"shard {self.shard} is not available: {why}; ask again in a while"
        self._frames, self._requests, self._released = [], [], []
        self._fail(list(self._waiting), self._gave_up)

    def _stop_timer(self) -> None:
        if self._away is not None:
            self._away.cancel()
            self._away = None

    def _count_attempts(self) -> None:
        """A worker ended: whatever it was asked and did not answer may have ended it."""
        unsent = {item[0] for item in self._requests}
        unsent.update(messages.decode_lookup(frame)[0] for frame in self._frames)
        suspects = []
        for number, request in self._waiting.items():
            if number not in unsent:
                request.attempts += 1
                if request.attempts >= MOST_ATTEMPTS:
                    suspects.append(number)
        self._fail(suspects, f"shard {self.shard} ended {MOST_ATTEMPTS} times before it answered; the log says why")

    def _fail_late(self) -> None:
        """Fail what is over the limit of time, whether a worker is there or not."""
        self._check = None
        if self._loop.time() - self._check_due > self._limit / CHECKS:  # this process is late, not the worker
            self._look_later()
            return
        asked_before = self._loop.time() - self._most
        late = [
            number for number, request in self._waiting.items() if request.bounded and request.asked <= asked_before
        ]
        self._fail(late, f"shard {self.shard} did not answer within {self._most:g} s; ask again in a while")
        if self._waiting:
            self._look_later()

    def _look_later(self) -> None:
        self._check_due = self._loop.time() + self._limit / CHECKS
        self._check = self._loop.call_at(self._check_due, self._fail_late)

    def _fail(self, numbers: list[int], why: str) -> None:
        for number in numbers:
            future = self._waiting.pop(number).future
            if not future.done():
                future.set_exception(UnavailableError(why))

    def _receive(self, message: bytes) -> None:
        if message[:1] == messages.LOOKUP:
            number, frame = messages.decode_lookup(message)
            self._settle(number, frame, None)
            return
        if message[:1] == messages.TEXT:
            self._texts.add(message)
            return
        for number, result, *refusal in messages.decode_json(message, self._texts):
            self._settle(number, result, messages.error_of((refusal[0], refusal[1]), self.shard) if refusal else None)

    def _settle(self, number: int, result: Any, error: ServerFaultError | None) -> None:
        request = self._waiting.pop(number, None)
        if request is None or request.future.done():
            return
        if error is not None:
            request.future.set_exception(error)
        else:
            request.future.set_result(result if request.decode is None else request.decode(result))

    def _refuse_long(self, item: list[Any]) -> None:
        """Fail a request that does not fit into a message. The limits for clients are far below."""
        self._settle(item[0], None, InternalError(f"shard {self.shard}: a request is too long for the link"))

    async def _send(self, socket: ClientWebSocketResponse) -> None:
        try:
            while True:
                await self._wakeup.wait()
                self._ask_releases()
                frames, self._frames = self._frames, []
                requests, self._requests = self._requests, []
                if requests:  # before lookups: one that was asked after a report's answer must see it anyway
                    for message in messages.encode_messages(requests, self._refuse_long):
                        await socket.send_bytes(message)
                        if message[:1] == messages.TEXT or len(message) > messages.FULL_JSON // 2:  # one of many
                            await asyncio.sleep(0)
                            among, self._frames = self._frames, []
                            for frame in (*frames, *among):
                                await socket.send_bytes(frame)
                            frames = []
                for frame in frames:
                    await socket.send_bytes(frame)
        except ConnectionError:
            await socket.close()  # so that the reader sees the end, too; what was taken here still waits


def _nothing() -> None:
    pass

"""Links: the coordinator's side of the WebSocket to each worker; operations.py of the shard says what travels.

A link outlives its worker. When the worker is gone, requests wait; the next worker of the shard is told first which
turns are held, then asked again all that is unanswered, in order: every operation is idempotent. Past the limit,
what waits fails with UnavailableError, and what is asked then fails at once, until a worker answers again.

Requests that are made in one tick of the event loop travel in one message.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import ClientWebSocketResponse, WSMsgType

from shardhash.base.wakeup import Wakeup
from shardhash.errors import StorageError, UnavailableError
from shardhash.link import operations
from shardhash.wire import batch
from shardhash.wire.batch import Batch

Turn = tuple[str, str, str, int, int]
"""method, outhash, taskhash, created, number: the arguments of a ``turn``; `number` names it."""


class WorkerLink:
    """One shard, as the coordinator sees it."""

    def __init__(self, shard: int, limit: float) -> None:
        """`limit`: seconds that a request may wait for a worker."""
        self.shard = shard
        self.connected = asyncio.Event()
        self._limit = limit
        self._socket: ClientWebSocketResponse | None = None
        self._loop = asyncio.get_running_loop()
        self._number = 0
        self._waiting: dict[int, tuple[bytes | list[Any], asyncio.Future[Any]]] = {}
        self._frames: list[bytes] = []
        self._requests: list[list[Any]] = []
        self._turns: dict[int, Turn] = {}
        self._released: list[tuple[str, str, int]] = []
        self._wakeup = Wakeup()
        self._gave_up: str | None = None
        self._timer: asyncio.TimerHandle | None = None

    # -------------------------------------------------------------------------------------------- requests

    def request(self, operation: str, *arguments: Any) -> asyncio.Future[Any]:
        """The result of an operation. Raises UnavailableError past the limit, StorageError when the disk refuses."""
        number, future = self._next()
        request = [number, operation, *arguments]
        self._waiting[number] = (request, future)
        self._requests.append(request)
        self._wakeup.wake()
        return future

    def lookup(self, asked: Batch) -> asyncio.Future[memoryview]:
        """The answer frame to a batch. Raises UnavailableError past the limit."""
        number, future = self._next()
        message = batch.encode_request(asked, operations.lookup_head(number))
        self._waiting[number] = (message, future)
        self._frames.append(message)
        self._wakeup.wake()
        return future

    async def take_turn(self, turn: Turn) -> list[tuple[int, str]]:
        """Wait for the turn of an outhash and hold it, over restarts of the worker, until `release_turn`."""
        try:
            page: list[tuple[int, str]] = await self.request("turn", *turn)
        except BaseException:
            self.release_turn(turn)  # it may hold it, or wait in the queue
            raise
        self.hold_turn(turn)
        return page

    def hold_turn(self, turn: Turn) -> None:
        """The worker gave this turn: hold it, over restarts of the worker, until `release_turn`."""
        self._turns[turn[4]] = turn

    def release_turn(self, turn: Turn) -> None:
        """Let the next in line go on. Nobody waits for an answer, and a link that drops ends its turns by itself."""
        method, outhash, _, _, number = turn
        self._turns.pop(number, None)
        if self.connected.is_set():
            self._released.append((method, outhash, number))
            self._wakeup.wake()

    def _next(self) -> tuple[int, asyncio.Future[Any]]:
        if self._gave_up is not None:
            raise UnavailableError(self._gave_up)
        self._number = (self._number + 1) & 0xFFFFFFFF
        return self._number, self._loop.create_future()

    # ------------------------------------------------------------------------------------------ the socket

    async def serve(self, socket: ClientWebSocketResponse) -> None:
        """Use a socket to a worker that has recovered; returns when it drops."""
        self._stop_timer()
        self._gave_up = None
        # Without those nobody waits for: asked again, a turn that was given up would never be released.
        self._waiting = {number: asked for number, asked in self._waiting.items() if not asked[1].done()}
        unanswered = list(self._waiting.values())
        self._frames = [message for message, _ in unanswered if isinstance(message, bytes)]
        held = [[operations.NO_ANSWER, "turn", *turn] for turn in self._turns.values()]
        self._requests = held + [request for request, _ in unanswered if isinstance(request, list)]
        self._released = []
        self._wakeup.wake()
        self._socket = socket
        self.connected.set()
        sender = asyncio.create_task(self._send(socket))
        try:
            async for message in socket:
                if message.type is not WSMsgType.BINARY:
                    break
                self._receive(message.data)
        finally:
            self.connected.clear()
            self._socket = None
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)

    def lost(self, why: str) -> None:
        """No worker is there; past the limit, what waits fails. `why` is for people who read the errors."""
        if self._timer is None and self._gave_up is None:
            self._timer = self._loop.call_later(self._limit, self.give_up, why)

    def give_up(self, why: str) -> None:
        """Fail all that waits, and all that is asked until a worker answers again."""
        self._stop_timer()
        self._gave_up = f"shard {self.shard} is not available: {why}; ask again in a while"
        waiting, self._waiting = self._waiting, {}
        self._frames, self._requests, self._released = [], [], []
        for _, future in waiting.values():
            if not future.done():
                future.set_exception(UnavailableError(self._gave_up))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _receive(self, message: bytes) -> None:
        if message[:1] == operations.LOOKUP:
            number, frame = operations.decode_lookup(message)
            self._settle(number, frame, None)
            return
        for number, result, *refusal in operations.decode_json(message):
            self._settle(number, result, StorageError(refusal[1]) if refusal else None)

    def _settle(self, number: int, result: Any, error: StorageError | None) -> None:
        _, future = self._waiting.pop(number, (None, None))
        if future is None or future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    async def _send(self, socket: ClientWebSocketResponse) -> None:
        try:
            while True:
                await self._wakeup.wait()
                frames, self._frames = self._frames, []
                requests, self._requests = self._requests, []
                if self._released:  # behind the requests for these turns
                    requests.append([operations.NO_ANSWER, "release", self._released])
                    self._released = []
                if requests:  # before lookups: one that was asked after a report's answer must see it anyway
                    for message in operations.encode_messages(requests):
                        await socket.send_bytes(message)
                for frame in frames:
                    await socket.send_bytes(frame)
        except ConnectionError:
            return  # the reader sees the end too; what was taken here is still among what waits

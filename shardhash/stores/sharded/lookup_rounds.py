"""Lookups: the batches of one tick, from all connections, as one batch frame a worker.

A *round* joins what was asked in a tick, splits it by shard (numpy: 14 ns a hash, where a Python loop takes 60-180),
asks each worker once, puts the answers back in order and hands each caller its part.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from shardhash.errors import UnavailableError
from shardhash.link import messages
from shardhash.link.worker_link import WorkerLink
from shardhash.wire import batch
from shardhash.wire.batch import Batch, Found
from shardhash.wire.hashes import DIGEST_SIZE, Buffer, ShardMap

Positions = npt.NDArray[np.intp]
_Answer = TypeVar("_Answer")
FEW = 2048 * DIGEST_SIZE
"""Bytes of digests up to which a caller asks little; 0.2 ms of a worker."""
_DIGEST = np.dtype((np.void, DIGEST_SIZE))


class Lookups:
    """Gathers the questions of a tick and asks them. Use from the event loop's thread."""

    def __init__(self, links: Sequence[WorkerLink]) -> None:
        self._links = links
        self._loop = asyncio.get_running_loop()
        self._shard_of_slot = np.frombuffer(ShardMap(len(links)).owners, np.uint8)
        self._gets: dict[str, list[tuple[Buffer, asyncio.Future[Found]]]] = {}
        self._exists: list[tuple[Buffer, asyncio.Future[bytes]]] = []
        self._scheduled = False

    def get(self, method: str, digests: Buffer) -> asyncio.Future[Found]:
        """The unihashes of n * 32 bytes of taskhashes."""
        future: asyncio.Future[Found] = self._schedule().create_future()
        self._gets.setdefault(method, []).append((digests, future))
        return future

    def exists(self, digests: Buffer) -> asyncio.Future[bytes]:
        """A byte for each of n * 32 bytes of unihashes: 1 when a mapping has it."""
        future: asyncio.Future[bytes] = self._schedule().create_future()
        self._exists.append((digests, future))
        return future

    def _schedule(self) -> asyncio.AbstractEventLoop:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._ask)  # after all that is readable now has been read
        return self._loop

    def _ask(self) -> None:
        self._scheduled = False
        gets, self._gets = self._gets, {}
        exists, self._exists = self._exists, []
        for method, callers in gets.items():
            for some in _rounds(callers):
                _GetRound(some).ask(self._links, self._shard_of_slot, method)
        for checks in _rounds(exists):
            _ExistsRound(checks).ask(self._links)


def _rounds(callers: list[tuple[Buffer, _Answer]]) -> Iterator[list[tuple[Buffer, _Answer]]]:
    """The callers of a tick in rounds: those who ask little in one of their own, which workers are asked first."""
    few = [caller for caller in callers if len(caller[0]) <= FEW]
    others = len(callers) - len(few)
    if few and others:
        yield from _cut(few)
        callers = [caller for caller in callers if len(caller[0]) > FEW]
    yield from _cut(callers)


def _cut(callers: list[tuple[Buffer, _Answer]]) -> Iterator[list[tuple[Buffer, _Answer]]]:
    """The callers of a tick in rounds that fit into a message of the link; nearly always one."""
    size, start = 0, 0
    for position, (digests, _) in enumerate(callers):
        size += len(digests)
        if size > messages.FULL_MESSAGE and position > start:
            yield callers[start:position]
            size, start = len(digests), position
    if callers:
        yield callers[start:]


class _GetRound:
    """One get of a tick."""

    __slots__ = ("_callers", "_digests", "_left", "_parts")

    def __init__(self, callers: list[tuple[Buffer, asyncio.Future[Found]]]) -> None:
        self._callers = callers
        self._digests = callers[0][0] if len(callers) == 1 else b"".join([digests for digests, _ in callers])
        self._parts: list[tuple[Positions | None, Found]] = []
        self._left = 0

    def ask(self, links: Sequence[WorkerLink], shard_of_slot: npt.NDArray[np.uint8], method: str) -> None:
        """Ask each worker for its part."""
        if len(links) == 1 or not self._digests:
            self._left = 1
            self._send(links[0], method, self._digests, None)
            return
        digests = np.frombuffer(self._digests, _DIGEST)
        shards = shard_of_slot[np.frombuffer(self._digests, np.uint8)[::DIGEST_SIZE]]
        parts = [(link, np.flatnonzero(shards == link.shard)) for link in links]
        parts = [(link, positions) for link, positions in parts if len(positions)]
        self._left = len(parts)
        for link, positions in parts:
            self._send(link, method, _bytes_of(np.take(digests, positions)), positions)

    def _send(self, link: WorkerLink, method: str, digests: Buffer, positions: Positions | None) -> None:
        _ask(link, Batch(batch.GET, method, digests), lambda future: self._answered(future, positions), self._fail)

    def _answered(self, future: asyncio.Future[memoryview], positions: Positions | None) -> None:
        if error := _error_of(future):
            self._fail(error)
            return
        found = batch.decode_answer(future.result())
        assert isinstance(found, Found), "a get is answered by unihashes"
        self._parts.append((positions, found))
        self._left -= 1
        if not self._left:
            self._deliver(self._assemble())

    def _assemble(self) -> Found:
        positions, found = self._parts[0]
        if positions is None:
            return found
        count = len(self._digests) // DIGEST_SIZE
        digests = np.empty(count, _DIGEST)
        known = None
        for positions, found in self._parts:
            digests[positions] = np.frombuffer(found.digests, _DIGEST)
            if found.known is not None:
                known = np.ones(count, np.uint8) if known is None else known
                known[positions] = np.frombuffer(found.known, np.uint8)
        return Found(_bytes_of(digests), None if known is None else known.tobytes())

    def _deliver(self, found: Found) -> None:
        if len(self._callers) == 1:
            _set(self._callers[0][1], found)
            return
        start = 0
        for digests, future in self._callers:
            end = start + len(digests) // DIGEST_SIZE
            _set(future, found.part(start, end))
            start = end

    def _fail(self, error: BaseException) -> None:
        for _, future in self._callers:
            if not future.done():
                future.set_exception(error)


class _ExistsRound:
    """One exists of a tick: each worker is asked for all."""

    __slots__ = ("_callers", "_left", "_status")

    def __init__(self, callers: list[tuple[Buffer, asyncio.Future[bytes]]]) -> None:
        self._callers = callers
        self._status: bytes | None = None
        self._left = 0

    def ask(self, links: Sequence[WorkerLink]) -> None:
        """Ask every worker."""
        asked = Batch(batch.EXISTS, "", b"".join([digests for digests, _ in self._callers]))
        self._left = len(links)
        for link in links:
            _ask(link, asked, self._answered, self._fail)

    def _answered(self, future: asyncio.Future[memoryview]) -> None:
        if error := _error_of(future):
            self._fail(error)
            return
        status = batch.decode_answer(future.result())
        assert isinstance(status, bytes), "an exists is answered by status bytes"
        self._status = status if self._status is None else _either(self._status, status)
        self._left -= 1
        if not self._left:
            self._deliver(self._status)

    def _deliver(self, status: bytes) -> None:
        start = 0
        for digests, future in self._callers:
            end = start + len(digests) // DIGEST_SIZE
            _set(future, status[start:end])
            start = end

    def _fail(self, error: BaseException) -> None:
        for _, future in self._callers:
            if not future.done():
                future.set_exception(error)


def _either(one: bytes, other: bytes) -> bytes:
    both: bytes = np.bitwise_or(np.frombuffer(one, np.uint8), np.frombuffer(other, np.uint8)).tobytes()
    return both


def _bytes_of(array: npt.NDArray[np.void]) -> memoryview:
    """The bytes of an array, not copied."""
    return array.view(np.uint8).data


def _ask(
    link: WorkerLink,
    asked: Batch,
    answered: Callable[[asyncio.Future[memoryview]], None],
    failed: Callable[[BaseException], None],
) -> None:
    try:
        link.lookup(asked).add_done_callback(answered)
    except UnavailableError as error:
        failed(error)


def _error_of(future: asyncio.Future[memoryview]) -> BaseException | None:
    return UnavailableError("the server is shutting down") if future.cancelled() else future.exception()


def _set(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():  # a caller whose client went away has cancelled it
        future.set_result(result)

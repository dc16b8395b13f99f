"""The writer: group commit. All writes that have arrived become one transaction, one append, one sync.

While one group is synced the next one gathers. A group is applied to the table only once it is durable, so no lookup
sees what a crash could take back. A change that fails while it is decided fails alone (StorageError for a text that
the disk refuses, InternalError for a bug): the group is decided again without it, before anything is appended. When
the disk has no room for the group's texts it is decided again without them. When it refuses the append the group is
dropped whole and its callers are told; the next group tries again. Whatever waits for the disk does so beside the
event loop: the beginning of a segment, of a snapshot, of a file of texts, and every fsync. Any other failure of the
log is final: after a failed sync nobody knows what is on disk, so the worker ends and recovers from what is.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any, TypeAlias

from shardhash.base.figures import Histogram
from shardhash.base.turns import SLICE
from shardhash.base.wakeup import Wakeup
from shardhash.errors import InternalError, StorageError, SyncError, TextError
from shardhash.shard.state.key_copies import TRIES
from shardhash.shard.state.records import Record
from shardhash.shard.state.transaction import Transaction
from shardhash.shard.storage.recovery import AnyShard
from shardhash.shard.worker.refusals import Refusals
from shardhash.shard.worker.syncer import Syncer

Change: TypeAlias = Callable[[Transaction], Any]
"""Decides its records in the transaction; its result goes to the caller once they are durable. It may be called again,
with another transaction, before anything is stored."""
_Group: TypeAlias = list[tuple[Change, asyncio.Future[Any]]]

MOST_CHANGES = 500
"""Changes of a group, whose records are appended in one go; 2 ms."""
MOST_COPYING = 2.0
"""Seconds for which a group that is durable waits until keys are copied, before it gives up a try."""
log = logging.getLogger(__name__)


class DecideAgainError(Exception):
    """A change left out a part of it that failed: the group has to be decided again."""


class Writer:
    """The one writer of a shard. Use `write` from the event loop that runs `run`."""

    def __init__(self, shard: AnyShard, *, wait_for_sync: bool) -> None:
        self._shard = shard
        self._wait_for_sync = wait_for_sync and shard.durable
        self._waiting: _Group = []
        self._alone: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self.refusals = Refusals()
        self._wakeup = Wakeup()
        self._loop = asyncio.get_running_loop()
        self._sync = Syncer(shard.sync)
        self._sync_due = False
        self._unsynced = False
        self._stopping = False

    def write(self, change: Change) -> asyncio.Future[Any]:
        """The result of the change, once it is durable. The future raises StorageError when the disk refuses."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append((change, future))
        self._wakeup.wake()
        return future

    def alone(self, work: Callable[[], Any]) -> asyncio.Future[Any]:
        """The result of work on the shard's files, done beside the event loop while no group is written."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._alone.append((work, future))
        self._wakeup.wake()
        return future

    @property
    def sync_seconds(self) -> Histogram:
        """What each fsync of the log took."""
        return self._sync.seconds

    def sync_soon(self) -> None:
        """Make durable what was written without waiting for it (``--sync interval``)."""
        if self._unsynced:
            self._sync_due = True
            self._wakeup.wake()

    def stop(self) -> None:
        """Let `run` return once all that was asked for is written."""
        self._stopping = True
        self._wakeup.wake()

    async def run(self) -> None:
        """Write groups until stopped. An exception out of here is final for the process."""
        while not (self._stopping and not self._waiting and not self._alone):
            await self._wakeup.wait()
            while self._waiting or self._alone:
                if self._alone:
                    await self._do_alone(*self._alone.popleft())
                    continue
                await asyncio.sleep(0)  # what is readable now belongs to this group: half as many fsyncs under load
                group, self._waiting = self._waiting[:MOST_CHANGES], self._waiting[MOST_CHANGES:]
                await self._commit(group)
            if self._sync_due:
                self._sync_due = self._unsynced = False
                await self._sync()
        self._sync.close()

    async def _do_alone(self, work: Callable[[], Any], future: asyncio.Future[Any]) -> None:
        try:
            result = await self._loop.run_in_executor(None, work)
        except SyncError:
            raise
        except StorageError as error:
            _refuse(future, error)
        except Exception as bug:  # noqa: BLE001  # told to its caller and to the log
            _refuse(future, InternalError(describe_bug("work on files", bug)))
        else:
            if not future.done():
                future.set_result(result)

    async def _commit(self, group: _Group) -> None:
        transaction, results = await self._decide(group)
        try:
            if transaction.records and not self._shard.ready:
                try:
                    await self._loop.run_in_executor(None, self._shard.make_ready)
                except TextError as error:
                    transaction, results = await self._decide_without_texts(group, error)
                    await self._loop.run_in_executor(None, self._shard.make_ready)
            if transaction.records:
                self._shard.append(transaction.records)
                if self._wait_for_sync:
                    await self._sync()
                else:
                    self._unsynced = True
                self.refusals.went_well()
        except StorageError as error:
            self.refusals.refused(error, len(group))
            for _, future in group:
                _refuse(future, StorageError(str(error)))
            return
        await self._apply(transaction.records)
        for (_, future), result in zip(group, results, strict=True):
            if not future.done():
                future.set_result(result)

    async def _apply(self, records: list[Record]) -> None:
        """Make records true in the table, some at a time: each tells the truth by itself."""
        await self._let_copy()
        began = perf_counter()
        for record in records:
            self._shard.table.apply(record)
            if perf_counter() - began > SLICE:
                await asyncio.sleep(0)
                await self._let_copy()
                began = perf_counter()

    async def _let_copy(self) -> None:
        """Wait for who copies keys of the table, a slice a tick (key_copies.py), but not for ever."""
        copies = self._shard.table.copies
        until, tries = 0.0, TRIES
        while copies.under_way:
            until = until or self._loop.time() + MOST_COPYING
            if self._loop.time() > until:
                copies.give_up()
                tries -= 1
                if tries > 0:  # each try has its time, but those that come after all others have none
                    until = 0.0
            await asyncio.sleep(0)

    async def _decide_without_texts(self, group: _Group, error: TextError) -> tuple[Transaction, list[Any]]:
        """Decide again, and refuse the changes that have texts, which the disk did not take."""
        self._shard.refuse_texts(error)
        try:
            return await self._decide(group)
        finally:
            self._shard.refuse_texts(None)

    async def _decide(self, group: _Group) -> tuple[Transaction, list[Any]]:
        """The transaction of a group, and what each change answers. Those that fail are told, and leave the group.

        Others run between changes; nobody but this writer changes the table.
        """
        while True:
            transaction = Transaction(self._shard.table)
            results: list[Any] = []
            began = perf_counter()
            for position, (change, future) in enumerate(group):
                if perf_counter() - began > SLICE:
                    await asyncio.sleep(0)
                    began = perf_counter()
                try:
                    results.append(change(transaction))
                except DecideAgainError:
                    break
                except SyncError:
                    raise
                except StorageError as error:
                    self.refusals.refused(error)
                    _refuse(future, error)
                except Exception as bug:  # noqa: BLE001  # told to its caller and to the log
                    _refuse(future, InternalError(describe_bug("a change", bug)))
                else:
                    continue
                del group[position]
                break
            else:
                return transaction, results


def _refuse(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def describe_bug(what: str, bug: BaseException) -> str:
    """Log a bug with its traceback; what to tell whoever met it."""
    log.error("internal error in %s; this is a bug", what, exc_info=bug)
    return f"internal error in {what}; this is a bug, see the log"

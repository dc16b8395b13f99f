"""The writer: group commit. All writes that have arrived become one transaction, one append, one sync.

While one group is synced the next one gathers. A group is applied to the table only once it is durable, so no
lookup sees what a crash could take back. A change that fails while it is decided fails alone (StorageError for a text
that the disk refuses, InternalError for a bug): the group is decided again without it, before anything is appended.
When the disk refuses the append the group is dropped whole and its callers are told; the next group tries again. Any
other failure of the log is final: after a failed sync nobody knows what is on disk, so the worker ends and recovers
from what is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, TypeAlias

from shardhash.base.figures import Histogram
from shardhash.base.wakeup import Wakeup
from shardhash.errors import InternalError, StorageError, SyncError
from shardhash.shard.state.transaction import Transaction
from shardhash.shard.storage.recovery import AnyShard
from shardhash.shard.worker.syncer import Syncer

Change: TypeAlias = Callable[[Transaction], Any]
"""Decides its records in the transaction; its result goes to the caller once they are durable. It may be called again,
with another transaction, before anything is stored."""
_Group: TypeAlias = list[tuple[Change, asyncio.Future[Any]]]

log = logging.getLogger(__name__)


class DecideAgainError(Exception):
    """A change left out a part of it that failed: the group has to be decided again."""


class Writer:
    """The one writer of a shard. Use `write` from the event loop that runs `run`."""

    def __init__(self, shard: AnyShard, *, wait_for_sync: bool) -> None:
        self._shard = shard
        self._wait_for_sync = wait_for_sync and shard.durable
        self._waiting: list[tuple[Change, asyncio.Future[Any]]] = []
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
        while not (self._stopping and not self._waiting):
            await self._wakeup.wait()
            while self._waiting:
                await asyncio.sleep(0)  # what is readable now belongs to this group: half as many fsyncs under load
                group, self._waiting = self._waiting, []
                await self._commit(group)
            if self._sync_due:
                self._sync_due = self._unsynced = False
                await self._sync()
        self._sync.close()

    async def _commit(self, group: list[tuple[Change, asyncio.Future[Any]]]) -> None:
        transaction, results = self._decide(group)
        try:
            if transaction.records:
                if self._shard.texts_waiting:  # they come first, and lookups go on meanwhile here too
                    await self._loop.run_in_executor(None, self._shard.sync_texts)
                self._shard.append(transaction.records)
                if self._wait_for_sync:
                    await self._sync()
                else:
                    self._unsynced = True
        except StorageError as error:
            for _, future in group:
                _refuse(future, StorageError(str(error)))
            return
        for record in transaction.records:
            self._shard.table.apply(record)
        for (_, future), result in zip(group, results, strict=True):
            if not future.done():
                future.set_result(result)

    def _decide(self, group: _Group) -> tuple[Transaction, list[Any]]:
        """The transaction of a group, and what each change answers. Those that fail are told, and leave the group."""
        while True:
            transaction = Transaction(self._shard.table)
            results: list[Any] = []
            for position, (change, future) in enumerate(group):
                try:
                    results.append(change(transaction))
                except DecideAgainError:
                    break
                except SyncError:
                    raise
                except StorageError as error:
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

"""Operations of reports on one shard: report locks, the index of outhashes, rows and mappings (link/operations.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import partial
from typing import Any, TypeAlias, TypeGuard

from shardhash.errors import ServerFaultError, StorageError
from shardhash.link import operations as op
from shardhash.link.messages import refusal_of
from shardhash.shard.state.packing import pack_item
from shardhash.shard.state.transaction import RowFields, Transaction
from shardhash.shard.storage.recovery import AnyShard
from shardhash.shard.worker.asking import Asking
from shardhash.shard.worker.report_locks import Place, ReportLocks
from shardhash.shard.worker.writer import DecideAgainError, Writer, describe_bug
from shardhash.wire.hashes import Key, to_key, to_text
from shardhash.wire.long_text import LongText, Text

STEPS_AT_ONCE = 100
"""Steps of a round that are done before others run; 1 ms."""
LONG_TEXT = 64 * 1024
"""Characters of a siginfo from which on it is packed beside the event loop; 0.6 ms."""
MOST_SKIPS = 10_000
"""Outhashes whose rows without a mapping are skipped; past that all are forgotten, and walked once more."""

_Answers: TypeAlias = list[op.StepAnswer]


class ReportOperations:
    """What `Service` does for the operations of reports."""

    def __init__(self, shard: AnyShard, writer: Writer, locks: ReportLocks, asking: Asking) -> None:
        self._shard = shard
        self._asking = asking
        self._table = shard.table
        self._write = writer.write
        self._refusals = writer.refusals
        self._locks = locks
        self._skips: dict[Place, tuple[int, str]] = {}
        self._loop = asyncio.get_running_loop()
        self.unindexing = 0
        """How many deletions of index items are being written: meanwhile `lock` does not trust the table."""
        self.shared = False
        """Whether other coordinators than the server's own report here."""
        self.packing: set[asyncio.Task[_Answers]] = set()
        """Rounds whose texts are being packed, before they are written."""

    # --------------------------------------------------------------------------------------------- rounds

    def round(self, link: object, asked: op.Round) -> Awaitable[_Answers] | _Answers:
        """Do the steps of many reports in one group commit; None for those that have to wait for a lock.

        Most reports are of a new outhash, whose lock is free. It is held while that is written: who comes later must
        be later in the index, too. So is a report of a known outhash, if this shard alone can tell its unihash
        (`_known`). A step that fails gets a refusal, and the others go on.
        """
        answers: _Answers = [None] * len(asked.steps)
        todo: dict[int, op.Step] = {}
        taken: list[tuple[int, Place, int]] = []
        waiting: set[Place] = set()
        for position, step in enumerate(asked.steps):
            kind, number, _, method, _, outhash = step[:6]
            if kind != "commit":
                place = (method, outhash)
                if self._locks.busy(place) or place in waiting or not self._can_do(step):
                    waiting.add(place)  # and those behind it, which must not overtake it
                    continue
                self._locks.take(place, link, number, _already_held)
                taken.append((position, place, number))
            todo[position] = step
        if not todo:
            return answers

        def written(future: asyncio.Future[_Answers]) -> None:
            failed = future.cancelled() or future.exception() is not None
            for position, place, number in taken:
                if failed or answers[position] is not True:  # the lock of an "index" step stays held
                    self._locks.release(place, link, number)

        packed: dict[int, bytes] = {}
        long = {at: step[-1] for at, step in todo.items() if _is_long(step[-1])}
        result: asyncio.Future[_Answers]
        if long:
            result = packing = self._loop.create_task(self._pack(long, packed, todo, answers))
            self.packing.add(packing)
            packing.add_done_callback(self.packing.discard)
        else:
            result = self._write_steps(todo, answers, packed)
        result.add_done_callback(written)
        return result

    def _write_steps(
        self, todo: dict[int, op.Step], answers: _Answers, packed: dict[int, bytes]
    ) -> asyncio.Future[_Answers]:
        """Write steps in one group commit, which does some, and then lets others run."""
        if len(todo) <= STEPS_AT_ONCE:
            return self._write(partial(self._do_steps, todo, answers, packed))
        steps = list(todo.items())
        parts = [dict(steps[start : start + STEPS_AT_ONCE]) for start in range(0, len(steps), STEPS_AT_ONCE)]
        written = [self._write(partial(self._do_steps, part, answers, packed)) for part in parts]
        return self._loop.create_task(_last_of(written))

    async def _pack(
        self, texts: dict[int, Text], packed: dict[int, bytes], todo: dict[int, op.Step], answers: _Answers
    ) -> _Answers:
        """Pack the siginfo texts of some steps, then write all."""
        for position, text in texts.items():
            packed[position] = await self._loop.run_in_executor(None, self._shard.pack_siginfo, text)
        return await self._write_steps(todo, answers, packed)

    def _do_steps(
        self, todo: dict[int, op.Step], answers: _Answers, packed: dict[int, bytes], transaction: Transaction
    ) -> _Answers:
        self._asking.look_at_clock()
        method = ""
        for position, step in list(todo.items()):
            method = step[3]
            try:
                answers[position] = self._do_step(transaction, packed.get(position), *step)
            except StorageError as error:  # of a text; nothing else of the step is done yet
                self._refusals.refused(error)
                answers[position] = {"refused": refusal_of(error)}
                del todo[position]
            except ServerFaultError:
                raise
            except Exception as bug:
                answers[position] = {"refused": ("internal", describe_bug(f"step {step[0]!r} of a report", bug))}
                del todo[position]
                raise DecideAgainError from bug
        self._asking.keep_room(method, len(todo))  # most rounds are of one method
        return answers

    def _do_step(
        self,
        transaction: Transaction,
        packed: bytes | None,
        kind: str,
        _number: int,
        created: int,
        method: str,
        taskhash: str,
        outhash: str,
        unihash: str = "",
        *rest: Any,
    ) -> op.Stored | bool | None:
        if kind == "index":
            transaction.insert_index(method, outhash, taskhash, created)
            return True
        key, out = to_key(taskhash), to_key(outhash)
        if kind == "report" and self._table.has_index(method, out):
            known = self._known(transaction, ("report", _number, created, method, taskhash, outhash))
            if known is None:  # no longer
                return None
            unihash = known.hex()
        *details, siginfo = rest
        row = RowFields(method, taskhash, outhash, created, *details)
        reference = 0
        if siginfo is not None and not transaction.has_row(method, key, out):
            shard = self._shard
            reference = shard.put_siginfo(siginfo) if packed is None else shard.put_packed_siginfo(packed)
        part = self._table.methods.get(method)
        # Reported again is as good as asked for; a row tells of the first time alone.
        self._asking.put_aside_of(method, part, key)
        older = transaction.older_rows(method, key) if part is not None and part.unmapped else None
        indexed = kind == "report"
        mapped = bytes.fromhex(unihash)
        in_force = transaction.insert_row(row, reference, mapped, indexed=indexed, keys=(key, out)).hex()
        return (in_force, [to_text(one) for one in older]) if older else in_force

    def _can_do(self, step: op.Step) -> bool:
        kind, _, _, method, _, outhash = step[:6]
        if not self._table.has_index(method, to_key(outhash)):
            return True
        return kind == "report" and self._known(Transaction(self._table), step) is not None

    def _known(self, transaction: Transaction, step: op.Step | tuple[Any, ...]) -> bytes | None:
        """The unihash of a report of an outhash that the index knows, if this shard can tell; its lock is free or ours.

        That is its own if it was stored before, else that of the oldest item, which must lie here and have a mapping.
        None: the coordinator goes through the index.
        """
        _, _, created, method, taskhash, outhash, *_ = step
        key, task = to_key(outhash), to_key(taskhash)
        skip = self._skips.get((method, outhash))
        if self.unindexing or (skip is not None and created <= skip[0]):
            return None
        if transaction.is_indexed(method, key, task):
            return transaction.unihash(method, task) if transaction.has_row(method, task, key) else None
        if self.shared and self._table.candidates(method, key, 1, pack_item(created, b"")):
            return None  # a later report of another coordinator came first: the time of this one must change
        start = b"" if skip is None else pack_item(skip[0], to_key(skip[1]))
        for _, oldest in self._table.candidates(method, key, 1, start):
            if transaction.has_row(method, oldest, key):
                return transaction.unihash(method, oldest)
        return None

    def map(self, asked: op.Map) -> asyncio.Future[op.Stored]:
        """Insert a mapping unless there is one."""

        def change(transaction: Transaction) -> op.Stored:
            older = transaction.older_rows(asked.method, to_key(asked.taskhash))
            self._asking.put_aside(asked.method, to_key(asked.taskhash))
            unihash = bytes.fromhex(asked.unihash)
            in_force = transaction.insert_mapping(asked.method, asked.taskhash, unihash).hex()
            return (in_force, [to_text(one) for one in older]) if older else in_force

        return self._write(change)

    # ---------------------------------------------------------------------------------------------- locks

    def lock(self, link: object, asked: op.Lock) -> Awaitable[op.Granted]:
        """Wait for a report lock and make index items durable.

        The items come before the rows: an item without a row says nothing, while a row without an item would be a
        report half done. The place in the queue is taken at once, so that locks are granted in the order of `number`.
        """
        granted: asyncio.Future[None] = self._loop.create_future()
        self._locks.take((asked.method, asked.outhash), link, asked.number, lambda: _grant(granted))
        older: list[str] = []
        written = None
        outhash = to_key(asked.outhash)
        if self.unindexing or not all(
            self._table.indexed(asked.method, outhash, to_key(taskhash)) for _, taskhash in asked.items
        ):
            written = self._write(partial(self._insert_items, asked, older))
        else:
            older += [taskhash for _, taskhash in asked.items]
        return self._wait_for_lock(granted, written, link, asked, older)

    def _insert_items(self, asked: op.Lock, older: list[str], transaction: Transaction) -> None:
        older.clear()
        outhash = to_key(asked.outhash)
        fresh: set[str] = set()
        for created, taskhash in asked.items:
            if taskhash in fresh:
                continue
            if transaction.is_indexed(asked.method, outhash, to_key(taskhash)):
                older.append(taskhash)
                continue
            fresh.add(taskhash)
            transaction.insert_index(asked.method, asked.outhash, taskhash, created)
            self._unskip_before((asked.method, asked.outhash), created)

    async def _wait_for_lock(
        self,
        granted: asyncio.Future[None],
        written: asyncio.Future[None] | None,
        link: object,
        asked: op.Lock,
        older: list[str],
    ) -> op.Granted:
        try:
            if written is not None:
                await written
        except ServerFaultError:
            self._locks.release((asked.method, asked.outhash), link, asked.number)
            raise
        await granted
        page = self.page(op.Page(asked.method, asked.outhash, None, mapped=True))
        return op.Granted(older, page, self._newest_of_others(asked, set(older)))

    def _newest_of_others(self, asked: op.Lock, older: set[str]) -> int:
        """See `Granted.newest`. There are none but where coordinators meet, or rows came with times of their own."""
        fresh = {taskhash: created for created, taskhash in asked.items if taskhash not in older}
        if not fresh:
            return 0
        start = pack_item(min(fresh.values()), b"")
        later = self._table.candidates(asked.method, to_key(asked.outhash), op.LATER_PAGE, start)
        return max((created for created, key in later if to_text(key) not in fresh), default=0)

    def release(self, link: object, asked: op.Release) -> None:
        """End report locks."""
        for method, outhash, number in asked.locks:
            self._locks.release((method, outhash), link, number)

    # ---------------------------------------------------------------------------------------------- index

    def page(self, asked: op.Page) -> list[op.Item]:
        """Items of an index."""
        size = op.PAGE if asked.after is None else op.LATER_PAGE
        after = asked.after
        if asked.mapped and after is None:
            after = self._skips.get((asked.method, asked.outhash))
        start = b"" if after is None else pack_item(after[0], to_key(after[1]))
        items = self._table.candidates(asked.method, to_key(asked.outhash), size, start)
        return [(created, to_text(key)) for created, key in items]

    def skip(self, asked: op.Skip) -> None:
        """Note which items of an outhash have no row with a mapping."""
        if asked.bare and self._locks.waiting((asked.method, asked.outhash)):
            return
        if len(self._skips) >= MOST_SKIPS:
            self._skips.clear()
        self._skips[asked.method, asked.outhash] = (asked.upto[0], asked.upto[1])

    def unskip(self, asked: op.Unskip) -> None:
        """Forget it."""
        if not asked.outhashes:
            self._skips.clear()
        for method, outhash in asked.outhashes:
            self._skips.pop((method, outhash), None)

    def _unskip_before(self, place: Place, created: int) -> None:
        skip = self._skips.get(place)
        if skip is not None and created <= skip[0]:
            del self._skips[place]

    def retime(self, asked: op.Retime) -> Awaitable[None]:
        """Give index items their times."""

        def change(transaction: Transaction) -> None:
            outhash = to_key(asked.outhash)
            for created, taskhash in asked.items:
                if self._table.index_time(asked.method, outhash, to_key(taskhash)) == created:
                    continue
                transaction.retime_index(asked.method, asked.outhash, taskhash, created)
                self._unskip_before((asked.method, asked.outhash), created)

        return self._write(change)

    def equivalents(self, asked: op.Equivalents) -> list[str | None]:
        """Which of these taskhashes have a row of this outhash, and with which unihash."""
        outhash = to_key(asked.outhash)
        return [self._equivalent(asked.method, outhash, to_key(taskhash)) for taskhash in asked.taskhashes]

    def _equivalent(self, method: str, outhash: Key, taskhash: Key) -> str | None:
        if self._table.row(method, taskhash, outhash) is None:
            return None
        unihash = self._table.unihash(method, taskhash)
        return unihash.hex() if unihash is not None else ""


async def _last_of(written: list[asyncio.Future[_Answers]]) -> _Answers:
    """The result of the last, once none is under way any more; an error if there is any."""
    results = await asyncio.gather(*written, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return await written[-1]


def _is_long(text: object) -> TypeGuard[Text]:
    return type(text) is LongText or (type(text) is str and len(text) > LONG_TEXT)


def _grant(granted: asyncio.Future[None]) -> None:
    if not granted.done():
        granted.set_result(None)


def _already_held() -> None:
    """Grant callback for a free lock: the caller already holds it."""

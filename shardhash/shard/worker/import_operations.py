"""Operations of imports on one shard: mappings and rows of another server (link/operations.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from shardhash.link.import_operations import TakeMappings, TakeRows
from shardhash.shard.state.transaction import RowFields, Transaction
from shardhash.shard.storage.recovery import AnyShard
from shardhash.shard.worker.asking import Asking
from shardhash.shard.worker.writer import Writer
from shardhash.wire.hashes import to_key, to_text
from shardhash.wire.long_text import LongText
from shardhash.wire.rows import KNOWN, NEW, OLDER

_Answer: TypeAlias = str | tuple[str, list[str]]
PAGE = 250
"""Mappings or rows of one change; 2 ms."""


class ImportOperations:
    """What `Service` does for the operations of imports."""

    def __init__(self, shard: AnyShard, writer: Writer, asking: Asking) -> None:
        self._shard = shard
        self._asking = asking
        self._table = shard.table
        self._write = writer.write

    async def take_mappings(self, asked: TakeMappings) -> list[_Answer]:
        """Insert mappings, each unless there is one."""
        answers: list[_Answer] = []
        for start in range(0, len(asked.mappings), PAGE):
            answers += await self._write(partial(self._insert_mappings, asked.mappings[start : start + PAGE]))
        return answers

    def _insert_mappings(self, mappings: Sequence[Sequence[str]], transaction: Transaction) -> list[_Answer]:
        answers: list[_Answer] = []
        self._asking.look_at_clock()  # a mapping that is stored counts as asked for
        for method, taskhash, unihash in mappings:
            found = transaction.unihash(method, to_key(taskhash))
            if found is not None:
                answers.append(KNOWN if found.hex() == unihash else found.hex())
                continue
            older = transaction.older_rows(method, to_key(taskhash))
            transaction.insert_mapping(method, taskhash, bytes.fromhex(unihash))
            answers.append((NEW, [to_text(outhash) for outhash in older]) if older else NEW)
        for method in {method for method, _, _ in mappings}:
            self._asking.keep_room(method, len(mappings))
        return answers

    async def take_rows(self, asked: TakeRows) -> list[tuple[str, int]]:
        """Insert rows, each unless it is there and at least as old."""
        answers: list[tuple[str, int]] = []
        for start in range(0, len(asked.rows), PAGE):
            answers += await self._take_page(asked.rows[start : start + PAGE])
        return answers

    async def _take_page(self, rows: Sequence[Sequence[Any]]) -> list[tuple[str, int]]:
        loop = asyncio.get_running_loop()
        packed: dict[int, bytes] = {}
        for position, row in enumerate(rows):
            if isinstance(row[-1], LongText):
                packed[position] = await loop.run_in_executor(None, self._shard.pack_siginfo, row[-1])
        answers: list[tuple[str, int]] = await self._write(partial(self._insert_rows, rows, packed))
        return answers

    def _insert_rows(
        self, rows: Sequence[Sequence[Any]], packed: Mapping[int, bytes], transaction: Transaction
    ) -> list[tuple[str, int]]:
        answers: list[tuple[str, int]] = []
        made: dict[tuple[str, str, str], int] = {}
        for position, (*fields, siginfo) in enumerate(rows):
            row = RowFields._make(fields)
            place = (row.method, row.taskhash, row.outhash)
            there = made.get(place)
            if there is None and transaction.has_row(row.method, to_key(row.taskhash), to_key(row.outhash)):
                found = self._table.row(row.method, to_key(row.taskhash), to_key(row.outhash))
                there = found.created if found is not None else None
            if there is not None and there <= row.created:
                answers.append((KNOWN, there))
                continue
            if self._asking.followed:  # a collection would remove the row, which no undo file has, with its mapping
                self._asking.put_aside(row.method, to_key(row.taskhash))
            reference = 0
            if position in packed:
                reference = self._shard.put_packed_siginfo(packed[position])
            elif siginfo is not None:
                reference = self._shard.put_siginfo(siginfo)
            transaction.replace_row(row, reference)
            made[place] = row.created
            answers.append((NEW if there is None else OLDER, row.created))
        return answers

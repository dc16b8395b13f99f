"""Resharding: the state of some shards as another number of them, each a snapshot to start from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from shardhash.base.entry_kinds import CONFIG, GC_MARK
from shardhash.errors import DamageError, StorageError
from shardhash.shard.state import small_sets
from shardhash.shard.state.asked_days import day_of
from shardhash.shard.state.comparing import same_state
from shardhash.shard.state.packing import unpack_item
from shardhash.shard.state.table import Row, Table
from shardhash.shard.storage import snapshot_chunks
from shardhash.shard.storage.filesystem import FileSystem
from shardhash.shard.storage.recovery import BASE_SEGMENT, Progress, ignore_progress, now, recover
from shardhash.shard.storage.siginfo import SiginfoFiles, check_siginfos, read_siginfo
from shardhash.shard.storage.snapshot import SnapshotHead, SnapshotWriter
from shardhash.wire.hashes import Key, ShardMap

ReadTable: TypeAlias = Callable[[FileSystem, Path, Progress], Table]
"""The state of the shard in a folder."""
ReadText: TypeAlias = Callable[[FileSystem, Path, int], str | None]
"""The text of a siginfo reference of the shard in a folder; None for none."""


class NewShards:
    """The state of new shards while it is gathered, in any order; `finish` writes it, and reads it back.

    Mappings and rows go where their taskhash lives, index items where their outhash does, users and settings to the
    first shard; the current GC mark is known to all. Memory: the whole state, but for the siginfo texts.
    """

    def __init__(self, fs: FileSystem, folders: Sequence[Path]) -> None:
        """The folders are those of shards just begun, to start from a snapshot (`begin_shard`)."""
        self._fs = fs
        self._folders = folders
        self._tables = [Table() for _ in folders]
        self._shards = ShardMap(len(self._tables))
        self._texts = [SiginfoFiles(fs, folder) for folder in folders]

    def keep_days_from(self, day: int) -> None:
        """All that is added comes with its day, or was asked for on this one at the latest; else: today."""
        for table in self._tables:
            table.asked_from = day

    def add_day(self, method: str, taskhash: Key, day: int) -> None:
        """The day on which a mapping was last asked for."""
        self._tables[self._home(taskhash)].method(method).days.note((taskhash,), day)

    def add_mapping(self, method: str, taskhash: Key, unihash: bytes, mark: str) -> None:
        """A mapping."""
        table = self._tables[self._home(taskhash)]
        table.set_mapping(table.method(method), taskhash, unihash, mark)

    def add_row(self, method: str, taskhash: Key, row: Row, text: str | None) -> None:
        """An outhash row, with the text that its siginfo reference stood for. Raises StorageError."""
        number = self._home(taskhash)
        siginfo = 0 if text is None else self._texts[number].put(text)
        table = self._tables[number]
        table.put_row(table.method(method), taskhash, row.outhash, row.created, row.details, siginfo)

    def add_index(self, method: str, outhash: Key, taskhash: Key, created: int) -> None:
        """An index item."""
        table = self._tables[self._home(outhash)]
        table.put_index(table.method(method), outhash, taskhash, created)

    def add_entry(self, kind: str, name: str, value: Any) -> None:
        """A user or setting."""
        for table in self._tables if (kind, name) == (CONFIG, GC_MARK) else self._tables[:1]:
            table.entries.setdefault(kind, {})[name] = value

    def finish(self, progress: Progress) -> None:
        """Write everything, durably, and read it back. Raises StorageError, SyncError."""
        for number, (folder, table, texts) in enumerate(zip(self._folders, self._tables, self._texts, strict=True)):
            texts.close()
            write_start(self._fs, folder, table, texts.next_number)
            progress(f"wrote shard {number + 1} of {len(self._folders)}")

    def _home(self, key: Key) -> int:
        return self._shards.of(key)


def read_table(fs: FileSystem, folder: Path, progress: Progress) -> Table:
    """The state of the shard in a folder, as a start would find it. Raises DamageError."""
    return recover(fs, folder, progress).table


def reshard(
    fs: FileSystem,
    old: Sequence[Path],
    new: Sequence[Path],
    progress: Progress,
    *,
    read: ReadTable = read_table,
    read_text: ReadText = read_siginfo,
    reindex: bool = False,
) -> None:
    """Read all old shards, write the new ones, durably. Memory: the whole state, and one old shard once more.

    `read` and `read_text` take the place of reading an old shard as a start does. With `reindex` the index is made
    from the rows instead of taken over.
    """
    shards = NewShards(fs, new)
    shards.keep_days_from(gather(fs, old, shards, progress, read=read, read_text=read_text, reindex=reindex))
    shards.finish(progress)


def gather(
    fs: FileSystem,
    old: Sequence[Path],
    shards: NewShards,
    progress: Progress,
    *,
    read: ReadTable = read_table,
    read_text: ReadText = read_siginfo,
    reindex: bool = False,
) -> int:
    """Add what all old shards hold, in the place of what is there; see `reshard`.

    The day until which all of that counts as asked for (Table.asked_from), today if one does not know.
    """
    asked_from = []
    for number, folder in enumerate(old):
        table = read(fs, folder, progress)
        _add_hashes(table, shards, partial(read_text, fs, folder))
        if reindex:
            _add_index_of_rows(table, shards)
        else:
            _add_index(table, shards)
        if number == 0:
            _add_entries(table, shards)
        asked_from.append(table.asked_from or day_of(now()))
        progress(f"read shard {number + 1} of {len(old)}")
    return max(asked_from, default=0)


def _add_hashes(table: Table, shards: NewShards, text_of: Callable[[int], str | None]) -> None:
    today = day_of(now())
    for method, part in table.methods.items():
        part.days.note(part.take_asked(), today)  # what the log replayed counts as asked for now
        for taskhash, unihash in part.mappings.items():
            shards.add_mapping(method, taskhash, unihash, part.marks.get(taskhash, ""))
            if day := part.days.day(taskhash):
                shards.add_day(method, taskhash, day)
        for taskhash in part.rows:
            for row in table.rows(method, taskhash):
                shards.add_row(method, taskhash, row, text_of(row.siginfo))


def _add_index(table: Table, shards: NewShards) -> None:
    for method, part in table.methods.items():
        for outhash, small_set in part.index.items():
            for item in small_sets.iterate(small_set):
                created, taskhash = unpack_item(item)
                shards.add_index(method, outhash, taskhash, created)


def _add_index_of_rows(table: Table, shards: NewShards) -> None:
    for method, part in table.methods.items():
        for taskhash in part.rows:
            for row in table.rows(method, taskhash):
                shards.add_index(method, row.outhash, taskhash, row.created)


def _add_entries(table: Table, shards: NewShards) -> None:
    for kind, values in table.entries.items():
        for name, value in values.items():
            shards.add_entry(kind, name, value)


def write_start(fs: FileSystem, folder: Path, table: Table, siginfo: int) -> None:
    """Write a table as the first snapshot of a new shard, whose log holds nothing."""
    writer = SnapshotWriter(fs, folder, SnapshotHead(BASE_SEGMENT, 1, now(), siginfo, table.asked_from))
    for chunk in filter(None, snapshot_chunks.freeze(table)):
        writer.add(chunk)
    writer.seal(now())
    _check_start(fs, folder, table)


def _check_start(fs: FileSystem, folder: Path, table: Table) -> None:
    """Read a new shard as a start would, texts included, and compare it with what was to be written."""
    try:
        found = recover(fs, folder, ignore_progress)
        check_siginfos(fs, folder, table.siginfo_references())
    except (DamageError, OSError) as error:
        raise StorageError(f"{folder} does not read back as it was written; nothing was changed: {error}") from error
    if found.remarks or not same_state(found.table, table):
        raise StorageError(f"{folder} does not read back as it was written; nothing was changed")

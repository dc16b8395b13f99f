"""Resharding: the state of some shards as another number of them, each a snapshot to start from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shardhash.shard import bags, chunks
from shardhash.shard.fs import FileSystem
from shardhash.shard.recovery import Progress, now, recover
from shardhash.shard.siginfo import SiginfoFiles, read_siginfo
from shardhash.shard.snapshot import SnapshotHead, SnapshotWriter
from shardhash.shard.table import GC_MARK, MethodTable, Table, unpack_item
from shardhash.wire.hashes import Key, shard_of, slot_of

FIRST_SEGMENT = 1


def reshard(fs: FileSystem, old: Sequence[Path], new: Sequence[Path], progress: Progress) -> None:
    """Read all old shards, write the new ones, durably. Memory: the whole state, once more than one old shard.

    Mappings and rows go where their taskhash lives, index items where their outhash does, users and settings to the
    first shard; the current GC mark is known to all.
    """
    tables = [Table() for _ in new]
    texts = [SiginfoFiles(fs, folder) for folder in new]
    for number, folder in enumerate(old):
        table = recover(fs, folder, progress).table
        for method, part in table.methods.items():
            _split(fs, folder, table, method, part, tables, texts)
        for kind, entries in table.entries.items():
            for name, value in entries.items():
                targets = tables if (kind, name) == ("config", GC_MARK) else tables[:1]
                for target in targets if number == 0 else ():
                    target.entries.setdefault(kind, {})[name] = value
        progress(f"read shard {number + 1} of {len(old)}")
    for number, (folder, table, files) in enumerate(zip(new, tables, texts, strict=True)):
        files.close()
        write_start(fs, folder, table, files.next_number)
        progress(f"wrote shard {number + 1} of {len(new)}")


def write_start(fs: FileSystem, folder: Path, table: Table, siginfo: int) -> None:
    """Write a table as the first snapshot of a new shard (`begin_shard`), whose log holds nothing."""
    writer = SnapshotWriter(fs, folder, SnapshotHead(FIRST_SEGMENT, 1, now(), siginfo))
    for chunk in chunks.freeze(table):
        writer.add(chunk)
    writer.seal(now())


def _split(
    fs: FileSystem,
    folder: Path,
    table: Table,
    method: str,
    part: MethodTable,
    tables: Sequence[Table],
    texts: Sequence[SiginfoFiles],
) -> None:
    def target_of(key: Key) -> int:
        return shard_of(slot_of(key), len(tables))

    for taskhash, unihash in part.mappings.items():
        target = tables[target_of(taskhash)]
        target.set_mapping(target.method(method), taskhash, unihash, part.marks.get(taskhash, ""))
    for taskhash in part.rows:
        number = target_of(taskhash)
        target = tables[number]
        for row in table.rows(method, taskhash):
            text = read_siginfo(fs, folder, row.siginfo)
            siginfo = 0 if text is None else texts[number].put(text)
            target.put_row(target.method(method), taskhash, row.outhash, row.created, row.details, siginfo)
    for outhash, bag in part.index.items():
        target = tables[target_of(outhash)]
        for item in bags.iterate(bag):
            created, taskhash = unpack_item(item)
            target.put_index(target.method(method), outhash, taskhash, created)

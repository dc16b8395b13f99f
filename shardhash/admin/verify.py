"""Verify: everything in a data directory is read, and held against every checksum and invariant.

Not only what a start would read: also the snapshots and segments that are kept for an earlier time, the siginfo texts,
and what the shards say of each other. Changes nothing. Memory: the whole state.

Beside a running server each shard is read alone: its files only grow, or go when a snapshot replaces them, and then
the shard is read anew. What the shards say of each other differs from moment to moment, and is not compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from shardhash.base.entry_kinds import GC_MARK
from shardhash.base.text import counted
from shardhash.errors import DamageError
from shardhash.shard.directory.manifest import Manifest
from shardhash.shard.state import small_sets
from shardhash.shard.state.packing import unpack_item
from shardhash.shard.state.table import Row, Table
from shardhash.shard.storage.filesystem import FileSystem
from shardhash.shard.storage.layout import list_shard, segment_path, snapshot_path
from shardhash.shard.storage.log import Tail, first_number, read_segment
from shardhash.shard.storage.recovery import Progress, log_is_all, recover
from shardhash.shard.storage.siginfo import read_siginfo
from shardhash.shard.storage.snapshot import check_snapshot
from shardhash.wire.hashes import Key, ShardMap, to_text

ATTEMPTS = 5
"""How often a shard is read that a running server changes meanwhile."""


@dataclass(slots=True)
class Verdict:
    """What `verify` found. `damage` is what must not be; `remarks` what people should know and what harms nothing."""

    counts: Counter[str] = field(default_factory=Counter)
    damage: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def verify(fs: FileSystem, folders: list[Path], progress: Progress, until: int | None = None) -> Verdict:
    """Read the folders of all shards, in order, while no server writes there.

    `until`: the time (microseconds) that a backup stands for; the shards agree with each other as they were then.
    """
    verdict = Verdict()
    tables = [_verify_shard(fs, folder, verdict, progress, until) for folder in folders]
    whole = [table for table in tables if table is not None]
    if len(whole) == len(folders):
        progress("comparing the shards with each other")
        _verify_places(whole, verdict)
        _verify_index(whole, verdict)
    else:
        verdict.remarks.append("the shards were not compared with each other, since not all of them can be read")
    return verdict


def verify_live(fs: FileSystem, folders: list[Path], progress: Progress) -> Verdict:
    """The same while a server may write there; the shards are not compared with each other. Memory: one shard."""
    verdict = Verdict(remarks=["a server is running: each shard was read alone, not compared with the others"])
    for folder in folders:
        found = _verify_changing_shard(fs, folder, progress)
        verdict.counts.update(found.counts)
        verdict.damage += found.damage
    return verdict


def _verify_changing_shard(fs: FileSystem, folder: Path, progress: Progress) -> Verdict:
    for _ in range(ATTEMPTS - 1):
        found, before = Verdict(), list_shard(fs, folder)
        _verify_shard(fs, folder, found, progress)
        if not found.damage or list_shard(fs, folder) == before:
            return found
        progress(f"{folder}: a snapshot was written meanwhile; reading it anew")
    found = Verdict()
    _verify_shard(fs, folder, found, progress)
    return found


def describe(verdict: Verdict, manifest: Manifest) -> str:
    """The verdict in a line."""
    counts = verdict.counts
    state = f"{len(verdict.damage)} damaged" if verdict.damage else "no damage"
    return (
        f"{state}: {counted(manifest.shards, 'shard')}, {counted(counts['mappings'], 'mapping')},"
        f" {counted(counts['rows'], 'outhash row')}, {counted(counts['siginfo'], 'siginfo text')},"
        f" {counted(counts['users'], 'user')}; {counted(counts['snapshots'], 'snapshot')},"
        f" {counted(counts['segments'], 'log segment')} with {counted(counts['records'], 'record')}"
    )


def _verify_shard(
    fs: FileSystem, folder: Path, verdict: Verdict, progress: Progress, until: int | None = None
) -> Table | None:
    """Check the files of one shard; its table, None when it cannot be had."""
    progress(f"reading {folder}")
    before = len(verdict.damage)
    try:
        _verify_snapshots(fs, folder, verdict)
        _verify_log(fs, folder, verdict)
        found = recover(fs, folder, progress, until)
        verdict.remarks += found.remarks
        found.table.check()
    except FileNotFoundError as error:
        verdict.damage.append(f"{error.filename}: is missing")
        return None
    except (DamageError, AssertionError) as error:
        if str(error) not in verdict.damage[before:]:
            verdict.damage.append(str(error) if isinstance(error, DamageError) else f"{folder}: invariant: {error}")
        return None
    verdict.counts.update(found.table.counts())
    _verify_siginfo(fs, folder, found.table, verdict)
    return found.table


def _verify_snapshots(fs: FileSystem, folder: Path, verdict: Verdict) -> None:
    for number in list_shard(fs, folder).snapshots:
        verdict.counts["snapshots"] += 1
        try:
            check_snapshot(fs, snapshot_path(folder, number))
        except DamageError as error:
            verdict.damage.append(str(error))


def _verify_log(fs: FileSystem, folder: Path, verdict: Verdict) -> None:
    """Read every segment, those too that a start would not read. They must follow each other, in records as well."""
    listing = list_shard(fs, folder)
    segments = listing.segments
    if segments and listing.snapshots and segments[0] < listing.snapshots[0] and not log_is_all(listing):
        verdict.remarks.append(
            f"{folder}: the segments before snapshot {listing.snapshots[0]} are of no use without an older one, and go"
            " with the next snapshots"
        )
    due = first_number(fs, segment_path(folder, segments[0])) or 1 if segments else 1
    for number in segments:
        verdict.counts["segments"] += 1
        try:
            for entry in read_segment(
                fs, segment_path(folder, number), due, newest=number == segments[-1], tail=Tail()
            ):
                verdict.counts["records"] += 1
                due = entry.number + 1
        except DamageError as error:
            verdict.damage.append(str(error))
            due = first_number(fs, segment_path(folder, number + 1)) or due if number + 1 in segments else due


def _verify_siginfo(fs: FileSystem, folder: Path, table: Table, verdict: Verdict) -> None:
    for reference in table.siginfo_references():
        try:
            read_siginfo(fs, folder, reference)
        except DamageError as error:
            verdict.damage.append(str(error))
        else:
            verdict.counts["siginfo"] += 1


def iterate_rows(table: Table) -> Iterator[tuple[str, Key, Row]]:
    """(method, taskhash, row) of all outhash rows."""
    for method, part in table.methods.items():
        for taskhash, small_set in part.rows.items():
            for item in small_sets.iterate(small_set):
                yield method, taskhash, table.unpack_row(item)


def _verify_places(tables: list[Table], verdict: Verdict) -> None:
    """Every key must lie where a lookup asks for it."""
    shards = ShardMap(len(tables))
    for number, table in enumerate(tables):
        for method, part in table.methods.items():
            for name, keys in (("mapping", part.mappings), ("row", part.rows), ("index item", part.index)):
                for key in keys:
                    if shards.of(key) != number:
                        verdict.damage.append(
                            f"shard {number}: the {name} of {method} {to_text(key)} belongs elsewhere"
                        )
        for kind, entries in table.entries.items():
            if number and set(entries) - {GC_MARK}:
                verdict.damage.append(f"shard {number}: it has entries of kind {kind!r}, which belong on shard 0")


def _verify_index(tables: list[Table], verdict: Verdict) -> None:
    """Every row must be in the index of its outhash; an item may be without its row, after a crash in a report."""
    shards = ShardMap(len(tables))
    for number, table in enumerate(tables):
        for method, taskhash, row in iterate_rows(table):
            if not tables[shards.of(row.outhash)].indexed(method, row.outhash, taskhash):
                verdict.damage.append(
                    f"shard {number}: the row of {method} {to_text(taskhash)} is not in the index of its outhash"
                    f" {to_text(row.outhash)}"
                )
    leftovers = 0
    for table in tables:
        for method, part in table.methods.items():
            for outhash, small_set in part.index.items():
                for item in small_sets.iterate(small_set):
                    _, taskhash = unpack_item(item)
                    home = tables[shards.of(taskhash)]
                    leftovers += home.row(method, taskhash, outhash) is None
    if leftovers:
        items = counted(leftovers, "index item has", "index items have")
        verdict.remarks.append(f"{items} no row, after reports that a crash cut short; harmless")

"""Import into a data directory whose server is stopped, or into a new one: all of it, or nothing.

What is there becomes the next generation together with what is new; until the manifest names that, the present one
counts. Siginfo files never change once their process has ended, so the next generation has them by hard links.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import tzinfo
from pathlib import Path

from shardhash.admin.backup import copy_file
from shardhash.admin.directory import manifest_of, new_directory, replacement
from shardhash.base.cores import usable_cores
from shardhash.base.entry_kinds import CONFIG
from shardhash.moving.merging import Merger
from shardhash.moving.packing import Packers
from shardhash.moving.schema import OpenSource, SourceReport, Tell
from shardhash.moving.times import SourceTimes
from shardhash.shard.directory.lock import lock_directory
from shardhash.shard.state.table import Table
from shardhash.shard.storage.filesystem import FileSystem
from shardhash.shard.storage.layout import MANIFEST, list_shard, siginfo_path
from shardhash.shard.storage.recovery import recover


@dataclass(frozen=True, slots=True)
class Wish:
    """What to import: the databases, the zone of times without one (None: this machine's), and whether users too."""

    sources: Sequence[OpenSource]
    zone: tzinfo | None
    users: bool


class _NothingNewError(Exception):
    """Ends the making of a generation that would hold what the present one holds."""


def import_into(fs: FileSystem, directory: Path, shards: int, wish: Wish, tell: Tell) -> list[SourceReport]:
    """Import into a directory, with this many shards if it is new; a report for each database.

    Raises ConfigError for a source that is no database, or a directory in use; DamageError, StorageError. In each case,
    and when it is killed, the directory holds what it held.
    """
    if not fs.exists(directory / MANIFEST):
        with ExitStack() as opened:
            for open_source in wish.sources:  # before anything is made, so that a wrong name leaves no trace
                opened.enter_context(open_source())
        with new_directory(fs, directory, shards) as folders:
            return _merge(fs, folders, [Table() for _ in folders], wish, tell)
    reports: list[SourceReport] = []
    with lock_directory(directory):
        old = manifest_of(fs, directory)
        try:
            with replacement(fs, directory, old.shards) as folders:
                tables = [
                    _take_over(fs, present, folder, tell)
                    for present, folder in zip(old.folders(directory), folders, strict=True)
                ]
                before = [dict(table.entries.get(CONFIG, {})) for table in tables]
                reports = _merge(fs, folders, tables, wish, tell, before)
        except _NothingNewError as found:
            return list(found.args[0])
    return reports


def _take_over(fs: FileSystem, present: Path, folder: Path, tell: Tell) -> Table:
    """The state of a shard, and its siginfo files in another folder."""
    table = recover(fs, present, tell).table
    for number in list_shard(fs, present).siginfos:
        source, target = siginfo_path(present, number), siginfo_path(folder, number)
        try:
            target.hardlink_to(source)
        except OSError:
            copy_file(fs, source, target)
    fs.fsync_dir(folder)
    return table


def _merge(
    fs: FileSystem,
    folders: Sequence[Path],
    tables: Sequence[Table],
    wish: Wish,
    tell: Tell,
    config_before: Sequence[object] | None = None,
) -> list[SourceReport]:
    """Merge all databases and write the result; with `config_before` _NothingNewError when nothing has changed."""
    with closing(Packers(usable_cores())) as packers:
        merger = Merger(fs, folders, tables, packers)
        reports = []
        for open_source in wish.sources:
            with open_source() as source:
                reports.append(merger.add(source, SourceTimes(wish.zone), tell, users=wish.users))
        if config_before is not None:
            config = [table.entries.get(CONFIG, {}) for table in tables]
            if not any(report.new for report in reports) and config == list(config_before):
                raise _NothingNewError(reports)
        merger.finish(tell)
    return reports

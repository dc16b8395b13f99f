"""What a restore would change: the state that a directory holds against the one that would take its place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from shardhash.admin.backup import source_of
from shardhash.admin.directory import refuse_content
from shardhash.admin.outbox import count_waiting
from shardhash.admin.restore import source_as_of
from shardhash.admin.timespan import text_of
from shardhash.admin.verify import iterate_rows
from shardhash.base.text import counted, printable
from shardhash.errors import ConfigError
from shardhash.shard.directory.manifest import read_manifest
from shardhash.shard.state.table import Table
from shardhash.shard.storage.filesystem import FileSystem
from shardhash.shard.storage.layout import MANIFEST
from shardhash.shard.storage.recovery import Progress, recover

KINDS = ("mappings", "outhash rows", "users and settings")
SINGULAR = ("mapping", "outhash row", "user or setting")
_Facts = dict[str, set[object]]


@dataclass(slots=True)
class Difference:
    """How many of each of KINDS would go and come, the users among them, and the time that the new state stands for."""

    gone: dict[str, int]
    come: dict[str, int]
    users_gone: list[str]
    users_come: list[str]
    moment: int | None


def preview(
    fs: FileSystem, source: Path, directory: Path, until: int | None, progress: Progress, *, force: bool
) -> list[str]:
    """What a restore would do, in lines. ConfigError as that raises it, but for want of `force`."""
    holds_data = fs.exists(directory / MANIFEST)
    if not holds_data:
        refuse_content(fs, directory)
    found = would_change(fs, source, directory, until, progress)
    state = "in its newest state" if found.moment is None else f"as of {text_of(found.moment)}"
    waiting, instead = count_waiting(fs, directory), count_waiting(source_of(fs, source).fs, source, until)
    changes = any((*found.gone.values(), *found.come.values()))
    if not changes and waiting == instead:
        return [f"nothing would change: {directory} holds what {source} does {state}"]
    lines = [f"nothing was changed; {directory} would be {source} {state}:"]
    for verb, counts, users in (("go", found.gone, found.users_gone), ("come", found.come, found.users_come)):
        amounts = ", ".join(counted(counts[kind], one, kind) for one, kind in zip(SINGULAR, KINDS, strict=True))
        names = f"; users: {', '.join(map(printable, users))}" if users else ""
        lines.append(f"would {verb}: {amounts}{names}")
    if waiting or instead:
        what = counted(instead, "report")
        lines.append(f"would wait to be sent on to an upstream: {what}, instead of {waiting:,}")
    if holds_data and not force:
        lines.append(
            f"{directory} is not empty: this takes --force, which keeps what it holds in a folder aside-TIME in it"
        )
    return lines


def would_change(fs: FileSystem, source: Path, directory: Path, until: int | None, progress: Progress) -> Difference:
    """What restoring over a directory would do, which may be none yet; changes nothing and takes no lock.

    ConfigError as a restore raises it. Memory: a number for each thing of both states.
    """
    found, moment = source_as_of(fs, source, until)
    after = _facts(recover(found.fs, folder, progress, moment).table for folder in found.manifest.folders(source))
    if not any(after.values()):
        raise ConfigError(f"{source} holds nothing; nothing would be restored")
    manifest = read_manifest(fs, directory) if fs.exists(directory) else None
    folders = [] if manifest is None else manifest.folders(directory)
    before = _facts(recover(fs, folder, progress).table for folder in folders)
    return Difference(
        {kind: len(before[kind] - after[kind]) for kind in KINDS},
        {kind: len(after[kind] - before[kind]) for kind in KINDS},
        _users(before, after),
        _users(after, before),
        moment,
    )


def _facts(tables: Iterable[Table]) -> _Facts:
    """Everything, each as a number that is another for whatever differs; users and settings by name and text."""
    found: _Facts = {kind: set() for kind in KINDS}
    for table in tables:
        for method, part in table.methods.items():
            found[KINDS[0]].update(hash((method, *mapping)) for mapping in part.mappings.items())
        found[KINDS[1]].update(hash((method, taskhash, row.outhash)) for method, taskhash, row in iterate_rows(table))
        for kind, entries in table.entries.items():
            found[KINDS[2]].update((kind, name, repr(value)) for name, value in entries.items())
    return found


def _users(have: _Facts, lack: _Facts) -> list[str]:
    def names(facts: _Facts) -> set[str]:
        return {str(fact[1]) for fact in facts[KINDS[2]] if isinstance(fact, tuple) and fact[0] == "user"}

    return sorted(names(have) - names(lack))

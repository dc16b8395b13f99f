"""The outbox of a server that sends reports on to its upstream (`serve --forward`), as the offline tools hold it.

- `verify_outbox` reads every file of it.
- `move_outbox` lets in one directory wait what waits in another one. Sending twice does no harm: the upstream answers
  the mapping that is in force. So what waits is kept wherever it may not have been sent.
- `repair_outbox` writes what is sound of it behind what is there, and then lets that count alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import orjson

from shardhash.admin.backup import copy_file
from shardhash.admin.verify import Verdict
from shardhash.base.text import counted
from shardhash.errors import DamageError, StorageError
from shardhash.outbox.files import FileJournal
from shardhash.outbox.reading import Findings, read_position, read_waiting
from shardhash.shard.storage.filesystem import FileSystem
from shardhash.shard.storage.layout import DAMAGED, OUTBOX, POSITION, list_shard, outbox_folders
from shardhash.shard.storage.recovery import Progress
from shardhash.stores.forwarding.records import decode_report

KINDS = ("waiting", "refused", "conflicts")
"""What the folders of an outbox hold, in their order."""


def verify_outbox(fs: FileSystem, directory: Path, verdict: Verdict, progress: Progress) -> None:
    """Read the outbox of a data directory or a backup, if it has one; a server may run."""
    for kind, folder in _present(fs, directory):
        progress(f"reading {folder}")
        names = fs.listdir(folder)
        verdict.counts["outbox"] += len(list_shard(fs, folder).segments) + (POSITION in names)
        verdict.remarks += [
            f"{folder / name} was damaged, and set aside when what is sound of it was sent; delete it when you like"
            for name in names
            if name.endswith(DAMAGED)
        ]
        findings = Findings()
        verdict.counts[kind] += 0
        for entry in read_waiting(fs, folder, findings):
            verdict.counts[kind] += 1
            if not _is_known(entry.payload):
                verdict.remarks.append(
                    f"{folder}: record {entry.number} is none that this version of shardhash knows; it is left out"
                )
        verdict.damage += findings.damage


def describe_outbox(counts: Counter[str]) -> str:
    """What an outbox holds, for a line; "" for none."""
    if "waiting" not in counts:
        return ""
    return (
        f"; outbox of {counted(counts['outbox'], 'file')}:"
        f" {counted(counts['waiting'], 'report waits', 'reports wait')},"
        f" {counted(counts['refused'], 'was', 'were')} refused, {counts['conflicts']:,} answered otherwise"
    )


def count_waiting(fs: FileSystem, directory: Path, until: int | None = None) -> int:
    """The reports that wait, or were refused: none of them is known to the upstream."""
    return sum(
        until is None or entry.time <= until
        for kind, folder in _present(fs, directory)
        for entry in (read_waiting(fs, folder, Findings()) if kind != "conflicts" else ())
    )


def move_outbox(
    source_fs: FileSystem,
    source: Path,
    fs: FileSystem,
    directory: Path,
    until: int | None,
    tell: Callable[[str], None],
) -> None:
    """Let in `directory` wait what waits in `source`, and nothing else; both may be the same.

    `until`: what was added later (microseconds) is left out. What is damaged there is left out, and told. StorageError
    when the disk refuses; what waited in `directory` then waits as before.
    """
    present = dict(_present(source_fs, source))
    for kind, target in zip(KINDS, outbox_folders(directory), strict=True):
        findings = Findings()
        origin = present.get(kind)
        found = iter(()) if origin is None else read_waiting(source_fs, origin, findings)
        kept = ((entry.time, entry.payload) for entry in found if until is None or entry.time <= until)
        try:
            if not fs.exists(target):
                if origin is None:
                    continue
                fs.mkdir(target.parent)
                fs.mkdir(target)
                fs.fsync_dir(target.parent)
                fs.fsync_dir(directory)
            journal = FileJournal(fs, target)
            if origin is not None and journal.note is None:
                journal.note = _note_of(source_fs, origin)
            journal.replace(kept)
            journal.close()
        except OSError as error:
            raise StorageError(f"{target} cannot be written: {error}") from error
        for text in findings.damage:
            tell(f"left out, for it is damaged: {text}")


def copy_outbox_aside(fs: FileSystem, directory: Path, aside: Path) -> None:
    """Copy all files of the outbox to a folder that is there, durably but for the name of its own. Raises OSError."""
    for _, folder in _present(fs, directory):
        target = aside / folder.relative_to(directory)
        fs.mkdir(target)
        for name in fs.listdir(folder):
            if not fs.is_folder(folder / name):
                copy_file(fs, folder / name, target / name)
        fs.fsync_dir(target)
    fs.fsync_dir(aside)


def repair_outbox(fs: FileSystem, directory: Path, lost: list[str], *, preview: bool) -> None:
    """Let what is sound of a damaged outbox count alone; the caller copied it aside. Raises StorageError, OSError.

    `preview`: only find what is lost.
    """
    for kind, folder in _present(fs, directory):
        before = Findings()
        for _ in read_waiting(fs, folder, before):
            pass
        if not before.damage:
            continue
        if not preview:
            _keep_sound(fs, folder)
        if before.missing:
            lost.append(f"{folder}: {counted(before.missing, 'report')} ({kind}) cannot be read")
        elif any(POSITION not in text for text in before.damage):
            lost.append(f"{folder}: what its damaged bytes held ({kind}), if it was not sent before")


def _keep_sound(fs: FileSystem, folder: Path) -> None:
    journal = FileJournal(fs, folder)
    journal.replace((entry.time, entry.payload) for entry in read_waiting(fs, folder, Findings()))
    journal.close()
    after = Findings()
    for _ in read_waiting(fs, folder, after):
        pass
    if after.damage:
        raise StorageError("what was repaired does not verify: " + "; ".join(after.damage))


def _present(fs: FileSystem, directory: Path) -> list[tuple[str, Path]]:
    """The folders of the outbox that are there, by what they hold."""
    if not fs.exists(directory / OUTBOX):
        return []
    return [pair for pair in zip(KINDS, outbox_folders(directory), strict=True) if fs.exists(pair[1])]


def _is_known(payload: bytes) -> bool:
    try:
        return decode_report(payload) is not None
    except (orjson.JSONDecodeError, IndexError, TypeError, ValueError):
        return False


def _note_of(fs: FileSystem, folder: Path) -> object:
    try:
        position = read_position(fs, folder)
    except DamageError:
        return None
    return None if position is None else position.note

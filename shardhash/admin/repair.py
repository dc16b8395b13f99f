"""Repair: of a damaged data directory, everything that is sound, as a new generation.

1. What `verify` finds decides whether there is anything to do; a directory without damage is left alone.
2. Everything that is there is copied to ``aside-TIME`` in the data directory, and stays until somebody removes it.
3. Each shard is read as a start would read it. Where that fails, the newest sound snapshot is loaded (without any, the
   sound lines of the newest), and every sound record of the log that follows is applied. What is lost is said; a
   preview does no more than this.
4. A siginfo text that cannot be read is left out of its row. The index is made anew from the rows, and every key goes
   to the shard where it belongs.
5. The result is written as the next generation and verified; then it replaces the old one at once, by the manifest, and
   only then the old one goes. A repair that is killed is run again.
6. In a damaged outbox, the sound reports that wait are written behind what is there, and count alone from then on.
   One without damage is left as it is, and so are shards without damage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from shardhash.admin.backup import copy_file
from shardhash.admin.directory import new_aside, replacement
from shardhash.admin.outbox import copy_outbox_aside, repair_outbox, verify_outbox
from shardhash.admin.verify import Verdict, verify
from shardhash.errors import ConfigError, DamageError, StorageError
from shardhash.shard.directory.generations import generation_names
from shardhash.shard.directory.manifest import Manifest, check_folders, read_manifest
from shardhash.shard.directory.reshard import reshard
from shardhash.shard.state.table import Table
from shardhash.shard.storage import log, snapshot, snapshot_chunks
from shardhash.shard.storage.filesystem import FileSystem
from shardhash.shard.storage.layout import MANIFEST, generation_folder, list_shard, segment_path, snapshot_path
from shardhash.shard.storage.recovery import Progress, ignore_progress, log_is_all, recover
from shardhash.shard.storage.siginfo import read_siginfo


@dataclass(slots=True)
class Repaired:
    """What a repair did: `damage` it found, what is `lost`, how much is `saved` (`Table.counts`), the folder `aside`.

    `aside` is None when it changed nothing; then `lost` and `saved` are what they would be.
    """

    damage: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    saved: Counter[str] = field(default_factory=Counter)
    aside: Path | None = None


def repair(fs: FileSystem, directory: Path, stamp: str | None, progress: Progress) -> Repaired:
    """Make a data directory whole again; only look when `stamp`, which names the folder of copies, is None.

    The caller holds its lock. ConfigError when it is not a data directory, StorageError when the disk refuses.
    """
    try:
        manifest, damage = _find_manifest(fs, directory)
        found = verify(fs, manifest.folders(directory), progress)
        damage += found.damage
        outbox = Verdict()
        verify_outbox(fs, directory, outbox, progress)
        result = Repaired(damage + outbox.damage, saved=found.counts)
        if not result.damage:
            return result
        if stamp is not None:
            result.aside = new_aside(fs, directory, stamp)
            copy_outbox_aside(fs, directory, result.aside)
            _copy_aside(fs, directory, result.aside, progress)
        if damage:
            work = _preview if stamp is None else _rebuild
            result.saved = work(fs, directory, manifest, result.lost, progress)
        repair_outbox(fs, directory, result.lost, preview=stamp is None)
    except OSError as error:
        raise StorageError(f"{directory} cannot be repaired: {error}") from error
    return result


def _preview(fs: FileSystem, directory: Path, old: Manifest, lost: list[str], progress: Progress) -> Counter[str]:
    """Read what `_rebuild` would; how much it would save."""
    reader, saved = _Salvage(lost.append), Counter[str]()
    for folder in old.folders(directory):
        table = reader.read_table(fs, folder, progress)
        for reference in table.siginfo_references():
            reader.read_text(fs, folder, reference)
        saved.update(table.counts())
    return saved


def _rebuild(fs: FileSystem, directory: Path, old: Manifest, lost: list[str], progress: Progress) -> Counter[str]:
    """Write everything that is sound as the next generation; how much that is."""
    reader = _Salvage(lost.append)
    with replacement(fs, directory, old.shards) as new:
        reshard(
            fs,
            old.folders(directory),
            new,
            progress,
            read=reader.read_table,
            read_text=reader.read_text,
            reindex=True,
        )
        verdict = verify(fs, new, progress)
        if verdict.damage:
            raise StorageError("what was repaired does not verify: " + "; ".join(verdict.damage))
    return verdict.counts


def _find_manifest(fs: FileSystem, directory: Path) -> tuple[Manifest, list[str]]:
    """The manifest, if need be by the folders that are there; and what is wrong with it."""
    try:
        manifest = read_manifest(fs, directory)
        damage = f"{directory / MANIFEST}: it is missing"
        if manifest is not None:
            check_folders(fs, directory, manifest)
            return manifest, []
    except DamageError as error:
        manifest, damage = None, str(error)
        with suppress(DamageError):
            manifest = read_manifest(fs, directory)
    if manifest is not None and fs.exists(generation_folder(directory, manifest.generation)):
        found = _manifest_of(fs, directory, generation_folder(directory, manifest.generation).name)
        if found is None or found.shards < manifest.shards:
            return manifest, [damage]  # shards are missing, which the manifest knows
    candidates = [
        found for name in generation_names(fs, directory) if (found := _manifest_of(fs, directory, name)) is not None
    ]
    if not candidates:
        raise ConfigError(f"{directory} is not a data directory: it has neither a {MANIFEST} nor shards")
    # Several are there when a replacement was cut short. Of the whole ones the newest counts: one that is not finished
    # has shards without their first snapshot, and one that is being removed has lost files.
    for candidate in reversed(candidates):
        if not verify(fs, candidate.folders(directory), ignore_progress).damage:
            return candidate, [damage]
    if len(candidates) > 1:
        raise ConfigError(f"{directory} has several generations, all damaged; move all but one aside, and repair again")
    return candidates[0], [damage]


def _manifest_of(fs: FileSystem, directory: Path, name: str) -> Manifest | None:
    """What the folder of a generation says by the folders in it."""
    number = name.removeprefix("generation-")
    if generation_folder(directory, int(number)).name != name:
        return None
    shards = [folder for folder in fs.listdir(directory / name) if folder.startswith("shard-")]
    manifest = Manifest(len(shards), int(number))
    return manifest if shards and [path.name for path in manifest.folders(directory)] == shards else None


def _copy_aside(fs: FileSystem, directory: Path, aside: Path, progress: Progress) -> None:
    """Copy all generations and the manifest to a new folder, durably."""
    if fs.exists(directory / MANIFEST):
        copy_file(fs, directory / MANIFEST, aside / MANIFEST)
    for generation in generation_names(fs, directory):
        fs.mkdir(aside / generation)
        for shard in fs.listdir(directory / generation):
            fs.mkdir(aside / generation / shard)
            for name in fs.listdir(directory / generation / shard):
                copy_file(fs, directory / generation / shard / name, aside / generation / shard / name)
            fs.fsync_dir(aside / generation / shard)
        fs.fsync_dir(aside / generation)
    fs.fsync_dir(aside)
    fs.fsync_dir(directory)
    progress(f"everything that was there is copied to {aside}")


class _Salvage:
    """Reads shards that may be damaged, and tells what is lost."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    def read_table(self, fs: FileSystem, folder: Path, progress: Progress) -> Table:
        """The state of a shard, or what is left of it."""
        try:
            return recover(fs, folder, progress).table
        except DamageError as error:
            progress(f"{error}; taking what is sound")
        if not fs.exists(folder):
            self._tell(f"{folder}: the shard is missing, with all that was in it")
            return Table()
        listing = list_shard(fs, folder)
        table, start, due = self._read_snapshots(fs, folder, listing.snapshots)
        for number in range(start, max(listing.segments, default=start) + 1):
            if number in listing.segments:
                due = self._apply_segment(fs, segment_path(folder, number), table, due)
            else:
                self._tell(f"{segment_path(folder, number)}: the segment is missing, with all of its records")
        return table

    def read_text(self, fs: FileSystem, folder: Path, reference: int) -> str | None:
        """A siginfo text; None in the place of one that cannot be read."""
        try:
            return read_siginfo(fs, folder, reference)
        except DamageError as error:
            self._tell(f"{error}; its row stays, without the text")
            return None

    def _read_snapshots(self, fs: FileSystem, folder: Path, numbers: list[int]) -> tuple[Table, int, int]:
        """The table of the newest sound snapshot, else of the sound lines of the newest; segment and record due."""
        for number in reversed(numbers):
            path = snapshot_path(folder, number)
            table = Table()
            try:
                head = snapshot.read_head(fs, path)
                snapshot.load_snapshot(fs, path, table)
            except DamageError:
                continue
            return table, head.segment, head.number
        listing = list_shard(fs, folder)
        if log_is_all(listing):
            return Table(), 1, 1
        if not numbers:
            first = listing.segments[0] if listing.segments else 1
            self._tell(f"{snapshot_path(folder, first)}: the snapshot is missing, with all that was in it")
            return Table(), first, 0
        path = snapshot_path(folder, numbers[-1])
        self._tell(f"{path}: no snapshot verifies; of this one, the lines that are damaged are lost")
        table = Table()
        for chunk in snapshot.read_sound_chunks(fs, path):
            try:
                snapshot_chunks.load(table, chunk)
            except snapshot_chunks.MALFORMED as error:
                self._tell(f"{path}: a line is sound but cannot be loaded: {error!r}")
        return table, numbers[-1], 0

    def _apply_segment(self, fs: FileSystem, path: Path, table: Table, due: int) -> int:
        """Apply the sound records of a segment; the number of the next record. `due` 0: it is not known."""
        due = self._tell_gap(path, due, log.first_number(fs, path) or due)
        for entry in log.read_sound_entries(fs, path):
            if entry.number < due:
                continue  # applied already
            self._tell_gap(path, due, entry.number)
            try:
                table.apply(orjson.loads(entry.payload))
            except snapshot_chunks.MALFORMED as error:
                self._tell(f"{path}: record {entry.number} is sound but cannot be applied: {error!r}")
            due = entry.number + 1
        return due

    def _tell_gap(self, path: Path, due: int, number: int) -> int:
        if due and number > due:
            last = number - 1
            what = f"record {due} is" if due == last else f"{last - due + 1:,} records, {due} to {last}, are"
            self._tell(f"{path}: {what} lost")
        return max(due, number)

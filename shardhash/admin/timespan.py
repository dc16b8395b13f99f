"""The timespan for which the files of shards tell the state, in microseconds since 1970 UTC."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from shardhash.base.timestamps import to_iso
from shardhash.errors import ConfigError, StorageError
from shardhash.shard.storage.filesystem import FileSystem
from shardhash.shard.storage.layout import list_shard, segment_path, snapshot_path
from shardhash.shard.storage.log import Tail, first_number, last_time, read_segment
from shardhash.shard.storage.recovery import log_is_all
from shardhash.shard.storage.snapshot import read_end

ATTEMPTS = 10
"""How often a shard is looked at anew while a live server changes its files."""


def text_of(time: int) -> str:
    """A time as ISO 8601, to the second."""
    return to_iso(time, "seconds")


def check_time(fs: FileSystem, source: Path, folders: Sequence[Path], until: int, last: int | None) -> None:
    """ConfigError for a time before the first record that is kept or after the last; `last` if that is known."""
    first = earliest_time(fs, folders) or _first_record(fs, folders)
    if last is None:
        last = latest_time(fs, folders)
    if not last:
        raise ConfigError(f"{source} holds no records; there is no earlier state to go back to")
    if until < first:
        raise ConfigError(f"{source} goes back to {to_iso(first)}, not to {to_iso(until)}")
    if until > last:
        raise ConfigError(
            f"{source} ends at {to_iso(last)}, before {to_iso(until)}; leave --until out for its newest state"
        )


def earliest_time(fs: FileSystem, folders: Iterable[Path]) -> int:
    """The earliest time to which all these shards can be restored; 0 when that is their beginning."""
    times = [0]
    for folder in folders:
        listing = list_shard(fs, folder)
        if listing.snapshots and not log_is_all(listing):
            times.append(read_end(fs, snapshot_path(folder, listing.snapshots[0])).time)
    return max(times)


def latest_time(fs: FileSystem, folders: Iterable[Path]) -> int:
    """The time of the last record, or of the end of a snapshot behind which there is none; 0 for neither.

    A server may write meanwhile.
    """
    return max((_latest_of(fs, folder) for folder in folders), default=0)


def _latest_of(fs: FileSystem, folder: Path) -> int:
    for _ in range(ATTEMPTS):
        try:
            return _latest_of_files(fs, folder)
        except FileNotFoundError:
            continue  # a snapshot was finished meanwhile, and what it replaces is gone
    raise StorageError(f"the files of {folder} change too fast to be read")


def _latest_of_files(fs: FileSystem, folder: Path) -> int:
    listing = list_shard(fs, folder)
    for number in reversed(listing.segments):
        last = last_time(fs, segment_path(folder, number))
        if last:
            return last
    return read_end(fs, snapshot_path(folder, listing.snapshots[-1])).time if listing.snapshots else 0


def _first_record(fs: FileSystem, folders: Iterable[Path]) -> int:
    """The time of the first record of all shards whose log tells everything; 0 without any."""
    times = []
    for folder in folders:
        segments = list_shard(fs, folder).segments
        for number in segments:
            first = next(iter(_times(fs, folder, number, newest=number == segments[-1])), None)
            if first is not None:
                times.append(first)
                break
    return min(times, default=0)


def _times(fs: FileSystem, folder: Path, number: int, *, newest: bool) -> list[int]:
    """The times of the records of a segment. Raises DamageError."""
    path = segment_path(folder, number)
    due = first_number(fs, path) or 0
    return [entry.time for entry in read_segment(fs, path, due, newest=newest, tail=Tail())]

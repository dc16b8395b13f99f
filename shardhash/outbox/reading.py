"""Journals read from their files alone, while another process may add to them or take from them.

Changes nothing. Where `FileJournal` skips what is damaged and goes on, this says where the damage is, and how many
records are missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import orjson

from shardhash.errors import DamageError
from shardhash.outbox.journal import Place
from shardhash.shard.storage.filesystem import FileSystem
from shardhash.shard.storage.layout import POSITION, list_shard, segment_path
from shardhash.shard.storage.log import (
    HEADER_SIZE,
    HINT,
    Entry,
    Tail,
    first_number,
    read_segment,
    read_sound_entries,
)


class Position(NamedTuple):
    """How far a journal was taken: where the next record begins, its number, and a JSON value."""

    place: Place
    number: int
    note: Any


@dataclass(slots=True)
class Findings:
    """What is wrong with a journal, in words, and how many records it lacks for certain."""

    damage: list[str] = field(default_factory=list)
    missing: int = 0


def checksum_of(position: Any) -> str:
    """The checksum of a position's JSON value."""
    return f"{crc32(orjson.dumps(position, option=orjson.OPT_SORT_KEYS)):08x}"


def read_position(fs: FileSystem, folder: Path, name: str = POSITION) -> Position | None:
    """How far a journal was taken; None when nothing says so. DamageError when the file is not sound."""
    if name not in fs.listdir(folder):
        return None
    path = folder / name
    with fs.read(path) as file:
        text = file.read()
    try:
        found = orjson.loads(text)
        position = found["position"]
        if found["checksum"] != checksum_of(position):
            raise ValueError
        place = Place(int(position["segment"]), int(position["offset"]))
        return Position(place, int(position["number"]), position["note"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        what = "it is damaged: what was sent from the oldest file on is sent again, which does no harm"
        raise DamageError(path, 0, what, HINT) from None


def read_waiting(fs: FileSystem, folder: Path, findings: Findings) -> Iterator[Entry]:
    """The sound records that are not taken, oldest first; every file of the journal is read on the way.

    Memory: one segment. A file that is taken meanwhile is left out, and so is one that is begun after the call.
    """
    # The position comes first: when it is older than the files, some of what was taken comes again.
    position = _find_position(fs, folder, findings)
    segments = list_shard(fs, folder).segments
    while position is not None and segments and segments[0] > position.place.segment:
        later = _find_position(fs, folder, Findings())
        if later is None or later == position:
            break
        position, segments = later, list_shard(fs, folder).segments  # its segment was taken between the two
    return _read_segments(fs, folder, position, segments, findings)


def _read_segments(
    fs: FileSystem, folder: Path, position: Position | None, segments: list[int], findings: Findings
) -> Iterator[Entry]:
    due = 0 if position is None else position.number
    for segment in segments:
        path = segment_path(folder, segment)
        try:
            entries, sound = _read_entries(fs, path, newest=segment == segments[-1], findings=findings)
        except FileNotFoundError:
            later = _find_position(fs, folder, Findings())
            if later is None or later.place.segment <= segment:
                findings.damage.append(f"{path}: is missing")
            else:
                position, due = later, max(due, later.number)
            continue
        if position is not None and segment <= position.place.segment:
            entries = _behind(position, segment, entries, sound=sound, path=path, findings=findings)
        for entry in entries:
            if due and entry.number > due:
                findings.missing += entry.number - due
                findings.damage.append(
                    f"{path}: {entry.number - due} records are missing before record {entry.number} ({HINT})"
                )
            due = max(due, entry.number + 1)
            yield entry


def _find_position(fs: FileSystem, folder: Path, findings: Findings) -> Position | None:
    try:
        return read_position(fs, folder)
    except DamageError as error:
        findings.damage.append(str(error))
        return None


def _read_entries(fs: FileSystem, path: Path, *, newest: bool, findings: Findings) -> tuple[list[Entry], bool]:
    """The sound records of a segment, and whether that is all of them."""
    entries: list[Entry] = []
    try:
        entries.extend(read_segment(fs, path, first_number(fs, path) or 0, newest=newest, tail=Tail()))
    except DamageError as error:
        findings.damage.append(str(error))
        return list(read_sound_entries(fs, path)), False
    return entries, True


def _behind(
    position: Position, segment: int, entries: list[Entry], *, sound: bool, path: Path, findings: Findings
) -> list[Entry]:
    """Those of the records up to the segment of the position that are not taken."""
    if segment < position.place.segment:
        return []
    offset = position.place.offset
    behind = [entry for entry in entries if entry.end > offset]
    if sound and behind and offset not in {HEADER_SIZE, *(entry.end for entry in entries)}:
        findings.damage.append(f"{path.with_name(POSITION)}: no record begins at byte {offset} of {path.name} ({HINT})")
    return behind

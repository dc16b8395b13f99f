"""Each byte of each file flipped and each length cut, the whole shard opened after it: never a silently other state.

test_damage.py asks each reader what it sees. Here a shard is opened as a start does, and there are three outcomes:
DamageError; the right state; or, with a remark, the state without the last group, whose sync no later record knows of.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from shardhash.errors import DamageError
from shardhash.shard.state.records import Record
from shardhash.shard.state.table import Table
from shardhash.shard.storage.layout import list_shard, segment_path, siginfo_path, snapshot_path
from shardhash.shard.storage.recovery import Shard, begin_shard, open_shard
from tests.shard.faulty import FaultyFileSystem

pytestmark = pytest.mark.once

FOLDER = Path("/shard-000")
TEXT = "siginfo text"
GROUPS: list[list[Record]] = [
    [("map", "m", "a", "11" * 32, ""), ("map", "m", "b", "22" * 32, "A")],
    [("map", "m", "c", "33" * 32, ""), ("set", "user", "u", {"p": 1})],
    [("unmap", "m", ["a"])],
    [("map", "m", "d", "44" * 32, ""), ("mark", "B", "m", ["c"])],
]


class Image(NamedTuple):
    """The files of a killed shard, and what it had acknowledged, group by group."""

    files: dict[str, bytes]
    records: list[Record]
    last: int
    """Records of the last group."""


def image(snapshots: tuple[int, ...] = ()) -> Image:
    """Two segments: the second begins with group 2. `snapshots`: the groups after which one is written."""
    fs = FaultyFileSystem()
    begin_shard(fs, FOLDER)
    shard = open_shard(fs, FOLDER)
    records: list[Record] = []
    reference = shard.put_siginfo(TEXT)
    groups = [list(group) for group in GROUPS]
    groups[0].append(("row", "m", "a", "out", 1, *[None] * 5, reference, None, ""))
    for number, group in enumerate(groups):
        if number == 2:
            assert shard._log is not None
            shard._log.rotate()
        shard.append(group)
        shard.sync()
        for record in group:
            shard.table.apply(record)
        records += group
        if number in snapshots:
            job = shard.begin_snapshot()
            while job.step():
                pass
            while job.seal():
                pass
    files = {name: bytes(fs.file(FOLDER / name).data) for name in fs.listdir(FOLDER)}
    return Image(files, records, len(groups[-1]))


def opened(files: dict[str, bytes]) -> tuple[Shard, list[str]]:
    """A start on these files, and what it said."""
    fs = FaultyFileSystem()
    fs.mkdir(FOLDER)
    for name, data in files.items():
        fs.create(FOLDER / name).write(data, 0)
    said: list[str] = []
    return open_shard(fs, FOLDER, progress=said.append), said


def digest_of(records: list[Record]) -> str:
    table = Table()
    for record in records:
        table.apply(record)
    return table.digest()


def damages(data: bytes) -> Iterator[bytes]:
    """One byte flipped, in one bit and in all; cut; a byte too many; a byte fewer within; a hole of zeros."""
    for at in range(len(data)):
        for mask in (1 << at % 8, 0xFF):
            yield data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]
        yield data[:at]
        yield data[:at] + data[at + 1 :]
    for at in range(0, len(data), 16):
        hole = data[:at] + bytes(min(16, len(data) - at)) + data[at + 16 :]
        if hole != data:
            yield hole


def sorts(whole: Image, name: str, *, damage: bytes | None = None) -> str:
    """The outcome of one damage: "refused", "right", or "cut" with its remark; anything else fails."""
    files = dict(whole.files)
    if damage is None:
        del files[name]
    else:
        files[name] = damage
    try:
        shard, said = opened(files)
    except DamageError as error:
        return "refused" if error.hint else f"refused without a hint: {error}"
    shard.table.check()
    found = shard.table.digest()
    if found == digest_of(whole.records):
        return "right"
    assert any("did not finish" in text for text in said), said
    acknowledged = len(whole.records) - whole.last
    assert found in [digest_of(whole.records[:count]) for count in range(acknowledged, len(whole.records))]
    return "cut"


def test_the_images_are_what_they_are_taken_for() -> None:
    whole = image()
    shard, said = opened(whole.files)
    assert shard.table.digest() == digest_of(whole.records)
    assert not [text for text in said if "not" in text]
    assert sorted(whole.files) == ["log-0000000001.log", "log-0000000002.log", "siginfo-0000000001.sig"]


def test_an_older_segment_is_never_read_otherwise() -> None:
    whole = image()
    name = segment_path(FOLDER, 1).name
    assert {sorts(whole, name, damage=data) for data in damages(whole.files[name])} == {"refused"}
    assert sorts(whole, name) == "refused"


def test_the_newest_segment_loses_its_last_group_at_most_and_says_so() -> None:
    """All before that group was synced before it was written, and it says so: to lose more is refused."""
    whole = image()
    name = segment_path(FOLDER, 2).name
    data = whole.files[name]
    outcomes: dict[str, int] = {}
    for changed in damages(data):
        if data.startswith(changed):
            continue  # a shorter file is what test_a_shorter_newest_segment is about
        outcome = sorts(whole, name, damage=changed)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    assert set(outcomes) == {"refused", "cut"}


def test_a_shorter_newest_segment() -> None:
    """Cut anywhere, some first part of it is read, never another state; between records alone nothing can be said."""
    whole = image()
    name = segment_path(FOLDER, 2).name
    data = whole.files[name]
    states = [digest_of(whole.records[:count]) for count in range(len(whole.records) + 1)]
    silent = 0
    for size in range(len(data)):
        shard, said = opened(whole.files | {name: data[:size]})
        assert shard.table.digest() in states
        silent += not any("did not finish" in text for text in said)
    assert silent == len(GROUPS[2] + GROUPS[3]) + 1  # behind the header and each record but the last; and no byte


@pytest.mark.parametrize("which", ["newest", "older"])
def test_a_damaged_snapshot_changes_nothing(which: str) -> None:
    """The one before it serves, with the log, and people are told; an older one is not even looked at."""
    whole = image(snapshots=(1, 2))
    numbers = sorted(int(name[9:19]) for name in whole.files if name.startswith("snapshot"))
    assert len(numbers) == 2
    name = snapshot_path(FOLDER, numbers[-1 if which == "newest" else 0]).name
    for changed in damages(whole.files[name]):
        shard, said = opened(whole.files | {name: changed})
        assert shard.table.digest() == digest_of(whole.records)
        assert any("does not verify" in text for text in said) == (which == "newest")


def test_no_snapshot_verifies() -> None:
    """While the whole log is still there the state is right, and people are told; without its beginning none starts."""
    whole = image(snapshots=(1,))
    (name,) = (name for name in whole.files if name.startswith("snapshot"))
    for changed in damages(whole.files[name]):
        shard, said = opened(whole.files | {name: changed})
        assert shard.table.digest() == digest_of(whole.records)
        assert any("does not verify" in text for text in said)
    whole = image(snapshots=(0, 1, 2))
    assert segment_path(FOLDER, 1).name not in whole.files
    older, newest = sorted(name for name in whole.files if name.startswith("snapshot"))
    without = Image(whole.files | {older: b""}, whole.records, whole.last)
    assert {sorts(without, newest, damage=data) for data in damages(whole.files[newest])} == {"refused"}


def test_a_damaged_siginfo_file_is_seen_when_its_text_is_asked_for() -> None:
    """The table does not need it, so the shard starts; the text is whole or refused."""
    whole = image()
    name = siginfo_path(FOLDER, 1).name
    data = whole.files[name]
    for changed in [*damages(data), None]:
        files = {other: content for other, content in whole.files.items() if other != name}
        shard, _ = opened(files | ({} if changed is None else {name: changed}))
        assert shard.table.digest() == digest_of(whole.records)
        (row,) = shard.table.rows("m", "a")
        try:
            text = shard.get_siginfo(row.siginfo)
        except DamageError:
            continue
        assert text == TEXT
        assert changed is not None
        assert changed[8:] == data[8:]  # only the header, which no reader of a text looks at, is damaged


def test_listing_is_by_name_alone() -> None:
    """Files of other names are left alone."""
    whole = image()
    fs = FaultyFileSystem()
    fs.mkdir(FOLDER)
    for name, data in (
        whole.files | {"log-1.log": b"x", "notes.txt": b"y", "snapshot-0000000001.snap.damaged": b""}
    ).items():
        fs.create(FOLDER / name).write(data, 0)
    assert list_shard(fs, FOLDER).segments == [1, 2]
    assert open_shard(fs, FOLDER).table.digest() == digest_of(whole.records)
    assert fs.exists(FOLDER / "notes.txt")

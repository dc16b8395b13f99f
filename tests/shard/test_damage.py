"""Every byte of a log and of a snapshot flipped, every length cut: detected, and never silently skipped."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from shardhash.errors import DamageError, StorageError
from shardhash.shard.state.table import Table
from shardhash.shard.storage import snapshot, snapshot_chunks
from shardhash.shard.storage.layout import list_shard, segment_path, snapshot_path
from shardhash.shard.storage.siginfo import read_siginfo
from tests.shard.faulty import FaultyFileSystem
from tests.shard.life import FOLDER, Life


def lived(close: bool = True, snapshots: int = 0) -> tuple[Life, FaultyFileSystem]:
    fs = FaultyFileSystem()
    life = Life(fs)
    life.begin()
    life.open()
    for number in range(3):
        life.report(2, siginfo=number == 1)
        if number < snapshots:
            life.snapshot()
    if close:
        assert life.shard is not None
        life.shard.close()
    return life, fs


def flips(fs: FaultyFileSystem, path: Path) -> list[Callable[[], None]]:
    """A change for each byte of a file; the bytes before are put back by the next one."""
    data = bytes(fs.file(path).data)

    def flip(at: int) -> None:
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        fs.file(path).data = changed

    return [lambda at=at: flip(at) for at in range(len(data))]  # type: ignore[misc]


def cuts(fs: FaultyFileSystem, path: Path) -> list[Callable[[], None]]:
    data = bytes(fs.file(path).data)

    def cut(size: int) -> None:
        fs.file(path).data = bytearray(data[:size])

    return [lambda size=size: cut(size) for size in range(len(data))]  # type: ignore[misc]


@pytest.mark.parametrize("kind", [flips, cuts])
def test_every_damage_to_a_segment_of_a_stopped_shard_is_seen(kind: Callable[..., list[Callable[[], None]]]) -> None:
    life, fs = lived()
    *full, last = list_shard(fs, FOLDER).segments
    assert len(full) > 1
    for number in full:
        path = segment_path(FOLDER, number)
        before = bytes(fs.file(path).data)
        for damage in kind(fs, path):
            damage()
            with pytest.raises(DamageError) as caught:
                life.open()
            assert caught.value.path in (path, segment_path(FOLDER, number + 1))  # the next one knows what is due
            assert "shardhash repair" in caught.value.hint or "too old" in caught.value.hint
        fs.file(path).data = bytearray(before)
    life.open()
    life.check()
    assert fs.size(segment_path(FOLDER, last)) == 20


def test_damage_to_the_newest_segment_is_refused_or_said() -> None:
    """Of a killed shard: what a later record proves durable is refused; the last write may be torn, which is said."""
    life, fs = lived(close=False)
    path = segment_path(FOLDER, list_shard(fs, FOLDER).segments[-1])
    before = {name: bytes(fs.file(FOLDER / name).data) for name in fs.listdir(FOLDER)}
    refused = said = 0
    for damage in flips(fs, path):
        damage()
        life.said.clear()
        try:
            life.open()
        except DamageError:
            refused += 1
        else:
            assert any("did not finish" in text for text in life.said)
            said += 1
        for name in fs.listdir(FOLDER):
            if name not in before:
                fs.unlink(FOLDER / name)
        for name, data in before.items():
            fs.file(FOLDER / name).data = bytearray(data)
    assert refused
    assert said


def test_a_record_that_a_later_one_knows_to_be_durable_is_refused() -> None:
    fs = FaultyFileSystem()
    life = Life(fs)
    life.begin()
    life.open()
    life.report()
    first = fs.size(segment_path(FOLDER, 1))
    life.report()
    path = segment_path(FOLDER, 1)
    for damage in flips(fs, path)[20:first]:
        damage()
        with pytest.raises(DamageError, match="acknowledged is damaged"):
            life.open()


@pytest.mark.parametrize("kind", [flips, cuts])
def test_every_damage_to_a_snapshot_is_seen(kind: Callable[..., list[Callable[[], None]]]) -> None:
    _, fs = lived(snapshots=1)
    path = snapshot_path(FOLDER, list_shard(fs, FOLDER).snapshots[-1])
    assert snapshot.read_head(fs, path).segment == list_shard(fs, FOLDER).snapshots[-1]
    for damage in kind(fs, path):
        damage()
        with pytest.raises(DamageError):
            snapshot.load_snapshot(fs, path, Table())
        with pytest.raises(DamageError):
            snapshot.check_snapshot(fs, path)


def test_a_snapshot_that_cannot_be_loaded_replaces_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its checksums are right: it is what was written, and what was written is wrong."""
    life, fs = lived(close=False, snapshots=2)
    assert life.shard is not None
    before = sorted(fs.listdir(FOLDER))
    freeze = snapshot_chunks.freeze
    bad = {"kind": "asked", "method": "m", "parts": {"7": ""}}

    def freeze_badly(table: Table) -> Iterator[Any]:
        yield from freeze(table)
        yield bad

    monkeypatch.setattr(snapshot_chunks, "freeze", freeze_badly)
    job = life.shard.begin_snapshot()
    while job.step():
        pass
    with pytest.raises(StorageError, match=r"does not read back.*at byte \d+: .* cannot be loaded.*out of order"):
        deque(iter(job.seal, False))
    job.abandon()
    assert set(fs.listdir(FOLDER)) > set(before)
    assert not [name for name in set(fs.listdir(FOLDER)) - set(before) if "snap" in name]
    life.shard.close()
    life.open()
    life.check()


def test_a_snapshot_that_does_not_verify_is_set_aside_and_the_one_before_serves() -> None:
    life, fs = lived(snapshots=2)
    newest = list_shard(fs, FOLDER).snapshots[-1]
    flips(fs, snapshot_path(FOLDER, newest))[60]()
    life.open()
    life.check()
    assert any(f"snapshot {newest} does not verify" in text for text in life.said)
    assert fs.exists(FOLDER / (snapshot_path(FOLDER, newest).name + ".damaged"))


def test_without_a_snapshot_that_verifies_nothing_starts() -> None:
    life, fs = lived(snapshots=3)
    for number in list_shard(fs, FOLDER).snapshots:
        flips(fs, snapshot_path(FOLDER, number))[60]()
    with pytest.raises(DamageError, match="no snapshot verifies"):
        life.open()


def test_every_file_that_is_missing_is_missed() -> None:
    """But for the empty last segment, whose loss loses nothing, and an older snapshot or what only it needs."""
    life, fs = lived(snapshots=2)
    listing = list_shard(fs, FOLDER)
    for number in listing.segments:
        if number >= listing.snapshots[-1] and fs.size(segment_path(FOLDER, number)) > 20:
            node = fs.folder(FOLDER).names.pop(segment_path(FOLDER, number).name)
            with pytest.raises(DamageError, match="missing"):
                life.open()
            fs.folder(FOLDER).names[segment_path(FOLDER, number).name] = node
    fs.folder(FOLDER).names.clear()
    with pytest.raises(DamageError, match="missing"):
        life.open()


def test_every_damage_to_a_siginfo_text_is_seen() -> None:
    life, fs = lived()
    assert life.shard is not None
    (reference,) = {row[10] for row in life.acknowledged[2:3]}
    path = FOLDER / "siginfo-0000000001.sig"
    end = (life.acknowledged[3][10] & ((1 << 40) - 1)) - 1
    whole = bytes(fs.file(path).data)
    text = read_siginfo(fs, FOLDER, reference)
    for damage in flips(fs, path)[8 : end + 1]:
        damage()
        with pytest.raises(DamageError, match="damaged"):
            read_siginfo(fs, FOLDER, reference)
    fs.file(path).data = bytearray(whole)
    assert read_siginfo(fs, FOLDER, reference) == text
    fs.unlink(path)
    with pytest.raises(DamageError, match="missing"):
        read_siginfo(fs, FOLDER, reference)


def test_a_file_of_a_newer_version_is_named_as_such() -> None:
    _, fs = lived(snapshots=1)
    path = snapshot_path(FOLDER, list_shard(fs, FOLDER).snapshots[-1])
    first = bytes(fs.file(path).data).split(b"\n", 1)[0]
    newer = first[9:].replace(b'"version":2', b'"version":3')
    assert newer != first[9:]
    fs.file(path).data[: len(first)] = b"%08x %b" % (crc32(newer, 0), newer)
    with pytest.raises(DamageError, match=r"version 3 .*too old"):
        snapshot.load_snapshot(fs, path, Table())


def test_a_snapshot_of_before_days_were_kept_is_refused_in_words() -> None:
    _, fs = lived(snapshots=1)
    path = snapshot_path(FOLDER, list_shard(fs, FOLDER).snapshots[-1])
    first = bytes(fs.file(path).data).split(b"\n", 1)[0]
    older = first[9:].replace(b'"version":2', b'"version":1')
    fs.file(path).data[: len(first)] = b"%08x %b" % (crc32(older, 0), older)
    with pytest.raises(DamageError, match=r"version 1 .*shardhash dump"):
        snapshot.load_snapshot(fs, path, Table())


def test_a_snapshot_restores_the_table() -> None:
    life, fs = lived(snapshots=3)
    table = Table()
    snapshot.load_snapshot(fs, snapshot_path(FOLDER, list_shard(fs, FOLDER).snapshots[-1]), table)
    assert life.shard is not None
    assert table.digest() == life.shard.table.digest()

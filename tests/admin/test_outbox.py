"""The outbox in the hands of the offline tools: what waits to be sent on is read, copied, moved, mended, never lost."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from shardhash.admin import backup as backup_module
from shardhash.admin import directory as directory_module
from shardhash.admin import restore as restore_module
from shardhash.admin.backup import backup, source_of
from shardhash.admin.outbox import move_outbox, repair_outbox, verify_outbox
from shardhash.admin.repair import repair
from shardhash.admin.restore import restore, restore_over
from shardhash.admin.verify import Verdict
from shardhash.errors import DamageError, StorageError
from shardhash.outbox import reading as reading_module
from shardhash.outbox.files import FileJournal
from shardhash.outbox.reading import Findings, read_waiting
from shardhash.shard.storage.filesystem import FileSystem, OsFileSystem
from shardhash.shard.storage.layout import outbox_folders
from shardhash.stores.forwarding.records import REFUSED, decode_report, encode_remark, encode_report
from shardhash.wire.rows import Report
from tests.admin.directories import Writer, hash_of, silent
from tests.shard.faulty import FaultyFileSystem, Survives, power_cuts

DATA, BACKUP, NEW = Path("/data"), Path("/backup"), Path("/new")
SEGMENT = 1500
"""Bytes of a segment: a few reports."""


def report(number: int) -> Report:
    return Report("sstate", hash_of("task", number), hash_of("out", number), hash_of("uni", number))


def add(fs: FileSystem, directory: Path, numbers: range, sent: int = 0) -> None:
    """Let these reports wait, added one second after the other; then `sent` of all that wait are sent."""
    waiting = FileJournal(fs, outbox_folders(directory)[0], SEGMENT)
    for number in numbers:
        waiting.append([encode_report(report(number))], number * 1_000_000, sync=True)
    if sent:
        waiting.take(waiting.read(None, sent, 1 << 20)[-1])
        waiting.note = ["a", "b", "", "c"]
        waiting.save()
    waiting.close()


def waiting(fs: FileSystem, directory: Path, kind: int = 0) -> list[int]:
    """The numbers of the reports that wait; there is no damage."""
    findings = Findings()
    folder = outbox_folders(directory)[kind]
    entries = list(read_waiting(fs, folder, findings)) if fs.exists(folder) else []
    assert findings.damage == []
    assert findings.missing == 0
    numbers = {report(number).taskhash: number for number in range(60)}
    return [numbers[found.taskhash] for entry in entries if (found := decode_report(entry.payload))]


def check(fs: FileSystem, directory: Path) -> Verdict:
    verdict = Verdict()
    verify_outbox(fs, directory, verdict, silent)
    return verdict


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """An outbox of several files: 20 reports wait, 2 were refused."""
    fs = OsFileSystem()
    (tmp_path / "outbox").mkdir()
    add(fs, tmp_path, range(25), sent=5)
    refused = FileJournal(fs, outbox_folders(tmp_path)[1])
    refused.append([encode_remark(REFUSED, "too long", report(number)) for number in (3, 4)], 1, sync=True)
    refused.close()
    return tmp_path


DAMAGE = {
    "a record": ("log-0000000003.log", 60, "a record is damaged or cut off", 1),
    "a head": ("log-0000000004.log", 5, "the header of the segment is damaged", 0),
    "the position": ("position.json", 20, "what was sent from the oldest file on is sent again", 0),
    "a file": ("log-0000000003.log", None, "records are missing before record", 6),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_found_and_repaired(what: str, data: Path) -> None:
    name, offset, words, lost = DAMAGE[what]
    fs = OsFileSystem()
    sound = check(fs, data)
    assert (sound.damage, sound.counts["waiting"], sound.counts["refused"]) == ([], 20, 2)
    assert sound.counts["outbox"] == len([path for path in (data / "outbox").rglob("*") if path.is_file()])
    path = data / "outbox" / name
    if offset is None:
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[offset] ^= 1
        path.write_bytes(content)
    found = check(fs, data)
    assert any(words in text and str(data / "outbox") in text for text in found.damage)
    assert "repair --data" in found.damage[0]
    texts: list[str] = []
    expected: list[str] = []
    before = {path: path.read_bytes() for path in (data / "outbox").rglob("*") if path.is_file()}
    repair_outbox(fs, data, expected, preview=True)
    assert {path: path.read_bytes() for path in (data / "outbox").rglob("*") if path.is_file()} == before
    repair_outbox(fs, data, texts, preview=False)
    assert texts == expected
    assert bool(texts) == (what != "the position")
    after = check(fs, data)
    assert after.damage == []
    # Without a position, those that were sent and are still there are sent again.
    assert len(set(range(5, 25)) - set(waiting(fs, data))) == lost
    assert after.counts["waiting"] >= 20 - lost
    assert after.counts["refused"] == 2
    journal = FileJournal(fs, data / "outbox", SEGMENT)
    assert journal.count == after.counts["waiting"], "the server finds the same"


def test_a_restore_takes_what_waited_before_a_time(data: Path, tmp_path: Path) -> None:
    fs, target = OsFileSystem(), tmp_path / "new"
    target.mkdir()
    move_outbox(fs, data, fs, target, 12_000_000, silent)
    assert waiting(fs, target) == list(range(5, 13))
    assert waiting(fs, target, 1) == [3, 4]
    assert FileJournal(fs, target / "outbox").note == ["a", "b", "", "c"], "what the upstream knows is known here"
    add(fs, target, range(30, 33))
    move_outbox(fs, target, fs, target, None, silent)
    assert waiting(fs, target) == [*range(5, 13), 30, 31, 32]
    move_outbox(fs, tmp_path / "nothing", fs, target, None, silent)
    assert waiting(fs, target) == []


# ------------------------------------------------------------------------------- a sender that is at work meanwhile


def advance_when_listed(monkeypatch: pytest.MonkeyPatch, module: ModuleType, when: str, batches: list[int]) -> None:
    """Whenever the outbox is listed, some more of it are sent, before or after the listing is made."""
    real, left = module.list_shard, iter(batches)

    def listed(fs: FileSystem, folder: Path) -> Any:
        found = real(fs, folder)
        if folder == DATA / "outbox" and (sent := next(left, 0)):
            add(fs, DATA, range(0), sent)
            return found if when == "after" else real(fs, folder)
        return found

    monkeypatch.setattr(module, "list_shard", listed)


@pytest.mark.usefixtures("folders_in_memory")
@pytest.mark.parametrize("batches", [[4], [4, 4]])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_backup_while_reports_are_sent_lacks_none(
    when: str, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    fs = filled()
    for first in (10, 12, 14):
        add(fs, DATA, range(first, first + 2))
    advance_when_listed(monkeypatch, backup_module, when, batches)
    backup(fs, DATA, BACKUP, silent)
    found = waiting(source_of(fs, BACKUP).fs, BACKUP)
    assert found == list(range(found[0], 16))
    assert 3 < found[0] <= 3 + sum(batches), "some that were sent may wait there, as their segment was copied before"
    assert not check(source_of(fs, BACKUP).fs, BACKUP).damage


@pytest.mark.usefixtures("folders_in_memory")
def test_a_backup_gives_up_when_all_is_sent_too_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    fs = filled()
    for first in range(10, 50, 2):
        add(fs, DATA, range(first, first + 2))
    advance_when_listed(monkeypatch, backup_module, "before", [8, *[2] * 15])
    with pytest.raises(StorageError, match="change too fast"):
        backup(fs, DATA, BACKUP, silent)
    assert waiting(source_of(fs, BACKUP).fs, BACKUP) == list(range(6)), "the one before is as it was"


@pytest.mark.usefixtures("folders_in_memory")
def test_a_backup_that_fails_leaves_the_position_of_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    fs = filled()
    backup(fs, DATA, BACKUP, silent)
    add(fs, DATA, range(0), sent=4)
    with monkeypatch.context() as patched:
        patched.setattr(backup_module._Copy, "finish", lambda *_: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(StorageError, match="full"):
            backup(fs, DATA, BACKUP, silent)
    assert waiting(source_of(fs, BACKUP).fs, BACKUP) == list(range(3, 10))
    backup(fs, DATA, BACKUP, silent)
    assert waiting(source_of(fs, BACKUP).fs, BACKUP) == list(range(7, 10))


@pytest.mark.usefixtures("folders_in_memory")
@pytest.mark.parametrize("when", ["before", "after"])
def test_reading_while_reports_are_sent_misses_none(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fs = filled()
    advance_when_listed(monkeypatch, reading_module, when, [4])
    assert waiting(fs, DATA) == list(range(7, 10))


# ---------------------------------------------------------------------------------------------------- power cuts


@pytest.fixture
def folders_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks and parents of folders are made without the file system of the test: do without them."""
    for module in (backup_module, directory_module, restore_module):
        monkeypatch.setattr(module, "lock_directory", lambda _directory: nullcontext())
        if hasattr(module, "make_directory"):
            monkeypatch.setattr(module, "make_directory", lambda fs, directory: fs.mkdir(directory))


def filled() -> FaultyFileSystem:
    """0 to 5 wait in a backup; of these 0 to 2 were sent since, and 6 to 9 came."""
    fs = FaultyFileSystem()
    for folder in (DATA, BACKUP, DATA / "outbox"):
        fs.mkdir(folder)
    writer = Writer(fs, DATA, 1)
    writer.fill(range(1, 3))
    add(fs, DATA, range(6))
    backup(fs, DATA, BACKUP, silent)
    writer.fill(range(3, 5))
    writer.close()
    add(fs, DATA, range(6, 10), sent=3)
    fs.root.sync()
    return fs


def cuts(act: Any, survives: Survives, begin: Any = filled) -> Iterator[FaultyFileSystem]:
    """The file system after a power cut before each operation of `act`, and at last after all of it."""
    number = 0
    for fs, _, number in power_cuts(lambda: ((begun := begin()), begun), act):
        fs.power_cut(survives, random.Random(number))
        yield fs
    assert number > 25


@pytest.mark.usefixtures("folders_in_memory")
@pytest.mark.parametrize("survives", ["synced", "part"])
def test_a_backup_that_is_cut_short_has_what_waits(survives: Survives) -> None:
    for fs in cuts(lambda fs: backup(fs, DATA, BACKUP, silent), survives):
        listed = source_of(fs, BACKUP).fs
        assert {3, 4, 5} <= set(waiting(listed, BACKUP))
        backup(fs, DATA, BACKUP, silent)
        assert waiting(source_of(fs, BACKUP).fs, BACKUP) == list(range(3, 10))
        assert waiting(fs, BACKUP) == list(range(3, 10)), "nothing else is left there"
        restore(fs, BACKUP, NEW, None, silent)
        assert waiting(fs, NEW) == list(range(3, 10))


@pytest.mark.usefixtures("folders_in_memory")
@pytest.mark.parametrize("survives", ["synced", "part"])
def test_a_restore_that_is_cut_short_loses_nothing_that_waits(survives: Survives) -> None:
    def act(fs: FaultyFileSystem) -> None:
        restore_over(fs, BACKUP, DATA, None, "1", silent)

    before, after = set(range(3, 10)), set(range(6))
    for fs in cuts(act, survives):
        found = set(waiting(fs, DATA))
        aside = DATA / "aside-1"
        assert found >= before or (found == after and set(waiting(fs, aside)) == before)
        restore_over(fs, BACKUP, DATA, None, "2", silent)
        assert set(waiting(fs, DATA)) == after
        # A first one that was cut short while it put things aside leaves a part of them there; the second has them all.
        assert set(waiting(fs, DATA / "aside-2" if found >= before else aside)) >= before


@pytest.mark.usefixtures("folders_in_memory")
@pytest.mark.parametrize("survives", ["synced", "part"])
def test_a_repair_that_is_cut_short_loses_nothing_that_is_sound(survives: Survives) -> None:
    def damaged() -> FaultyFileSystem:
        fs = filled()
        file = fs.file(DATA / "outbox" / "log-0000000002.log")
        file.put(b"?", 60)
        fs.root.sync()
        return fs

    with pytest.raises(DamageError, match=r"log-0000000002\.log.*repair"):
        backup(damaged(), DATA, BACKUP, silent)
    sound = set(range(3, 10))
    for fs in cuts(lambda fs: repair(fs, DATA, "1", silent), survives, damaged):
        repair(fs, DATA, "2", silent)
        assert sound - set(waiting(fs, DATA)) <= {3, 4, 5}
        assert len(sound - set(waiting(fs, DATA))) <= 1
        assert not check(fs, DATA).damage

"""Backups: of a stopped and of a live server, brought up to date, cut short, and never worth less than the last one."""

from __future__ import annotations

import io
import os
import random
import shutil
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

import orjson
import pytest

from shardhash.admin import backup as backup_module
from shardhash.admin.backup import backup, source_of
from shardhash.admin.restore import restore
from shardhash.admin.verify import verify
from shardhash.client import create_client
from shardhash.errors import ConfigError, DamageError, StorageError
from shardhash.shard.storage import recovery
from shardhash.shard.storage.filesystem import OsFileSystem
from shardhash.shard.storage.layout import BACKUP, list_shard, segment_path
from shardhash.shard.storage.log import LogWriter, Tail, read_segment
from tests.admin.directories import METHOD, Writer, facts, hash_of, silent
from tests.servers import ServerProcess
from tests.shard.faulty import FaultyFileSystem, Survives, power_cuts

FS = OsFileSystem()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def restored(backup_: Path, target: Path) -> set[bytes]:
    restore(FS, backup_, target, None, silent)
    return facts(FS, target)


def test_only_what_changed_is_copied_again(data: Path, tmp_path: Path) -> None:
    target = tmp_path / "backup"
    writer = Writer(FS, data)
    writer.fill(range(1, 60))
    writer.snapshot()
    writer.fill(range(60, 100))
    first = backup(FS, data, target, silent)
    assert first.kept == 0
    assert restored(target, tmp_path / "one") == facts(FS, data)
    writer.fill(range(100, 110))
    second = backup(FS, data, target, silent)
    assert second.time > first.time
    assert second.kept >= 8
    assert second.copied <= 8
    assert restored(target, tmp_path / "two") == facts(FS, data)
    writer.snapshot()
    writer.snapshot()
    backup(FS, data, target, silent)
    ours = {path.relative_to(data) for path in data.rglob("*-*.*")}
    assert {path.relative_to(target) for path in target.rglob("*-*.*")} == ours, "what nobody needs is still there"
    assert restored(target, tmp_path / "three") == facts(FS, data)
    writer.close()


def test_a_backup_can_be_verified_and_is_no_data_directory(data: Path, tmp_path: Path) -> None:
    writer = Writer(FS, data)
    writer.fill(range(1, 30))
    result = backup(FS, data, tmp_path / "backup", silent)
    found = source_of(FS, tmp_path / "backup")
    assert found.time == result.time
    assert verify(found.fs, found.manifest.folders(tmp_path / "backup"), silent, found.time).damage == []
    with pytest.raises(DamageError, match="manifest"):
        Writer(FS, tmp_path / "backup")


def test_another_directory_of_the_same_names_is_copied_whole(data: Path, tmp_path: Path) -> None:
    """As after a restore: numbers of files begin anew, and some have the size of those in the backup."""
    other = tmp_path / "other"
    other.mkdir()
    for directory, numbers in ((data, range(10, 40)), (other, range(50, 80))):
        writer = Writer(FS, directory)
        writer.fill(numbers)
        writer.snapshot()
        writer.close()
    backup(FS, data, tmp_path / "backup", silent)
    backup(FS, other, tmp_path / "backup", silent)
    assert restored(tmp_path / "backup", tmp_path / "restored") == facts(FS, other)


def test_damage_is_not_backed_up(data: Path, tmp_path: Path) -> None:
    writer = Writer(FS, data)
    writer.fill(range(1, 30))
    backup(FS, data, tmp_path / "backup", silent)
    before = facts(FS, data)
    writer.fill(range(30, 90))
    log = segment_path(writer.folders[0], list_shard(FS, writer.folders[0]).segments[-2])
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 1
    log.write_bytes(content)
    with pytest.raises(DamageError, match="damaged"):
        backup(FS, data, tmp_path / "backup", silent)
    assert restored(tmp_path / "backup", tmp_path / "restored") == before


def test_what_is_no_backup_is_left_alone(data: Path, tmp_path: Path) -> None:
    Writer(FS, data).close()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").touch()
    with pytest.raises(ConfigError, match="something else than a backup"):
        backup(FS, data, tmp_path / "home", silent)
    (tmp_path / "link").symlink_to(data)
    for folder in (data, tmp_path / "link"):
        with pytest.raises(ConfigError, match="is the data directory itself"):
            backup(FS, data, folder, silent)
    for folder in (data / "in", tmp_path / "link" / "deep" / "in", tmp_path):
        with pytest.raises(ConfigError, match=r"lies in .* apart from the data directory"):
            backup(FS, data, folder, silent)
    assert not (data / "in").exists()
    with pytest.raises(ConfigError, match="not a data directory"):
        backup(FS, tmp_path / "home", tmp_path / "backup", silent)


@pytest.mark.parametrize("survives", ["synced", "all", "part"])
def test_power_cut_before_every_operation(survives: Survives, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state restored is that of the last backup that ended, or the one that was under way."""
    monkeypatch.setattr(backup_module, "lock_directory", lambda _directory: nullcontext())
    monkeypatch.setattr(backup_module, "make_directory", lambda fs, directory: fs.mkdir(directory))
    data, target = Path("/data"), Path("/backup")

    def begun() -> tuple[FaultyFileSystem, tuple[FaultyFileSystem, Writer, Any]]:
        fs = FaultyFileSystem()
        fs.mkdir(data)
        fs.mkdir(target)
        fs.root.sync()
        writer = Writer(fs, data, segment_size=1500)
        writer.fill(range(1, 8))
        backup(fs, data, target, silent)
        first = state_of(fs, target)
        writer.snapshot()
        writer.fill(range(8, 14))
        writer.snapshot()
        writer.snapshot()
        return fs, (fs, writer, first)

    number = 0
    for fs, (_, writer, first), number in power_cuts(begun, lambda some: backup(some[0], data, target, silent)):
        fs.power_cut(survives, random.Random(number))
        second = facts(fs, data)
        assert first != second
        assert state_of(fs, target) == (second if fs.exists(target / BACKUP) and newer(fs, target, writer) else first)
        backup(fs, data, target, silent)  # it is run again
        assert state_of(fs, target) == second
    assert number + 1 > 30


def newer(fs: FaultyFileSystem, target: Path, writer: Writer) -> bool:
    """Whether the second backup counts: only it knows the newest snapshots."""
    newest = list_shard(fs, writer.folders[0]).snapshots[-1]
    return any(f"snapshot-{newest:010}" in name for name in source_of(fs, target).files)


def state_of(fs: FaultyFileSystem, target: Path) -> set[bytes]:
    found = source_of(fs, target)
    return facts(found.fs, target, found.manifest, found.time)


@pytest.mark.parametrize("rounds", [4, pytest.param(60, marks=pytest.mark.soak)])
def test_of_a_live_server(data: Path, tmp_path: Path, start_server: Callable[..., ServerProcess], rounds: int) -> None:
    """Everything acknowledged before a backup began is in it, no report is half there, and shards agree."""
    server = start_server("--data", str(data), "--workers", "2", "--snapshot-bytes", "20K")
    acknowledged: list[list[str]] = [[] for _ in range(3)]
    stop = threading.Event()

    def report(number: int) -> None:
        with create_client(server.address) as client:
            for count in range(1_000_000):
                if stop.is_set():
                    break
                taskhash = f"{number:02x}{count:062x}"[::-1]
                outhash = f"{count // 3:064x}"[::-1]  # shared with the other threads
                client.report_unihash(taskhash, "m", outhash, taskhash, {"outhash_siginfo": taskhash * 3})
                acknowledged[number].append(taskhash)

    threads = [threading.Thread(target=report, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        for round_ in range(rounds):
            while min(map(len, acknowledged)) < 100 * (round_ + 1):
                threads[0].join(0.01)
            before = [list(hashes) for hashes in acknowledged]
            backup(FS, data, tmp_path / "backup", silent)
            target = tmp_path / f"restored-{round_}"
            restore(FS, tmp_path / "backup", target, None, silent)
            has = {fact.split(b'"')[5].decode() for fact in facts(FS, target) if fact.startswith(b'["map"')}
            missing = [taskhash for hashes in before for taskhash in hashes if taskhash not in has]
            assert missing == []
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_clock_that_was_set_back_takes_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records from before are younger than the backup, by their times, and were acknowledged all the same."""
    writer = Writer(FS, data, segment_size=2000)
    ahead = recovery.now() + 3_600_000_000
    monkeypatch.setattr(recovery, "now", lambda: ahead)
    writer.fill(range(400, 420))
    monkeypatch.undo()
    writer.fill(range(420, 440))
    writer.close()
    backup(FS, data, tmp_path / "backup", silent)
    restored(tmp_path / "backup", tmp_path / "first")
    assert facts(FS, tmp_path / "first") == facts(FS, data)
    backup(FS, data, tmp_path / "backup", silent)
    restored(tmp_path / "backup", tmp_path / "second")
    assert facts(FS, tmp_path / "second") == facts(FS, data)


def test_snapshots_that_are_all_younger_than_the_backup(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A live server replaced them while others were copied: the backup stands for a later time."""
    writer = Writer(FS, data)
    writer.fill(range(400, 420))
    began = recovery.now()
    for _ in range(3):
        writer.snapshot()
    writer.close()
    monkeypatch.setattr(backup_module, "now", lambda: began)
    assert backup(FS, data, tmp_path / "backup", silent).time > began
    assert restored(tmp_path / "backup", tmp_path / "restored") == facts(FS, data)


def test_of_a_server_that_replaces_all_snapshots_between_two_shards(data: Path, tmp_path: Path) -> None:
    """The time moves on behind what was copied of the first shard, which has index items of rows of the second."""
    writer = Writer(FS, data)
    writer.fill(range(1, 60))
    copied = 0

    def go_on(_text: str) -> None:
        nonlocal copied
        copied += 1
        if copied in (1, 3):
            writer.fill(range(100 * copied, 100 * copied + 60))
            for _ in range(3):
                writer.snapshot()

    result = backup(FS, data, tmp_path / "backup", go_on)
    assert copied >= 3
    found = source_of(FS, tmp_path / "backup")
    assert verify(found.fs, found.manifest.folders(tmp_path / "backup"), silent, result.time).damage == []
    writer.close()
    backup(FS, data, tmp_path / "backup", silent)
    assert restored(tmp_path / "backup", tmp_path / "restored") == facts(FS, data)


class Racing(OsFileSystem):
    """A live server writes snapshots, which let go of texts, each time that the backup is about to copy texts."""

    def __init__(self, folder: Path, times: int, race: Callable[[], None]) -> None:
        self._folder = folder
        self._times = times
        self._race = race
        self._listed = 0

    def listdir(self, path: Path) -> list[str]:
        if path == self._folder:
            self._listed += 1
            if self._listed > 1 and self._listed % 2 and self._times:  # the first time it looks for the last record
                self._times -= 1
                self._race()
        return super().listdir(path)


def test_texts_that_go_while_they_are_copied(data: Path, tmp_path: Path) -> None:
    """What the copied snapshots and segments refer to is in the backup, or there is no backup."""
    for number in range(3, 100, 3):  # a file of texts for each start
        writer = Writer(FS, data, shards=1, segment_size=600)
        writer.report(number)
        if number % 9 == 0:
            writer.snapshot()
        if number < 99:
            writer.close()

    gone = iter(range(3, 100, 3))

    def race() -> None:
        task = next(gone)
        name = hash_of("task", task) if task % 11 else f"task-{task}"
        writer.write(writer.shards[0], ("unrow", METHOD, [[name, hash_of("out", task // 2)]]))
        for _ in range(3):
            writer.snapshot()

    for times in (1, 3):
        fs = Racing(writer.folders[0], times, race)
        backup(fs, data, tmp_path / f"backup-{times}", silent)
        found = source_of(FS, tmp_path / f"backup-{times}")
        folders = found.manifest.folders(tmp_path / f"backup-{times}")
        assert verify(found.fs, folders, silent, found.time).damage == []
        assert restored(tmp_path / f"backup-{times}", tmp_path / f"restored-{times}")  # with all texts
    with pytest.raises(StorageError, match="change too fast"):
        backup(Racing(writer.folders[0], 100, race), data, tmp_path / "never", silent)
    assert not (tmp_path / "never" / BACKUP).exists()


def test_a_copy_that_does_not_read_back_replaces_nothing() -> None:
    """Of texts, too, which have no checksum over all: the backup before is still whole."""
    memory = FaultyFileSystem()
    source, target = Path("/data"), Path("/backup")
    memory.mkdir(source)
    memory.mkdir(target)
    writer = Writer(memory, source)
    writer.fill(range(1, 12))

    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(backup_module, "lock_directory", lambda _directory: nullcontext())
        changed.setattr(backup_module, "make_directory", lambda fs, directory: fs.mkdir(directory))
        backup(memory, source, target, silent)
        before = state_of(memory, target)
        writer.fill(range(20, 40))
        changed.setattr(memory, "read", Rotten(memory).read)
        with pytest.raises(StorageError, match="does not read back"):
            backup(memory, source, target, silent)
    assert state_of(memory, target) == before


class Rotten:
    """Reads of what was just copied show another byte."""

    def __init__(self, fs: FaultyFileSystem) -> None:
        self._read = fs.read

    def read(self, path: Path) -> BinaryIO:
        with self._read(path) as file:
            content = bytearray(file.read())
        if path.name.endswith(".sig.tmp"):
            content[20] ^= 1
        return io.BytesIO(content)


def test_links_are_not_followed_and_files_are_for_their_owner_alone(data: Path, tmp_path: Path) -> None:
    writer = Writer(FS, data)
    writer.fill(range(1, 30))
    writer.close()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    target = tmp_path / "backup"
    for path in data.rglob("*.*"):
        trap = target / path.relative_to(data)
        trap.parent.mkdir(parents=True, exist_ok=True)
        trap.with_name(trap.name + ".tmp").symlink_to(victim)
    (target / "backup.json.tmp").symlink_to(victim)
    (target / "manifest.json.tmp").unlink()
    mask = os.umask(0)
    try:
        backup(FS, data, target, silent)
    finally:
        os.umask(mask)
    assert victim.read_text() == "precious"
    for path in target.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.name != "lock":
            assert path.stat().st_mode & 0o777 == 0o600, path
    shard = next(target.glob("generation-*/shard-000"))
    shutil.rmtree(shard)
    shard.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(StorageError, match="cannot be written"):
        backup(FS, data, target, silent)
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    "change",
    [
        {"shards": 3_000_000},
        {"shards": -1},
        {"shards": True},
        {"generation": 0},
        {"generation": "../../etc"},
        {"time": -1},
        {"time": "now"},
        {"time": 1 << 63},
        {"files": []},
        {"files": {"../../etc/passwd": 5}},
        {"files": {"generation-000001/shard-000/../../../x": 5}},
        {"files": {"generation-000001/shard-007/log-0000000001.log": 5}},
        {"files": {"generation-000001/shard-000/log-0000000001.log": -5}},
        {"files": {"generation-000001/shard-000/log-0000000001.log": "5"}},
    ],
)
def test_a_hostile_manifest_is_refused_in_words(data: Path, tmp_path: Path, change: dict[str, object]) -> None:
    Writer(FS, data).close()
    backup(FS, data, tmp_path / "backup", silent)
    path = tmp_path / "backup" / BACKUP
    path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | change))
    with pytest.raises(DamageError, match="not the list of a backup"):
        restore(FS, tmp_path / "backup", tmp_path / "new", None, silent)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", ["backup.json", "log", "snap", "sig"])
def test_pipes_and_links_in_a_backup_are_refused_in_words(data: Path, tmp_path: Path, kind: str) -> None:
    writer = Writer(FS, data)
    writer.fill(range(1, 30))
    writer.snapshot()
    writer.close()
    backup(FS, data, tmp_path / "backup", silent)
    path = [path for path in sorted((tmp_path / "backup").rglob("*")) if path.name.endswith(kind)][-1]
    content = path.read_bytes()
    for make in (os.mkfifo, lambda name: name.symlink_to(tmp_path / "aim"), Path.mkdir):
        (tmp_path / "aim").write_bytes(content)
        path.unlink()
        make(path)
        with pytest.raises((DamageError, StorageError, OSError), match=r"not a regular file|not a data directory"):
            restore(FS, tmp_path / "backup", tmp_path / "new", None, silent)
        assert not (tmp_path / "new" / "manifest.json").exists()
        path.rmdir() if path.is_dir() else path.unlink()
        path.write_bytes(content)
    restore(FS, tmp_path / "backup", tmp_path / "new", None, silent)


def test_what_is_sound_by_its_checksum_and_says_what_cannot_be(data: Path, tmp_path: Path) -> None:
    """Every line of a snapshot and every record with one of its values another: refused in words, never a traceback."""
    writer = Writer(FS, data, shards=1)
    writer.fill(range(1, 12))
    writer.snapshot()
    writer.fill(range(12, 15))
    writer.close()
    backup(FS, data, tmp_path / "backup", silent)
    chance = random.Random(1)
    hostile: list[object] = [None, -1, 1 << 63, "x", [], {}, [[]], 1.5, True, "f" * 63]
    for path in sorted((tmp_path / "backup").glob("generation-*/shard-*/*")):
        sound = path.read_bytes()
        for change in range(20):
            path.write_bytes(changed(sound, path.suffix, chance, hostile[change % len(hostile)]))
            try:
                restore(FS, tmp_path / "backup", tmp_path / f"new-{path.name}-{change}", None, silent)
            except (DamageError, ConfigError, StorageError):
                pass
            path.write_bytes(sound)


def changed(sound: bytes, suffix: str, chance: random.Random, value: object) -> bytes:
    """The file with one value of one line or record another, its checksums right."""
    if suffix == ".snap":
        lines = sound.splitlines()
        at = chance.randrange(len(lines))
        found = orjson.loads(lines[at][9:])
        put(found, chance, value)
        payload = orjson.dumps(found)
        lines[at] = b"%08x %b" % (crc32(payload, at), payload)
        return b"\n".join(lines) + b"\n"
    if suffix == ".log" and len(sound) > 100:
        fs = FaultyFileSystem()
        fs.mkdir(Path("/x"))
        first = int.from_bytes(sound[8:16], "little")
        writer = LogWriter(fs, Path("/x"), 1, first, 1 << 30)
        path = segment_path(Path("/x"), 9)
        fs.create(path).write(sound, 0)
        entries = list(read_segment(fs, path, first, newest=True, tail=Tail()))
        at = chance.randrange(len(entries)) if entries else 0
        for number, entry in enumerate(entries):
            found = orjson.loads(entry.payload)
            if number == at:
                put(found, chance, value)
            writer.append([orjson.dumps(found)], entry.time)
            writer.sync()
        return bytes(fs.file(segment_path(Path("/x"), 1)).data)
    return sound


def put(found: object, chance: random.Random, value: object) -> None:
    if isinstance(found, dict) and found:
        name = chance.choice(sorted(found))
        if isinstance(found[name], dict | list) and found[name] and chance.random() < 0.5:
            put(found[name], chance, value)
        else:
            found[name] = value
    elif isinstance(found, list) and found:
        found[chance.randrange(len(found))] = value

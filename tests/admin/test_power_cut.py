"""Power goes before every operation of restoring, loading and repairing.

A directory that came into being either counts, whole, or is begun again; one that was there holds what it held or what
it is to hold, and nothing that was to be kept aside is gone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from shardhash.admin import backup as backup_module
from shardhash.admin import directory as directory_module
from shardhash.admin import restore as restore_module
from shardhash.admin.backup import backup
from shardhash.admin.directory import new_directory
from shardhash.admin.dump import dump, load
from shardhash.admin.repair import repair
from shardhash.admin.restore import restore, restore_over
from shardhash.admin.verify import verify
from shardhash.errors import ConfigError
from shardhash.shard.directory.generations import prepare_directory
from shardhash.shard.directory.manifest import read_manifest
from shardhash.shard.storage.layout import MANIFEST, list_shard, segment_path
from tests.admin.directories import Writer, facts, silent
from tests.shard.faulty import FaultyFileSystem, Survives, power_cuts

pytestmark = pytest.mark.once

DATA, BACKUP, NEW = Path("/data"), Path("/backup"), Path("/new")
SURVIVORS: list[Survives] = ["synced", "all", "part"]


@pytest.fixture(autouse=True)
def folders_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks and parents of folders are made without the file system of the test: do without them."""
    for module in (backup_module, directory_module, restore_module):
        monkeypatch.setattr(module, "lock_directory", lambda _directory: nullcontext())
        if hasattr(module, "make_directory"):
            monkeypatch.setattr(module, "make_directory", make_directory)


def make_directory(fs: FaultyFileSystem, directory: Path) -> None:
    fs.mkdir(directory)
    fs.fsync_dir(directory.parent)


def filled() -> FaultyFileSystem:
    """A data directory with two shards, a snapshot in between and siginfo texts; and a backup of before its end."""
    fs = FaultyFileSystem()
    fs.mkdir(DATA)
    fs.mkdir(BACKUP)
    writer = Writer(fs, DATA, segment_size=2000)
    writer.fill(range(1, 7))
    writer.snapshot()
    writer.fill(range(7, 9))
    backup(fs, DATA, BACKUP, silent)
    writer.fill(range(9, 16))
    fs.root.sync()
    return fs


def cuts(act: Callable[[FaultyFileSystem], Any], survives: Survives, begin: Any = filled) -> Iterator[FaultyFileSystem]:
    """The file system after a power cut before each operation of `act`, and at last after all of it."""
    number = 0
    for fs, _, number in power_cuts(lambda: ((begun := begin()), begun), act):
        fs.power_cut(survives, random.Random(number))
        yield fs
    assert number + 1 > 25


@pytest.mark.parametrize("survives", SURVIVORS)
@pytest.mark.parametrize("source", [BACKUP, DATA])
def test_restoring_into_a_new_directory(source: Path, survives: Survives) -> None:
    fs = filled()
    restore(fs, source, NEW, None, silent)
    expected = facts(fs, NEW)
    for fs in cuts(lambda fs: restore(fs, source, NEW, None, silent), survives):
        if not fs.exists(NEW / MANIFEST):
            if fs.exists(NEW) and fs.listdir(NEW):
                with pytest.raises(ConfigError, match="did not finish"):
                    prepare_directory(fs, NEW, 2, silent)
            restore(fs, source, NEW, None, silent)
        prepare_directory(fs, NEW, 2, silent)
        assert facts(fs, NEW) == expected


@pytest.mark.parametrize("survives", SURVIVORS)
def test_loading_a_dump(survives: Survives) -> None:
    lines: list[bytes] = []
    fs = filled()
    manifest = read_manifest(fs, DATA)
    assert manifest is not None
    dump(fs, manifest.folders(DATA), lines.append, silent)

    def act(fs: FaultyFileSystem) -> None:
        with new_directory(fs, NEW, 2) as folders:
            load(fs, lines, folders, silent, users=True)

    expected = facts(fs, DATA)
    for fs in cuts(act, survives):
        if not fs.exists(NEW / MANIFEST):
            act(fs)
        assert facts(fs, NEW) == expected


@pytest.mark.parametrize("survives", SURVIVORS)
def test_restoring_over_a_directory(survives: Survives) -> None:
    fs = filled()
    old = facts(fs, DATA)
    restore(fs, BACKUP, NEW, None, silent)
    new = facts(fs, NEW)
    assert old != new
    for fs in cuts(lambda fs: restore_over(fs, BACKUP, DATA, None, "1", silent), survives):
        prepare_directory(fs, DATA, 2, silent)
        has = facts(fs, DATA)
        assert has in (old, new)
        if has == new:
            assert facts(fs, DATA / "aside-1") == old
        restore_over(fs, BACKUP, DATA, None, "2", silent)
        assert facts(fs, DATA) == new
        assert facts(fs, DATA / "aside-2") == has


def damaged() -> FaultyFileSystem:
    fs = filled()
    folder = Path("/data/generation-000001/shard-000")
    path = segment_path(folder, list_shard(fs, folder).segments[-2])
    file = fs.modify(path)
    file.write(b"\x00", fs.size(path) // 2)
    file.fsync()
    return fs


@pytest.mark.parametrize("survives", SURVIVORS)
def test_repairing(survives: Survives) -> None:
    before: dict[Path, bytes] = {}

    def begin() -> FaultyFileSystem:
        fs = damaged()
        before.update((path, contents(fs, path)) for path in tree(fs, DATA))
        return fs

    fs = begin()
    assert repair(fs, DATA, "1", silent).lost
    expected = facts(fs, DATA)
    for fs in cuts(lambda fs: repair(fs, DATA, "1", silent), survives, begin):
        again = repair(fs, DATA, "2", silent)
        manifest = read_manifest(fs, DATA)
        assert manifest is not None
        assert verify(fs, manifest.folders(DATA), silent).damage == []
        assert facts(fs, DATA) == expected
        aside = again.aside or DATA / "aside-1"
        kept = {path: contents(fs, aside / path.relative_to(DATA)) for path in before}
        assert kept == before, "what was damaged is not kept as it was"


def tree(fs: FaultyFileSystem, directory: Path) -> list[Path]:
    manifest = read_manifest(fs, directory)
    assert manifest is not None
    return [folder / name for folder in manifest.folders(directory) for name in fs.listdir(folder)]


def contents(fs: FaultyFileSystem, path: Path) -> bytes:
    with fs.read(path) as file:
        return file.read()

"""What a restore or load made, without its first snapshot: damage to every reader, never an emptier state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shardhash.admin.directory import manifest_of, new_directory
from shardhash.admin.dump import dump, load
from shardhash.admin.repair import repair
from shardhash.admin.restore import restore
from shardhash.admin.verify import verify
from shardhash.errors import ConfigError, DamageError
from shardhash.shard.storage.filesystem import OsFileSystem
from shardhash.shard.storage.layout import snapshot_path
from shardhash.shard.storage.recovery import recover
from tests.admin.directories import Writer, silent

FS = OsFileSystem()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    writer = Writer(FS, tmp_path / "data")
    writer.fill(range(1, 40))
    writer.close()
    return tmp_path / "data"


def by_restore(data: Path, new: Path) -> None:
    restore(FS, data, new, None, silent)


def by_load(data: Path, new: Path) -> None:
    lines: list[bytes] = []
    dump(FS, manifest_of(FS, data).folders(data), lines.append, silent)
    with new_directory(FS, new, 2) as folders:
        load(FS, lines, folders, silent)


@pytest.mark.parametrize("make", [by_restore, by_load])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-9])])
def test_the_first_snapshot(
    data: Path, tmp_path: Path, make: Callable[[Path, Path], None], damage: Callable[[Path], object]
) -> None:
    new = tmp_path / "new"
    make(data, new)
    writer = Writer(FS, new)  # a server goes on with it
    writer.fill(range(40, 45))
    writer.close()
    folder = manifest_of(FS, new).folders(new)[1]
    damage(snapshot_path(folder, 2))
    with pytest.raises(DamageError, match="snapshot"):
        recover(FS, folder)
    assert verify(FS, manifest_of(FS, new).folders(new), silent).damage
    with pytest.raises(DamageError, match="snapshot"):
        Writer(FS, new)
    for until in (None, 5):
        with pytest.raises((DamageError, ConfigError)):
            restore(FS, new, tmp_path / "other", until, silent)
    assert not (tmp_path / "other" / "manifest.json").exists()
    result = repair(FS, new, "now", silent)
    assert result.lost
    assert verify(FS, manifest_of(FS, new).folders(new), silent).damage == []

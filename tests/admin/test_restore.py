"""Restoring over a data directory, and going back in time; every restored state is compared as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardhash.admin.backup import backup
from shardhash.admin.restore import restore, restore_over
from shardhash.errors import ConfigError, DamageError
from shardhash.shard.directory.lock import lock_directory
from shardhash.shard.storage.filesystem import OsFileSystem
from shardhash.shard.storage.layout import list_shard, segment_path
from shardhash.shard.storage.recovery import now
from tests.admin.directories import Writer, facts, silent

FS = OsFileSystem()
STAMP = "20261124-030000"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with snapshots, a log behind them, and a time between two parts of that log."""
    (tmp_path / "data").mkdir()
    writer = Writer(FS, tmp_path / "data")
    writer.fill(range(1, 40))
    writer.snapshot()
    writer.fill(range(40, 60))
    writer.close()
    return tmp_path / "data"


def test_over_what_is_there_which_stays_aside(data: Path, tmp_path: Path) -> None:
    backup(FS, data, tmp_path / "backup", silent)
    saved = facts(FS, data)
    writer = Writer(FS, data)
    writer.fill(range(60, 80))
    writer.close()
    later = facts(FS, data)
    assert later != saved
    moment, aside = restore_over(FS, tmp_path / "backup", data, None, STAMP, silent)
    assert moment is not None
    assert moment <= now()
    assert facts(FS, data) == saved
    assert aside == data / f"aside-{STAMP}"
    assert facts(FS, aside) == later
    restore_over(FS, aside, data, None, "20261124-030001", silent)
    assert facts(FS, data) == later


def test_a_directory_goes_back_in_time(data: Path) -> None:
    before, moment = facts(FS, data), now()
    writer = Writer(FS, data)
    writer.fill(range(60, 80))
    writer.close()
    assert facts(FS, data) != before
    restore_over(FS, data, data, moment, STAMP, silent)
    assert facts(FS, data) == before


def test_into_a_new_one_at_a_time(data: Path, tmp_path: Path) -> None:
    before, moment = facts(FS, data), now()
    writer = Writer(FS, data)
    writer.fill(range(60, 80))
    writer.snapshot()
    writer.close()
    assert restore(FS, data, tmp_path / "then", moment, silent) == moment
    assert facts(FS, tmp_path / "then") == before
    assert restore(FS, data, tmp_path / "now", None, silent) is None
    assert facts(FS, tmp_path / "now") == facts(FS, data)


def test_what_a_damaged_source_holds_replaces_nothing(data: Path, tmp_path: Path) -> None:
    backup(FS, data, tmp_path / "backup", silent)
    saved = facts(FS, data)
    shard = next((tmp_path / "backup").glob("generation-*/shard-000"))
    path = segment_path(shard, list_shard(FS, shard).segments[-2])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamageError):
        restore_over(FS, tmp_path / "backup", data, None, STAMP, silent)
    assert facts(FS, data) == saved
    with pytest.raises(DamageError):
        restore(FS, tmp_path / "backup", tmp_path / "new", None, silent)


def test_refusals(data: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(ConfigError, match="is no data directory"):
        restore_over(FS, data, tmp_path / "other", None, STAMP, silent)
    with pytest.raises(ConfigError, match="is not empty"):
        restore(FS, data, data.parent, None, silent)
    with lock_directory(data), pytest.raises(ConfigError, match="is in use by process"):
        restore(FS, data, tmp_path / "new", None, silent)
    with lock_directory(data), pytest.raises(ConfigError, match="is in use by process"):
        restore_over(FS, data, data, None, STAMP, silent)

"""Restoring over a data directory, and going back in time; every restored state is compared as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardhash.admin.backup import backup
from shardhash.admin.restore import restore, restore_over
from shardhash.errors import ConfigError, DamageError
from shardhash.shard.directory.generations import prepare_directory
from shardhash.shard.directory.lock import lock_directory
from shardhash.shard.storage import recovery
from shardhash.shard.storage.filesystem import OsFileSystem
from shardhash.shard.storage.layout import LOCK, UNFINISHED, list_shard, segment_path
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
    with pytest.raises(ConfigError, match="is not a data directory"):
        restore_over(FS, data, tmp_path / "other", None, STAMP, silent)
    with pytest.raises(ConfigError, match=r"is not empty; name a new one, or move it aside first$"):
        restore(FS, data, data.parent, None, silent)
    with pytest.raises(ConfigError, match=r"is not empty.*--force"):
        restore(FS, data, data, None, silent)
    with lock_directory(data), pytest.raises(ConfigError, match="is in use by process"):
        restore(FS, data, tmp_path / "new", None, silent)
    with lock_directory(data), pytest.raises(ConfigError, match="is in use by process"):
        restore_over(FS, data, data, None, STAMP, silent)


def test_two_restores_in_one_second_keep_both_asides(data: Path, tmp_path: Path) -> None:
    backup(FS, data, tmp_path / "backup", silent)
    first = facts(FS, data)
    writer = Writer(FS, data)
    writer.fill(range(60, 70))
    writer.close()
    second = facts(FS, data)
    asides = [restore_over(FS, tmp_path / "backup", data, None, STAMP, silent)[1] for _ in range(3)]
    assert len(set(asides)) == 3
    assert [facts(FS, aside) for aside in asides] == [second, first, first]


@pytest.mark.parametrize("from_snapshot", [False, True])
def test_a_time_that_the_records_do_not_reach_is_refused(tmp_path: Path, from_snapshot: bool) -> None:
    (tmp_path / "data").mkdir()
    before = now()
    writer = Writer(FS, tmp_path / "data")
    writer.fill(range(1, 20))
    writer.close()
    data = tmp_path / "data"
    if from_snapshot:
        restore(FS, data, tmp_path / "restored", None, silent)
        data = tmp_path / "restored"
        writer = Writer(FS, data)
        writer.report(20)
        writer.close()
    for until, words in ((before, "goes back to"), (now() + 1, "leave --until out")):
        with pytest.raises(ConfigError, match=words):
            restore(FS, data, tmp_path / "new", until, silent)
        assert not (tmp_path / "new").exists()


def test_a_restore_of_nothing_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    Writer(FS, tmp_path / "data").close()
    backup(FS, tmp_path / "data", tmp_path / "backup", silent)
    for source in ("data", "backup"):
        with pytest.raises(ConfigError, match="holds nothing"):
            restore(FS, tmp_path / source, tmp_path / "new", None, silent)
    with pytest.raises(ConfigError, match="no records"):
        restore(FS, tmp_path / "data", tmp_path / "new", now(), silent)
    assert not (tmp_path / "new").exists()


def test_a_refusal_takes_away_only_what_it_made(tmp_path: Path) -> None:
    """A folder that was there stays, as does one that an earlier attempt, which was killed, left unfinished."""
    (tmp_path / "data").mkdir()
    Writer(FS, tmp_path / "data").close()
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / UNFINISHED).touch()
    for name in ("empty", "begun", "new"):
        with pytest.raises(ConfigError, match="holds nothing"):
            restore(FS, tmp_path / "data", tmp_path / name, None, silent)
    assert set(FS.listdir(tmp_path / "empty")) <= {LOCK}
    assert set(FS.listdir(tmp_path / "begun")) == {LOCK, UNFINISHED}
    assert not (tmp_path / "new").exists()
    prepare_directory(FS, tmp_path / "empty", 1, silent)
    with pytest.raises(ConfigError, match="run it again, or delete the folder if it was new"):
        prepare_directory(FS, tmp_path / "begun", 1, silent)
    with pytest.raises(ConfigError, match="run it again, or delete the folder if it was new"):
        restore(FS, tmp_path / "begun", tmp_path / "new", None, silent)


def test_until_is_exact_after_the_clock_was_set_back(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the server ran, and while it was stopped: what came later has later times in each log."""
    ahead = now() + 3_600_000_000
    with monkeypatch.context() as changed:
        changed.setattr(recovery, "now", lambda: ahead)
        writer = Writer(FS, data)
        writer.fill(range(60, 70))
    writer.fill(range(70, 80))
    writer.close()
    writer = Writer(FS, data)
    writer.fill(range(80, 90))
    writer.close()
    first = facts(FS, data)
    moment = max(recovery.recover(FS, folder).last_time for folder in writer.folders)
    assert moment >= ahead
    writer = Writer(FS, data)
    writer.fill(range(90, 99))
    writer.snapshot()
    writer.close()
    assert facts(FS, data) != first
    restore(FS, data, tmp_path / "then", moment, silent)
    assert facts(FS, tmp_path / "then") == first

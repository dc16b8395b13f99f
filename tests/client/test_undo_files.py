"""Undo files (shardhash/client/undo_files.py): whole, and durable when they say so."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from shardhash.client.undo_files import UndoFile, keeps_nothing, read_undo_file

MAPPING = {"method": "m", "taskhash": "1" * 64, "unihash": "2" * 64, "gc_mark": ""}
ROW = {"method": "m", "taskhash": "1" * 64, "outhash": "3" * 64, "created": "2026-01-01T00:00:00+00:00"}


def test_what_is_added_is_read_back_from_a_whole_dump(tmp_path: Path) -> None:
    path = tmp_path / "undo"
    with UndoFile(path) as undo:
        undo.add_mapping(MAPPING)
        undo.add_row(ROW)
        undo.finish()
    assert list(read_undo_file(path)) == [{"type": "mapping", **MAPPING}, {"type": "row", **ROW}]
    first, *_, last = map(json.loads, path.read_text().splitlines())
    assert first == {"format": "shardhash dump", "version": 1}
    assert last == {"type": "end", "entries": 0, "mappings": 1, "rows": 1}


def test_it_is_durable_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose folder was not synced may be gone after a power cut, whatever of it was."""
    synced: list[tuple[int, int]] = []

    def fsync(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size))

    monkeypatch.setattr(os, "fsync", fsync)
    path = tmp_path / "undo"
    with UndoFile(path) as undo:
        undo.add_mapping(MAPPING)
        undo.sync()
        here = path.stat()
        assert synced[0] == (here.st_ino, here.st_size)
        assert synced[1][0] == tmp_path.stat().st_ino
        undo.add_row(ROW)
        undo.finish()
        assert synced[2:] == [(here.st_ino, path.stat().st_size)], "the name is durable already"


def test_no_file_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "there"
    path.write_text("mine")
    with pytest.raises(ValueError, match=f"{path}: File exists; name a file that is not there yet"):
        UndoFile(path)
    assert path.read_text() == "mine"


def test_nothing_is_kept_where_nothing_is_wanted() -> None:
    assert keeps_nothing("/dev/null")
    with UndoFile("/dev/null") as undo:
        undo.add_row(ROW)
        undo.finish()
        assert undo.rows == 1

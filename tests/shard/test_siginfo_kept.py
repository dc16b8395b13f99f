"""A siginfo file stays for as long as anything needs it, however many snapshots and restarts pass, and then goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardhash.shard.state.records import Record
from shardhash.shard.storage.layout import list_shard
from shardhash.shard.storage.recovery import Shard, begin_shard, open_shard
from shardhash.shard.storage.siginfo import read_siginfo
from tests.shard.faulty import FaultyFileSystem

FOLDER = Path("/shard-000")


class Files:
    """A shard each of whose starts reports one text, in a siginfo file of its own: file N holds text N."""

    def __init__(self, keep: int, starts: int) -> None:
        self.fs = FaultyFileSystem()
        self.keep = keep
        self.references: list[int] = []
        begin_shard(self.fs, FOLDER)
        for number in range(1, starts + 1):
            self.shard = self.open()
            reference = self.shard.put_siginfo(f"text {number}")
            self.write(("row", "m", f"{number:064x}", "out", number, *[None] * 5, reference, None, ""))
            self.references.append(reference)
            if number < starts:
                self.shard.close()

    def open(self) -> Shard:
        return open_shard(self.fs, FOLDER, keep_snapshots=self.keep)

    def write(self, record: Record) -> None:
        self.shard.append([record])
        self.shard.sync()
        self.shard.table.apply(record)

    def snapshot(self) -> None:
        job = self.shard.begin_snapshot()
        while job.step():
            pass
        while job.seal():
            pass

    def remove(self, number: int) -> None:
        self.write(("unrow", "m", [[f"{number:064x}", "out"]]))

    def kept(self) -> list[int]:
        return list_shard(self.fs, FOLDER).siginfos

    def check(self) -> None:
        """Every text that the present state refers to, or that of any kept snapshot, is there."""
        table = self.shard.table
        for number, reference in enumerate(self.references, 1):
            for row in table.rows("m", bytes.fromhex(f"{number:064x}")):
                assert row.siginfo == reference
                assert self.shard.get_siginfo(reference) == f"text {number}"


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_a_file_that_a_row_refers_to_stays(keep: int) -> None:
    """Also one that is far older than all that is kept."""
    files = Files(keep, starts=6)
    for _ in range(6):
        files.snapshot()
        files.check()
        files.shard.close()
        files.shard = files.open()
        files.check()
    assert files.kept() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_files_go_once_no_kept_snapshot_refers_to_them(keep: int) -> None:
    """Not with the row: an older snapshot may have to serve, and its rows show their texts then."""
    files = Files(keep, starts=6)
    for _ in range(keep):
        files.snapshot()
    for number in (2, 3, 5):
        files.remove(number)
    for number in range(1, keep + 1):
        files.snapshot()
        files.check()
        assert files.kept() == ([1, 4, 6] if number == keep else [1, 2, 3, 4, 5, 6]), number


def test_an_older_snapshot_that_is_kept_has_its_texts() -> None:
    """It serves when the newest is damaged, or for an earlier time; its rows are gone today."""
    files = Files(2, starts=4)
    files.snapshot()
    for number in (1, 2, 3, 4):
        files.remove(number)
    files.snapshot()
    assert not files.shard.table.row_count
    assert len(list_shard(files.fs, FOLDER).snapshots) == 2
    for number, reference in enumerate(files.references, 1):
        assert read_siginfo(files.fs, FOLDER, reference) == f"text {number}"
    files.snapshot()
    assert files.kept() == [4]  # the last one may still be written to

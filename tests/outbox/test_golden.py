"""The files of an outbox as they were first written must be read for ever.

To write them anew, after a new format was added beside the old one: `python -m tests.outbox.test_golden`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from shardhash.outbox.files import FileJournal
from shardhash.shard.storage.filesystem import OsFileSystem
from shardhash.stores.forwarding.records import (
    CONFLICT,
    REFUSED,
    decode_report,
    describe_remark,
    encode_remark,
    encode_report,
)
from shardhash.wire.rows import Report

GOLDEN = Path(__file__).parent / "golden"
TIME = 1_795_000_000_000_000
REPORTS = [
    Report("m", "1" * 64, "2" * 64, "3" * 64, "me", "zlib", "1.3", "r0", "do_compile", "what it is made of: é"),
    Report("m", "short", "4" * 64, "3" * 64),
    Report("m", "5" * 64, "", "6" * 64),
    Report("oe.sstatesig.OEOuthashBasic", "7" * 64, "8" * 64, "7" * 64, PN="busybox"),
]


def write(folder: Path) -> None:
    """One report is taken, three wait; one is refused, one answered otherwise."""
    fs = OsFileSystem()
    journal = FileJournal(fs, folder, 600)
    for number, report in enumerate(REPORTS):
        journal.append([encode_report(report)], TIME + number, sync=True)
    journal.take(journal.read(None, 1, 1 << 20)[0])
    journal.note = list(REPORTS[0])
    journal.save()
    refused = FileJournal(fs, folder / "refused")
    refused.append([encode_remark(REFUSED, "too long", REPORTS[0])], TIME, sync=True)
    conflicts = FileJournal(fs, folder / "conflicts")
    conflicts.append([encode_remark(CONFLICT, "9" * 64, REPORTS[3])], TIME, sync=True)


def test_old_files_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "outbox"
    shutil.copytree(GOLDEN, folder)
    fs = OsFileSystem()
    journal = FileJournal(fs, folder)
    assert journal.note == list(REPORTS[0])
    items = journal.read(None, 10, 1 << 20)
    assert [decode_report(item.payload) for item in items] == REPORTS[1:]
    assert [(item.number, item.time) for item in items] == [(number + 1, TIME + number) for number in (1, 2, 3)]
    (refused,) = FileJournal(fs, folder / "refused").read(None, 10, 1 << 20)
    assert decode_report(refused.payload) == REPORTS[0]
    shown = describe_remark(refused)
    assert (shown["remark"], shown["taskhash"], "outhash_siginfo" in shown) == ("too long", "1" * 64, False)
    (conflict,) = FileJournal(fs, folder / "conflicts").read(None, 10, 1 << 20)
    assert describe_remark(conflict)["remark"] == "9" * 64


def test_the_same_is_written_today(tmp_path: Path) -> None:
    write(tmp_path / "outbox")
    for path in sorted(GOLDEN.rglob("*.*")):
        assert (tmp_path / "outbox" / path.relative_to(GOLDEN)).read_bytes() == path.read_bytes(), path


if __name__ == "__main__":
    shutil.rmtree(GOLDEN, ignore_errors=True)
    write(GOLDEN)

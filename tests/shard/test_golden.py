"""Files of every format as they were once written: today's code reads them, and writes the same bytes.

A difference is a change of format: it needs a new version in its header and code that still reads the old one. After
such a change, write the files anew with ``SHARDHASH_REGENERATE=1 python -m pytest tests/shard/test_golden.py``.
"""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any
from zlib import crc32

import orjson
import pytest

from shardhash.shard.directory.generations import prepare_directory
from shardhash.shard.directory.manifest import Manifest, read_manifest, write_manifest
from shardhash.shard.state.records import Record
from shardhash.shard.state.table import Table
from shardhash.shard.storage import snapshot_chunks
from shardhash.shard.storage.filesystem import OsFileSystem
from shardhash.shard.storage.layout import list_shard, segment_path, shard_folder, siginfo_path, snapshot_path
from shardhash.shard.storage.log import LogWriter, Tail, read_segment
from shardhash.shard.storage.recovery import open_shard, recover
from shardhash.shard.storage.siginfo import LEVEL, SiginfoFiles
from shardhash.shard.storage.snapshot import SnapshotHead, SnapshotWriter

GOLDEN = Path(__file__).parent / "golden"
REGENERATE = bool(os.environ.get("SHARDHASH_REGENERATE"))
FOLDER = shard_folder(Path(), 1, 0)
TIME = 1_700_000_000_000_000
FS = OsFileSystem()

A, B, C, D = (f"{number:02x}" * 32 for number in (0xA1, 0xB2, 0xC3, 0xD4))
TEXTS = ["first text\n", "käse \ud800 second text\n" * 3]
REFERENCES = [1 << 40 | 8, 2 << 40 | 8]
"""Each text stands first in a file, so that no reference depends on how well a zlib packs the text before."""


def before_snapshot(first: int, second: int) -> list[Record]:
    """Every kind of record; `first` and `second` are siginfo references."""
    return [
        ("row", "sstate", A, C, 5, "owner", "zlib", "1.3", "r0", "do_compile", first, A, ""),
        ("row", "sstate", B, C, 6, None, None, None, None, None, second, A, "mark"),
        ("row", "sstate", "not-hex", "käse", 7, "owner", None, None, None, "do_install", 0, None, ""),
        ("map", "other", "short", D, "mark"),
        ("map", "other", D, D, ""),
        ("idx", "sstate", C, A, 5),
        ("idx", "sstate", C, B, 6),
        ("idx", "sstate", "käse", "not-hex", 7),
        ("set", "user", "admin", {"token": "hashed", "permissions": ["@all"]}),
        ("set", "config", "gc-mark", "mark"),
    ]


AFTER: list[Record] = [
    ("mark", "keep", "sstate", [A]),
    ("unmap", "sstate", [B]),
    ("unrow", "sstate", [["not-hex", "käse"]]),
    ("unidx", "sstate", [["käse", "not-hex"], [C, B]]),
    ("set", "config", "gc-mark", None),
    ("map", "sstate", C, A, "keep"),
    ("report", "other", "both", "here", 8, None, "zlib", None, None, "do_install", 0, B, ""),
]


def write_all(directory: Path) -> None:
    """A data directory of one shard: segment 1, the snapshot before segment 2, and segments 2 and 3."""
    folder = directory / FOLDER
    folder.mkdir(parents=True)
    for text in TEXTS:
        texts = SiginfoFiles(FS, folder)
        texts.put(text)
        texts.close()
    records = before_snapshot(*REFERENCES)
    log = LogWriter(FS, folder, 1, 1, 1 << 20)
    log.append([orjson.dumps(record) for record in records[:4]], TIME)
    log.sync()
    log.append([orjson.dumps(record) for record in records[4:]], TIME + 1)
    log.rotate()
    table = Table()
    for record in records:
        table.apply(record)
    table.method("sstate").days.note([bytes.fromhex(A), "text"], 19_000)
    writer = SnapshotWriter(FS, folder, SnapshotHead(2, log.number, TIME + 2, 3))
    for chunk in snapshot_chunks.freeze(table, 2):
        writer.add(chunk)
    writer.seal(TIME + 3)
    for number, record in enumerate(AFTER):
        log.append([orjson.dumps(record)], TIME + 4 + number)
        log.sync()
    log.close()
    write_manifest(FS, directory, Manifest(1, 1))


def state(table: Table) -> list[Any]:
    return sorted(orjson.loads(orjson.dumps(list(table._facts()))), key=orjson.dumps)


@pytest.fixture(scope="module", autouse=True)
def _regenerate() -> None:
    if REGENERATE:
        shutil.rmtree(GOLDEN, ignore_errors=True)
        write_all(GOLDEN / "data")
        facts = state(recover(FS, GOLDEN / "data" / FOLDER).table)
        (GOLDEN / "state.json").write_bytes(b"[\n" + b",\n".join(map(orjson.dumps, facts)) + b"\n]\n")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A copy that a test may write to."""
    return Path(shutil.copytree(GOLDEN / "data", tmp_path / "data"))


def expected_state() -> list[Any]:
    facts: list[Any] = orjson.loads((GOLDEN / "state.json").read_bytes())
    return facts


def expected_table() -> Table:
    table = Table()
    for record in before_snapshot(1, 1) + AFTER:
        table.apply(record)
    return table


def test_the_golden_state_is_what_the_records_say() -> None:
    assert state(expected_table()) == expected_state()


@pytest.mark.parametrize("without_snapshot", [False, True])
def test_golden_files_are_read(data: Path, without_snapshot: bool) -> None:
    """From the snapshot and the log behind it, and from the log alone."""
    assert prepare_directory(FS, data, 1, print) == Manifest(1, 1)
    if without_snapshot:
        snapshot_path(data / FOLDER, 2).unlink()
    said: list[str] = []
    shard = open_shard(FS, data / FOLDER, progress=said.append)
    assert state(shard.table) == expected_state()
    shard.table.check()
    if not without_snapshot:
        assert [shard.table.last_asked("sstate", key) for key in (bytes.fromhex(A), "text")] == [19_000, 19_000]
        assert shard.table.asked_from == 19_675
    assert not any("not" in text for text in said), said
    kept = [row for taskhash in (A, B) for row in shard.table.rows("sstate", bytes.fromhex(taskhash))]
    assert [shard.get_siginfo(row.siginfo) for row in kept] == TEXTS
    assert [row.siginfo for row in kept] == REFERENCES
    shard.append([("map", "sstate", D, D, "")])  # it goes on from there
    shard.sync()
    shard.close()
    assert recover(FS, data / FOLDER).table.unihash("sstate", bytes.fromhex(D)) == bytes.fromhex(D)


def test_golden_records_are_read_one_by_one() -> None:
    folder = GOLDEN / "data" / FOLDER
    found = []
    for segment, first in ((1, 1), (2, 11)):
        path = segment_path(folder, segment)
        found += [
            (entry.number, entry.time, orjson.loads(entry.payload))
            for entry in read_segment(FS, path, first, newest=False, tail=Tail())
        ]
    records = orjson.loads(orjson.dumps(before_snapshot(*REFERENCES) + AFTER))
    times = [TIME] * 4 + [TIME + 1] * 6 + [TIME + 4 + number for number in range(7)]
    assert found == list(zip(range(1, 18), times, records, strict=True))


def test_the_same_bytes_are_written_today(tmp_path: Path) -> None:
    write_all(tmp_path / "data")
    names = [path.relative_to(GOLDEN / "data") for path in sorted((GOLDEN / "data").rglob("*")) if path.is_file()]
    written = [path.relative_to(tmp_path / "data") for path in sorted((tmp_path / "data").rglob("*")) if path.is_file()]
    assert written == names
    for name in names:
        if name.suffix != ".sig":
            assert (tmp_path / "data" / name).read_bytes() == (GOLDEN / "data" / name).read_bytes(), name


def test_siginfo_files_are_framed_as_ever(tmp_path: Path) -> None:
    """What zlib makes of a text may differ from one zlib to another; how it is framed may not."""
    files = SiginfoFiles(FS, tmp_path)
    for text in TEXTS:
        files.put(text)
    files.close()
    expected = b"SHSIG\0\0\1"
    for text in TEXTS:
        packed = zlib.compress(text.encode("utf-8", "surrogatepass"), LEVEL)
        size = struct.pack("<I", len(packed))
        expected += size + struct.pack("<II", crc32(size), crc32(packed)) + packed
    assert siginfo_path(tmp_path, 1).read_bytes() == expected


def test_the_golden_directory_holds_one_file_of_every_format() -> None:
    listing = list_shard(FS, GOLDEN / "data" / FOLDER)
    assert (listing.segments, listing.snapshots, listing.siginfos) == ([1, 2, 3], [2], [1, 2])
    assert read_manifest(FS, GOLDEN / "data") == Manifest(1, 1)
    assert not REGENERATE, "the golden files are written anew: look at the difference, then run without the switch"

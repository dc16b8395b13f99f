"""The data directory: begun once, held by one, resharded as if it had always been so (cuts: test_reshard_power_cut)."""

from __future__ import annotations

import stat
from pathlib import Path

import orjson
import pytest

from shardhash.errors import ConfigError, DamageError
from shardhash.shard.directory.generations import prepare_directory, remove_leftovers
from shardhash.shard.directory.lock import lock_directory
from shardhash.shard.directory.manifest import FORMAT, Manifest, make_directory
from shardhash.shard.state.records import Record
from shardhash.shard.state.table import Table
from shardhash.shard.storage.filesystem import OsFileSystem
from shardhash.shard.storage.layout import MANIFEST, generation_folder
from shardhash.shard.storage.recovery import ignore_progress, open_shard
from shardhash.wire.hashes import ShardMap, to_key
from tests.shard.faulty import FaultyFileSystem
from tests.shard.life import digest, text_of

DATA = Path("/data")
HASHES = [digest(number) for number in range(24)] + ["short", "käse", "x" * 300]


def records_of(shards: int, put_text: list[object]) -> list[list[Record]]:
    """The same state for any number of shards: what each of them holds."""
    found: list[list[Record]] = [[] for _ in range(shards)]

    def home(text: str) -> int:
        return ShardMap(shards).of(to_key(text))

    for number, taskhash in enumerate(HASHES):
        outhash = digest(1000 + number // 3)
        shard = home(taskhash)
        details = ("owner", f"PN{number % 2}", None, "r0", "do_x")
        siginfo = put_text[shard](text_of(taskhash)) if number % 4 == 0 else 0  # type: ignore[operator]
        unihash = digest(number // 2) if number % 5 else None
        found[shard].append(("row", "m", taskhash, outhash, number, *details, siginfo, unihash, "A" * (number % 2)))
        found[home(outhash)].append(("idx", "m", outhash, taskhash, number))
    found[0].append(("set", "user", "admin", {"permissions": ["@all"]}))
    for each in found:
        each.append(("set", "config", "gc-mark", "A"))
    return found


def fill(fs: FaultyFileSystem | OsFileSystem, directory: Path, manifest: Manifest) -> None:
    shards = [open_shard(fs, folder) for folder in manifest.folders(directory)]
    for shard, records in zip(shards, records_of(len(shards), [shard.put_siginfo for shard in shards]), strict=True):
        shard.append(records)
        shard.close()


def expected(shards: int) -> list[str]:
    tables = [Table() for _ in range(shards)]
    for table, records in zip(tables, records_of(shards, [lambda _: 1] * shards), strict=True):
        for record in records:
            table.apply(record)
    return [table.digest() for table in tables]


def check(fs: FaultyFileSystem | OsFileSystem, directory: Path, manifest: Manifest) -> None:
    shards = [open_shard(fs, folder) for folder in manifest.folders(directory)]
    assert [shard.table.digest() for shard in shards] == expected(manifest.shards)
    for shard in shards:
        shard.table.check()
        for taskhash in HASHES:
            for row in shard.table.rows("m", to_key(taskhash)):
                assert shard.get_siginfo(row.siginfo) == (text_of(taskhash) if row.siginfo else None)


def begun(shards: int) -> FaultyFileSystem:
    fs = FaultyFileSystem()
    fs.mkdir(DATA)
    fs.root.sync()
    fill(fs, DATA, prepare_directory(fs, DATA, shards, ignore_progress))
    return fs


def test_a_file_is_no_place_for_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(
            ConfigError, match=r"/file is a file, not a folder; .*: shardhash import .*/file --data DIR$"
        ):
            make_directory(OsFileSystem(), path)


@pytest.mark.parametrize(("old", "new"), [(1, 2), (2, 1), (3, 5), (5, 2), (2, 16)])
def test_reshard_is_as_if_it_had_always_been_so(old: int, new: int) -> None:
    fs = begun(old)
    said: list[str] = []
    manifest = prepare_directory(fs, DATA, new, said.append)
    assert manifest == Manifest(new, 2)
    check(fs, DATA, manifest)
    assert fs.exists(generation_folder(DATA, 1)), "gone before the new one has recovered"
    remove_leftovers(fs, DATA, manifest)
    assert not fs.exists(generation_folder(DATA, 1))
    assert said[0] == f"resharding /data from {old} to {new} shard{'s' if new > 1 else ''}"
    check(fs, DATA, prepare_directory(fs, DATA, new, said.append))
    assert prepare_directory(fs, DATA, old, ignore_progress) == Manifest(old, 3)
    check(fs, DATA, Manifest(old, 3))


def test_data_without_a_manifest_is_not_begun_anew() -> None:
    fs = begun(2)
    fs.unlink(DATA / MANIFEST)
    with pytest.raises(DamageError, match="missing"):
        prepare_directory(fs, DATA, 2, ignore_progress)
    assert fs.exists(generation_folder(DATA, 1))


def test_a_shard_that_is_missing_is_not_begun_anew() -> None:
    fs = begun(2)
    fs.folder(generation_folder(DATA, 1)).names.pop("shard-001")
    with pytest.raises(DamageError, match=r"shard-001: .* missing"):
        prepare_directory(fs, DATA, 2, ignore_progress)
    with pytest.raises(DamageError, match=r"shard-001: .* missing"):
        open_shard(fs, Manifest(2, 1).folders(DATA)[1])


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        (orjson.dumps({"format": FORMAT + 1, "shards": 2, "generation": 1}), ConfigError, "use a newer one"),
        (b"", DamageError, "damaged"),
        (b"[]", DamageError, "damaged"),
        (b'{"format":1}', DamageError, "damaged"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused(text: bytes, error: type[Exception], words: str) -> None:
    fs = begun(2)
    fs.file(DATA / MANIFEST).data[:] = text
    with pytest.raises(error, match=words):
        prepare_directory(fs, DATA, 2, ignore_progress)


def test_on_the_real_file_system(tmp_path: Path) -> None:
    """Files are their owner's alone, and all of it works there too."""
    fs = OsFileSystem()
    directory = tmp_path / "deep" / "data"
    make_directory(fs, directory)
    with lock_directory(directory):
        manifest = prepare_directory(fs, directory, 2, ignore_progress)
        fill(fs, directory, manifest)
        manifest = prepare_directory(fs, directory, 3, ignore_progress)
        check(fs, directory, manifest)
    for path in (directory, *directory.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path

"""The manifest against its checksum, sense and the folders; replacements that delete nothing before they have proved.

Cuts of the power are in test_reshard_power_cut and tests/admin/test_power_cut.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from shardhash.errors import ConfigError, DamageError, StorageError
from shardhash.shard.directory.generations import (
    highest_generation,
    make_generation,
    next_generation,
    prepare_directory,
    remove_leftovers,
)
from shardhash.shard.directory.manifest import Manifest, read_manifest, write_manifest
from shardhash.shard.storage.filesystem import OsFileSystem
from shardhash.shard.storage.layout import MANIFEST, generation_folder, list_shard, segment_path, snapshot_path
from shardhash.shard.storage.recovery import ignore_progress, open_shard, recover
from tests.shard.faulty import FaultyFileSystem, File, Folder
from tests.shard.test_manifest import DATA, begun, check


def tree(fs: FaultyFileSystem) -> dict[str, bytes]:
    """Everything in the directory but the manifest."""
    found: dict[str, bytes] = {}

    def walk(folder: Folder, path: str) -> None:
        for name, node in folder.names.items():
            if isinstance(node, File):
                found[f"{path}/{name}"] = bytes(node.data)
            else:
                walk(node, f"{path}/{name}")

    walk(fs.folder(DATA), "")
    del found[f"/{MANIFEST}"]
    return found


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_every_bit_of_the_manifest_flipped_is_refused_and_changes_nothing(shards: int) -> None:
    fs = begun(shards)
    before, sound = tree(fs), bytes(fs.file(DATA / MANIFEST).data)
    for bit in range(8 * len(sound)):
        flipped = bytearray(sound)
        flipped[bit // 8] ^= 1 << bit % 8
        fs.file(DATA / MANIFEST).data[:] = flipped
        try:
            assert prepare_directory(fs, DATA, shards, ignore_progress) == Manifest(shards, 1)
        except (DamageError, ConfigError):
            pass
        assert tree(fs) == before, f"bit {bit}"


@pytest.mark.parametrize(
    ("shards", "generation"),
    [(0, 1), (-1, 1), (257, 1), (3_000_000, 1), (2, 0), (2, -1), (True, 1), (2.0, 1), ("2", 1), (2, None)],
)
def test_a_manifest_that_says_what_cannot_be_is_refused(shards: object, generation: object) -> None:
    fs = begun(2)
    before = tree(fs)
    write_manifest(fs, DATA, Manifest(shards, generation))  # type: ignore[arg-type]
    with pytest.raises(DamageError, match="manifest is damaged"):
        prepare_directory(fs, DATA, 2, ignore_progress)
    assert tree(fs) == before


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (Manifest(2, 3), r"names generation-000003, which is missing; there are: generation-000001"),
        (Manifest(1, 1), r"says 1 shard, but generation-000001 has also shard-001"),
        (Manifest(3, 1), r"shard-002: .* missing"),
    ],
)
@pytest.mark.parametrize("wanted", [1, 2, 3])
def test_a_manifest_and_folders_that_differ_are_refused(manifest: Manifest, words: str, wanted: int) -> None:
    fs = begun(2)
    before = tree(fs)
    write_manifest(fs, DATA, manifest)
    with pytest.raises(DamageError, match=words):
        prepare_directory(fs, DATA, wanted, ignore_progress)
    assert tree(fs) == before


def test_a_manifest_without_a_checksum_is_read_if_it_is_of_the_format_that_had_none() -> None:
    fs = begun(2)
    for version, words in ((1, ""), (2, "damaged")):
        fs.file(DATA / MANIFEST).data[:] = orjson.dumps({"format": version, "shards": 2, "generation": 1})
        if words:
            with pytest.raises(DamageError, match=words):
                read_manifest(fs, DATA)
        else:
            check(fs, DATA, prepare_directory(fs, DATA, 2, ignore_progress))
            assert b"checksum" not in fs.file(DATA / MANIFEST).data
            remove_leftovers(fs, DATA, Manifest(2, 1))  # after the shards have recovered
            assert b"checksum" in fs.file(DATA / MANIFEST).data
            assert read_manifest(fs, DATA) == Manifest(2, 1)


def test_a_number_is_not_used_twice_and_leftovers_stay_until_the_shards_have_recovered() -> None:
    fs = begun(2)
    make_generation(fs, DATA, Manifest(1, 7))
    before = tree(fs)
    manifest = prepare_directory(fs, DATA, 2, ignore_progress)
    assert tree(fs) == before
    check(fs, DATA, manifest)
    remove_leftovers(fs, DATA, manifest)
    assert highest_generation(fs, DATA) == 1
    make_generation(fs, DATA, Manifest(1, 7))
    with next_generation(fs, DATA, 1) as new:
        assert new == Manifest(1, 8)
    assert read_manifest(fs, DATA) == new
    assert fs.exists(generation_folder(DATA, 1))


def test_a_link_among_the_leftovers_is_removed_and_not_what_it_points_to(tmp_path: Path) -> None:
    fs, data = OsFileSystem(), tmp_path / "data"
    data.mkdir()
    manifest = prepare_directory(fs, data, 1, ignore_progress)
    (tmp_path / "precious" / "folder").mkdir(parents=True)
    (tmp_path / "precious" / "folder" / "file").write_text("kept")
    (data / "generation-000007").symlink_to(tmp_path / "precious")
    (data / "generation-000008").mkdir()
    (data / "generation-000008" / "shard-000").symlink_to(tmp_path / "precious" / "folder")
    (data / "generation-000008" / "file").touch()
    remove_leftovers(fs, data, manifest)
    assert sorted(path.name for path in data.iterdir()) == ["generation-000001", "manifest.json"]
    assert (tmp_path / "precious" / "folder" / "file").read_text() == "kept"


def test_leftovers_stay_while_what_is_kept_is_not_whole() -> None:
    """A reshard that finds its old shards damaged removes nothing, though the next attempt could use the room."""
    fs = begun(2)
    make_generation(fs, DATA, Manifest(1, 7))
    folder = Manifest(2, 1).folders(DATA)[1]
    fs.file(segment_path(folder, list_shard(fs, folder).segments[0])).data[50] ^= 1
    before = tree(fs)
    with pytest.raises(DamageError):
        prepare_directory(fs, DATA, 3, ignore_progress)
    assert tree(fs) == before
    fs.folder(generation_folder(DATA, 1)).names.pop("shard-000")
    with pytest.raises(DamageError, match="missing"):
        remove_leftovers(fs, DATA, Manifest(2, 1))
    assert fs.exists(generation_folder(DATA, 7))


@pytest.mark.parametrize("kind", ["snap", "sig"])
def test_a_new_generation_that_does_not_read_back_replaces_nothing(kind: str) -> None:
    """The disk changes a byte behind our back, after each write that was read back on its own."""
    fs = begun(2)
    before = tree(fs)
    rotten: set[str] = set()

    def rot(_number: int, name: str) -> None:
        new = DATA / "generation-000002" / "shard-001"
        if name == "fsync_dir" and fs.exists(new) and any(file.endswith(".snap") for file in fs.listdir(new)):
            for file in fs.listdir(new):
                if file.endswith(kind) and file not in rotten:
                    rotten.add(file)
                    data = fs.file(new / file).data
                    data[len(data) // 2] ^= 1

    fs.before = rot
    with pytest.raises(StorageError, match="does not read back"):
        prepare_directory(fs, DATA, 3, ignore_progress)
    assert tree(fs) == before
    fs.before = lambda _number, _name: None
    check(fs, DATA, prepare_directory(fs, DATA, 3, ignore_progress))


def test_what_an_aside_tells_of_is_not_begun_anew() -> None:
    """A manifest and all that it named are gone: that there was something is still to be seen."""
    fs = begun(2)
    fs.mkdir(DATA / "aside-20261127-120000")
    fs.unlink(DATA / MANIFEST)
    fs.folder(DATA).names.pop("generation-000001")
    with pytest.raises(DamageError, match="aside-20261127-120000 is what was there before"):
        prepare_directory(fs, DATA, 2, ignore_progress)


def _remove(fs: FaultyFileSystem, path: Path) -> None:
    fs.unlink(path)


def _empty(fs: FaultyFileSystem, path: Path) -> None:
    del fs.file(path).data[:]


def _flip(fs: FaultyFileSystem, path: Path) -> None:
    data = fs.file(path).data
    data[len(data) // 2] ^= 4


@pytest.mark.parametrize("damage", [_remove, _empty, _flip])
def test_a_shard_that_starts_from_a_snapshot_is_nothing_without_it(
    damage: Callable[[FaultyFileSystem, Path], None],
) -> None:
    """Also when it has records behind it; and with a later snapshot no way leads back before that."""
    for later in (False, True):
        fs = begun(2)
        manifest = prepare_directory(fs, DATA, 3, ignore_progress)
        for folder in manifest.folders(DATA):
            shard = open_shard(fs, folder)
            shard.append([("map", "m", "late", "11" * 32, "")])
            shard.sync()
            shard.table.apply(("map", "m", "late", "11" * 32, ""))
            if later:
                job = shard.begin_snapshot()
                while job.step():
                    pass
                while job.seal():
                    pass
            listing = list_shard(fs, folder)
            assert (listing.segments[0], listing.snapshots[0]) == (2, 2)
            damage(fs, snapshot_path(folder, 2))
            if later:
                assert recover(fs, folder).table.digest() == shard.table.digest()
            with pytest.raises(DamageError, match="snapshot"):
                recover(fs, folder, until=1 if later else None)


def test_a_snapshot_before_segment_1_is_no_proof_that_the_log_is_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards that started from a snapshot once began with number 1 of both."""
    monkeypatch.setattr("shardhash.shard.directory.reshard.BASE_SEGMENT", 1)
    monkeypatch.setattr("shardhash.shard.directory.generations.BASE_SEGMENT", 1)
    fs = begun(2)
    manifest = prepare_directory(fs, DATA, 3, ignore_progress)
    check(fs, DATA, manifest)
    for folder in manifest.folders(DATA):
        _flip(fs, snapshot_path(folder, 1))
        with pytest.raises(DamageError, match="no snapshot verifies"):
            recover(fs, folder)

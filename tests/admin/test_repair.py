"""Verify and repair, in a full circle: damage is done, seen, repaired; what was there is kept; a server goes on.

Each case supplies the damage, and which reports may be lost by it.
"""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shardhash.admin.repair import Repaired, repair
from shardhash.admin.restore import restore_over
from shardhash.admin.verify import Verdict, verify
from shardhash.errors import ConfigError, DamageError
from shardhash.shard.directory.generations import prepare_directory
from shardhash.shard.directory.manifest import Manifest, make_directory, read_manifest
from shardhash.shard.storage.filesystem import OsFileSystem
from shardhash.shard.storage.layout import MANIFEST
from tests.admin.directories import Writer, facts, silent

FS = OsFileSystem()
SHARD = Path("generation-000001/shard-000")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards with segments before, between and after two snapshots, stopped in order."""
    directory = tmp_path_factory.mktemp("pristine") / "data"
    make_directory(FS, directory)
    writer = Writer(FS, directory)
    writer.fill(range(1, 20))
    writer.snapshot()
    writer.fill(range(20, 60))
    writer.snapshot()
    writer.fill(range(60, 100))
    writer.close()
    return directory


@pytest.fixture
def data(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "data"))


def files(directory: Path) -> dict[str, bytes]:
    found = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


def shard_files(directory: Path, kind: str) -> list[Path]:
    return sorted((directory / SHARD).glob(f"{kind}-*"))


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)


def examine(directory: Path) -> Verdict:
    manifest = read_manifest(FS, directory)
    assert manifest is not None
    return verify(FS, manifest.folders(directory), silent)


def test_what_is_sound_is_left_alone(data: Path) -> None:
    before = files(data)
    verdict = examine(data)
    assert (verdict.damage, verdict.remarks) == ([], [])
    assert verdict.counts["rows"] == 99
    assert verdict.counts["siginfo"] == 33
    assert verdict.counts["snapshots"] == 4
    assert repair(FS, data, "now", silent) == Repaired(saved=verdict.counts)
    assert files(data) == before


def middle(path: Path) -> int:
    return path.stat().st_size // 2


def flip_record(data: Path) -> None:
    log = shard_files(data, "log")[-2]
    flip(log, middle(log))


def flip_head(data: Path) -> None:
    flip(shard_files(data, "log")[-3], 3)


def cut_segment(data: Path) -> None:
    log = shard_files(data, "log")[-2]
    log.write_bytes(log.read_bytes()[: middle(log)])


def remove_segment(data: Path) -> None:
    shard_files(data, "log")[-3].unlink()


def flip_old_segment(data: Path) -> None:
    """One that only an earlier time would need."""
    log = shard_files(data, "log")[0]
    flip(log, middle(log))


def flip_snapshot(data: Path) -> None:
    snapshot = shard_files(data, "snapshot")[-1]
    flip(snapshot, middle(snapshot))


def flip_old_snapshot(data: Path) -> None:
    snapshot = shard_files(data, "snapshot")[0]
    flip(snapshot, middle(snapshot))


def flip_all_snapshots(data: Path) -> None:
    """Also the log that began it all is gone, as it is on a server that runs for long."""
    flip_snapshot(data)
    flip_old_snapshot(data)
    for log in shard_files(data, "log"):
        if log.name[4:] < shard_files(data, "snapshot")[0].name[9:]:
            log.unlink()


def flip_siginfo(data: Path) -> None:
    flip(shard_files(data, "siginfo")[0], 40)


def remove_siginfo(data: Path) -> None:
    shard_files(data, "siginfo")[0].unlink()


def flip_manifest(data: Path) -> None:
    flip(data / MANIFEST, 3)


def remove_manifest(data: Path) -> None:
    (data / MANIFEST).unlink()


def remove_log(data: Path) -> None:
    for log in shard_files(data, "log"):
        log.unlink()


LOSES = [
    flip_record,
    cut_segment,
    remove_segment,
    flip_all_snapshots,
    flip_siginfo,
    remove_siginfo,
    remove_log,
]
LOSES_NOTHING = [flip_head, flip_old_segment, flip_snapshot, flip_old_snapshot, flip_manifest, remove_manifest]


@pytest.mark.parametrize("damage", [*LOSES, *LOSES_NOTHING])
def test_full_circle(pristine: Path, data: Path, damage: Callable[[Path], None]) -> None:
    damage(data)
    before = files(data)
    if damage not in (flip_manifest, remove_manifest):
        assert examine(data).damage
        assert files(data) == before, "verify changed something"
    result = repair(FS, data, "now", silent)
    assert result.damage
    assert bool(result.lost) == (damage in LOSES), result.lost
    assert result.aside == data / "aside-now"
    assert files(result.aside) == before
    verdict = examine(data)
    assert (verdict.damage, verdict.remarks) == ([], [])
    had, has = facts(FS, pristine), facts(FS, data)
    if damage in LOSES_NOTHING:
        assert has == had
    else:
        rows = [fact for fact in has if fact.startswith(b'["row"')]
        assert len(rows) > 50
    writer = Writer(FS, data)  # a server starts, goes on, and starts once more
    writer.fill(range(200, 210))
    after = [shard.table.digest() for shard in writer.shards]
    writer.close()
    assert [shard.table.digest() for shard in Writer(FS, data).shards] == after


def test_lost_records_are_named(data: Path) -> None:
    flip_record(data)
    (lost,) = repair(FS, data, "now", silent).lost
    assert lost.startswith(str(shard_files(data / "aside-now", "log")[-2]).replace("aside-now/", ""))
    assert re.search(r": record \d+ is lost$", lost)


def test_every_third_byte_flipped_is_damage(pristine: Path, tmp_path: Path) -> None:
    """But for bytes that nothing refers to (heads of siginfo files)."""
    path = tmp_path / "data"
    make_directory(FS, path)
    writer = Writer(FS, path, shards=1)
    writer.fill(range(1, 5))
    writer.snapshot()
    writer.report(5)
    writer.close()
    chance = random.Random(1)
    for file in sorted((path / SHARD).iterdir()):
        sound = file.read_bytes()
        for at in range(chance.randrange(3), len(sound), 3):
            flip(file, at)
            newest = file == shard_files(path, "log")[-1]
            verdict = examine(path)
            assert verdict.damage or (newest and verdict.remarks) or (file.suffix == ".sig" and at < 8), (file, at)
            file.write_bytes(sound)


def test_keys_on_the_wrong_shard_and_rows_out_of_the_index(data: Path) -> None:
    writer = Writer(FS, data)
    here, there = writer.shards
    strays = [shard for shard in (here, there) if writer.home("a" * 64) is not shard]
    writer.write(strays[0], ("map", "m", "a" * 64, "b" * 64, ""))
    writer.write(writer.home("c" * 64), ("row", "m", "c" * 64, "d" * 64, 5, *[None] * 5, 0, "c" * 64, ""))
    writer.write(writer.home("e" * 64), ("idx", "m", "e" * 64, "f" * 64, 5))
    writer.write(there, ("set", "user", "mary", {}))
    writer.close()
    verdict = examine(data)
    assert len(verdict.damage) == 3
    assert "the mapping of m aaaa" in "".join(verdict.damage)
    assert "not in the index" in "".join(verdict.damage)
    assert "belong on shard 0" in "".join(verdict.damage)
    assert verdict.remarks == ["1 index item has no row, after reports that a crash cut short; harmless"]
    assert repair(FS, data, "now", silent).lost == []
    verdict = examine(data)
    assert (verdict.damage, verdict.remarks) == ([], [])
    assert Writer(FS, data).home("a" * 64).table.unihash("m", b"\xaa" * 32) == b"\xbb" * 32


def test_a_server_does_not_start_on_damage_and_says_what_helps(data: Path) -> None:
    flip_record(data)
    with pytest.raises(DamageError, match=r"log-\d+\.log: at byte \d+: .*shardhash repair --data DIR"):
        Writer(FS, data)


def test_resharding_that_was_cut_short_and_no_manifest(pristine: Path, data: Path) -> None:
    """Of the two generations the whole one is taken."""
    prepare_directory(FS, data, 3, silent)
    shutil.rmtree(data / "generation-000002" / "shard-001")
    (data / MANIFEST).unlink()
    assert repair(FS, data, "now", silent).lost == []
    assert read_manifest(FS, data) == Manifest(2, 3)
    assert facts(FS, data) == facts(FS, pristine)


def test_some_bits_of_the_manifest_flipped_loses_nothing(pristine: Path, tmp_path: Path) -> None:
    """What it says is not believed: neither by a repair nor by a restore over it."""
    expected = facts(FS, pristine)
    sound = (pristine / MANIFEST).read_bytes()
    for bit in range(0, 8 * len(sound), 29):
        data = Path(shutil.copytree(pristine, tmp_path / f"data-{bit}"))
        flipped = bytearray(sound)
        flipped[bit // 8] ^= 1 << bit % 8
        (data / MANIFEST).write_bytes(flipped)
        with pytest.raises((DamageError, ConfigError)):
            restore_over(FS, pristine, data, None, "now", silent)
        try:
            assert repair(FS, data, "now", silent).lost == []
        except ConfigError:  # it says that it is of a version that this one does not know
            shutil.copy(pristine / MANIFEST, data / MANIFEST)
        assert facts(FS, data) == expected
        shutil.rmtree(data)


def test_nothing_to_repair(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a data directory"):
        repair(FS, tmp_path, "now", silent)

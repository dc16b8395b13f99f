"""Data directories that are written directly, as a server's snapshots: ten million mappings in a minute.

Mapping number n has digests that follow from n by a mixing of bits, so that any process knows what to ask for and what
is due, whichever of ten million it picks, without a table.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from perf.workload import DIGEST_SIZE, Step
from shardhash.shard.directory.generations import make_generation
from shardhash.shard.directory.manifest import Manifest, make_directory, write_manifest
from shardhash.shard.storage.filesystem import OsFileSystem
from shardhash.shard.storage.recovery import BASE_SEGMENT, now
from shardhash.shard.storage.snapshot import SnapshotHead, SnapshotWriter
from shardhash.shard.storage.snapshot_chunks import CHUNK, Chunk
from shardhash.wire.hashes import SLOTS

METHOD = "oe.sstatesig.OEOuthashBasic"

Digests: TypeAlias = npt.NDArray[np.uint8]
"""n * 32."""

_AT_ONCE = 200_000
"""Mappings that are in memory while a directory is written."""
_TASKHASH, _UNIHASH, _OUTHASH = 0x5F0A_11C3, 0x3D29_8E41, 0x7B64_D20F
"""What sets the three digests of a number apart."""
_RECIPES = 997


def taskhashes(numbers: npt.NDArray[np.uint64]) -> Digests:
    """The taskhashes of mappings."""
    return _mixed(numbers, _TASKHASH)


def unihashes(numbers: npt.NDArray[np.uint64], *, reported: bool) -> Digests:
    """Their unihashes: of a task that was reported its taskhash, for a new output has the hash of its first task.

    Of the other mappings, a third have their taskhash, and the others a hash that no other has, which costs most.
    """
    own = taskhashes(numbers)
    return own if reported else np.where(own[:, :1] % 3 == 0, own, _mixed(numbers, _UNIHASH))


def _mixed(numbers: npt.NDArray[np.uint64], kind: int) -> Digests:
    """32 bytes for each number, as good as random: four rounds of SplitMix64 side by side."""
    words: Any = (
        numbers.astype(np.uint64)[:, None] * np.uint64(4) + np.arange(4, dtype=np.uint64) + np.uint64(kind << 32)
    )
    words = (words + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    mixed: Digests = words.view(np.uint8).reshape(-1, DIGEST_SIZE)
    return mixed


@dataclass(frozen=True, slots=True)
class Picked:
    """The workload of builders that ask for mappings picked from all: a step of each size."""

    mappings: int
    sizes: tuple[int, ...]
    reported: bool = False
    """Whether they came with outhash rows."""
    seed: int = 0
    """With another one, they ask for others."""

    def steps(self, builder: int | None = None) -> list[Step]:
        """What a builder asks; each picks its own."""
        dice = np.random.default_rng((builder or 0, self.seed))
        steps = []
        for size in self.sizes:
            numbers = dice.integers(0, self.mappings, size, dtype=np.uint64)
            due = unihashes(numbers, reported=self.reported)
            steps.append(Step(METHOD, taskhashes(numbers).tobytes(), due.tobytes(), None))
        return steps


def fill(directory: Path, shards: int, mappings: int, *, rows: bool = False) -> None:
    """Make a data directory of so many mappings, each with an outhash row and index item of its own if `rows`."""
    fs = OsFileSystem()
    manifest = Manifest(shards, 1)
    make_directory(fs, directory)
    make_generation(fs, directory, manifest, BASE_SEGMENT)
    head = SnapshotHead(BASE_SEGMENT, 1, now(), 1)
    writers = [SnapshotWriter(fs, folder, head) for folder in manifest.folders(directory)]
    for start in range(0, mappings, _AT_ONCE):
        numbers = np.arange(start, min(start + _AT_ONCE, mappings), dtype=np.uint64)
        _add(writers, numbers, rows=rows)
    for writer in writers:
        writer.seal(now())
    write_manifest(fs, directory, manifest)


def _add(writers: list[SnapshotWriter], numbers: npt.NDArray[np.uint64], *, rows: bool) -> None:
    tasks, outputs = taskhashes(numbers), _mixed(numbers, _OUTHASH)
    for shard, writer in enumerate(writers):
        mine = numbers[_home(tasks, len(writers)) == shard]
        for part in _slices(mine):
            writer.add(_tasks_chunk(part, rows=rows))
        for part in _slices(numbers[_home(outputs, len(writers)) == shard]) if rows else ():
            writer.add(_index_chunk(part))


def _home(digests: Digests, shards: int) -> npt.NDArray[np.intp]:
    """The shard of each, as `ShardMap` has it."""
    return digests[:, 0].astype(np.intp) * shards // SLOTS


def _slices(numbers: npt.NDArray[np.uint64]) -> list[npt.NDArray[np.uint64]]:
    return [numbers[start : start + CHUNK] for start in range(0, len(numbers), CHUNK)]


def _tasks_chunk(numbers: npt.NDArray[np.uint64], *, rows: bool) -> Chunk:
    count = len(numbers) if rows else 0
    details: list[list[Any]] = [[None, f"recipe-{recipe}", "1.0", "r0", "do_compile"] for recipe in range(_RECIPES)]
    return {
        "kind": "tasks",
        "method": METHOD,
        "taskhashes": taskhashes(numbers).tobytes().hex(),
        "unihashes": unihashes(numbers, reported=rows).tobytes().hex(),
        "known": None,
        "marks": {},
        "details": details if rows else [],
        "row_task": list(range(count)),
        "row_outhash": _mixed(numbers[:count], _OUTHASH).tobytes().hex(),
        "row_created": [now()] * count,
        "row_details": (numbers[:count] % np.uint64(_RECIPES)).tolist(),
        "row_siginfo": [0] * count,
    }


def _index_chunk(numbers: npt.NDArray[np.uint64]) -> Chunk:
    return {
        "kind": "index",
        "method": METHOD,
        "outhashes": _mixed(numbers, _OUTHASH).tobytes().hex(),
        "taskhashes": taskhashes(numbers).tobytes().hex(),
        "created": [now()] * len(numbers),
    }

"""The data directory's manifest, which says what counts in it.

``manifest.json`` is ``{"format": 2, "shards": N, "generation": G, "checksum": C}``; C is the CRC-32, in eight hex
digits, of the JSON of the other fields, sorted by name. It is replaced atomically, and names the generation whose
folder counts. Format 1 had no checksum. A manifest is held against its checksum, against what is possible, and against
the folders that are there, before anything is done by it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import orjson

from shardhash.base.folders import refuse_file
from shardhash.base.owners import describe
from shardhash.base.text import counted
from shardhash.errors import ConfigError, DamageError
from shardhash.shard.storage.filesystem import FileSystem, replace_file
from shardhash.shard.storage.layout import MANIFEST, SHARD, generation_folder, shard_folder

FORMAT = 2
"""Version of the data directory as a whole: layout, log, snapshots and siginfo files."""
MOST_SHARDS = 256
"""As many as there are slots."""
_LONGEST = 4096
"""Bytes of a manifest that are read."""
MOST_GENERATION = 999_999_999

REBUILD = "run: shardhash repair --data DIR, which writes it anew from the folders that are there"
HINT = "see: shardhash verify --data DIR, then: shardhash repair --data DIR"

GENERATION = re.compile(r"generation-(\d{6,9})", re.ASCII)
"""The name of a generation's folder."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a data directory holds."""

    shards: int
    generation: int

    def folders(self, directory: Path) -> list[Path]:
        """The folders of the shards, in order."""
        return [shard_folder(directory, self.generation, shard) for shard in range(self.shards)]


def read_manifest(fs: FileSystem, directory: Path) -> Manifest | None:
    """The manifest, None in a directory that has none. ConfigError for a newer format, DamageError for nonsense."""
    path = directory / MANIFEST
    if not fs.exists(path):
        return None
    with fs.read(path) as file:
        text = file.read(_LONGEST)
    try:
        found = orjson.loads(text)
        version = found["format"]
        if "checksum" in found and found.pop("checksum") != _checksum(found):
            raise ValueError
        if version not in (1, FORMAT) and type(version) is int:
            raise ConfigError(
                f"{directory} has data of format {version}, this shardhash reads {FORMAT}; use a newer one"
            )
        if version != 1 and b"checksum" not in text:
            raise ValueError
        return plausible_manifest(found["shards"], found["generation"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
        raise DamageError(path, 0, "the manifest is damaged", REBUILD) from None


def plausible_manifest(shards: Any, generation: Any) -> Manifest:
    """The manifest that says this. ValueError when it is impossible."""
    if type(shards) is not int or type(generation) is not int:
        raise ValueError("shards and generation must be integers")
    if not 1 <= shards <= MOST_SHARDS:
        raise ValueError(f"there can be 1 to {MOST_SHARDS} shards, not {shards}")
    if not 1 <= generation <= MOST_GENERATION:
        raise ValueError(f"there is no generation {generation}")
    return Manifest(shards, generation)


def write_manifest(fs: FileSystem, directory: Path, manifest: Manifest) -> None:
    """Replace the manifest, durably."""
    value = {"format": FORMAT, "shards": manifest.shards, "generation": manifest.generation}
    value_with_checksum = value | {"checksum": _checksum(value)}
    replace_file(fs, directory / MANIFEST, orjson.dumps(value_with_checksum, option=orjson.OPT_APPEND_NEWLINE))


def upgrade_manifest(fs: FileSystem, directory: Path, manifest: Manifest) -> None:
    """Give a manifest of format 1 a checksum; the caller has recovered what it names. Raises OSError."""
    with fs.read(directory / MANIFEST) as file:
        if orjson.loads(file.read(_LONGEST))["format"] != FORMAT:
            write_manifest(fs, directory, manifest)


def check_folders(fs: FileSystem, directory: Path, manifest: Manifest) -> None:
    """Hold a manifest against the folders that are there. Raises DamageError when one is missing or too many."""
    path, generation = directory / MANIFEST, generation_folder(directory, manifest.generation)
    if not fs.exists(generation):
        others = ", ".join(name for name in fs.listdir(directory) if GENERATION.fullmatch(name)) or "none"
        raise DamageError(path, 0, f"it names {generation.name}, which is missing; there are: {others}", REBUILD)
    expected = {folder.name for folder in manifest.folders(directory)}
    present = {name for name in fs.listdir(generation) if SHARD.fullmatch(name)}
    for name in sorted(expected - present):
        raise DamageError(generation / name, 0, "the folder of this shard is missing", HINT)
    if present != expected:
        what = f"it says {counted(manifest.shards, 'shard')}, but {generation.name} has also {min(present - expected)}"
        raise DamageError(path, 0, what, REBUILD)


def _checksum(fields: dict[str, Any]) -> str:
    return f"{crc32(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)):08x}"


def make_directory(fs: FileSystem, directory: Path) -> None:
    """Make the data directory itself, readable by its owner only, and its parents. Raises ConfigError."""
    refuse_file(directory)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        if not directory.is_dir():  # it may be a link; nothing in it is
            fs.mkdir(directory)
        fs.fsync_dir(directory.parent)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {directory}: {describe(error, directory)}") from None

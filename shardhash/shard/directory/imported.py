"""Which databases of the stock server a data directory has: ``imported.json`` is ``{PATH: TIME}``.

Paths are absolute, times ISO 8601, UTC. Only a start's log goes by it: it may be missing, and no backup has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import orjson

from shardhash.shard.storage.filesystem import FileSystem, replace_file
from shardhash.shard.storage.layout import IMPORTED


def note_imports(fs: FileSystem, directory: Path, databases: Iterable[Path], now: str) -> None:
    """Note that files were imported. Raises OSError."""
    noted = _read(directory) | {str(path.resolve()): now for path in databases}
    replace_file(fs, directory / IMPORTED, orjson.dumps(noted, option=orjson.OPT_APPEND_NEWLINE))


def time_of_import(directory: Path, database: Path) -> str | None:
    """When a file was last imported into a data directory; None if that is not known."""
    return _read(directory).get(str(database.resolve()))


def _read(directory: Path) -> dict[str, str]:
    try:
        found = orjson.loads((directory / IMPORTED).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return {path: str(time) for path, time in found.items()} if isinstance(found, dict) else {}

"""Copies of a whole state between data directories and databases, in any direction.

What is read is added up to a digest, and so is what was written, read back before it counts. The copy is there when
both are the same; otherwise, and whenever something goes wrong, the target is as empty as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import orjson

from shardhash.admin.backup import source_of
from shardhash.admin.directory import new_directory
from shardhash.admin.dump import FORMAT, dump, load
from shardhash.admin.dump import VERSION as DUMP_VERSION
from shardhash.admin.restore import kept_still
from shardhash.database.digest import ITEMS, StateDigest
from shardhash.errors import ConfigError
from shardhash.shard.storage.filesystem import OsFileSystem
from shardhash.shard.storage.layout import MANIFEST

EVERY = 50_000
"""Items between one progress text and the next."""

Tell: TypeAlias = Callable[[str], None]
Put: TypeAlias = Callable[[dict[str, Any]], None]


class Place(Protocol):
    """Where a state is, or is to be."""

    def read(self, put: Put, tell: Tell) -> None:
        """Give every item."""

    def write(self, source: Place, tell: Tell) -> tuple[StateDigest, StateDigest]:
        """Become a copy of another place, unless the two digests, of what was read and of what is here, differ."""


def place_of(text: str, shards: int) -> Place:
    """A database, if it is a URL, or a data directory, which gets this many shards if it is made."""
    if "://" in text:
        from shardhash.database.databases import DatabasePlace  # needs psycopg

        return DatabasePlace(text)
    return Directory(Path(text), shards)


def copy(source: Place, target: Place, tell: Tell) -> StateDigest:
    """Copy everything; its digest. Raises ConfigError, DamageError, StorageError."""
    read, written = target.write(source, tell)
    check_same(read, written)
    return read


def check_same(read: StateDigest, written: StateDigest) -> None:
    """Raise ConfigError unless both are the digest of the same state."""
    if read.text != written.text:
        raise ConfigError(
            f"the copy is not what was read ({written.describe()}, digest {written.text}, instead of"
            f" {read.describe()}, digest {read.text}); it was undone. This is a bug"
        )


def counting(put: Put, digest: StateDigest, tell: Tell, verb: str) -> Put:
    """Puts each item, after it was added to a digest, and says now and then how far it is."""

    def count(item: dict[str, Any]) -> None:
        digest.add(item)
        put(item)
        if (total := digest.counts.total()) % EVERY == 0:
            tell(f"{verb} {total:,} items")

    return count


class Directory:
    """A data directory of a stopped server, or a backup."""

    def __init__(self, path: Path, shards: int) -> None:
        self._path = path
        self._shards = shards
        self._fs = OsFileSystem()

    def read(self, put: Put, tell: Tell) -> None:
        """See Place."""
        source = source_of(self._fs, self._path)

        def take(line: bytes) -> None:
            item = orjson.loads(line)
            if item.get("type") in ITEMS:
                put(item)

        with kept_still(self._path):
            dump(source.fs, source.manifest.folders(self._path), take, tell, until=source.time, days=True)

    def write(self, source: Place, tell: Tell) -> tuple[StateDigest, StateDigest]:
        """See Place."""
        if (self._path / MANIFEST).exists():
            raise ConfigError(f"{self._path} holds data already, and a copy needs an empty place: give another folder")
        read, written = StateDigest(), StateDigest()
        with new_directory(self._fs, self._path, self._shards) as folders, _spooled(source, read, tell) as lines:
            load(self._fs, lines, folders, tell, users=True)
            tell("reading it back")
            dump(self._fs, folders, written.add_line, tell, days=True)
            check_same(read, written)
        return read, written


@contextmanager
def _spooled(source: Place, digest: StateDigest, tell: Tell) -> Iterator[Iterator[bytes]]:
    """The lines of a dump of a place, by way of a temporary file: reading and writing both want to lead."""
    from tempfile import TemporaryFile

    with TemporaryFile() as file:

        def put(item: dict[str, Any]) -> None:
            file.write(orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE))

        file.write(orjson.dumps({"format": FORMAT, "version": DUMP_VERSION}, option=orjson.OPT_APPEND_NEWLINE))
        source.read(counting(put, digest, tell, "read"), tell)
        counts = {"entries": digest.counts["entry"], "mappings": digest.counts["mapping"], "rows": digest.counts["row"]}
        file.write(orjson.dumps({"type": "end"} | counts, option=orjson.OPT_APPEND_NEWLINE))
        file.seek(0)
        yield iter(file)

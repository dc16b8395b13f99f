"""A file system in memory that forgets what was not synced, and fails when it is told to.

A file has the bytes that processes see and those that its last fsync made durable. As on Linux, an fsync writes what
was written since the last one, and one that fails does not make the next one try again: it lies. A folder has the
names that processes see and those of its last fsync_dir. `power_cut` goes back to what is durable, and to as much of
the rest as the disk may have got to: nothing, all, or a part in any order.
"""

from __future__ import annotations

import errno
import io
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias, TypeVar

from shardhash.shard.storage.filesystem import WritableFile

SECTOR = 64
"""Bytes that reach the disk together; small, so that small files are torn too."""

Survives: TypeAlias = Literal["synced", "all", "part"]


class PowerCutError(BaseException):
    """The machine is off: no handler of the code under test may catch this."""


_T = TypeVar("_T")


def power_cuts(
    begin: Callable[[], tuple[FaultyFileSystem, _T]], act: Callable[[_T], object]
) -> Iterator[tuple[FaultyFileSystem, _T, int]]:
    """`act` on what `begin` makes, again and again, the power gone before one more operation each time, at last after
    all of them; each time the file system, what was acted on, and the number of that operation."""
    number, finished = 0, False
    while not finished:
        fs, subject = begin()
        fs.cut_before(number)
        try:
            act(subject)
            finished = True
        except PowerCutError:
            pass
        yield fs, subject, number
        number += 1


class File:
    """The bytes of a file; `dirty` are the sectors that the next fsync writes."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.durable = b""
        self.dirty: set[int] = set()

    def put(self, data: bytes, at: int) -> None:
        self.data.extend(bytes(max(0, at - len(self.data))))
        self.data[at : at + len(data)] = data
        self.dirty.update(range(at // SECTOR, (at + len(data)) // SECTOR + 1))

    def sync(self) -> None:
        written = bytearray(self.durable[: len(self.data)].ljust(len(self.data), b"\0"))
        for sector in self.dirty:
            part = slice(sector * SECTOR, (sector + 1) * SECTOR)
            written[part] = self.data[part]
        self.durable = bytes(written)
        self.dirty.clear()

    def cut(self, survives: Survives, chance: random.Random) -> None:
        if survives == "synced":
            self.data = bytearray(self.durable)
        elif survives == "part" and self.data != self.durable:
            size = chance.randint(*sorted((len(self.durable), len(self.data))))
            kept = bytearray(size)  # what was never written reads as zero
            for at in range(0, size, SECTOR):
                source = self.data if chance.random() < 0.5 else self.durable
                part = bytes(source[at : min(at + SECTOR, size)])
                kept[at : at + len(part)] = part
            self.data = kept
        self.durable = bytes(self.data)
        self.dirty.clear()


class Folder:
    """The names in a folder; `pending` are the changes since its last sync, each some names set (None: removed)."""

    def __init__(self) -> None:
        self.names: dict[str, File | Folder] = {}
        self.durable: dict[str, File | Folder] = {}
        self.pending: list[dict[str, File | Folder | None]] = []

    def change(self, names: dict[str, File | Folder | None]) -> None:
        self.pending.append(names)
        _set(self.names, names)

    def sync(self) -> None:
        self.durable, self.pending = dict(self.names), []

    def cut(self, survives: Survives, chance: random.Random) -> None:
        for change in self.pending:
            if survives == "all" or (survives == "part" and chance.random() < 0.5):
                _set(self.durable, change)
        self.names, self.pending = dict(self.durable), []
        for node in self.names.values():
            node.cut(survives, chance)


def _set(names: dict[str, File | Folder], change: dict[str, File | Folder | None]) -> None:
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


class FaultyFileSystem:
    """A FileSystem. Each operation that changes something is counted, and told to `before`: its number and name."""

    def __init__(self) -> None:
        self.root = Folder()
        self.operations = 0
        self.names: list[str] = []
        self.before: Callable[[int, str], None] = lambda _number, _name: None

    def power_cut(self, survives: Survives, chance: random.Random) -> None:
        """Lose what was not synced; nothing is in the way any more."""
        self.root.cut(survives, chance)
        self.before = lambda _number, _name: None

    def cut_before(self, number: int) -> None:
        """Power goes before operation `number`, counted from now; and with it the process."""
        last = self.operations + number

        def cut(operation: int, _name: str) -> None:
            if operation >= last:
                raise PowerCutError

        self.before = cut

    def fail(self, number: int, error: int, *, times: int = 1, only: str = "") -> None:
        """From operation `number` from now on, `times` operations fail (of those named `only`); a write does half."""
        first, left = self.operations + number, times

        def fail(operation: int, name: str) -> None:
            nonlocal left
            if operation >= first and left and name.startswith(only):
                left -= 1
                raise OSError(error, errno.errorcode[error])

        self.before = fail

    def step(self, name: str) -> None:
        """Count an operation, which fails here if it is to."""
        number = self.operations
        self.operations += 1
        self.names.append(name)
        self.before(number, name)

    # --------------------------------------------------------------------------------------- FileSystem

    def create(self, path: Path) -> WritableFile:
        self.step("create")
        folder = self.folder(path.parent)
        if path.name in folder.names:
            folder.change({path.name: None})
        file = File()
        folder.change({path.name: file})
        return _Handle(self, file)

    def modify(self, path: Path) -> WritableFile:
        return _Handle(self, self.file(path))

    def read(self, path: Path) -> BinaryIO:
        return io.BytesIO(bytes(self.file(path).data))

    def size(self, path: Path) -> int:
        return len(self.file(path).data)

    def exists(self, path: Path) -> bool:
        try:
            return path.name in self.folder(path.parent).names
        except FileNotFoundError:
            return False

    def is_folder(self, path: Path) -> bool:
        return isinstance(self.folder(path.parent).names[path.name], Folder)

    def listdir(self, path: Path) -> list[str]:
        return sorted(self.folder(path).names)

    def mkdir(self, path: Path) -> None:
        self.step("mkdir")
        parent = self.folder(path.parent)
        if path.name not in parent.names:
            parent.change({path.name: Folder()})

    def rename(self, source: Path, target: Path) -> None:
        self.step("rename")
        assert source.parent == target.parent
        folder = self.folder(source.parent)
        folder.change({source.name: None, target.name: folder.names[source.name]})

    def unlink(self, path: Path) -> None:
        self.file(path)
        self.step("unlink")
        self.folder(path.parent).change({path.name: None})

    def rmdir(self, path: Path) -> None:
        self.step("rmdir")
        assert not self.folder(path).names
        self.folder(path.parent).change({path.name: None})

    def fsync_dir(self, path: Path) -> None:
        self.step("fsync_dir")
        self.folder(path).sync()

    # -------------------------------------------------------------------------------------------- nodes

    def folder(self, path: Path) -> Folder:
        node: File | Folder = self.root
        for part in path.parts[1:]:
            if not isinstance(node, Folder) or part not in node.names:
                raise FileNotFoundError(errno.ENOENT, "no such folder", str(path))
            node = node.names[part]
        assert isinstance(node, Folder), path
        return node

    def file(self, path: Path) -> File:
        node = self.folder(path.parent).names.get(path.name)
        if not isinstance(node, File):
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return node


class _Handle:
    """A WritableFile."""

    def __init__(self, fs: FaultyFileSystem, file: File) -> None:
        self._fs = fs
        self._file = file

    def write(self, data: bytes, at: int) -> None:
        try:
            self._fs.step("write")
        except (OSError, PowerCutError):
            self._file.put(data[: len(data) // 2], at)
            raise
        self._file.put(data, at)

    def truncate(self, size: int) -> None:
        self._fs.step("truncate")
        del self._file.data[size:]

    def fsync(self) -> None:
        try:
            self._fs.step("fsync")
        except OSError:
            self._file.dirty.clear()
            raise
        self._file.sync()

    def close(self) -> None:
        pass

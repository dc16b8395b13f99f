"""The few file operations that durability hangs on, as an interface, so that a test can cut the power at each.

Rules that every user of this interface follows, because a real file system promises no more:

- bytes written are safe only after `WritableFile.fsync`;
- a name made, renamed or removed is safe only after `FileSystem.fsync_dir` of its folder;
- after a failed fsync nothing is known about the bytes, and a second fsync may lie;
- every error is an OSError.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, Protocol

FILE_MODE = 0o600
FOLDER_MODE = 0o700

_NO_WRITES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})


class WritableFile(Protocol):
    """A file open for writing at explicit offsets (there is no position to get wrong after an error)."""

    def write(self, data: bytes, at: int) -> None:
        """Write all of `data` at byte `at`; on OSError any part of it may have been written."""

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes."""

    def fsync(self) -> None:
        """Make the bytes and the size durable."""

    def close(self) -> None:
        """Give the descriptor back; promises nothing about durability."""


class FileSystem(Protocol):
    """Paths are absolute or relative to the working folder; OSError as the os module raises it."""

    def create(self, path: Path) -> WritableFile:
        """A new, empty file (in place of one of that name), readable by its owner only."""

    def modify(self, path: Path) -> WritableFile:
        """An existing file, its bytes kept."""

    def read(self, path: Path) -> BinaryIO:
        """An existing file, for reading; buffered and seekable."""

    def size(self, path: Path) -> int:
        """Bytes of a file."""

    def exists(self, path: Path) -> bool:
        """Whether there is a file or folder of this name."""

    def is_folder(self, path: Path) -> bool:
        """Whether this is a folder, and no link to one. FileNotFoundError when there is nothing."""

    def listdir(self, path: Path) -> list[str]:
        """Names in a folder, sorted."""

    def mkdir(self, path: Path) -> None:
        """Make a folder (mode 0700); fine if it is there, and no link."""

    def rename(self, source: Path, target: Path) -> None:
        """Move a file or folder within the file system, in place of a file of the target's name."""

    def unlink(self, path: Path) -> None:
        """Remove a file."""

    def rmdir(self, path: Path) -> None:
        """Remove an empty folder."""

    def fsync_dir(self, path: Path) -> None:
        """Make the names in a folder durable."""


def takes_no_writes(error: BaseException | None) -> bool:
    """Whether an error says that the disk is full or read-only, which no repair helps and time may."""
    return isinstance(error, OSError) and error.errno in _NO_WRITES


def replace_file(fs: FileSystem, path: Path, data: bytes) -> None:
    """Write a whole file, durably and at once: a crash leaves the old one or the new one. `path` + ".tmp" is used."""
    temporary = path.with_name(path.name + ".tmp")
    file = fs.create(temporary)
    try:
        file.write(data, 0)
        file.fsync()
    finally:
        file.close()
    fs.rename(temporary, path)
    fs.fsync_dir(path.parent)


class _OsFile:
    """A WritableFile on a descriptor."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, data: bytes, at: int) -> None:
        done = os.pwrite(self._fd, data, at)
        while done < len(data):  # a short write comes before ENOSPC, and above 2 GiB
            done += os.pwrite(self._fd, memoryview(data)[done:], at + done)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def fsync(self) -> None:
        os.fdatasync(self._fd)  # flushes the size too; only the times are left out

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _open_regular(path: Path, flags: int) -> int:
    """A descriptor of a file, and of nothing else: no link is followed, no pipe waited for."""
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return descriptor


class OsFileSystem:
    """The real file system. It follows no link and opens nothing but regular files: a backup may come from anybody."""

    def create(self, path: Path) -> WritableFile:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # a link, or a file that others have open, is not written to
        return _OsFile(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE))

    def modify(self, path: Path) -> WritableFile:
        return _OsFile(_open_regular(path, os.O_RDWR))

    def read(self, path: Path) -> BinaryIO:
        return open(_open_regular(path, os.O_RDONLY), "rb", buffering=1 << 18)

    def size(self, path: Path) -> int:
        return os.lstat(path).st_size

    def exists(self, path: Path) -> bool:
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False  # what may not be looked at, or cannot be read, is not missing
        return True

    def is_folder(self, path: Path) -> bool:
        return stat.S_ISDIR(os.lstat(path).st_mode)

    def listdir(self, path: Path) -> list[str]:
        return sorted(os.listdir(path))

    def mkdir(self, path: Path) -> None:
        try:
            os.mkdir(path, FOLDER_MODE)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                raise

    def rename(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def rmdir(self, path: Path) -> None:
        os.rmdir(path)

    def fsync_dir(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

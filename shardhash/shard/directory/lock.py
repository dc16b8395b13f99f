"""The lock of a data directory: one process at a time serves or changes it.

The folder itself is locked (flock), so that no removal of a file in it lets a second process in, and the file ``lock``
in it, too: network file systems know locks of files alone. The workers of a server hold the descriptors as well, so
that none of them can write when a server that was killed has a successor.

The file says who holds it, as JSON: ``pid`` and ``host``, ``boot`` (the kernel's boot id) and ``namespace`` (of process
numbers), without which a number may be that of any other process, and ``since``. No process is signalled by it.

To look whether a folder is locked takes the lock for a moment, shared. Whoever wants it therefore tries more than once.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from shardhash.base.owners import describe
from shardhash.errors import ConfigError, InUseError
from shardhash.shard.storage.layout import LOCK

ORPHAN_PATIENCE = 15.0
"""Seconds; a worker whose coordinator is gone ends at once, unless the disk keeps it."""
PROBE_PATIENCE = 0.5
"""Seconds for which a lock may be held by somebody who only looks."""
_PAUSE = 0.02
_LONGEST = 4096
"""Bytes of a lock file that are read."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that took a lock, as it says itself."""

    pid: int
    host: str
    boot: str
    namespace: str
    since: str

    def __str__(self) -> str:
        where = self.host
        if not self.is_here:
            where += f" (boot {self.boot or 'unknown'}, namespace {self.namespace or 'unknown'})"
        return f"process {self.pid} on {where}, since {self.since}"

    @property
    def is_here(self) -> bool:
        """Whether its number means here what it means there."""
        return bool(self.boot and self.namespace) and (self.boot, self.namespace) == (_boot(), _namespace())

    def is_gone(self) -> bool:
        """Whether it is known to have ended."""
        if not self.is_here:
            return False
        try:
            process = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        try:
            return bool(select.select([process], [], [], 0)[0])  # it has ended, if nobody has taken note of it yet
        finally:
            os.close(process)


@contextmanager
def lock_directory(directory: Path, patience: float = ORPHAN_PATIENCE) -> Iterator[list[int]]:
    """Hold the lock of a data directory; its descriptors, for processes that are to hold it as well.

    It is free once the last of these has ended. When a server was killed, its workers may still be at their last
    writes; they have `patience`, seconds, to end. ConfigError that names the holder when the lock is taken.
    """
    with contextlib.ExitStack() as opened:
        descriptors = _open(directory, opened)
        _wait_for_lock(directory, descriptors, patience)
        _say_who(descriptors[1:])
        try:
            yield descriptors
        finally:
            for descriptor in descriptors[1:]:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, 0)


def is_locked(directory: Path) -> bool:
    """Whether somebody holds the lock of a folder, but for workers of a server that is gone. Raises ConfigError."""
    with contextlib.ExitStack() as opened:
        descriptors = _open(directory, opened, write=False)
        if _try_lock(descriptors, fcntl.LOCK_SH):
            return False
        holder = read_holder(directory)
        return holder is None or not holder.is_gone()


def read_holder(directory: Path) -> Holder | None:
    """Who says to hold the lock; None when nobody does, or not in a way that can be read."""
    try:
        descriptor = os.open(directory / LOCK, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            found = orjson.loads(os.read(descriptor, _LONGEST))
        finally:
            os.close(descriptor)
        texts = [found.get(name, "") for name in ("host", "boot", "namespace", "since")]
        if type(found["pid"]) is not int or not all(isinstance(text, str) for text in texts):
            return None
        return Holder(found["pid"], *texts)
    except (OSError, orjson.JSONDecodeError, KeyError, AttributeError, TypeError):
        return None


def _open(directory: Path, opened: contextlib.ExitStack, *, write: bool = True) -> list[int]:
    """Descriptors of the folder and of its lock file; of the folder alone where there can be no such file."""
    flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptors = [os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
        opened.callback(os.close, descriptors[0])
        with contextlib.suppress(FileNotFoundError):
            try:
                descriptors.append(os.open(directory / LOCK, flags | (os.O_RDWR | os.O_CREAT if write else 0), 0o600))
            except OSError as error:
                if error.errno not in (errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EACCES):
                    raise
    except OSError as error:
        raise ConfigError(f"cannot use the data directory {directory}: {describe(error, directory)}") from None
    for descriptor in descriptors[1:]:
        opened.callback(os.close, descriptor)
    return descriptors


def _wait_for_lock(directory: Path, descriptors: Sequence[int], patience: float) -> None:
    began = time.monotonic()
    while not _try_lock(descriptors, fcntl.LOCK_EX):
        holder = read_holder(directory)
        gone, waited = holder is not None and holder.is_gone(), time.monotonic() - began
        if gone and waited > patience:
            raise ConfigError(f"the data directory {directory} is still in use by workers of a server that is gone")
        if not gone and waited > PROBE_PATIENCE:
            who = "another process" if holder is None else str(holder)
            raise InUseError(f"the data directory {directory} is in use by {who}; stop it first")
        time.sleep(_PAUSE)


def _try_lock(descriptors: Sequence[int], kind: int) -> bool:
    """Lock all of them, or none."""
    for number, descriptor in enumerate(descriptors):
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except OSError as error:
            for locked in descriptors[:number]:
                fcntl.flock(locked, fcntl.LOCK_UN)
            if isinstance(error, BlockingIOError):
                return False
            raise ConfigError(
                f"the data directory cannot be locked: {error.strerror}; its file system has no locks?"
            ) from None
    return True


def _say_who(descriptors: Sequence[int]) -> None:
    """Write into the lock file who holds it; where there is no room for that, nobody is told."""
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    holder = Holder(os.getpid(), socket.gethostname(), _boot(), _namespace(), since)
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, orjson.dumps(asdict(holder)), 0)


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""

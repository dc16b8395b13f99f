"""Which kind of file system a path lies on, and whether other machines may have the same one.

A descriptor knows its mount (/proc/self/fdinfo/N, ``mnt_id:``), and /proc/self/mountinfo the type of each mount. Paths
need not be compared with mount points, which bind mounts and mounts over mounts would make a guess.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

SHARED = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "coda", "ceph"),
        *("lustre", "gpfs", "beegfs", "orangefs", "pvfs2", "panfs", "glusterfs", "acfs"),
        *("9p", "virtiofs", "vboxsf", "vmhgfs", "prl_fs", "drvfs"),  # of a virtual machine's host
    }
)
"""Types where the other end may be written by other machines, whom our locks do not reach."""
LOCAL_FUSE = frozenset({"fuseblk", "fuse.fuse-overlayfs"})
"""Of file systems in user space, those that are known to be on this machine: a disk, and a container without root."""


def is_shared(kind: str) -> bool:
    """Whether other machines may have a file system of this type. What runs in user space and is not known does."""
    return kind in SHARED or (kind.startswith("fuse") and kind not in LOCAL_FUSE)


def file_system_of(path: Path) -> str:
    """The type of the file system of a path, or of its nearest folder that is there; "" if the kernel does not say.

    Raises OSError for a folder that cannot be looked at.
    """
    descriptor = _open_nearest(path.absolute())
    try:
        found = re.search(r"^mnt_id:\s*(\d+)$", Path(f"/proc/self/fdinfo/{descriptor}").read_text(), re.MULTILINE)
        if found is None:
            return ""
        return type_of_mount(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"), int(found[1]))
    finally:
        os.close(descriptor)


def type_of_mount(mountinfo: str, number: int) -> str:
    """The type of the mount with this number in a text like /proc/self/mountinfo (proc(5)); "" if there is none."""
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        if separator and before.split(" ", 1)[0] == str(number):
            return after.split(" ", 1)[0]
    return ""


def _open_nearest(path: Path) -> int:
    """A descriptor of the path, or of the nearest folder around it that is there."""
    for known in (path, *path.parents[:-1]):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            # As a folder, so that one that is mounted when it is used is mounted now.
            return os.open(known, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

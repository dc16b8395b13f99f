"""Types of file systems, by texts as the kernel writes them, and by the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardhash.base.mounts import file_system_of, is_shared, type_of_mount

MOUNTINFO = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw,discard
41 27 0:45 / /home rw,relatime shared:9 - nfs4 server:/export/home rw,vers=4.2,sec=sys
42 41 0:46 /a\\040b /home/me/local\\040disk rw - btrfs /dev/vdb rw,subvol=/a\\040b
43 27 0:47 / /mnt/far rw,nosuid,nodev - fuse.sshfs me@server:/ rw,user_id=0
410 27 0:48 / /mnt/- - rw - xfs /dev/vdc rw
44 27 0:49 / /win rw - cifs //server/share rw
"""


@pytest.mark.parametrize(
    ("number", "kind"),
    [(27, "ext4"), (41, "nfs4"), (42, "btrfs"), (43, "fuse.sshfs"), (44, "cifs"), (4, ""), (7, "")],
)
def test_the_type_of_a_mount(number: int, kind: str) -> None:
    assert type_of_mount(MOUNTINFO, number) == kind


def test_what_other_machines_may_have() -> None:
    for kind in ("nfs", "nfs4", "cifs", "ceph", "9p", "virtiofs", "vboxsf", "fuse.sshfs", "fuse.rclone", "fuse"):
        assert is_shared(kind), kind


def test_what_is_of_this_machine() -> None:
    for kind in ("ext4", "xfs", "btrfs", "zfs", "overlay", "tmpfs", "fuseblk", "fuse.fuse-overlayfs", ""):
        assert not is_shared(kind), kind


def test_the_type_of_a_real_path(tmp_path: Path) -> None:
    """By its nearest folder that is there."""
    assert file_system_of(Path("/proc/self")) == "proc"
    kind = file_system_of(tmp_path)
    assert kind
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("/proc/sys")
    before = len([*Path("/proc/self/fd").iterdir()])
    assert file_system_of(tmp_path / "not" / "there") == kind
    assert file_system_of(tmp_path / "file" / "below") == kind
    assert file_system_of(tmp_path / "link") == "proc"
    assert len([*Path("/proc/self/fd").iterdir()]) == before

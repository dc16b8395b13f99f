"""Cores: the quota of a container counts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shardhash.base.cores import usable_cores

ALL = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("outer", "inner", "cores"),
    [
        ("max 100000", "max 100000", ALL),
        ("max 100000", "50000 100000", 1),
        ("100000 100000", "max 100000", 1),
        ("max 100000", "100000000 100000", ALL),
        ("max 100000", "nonsense", ALL),
    ],
)
def test_a_quota_limits(tmp_path: Path, outer: str, inner: str, cores: int) -> None:
    folder = tmp_path / "system.slice" / "shardhash.service"
    folder.mkdir(parents=True)
    (tmp_path / "system.slice" / "cpu.max").write_text(outer + "\n")
    (folder / "cpu.max").write_text(inner + "\n")
    own = tmp_path / "cgroup"
    own.write_text("0::/system.slice/shardhash.service\n")
    assert usable_cores(tmp_path, own) == cores


def test_without_control_groups_all_cores_count(tmp_path: Path) -> None:
    assert usable_cores(tmp_path, tmp_path / "nothing") == ALL

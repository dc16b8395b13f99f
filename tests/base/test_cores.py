"""Cores: the quota of a container counts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shardhash.base.cores import coordinators_for, usable_cores, workers_for

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


@pytest.mark.parametrize(
    ("cores", "coordinators", "workers"),
    [(1, 1, 1), (2, 1, 1), (4, 1, 3), (5, 2, 3), (6, 2, 4), (8, 3, 5), (12, 4, 8), (32, 11, 21), (128, 16, 112)],
)
def test_cores_are_shared_by_coordinators_and_workers(cores: int, coordinators: int, workers: int) -> None:
    assert coordinators_for(cores) == coordinators
    assert workers_for(cores, coordinators) == workers


def test_a_worker_is_left_whatever_was_asked_for() -> None:
    assert workers_for(2, 3) == 1

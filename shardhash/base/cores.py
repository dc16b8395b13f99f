"""How many processor cores this process may use: affinity and the CPU quota of its control group."""

from __future__ import annotations

import math
import os
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")


def usable_cores(mount: Path = _MOUNT, own: Path = Path("/proc/self/cgroup")) -> int:
    """Cores, one at least. A quota of 1.5 cores counts as two: a container that may use half a core has one."""
    cores = len(os.sched_getaffinity(0))
    quotas = [quota for folder in _folders(mount, own) if (quota := _quota(folder)) is not None]
    return max(1, min([cores, *map(math.ceil, quotas)]))


def default_workers() -> int:
    """All cores but the coordinator's: on two cores, one worker takes 1.6 times the reports that two take."""
    return max(1, usable_cores() - 1)


def _folders(mount: Path, own: Path) -> list[Path]:
    """The control group of this process and those around it, cgroup version 2."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    group = next((line[len("0::") :] for line in lines if line.startswith("0::")), None)
    if group is None:
        return []
    folder = mount / group.strip("/")
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(mount))]


def _quota(folder: Path) -> float | None:
    """The quota in cores; None where there is none."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)

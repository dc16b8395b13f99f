"""How many processor cores this process may use (affinity and the CPU quota of its control group), and for what."""

from __future__ import annotations

import math
import os
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")

FEW_CORES = 4
"""Up to here one coordinator is enough: a second one would take the core of a worker."""
MOST_COORDINATORS = 16
"""More would answer more than a network carries, and have too small a part of each limit (coordinator/limits.py)."""


def usable_cores(mount: Path = _MOUNT, own: Path = Path("/proc/self/cgroup")) -> int:
    """Cores, one at least. A quota of 1.5 cores counts as two: a container that may use half a core has one."""
    cores = len(os.sched_getaffinity(0))
    quotas = [quota for folder in _folders(mount, own) if (quota := _quota(folder)) is not None]
    return max(1, min([cores, *map(math.ceil, quotas)]))


def coordinators_for(cores: int) -> int:
    """How many coordinators suit so many cores: one up to `FEW_CORES`, then about a third of them."""
    return 1 if cores <= FEW_CORES else min(MOST_COORDINATORS, round(cores / 3))


def workers_for(cores: int, coordinators: int) -> int:
    """All other cores, one at least: on two cores, one worker takes 1.6 times the reports that two take."""
    return max(1, cores - coordinators)


def default_workers() -> int:
    """For how many workers a new data directory is made."""
    cores = usable_cores()
    return workers_for(cores, coordinators_for(cores))


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

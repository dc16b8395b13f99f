"""Operations of the link by which the server ends what a coordinator that died had under way (link/operations.py)."""

from __future__ import annotations

from dataclasses import dataclass

from shardhash.link.operation import Operation


@dataclass(slots=True)
class Drained(Operation[None]):
    """Wait until nothing that a follower asked is under way here, now that its process has ended."""

    name = "drained"
    follower: int


@dataclass(slots=True)
class ReleaseFollower(Operation[None]):
    """Release all report locks of a follower; asked once every worker said `Drained`."""

    name = "release-follower"
    follower: int

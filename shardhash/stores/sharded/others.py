"""Other coordinators of a server: the first one tells them what they must know before it is acknowledged.

What is told, with its arguments:

- ``begin-removal``, ``end-removal``: mappings go from now on, or go no more; answers at hand are forgotten.
- ``forget``: answers at hand are forgotten, since a collection follows what is asked for from now on.
- ``bar`` [(method, outhash), ...], whether: these outhashes give no unihash to other tasks, or do again.
- ``follow`` kind, name: an entry has changed (users).
"""

from __future__ import annotations

from typing import Any


class Others:
    """The other coordinators; as it is, there are none to be told."""

    def __init__(self, *, alone: bool) -> None:
        """`alone`: there never are any, so that nobody else reports to the workers."""
        self.alone = alone

    async def tell(self, name: str, *arguments: Any) -> None:
        """Have all others do this. Returns once each has done it or has ended; raises nothing."""


NONE = Others(alone=True)
SOME = Others(alone=False)
"""There are some, and somebody else tells them."""

"""The gate: an advisory lock of the whole store, which changes share and removals have alone.

A report decides by what it reads and stores what it decided; a removal in between would be undone. So whatever stores
enters the gate (`ENTER`, shared), and each slice of a removal closes it (`CLOSE`): it waits for the rounds that are
under way, and those that come wait for it. Both last until the end of their transaction. The database serves the locks
in the order in which they were asked for, so that neither starves.

The current GC mark changes behind the closed gate, too: from there on, every new mapping has it.
"""

from __future__ import annotations

from typing import Final

ENTER: Final = b"select pg_advisory_xact_lock_shared(7563, 1)"
CLOSE: Final = b"select pg_advisory_xact_lock(7563, 1)"

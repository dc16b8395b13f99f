"""Entries, what a Store keeps besides hashes: JSON values by (kind, name). Which kinds there are, and which names."""

from __future__ import annotations

from typing import Final

USER: Final = "user"
"""A user, by name."""
USE: Final = "use"
"""The last use of a user's token, by the user's name."""
QUARANTINE: Final = "quarantine"
"""A quarantine, by name."""
QUARANTINE_PART: Final = "quarantine-part"
"""What a quarantine set aside, by its name, a point and a number from 0."""
CONFIG: Final = "config"
"""The two names below."""

GC_MARK: Final = "gc-mark"
"""The mark that keeps mappings in the next sweep: of kind `CONFIG`, on every shard."""
ADMINISTRATOR: Final = "administrator"
"""Whom the server's settings made an administrator, password included: of kind `CONFIG`."""

"""A database as the source or the target of a copy."""

from __future__ import annotations

from shardhash.database.copying import Place, Put, Tell, check_same, counting
from shardhash.database.digest import StateDigest
from shardhash.database.tables import opened


class DatabasePlace:
    """A PostgreSQL database with the tables of this version; see copying.Place."""

    def __init__(self, url: str) -> None:
        self._url = url

    def read(self, put: Put, tell: Tell) -> None:
        """See Place. All is of one moment, also while servers run on it."""
        tell("reading the database")
        with opened(self._url, write=False) as tables:
            for item in tables.items():
                put(item)

    def write(self, source: Place, tell: Tell) -> tuple[StateDigest, StateDigest]:
        """See Place. Reports of servers that run on it wait meanwhile."""
        read, written = StateDigest(), StateDigest()
        with opened(self._url, write=True) as tables:
            source.read(counting(tables.write, read, tell, "copied"), tell)
            tables.flush()
            tell("reading it back")
            for item in tables.items():
                written.add(item)
            check_same(read, written)
        return read, written

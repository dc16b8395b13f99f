"""A shard: its table, kept in memory only so far."""

from __future__ import annotations

from collections.abc import Sequence

from shardhash.shard.records import Record
from shardhash.shard.table import Table


class Shard:
    """One partition."""

    def __init__(self) -> None:
        self.table = Table()
        self._siginfo: list[str] = []

    def append(self, records: Sequence[Record]) -> None:
        pass

    def sync(self) -> None:
        pass

    def put_siginfo(self, text: str) -> int:
        self._siginfo.append(text)
        return len(self._siginfo)

    def get_siginfo(self, reference: int) -> str | None:
        return self._siginfo[reference - 1] if reference else None

    def close(self) -> None:
        pass

"""The files of the outbox of a server that sends reports on (stores/forwarding)."""

from __future__ import annotations

from pathlib import Path

from shardhash.errors import ConfigError
from shardhash.outbox.files import FileJournal
from shardhash.outbox.journal import Journal, MemoryJournal
from shardhash.shard.storage.filesystem import FileSystem
from shardhash.shard.storage.layout import OUTBOX


def open_journals(fs: FileSystem, data: Path | None) -> list[Journal]:
    """The journals of a `Forwarder`, in memory without a data directory. Raises ConfigError."""
    if data is None:
        return [MemoryJournal() for _ in range(3)]
    folder = data / OUTBOX
    try:
        return [FileJournal(fs, place) for place in (folder, folder / "refused", folder / "conflicts")]
    except OSError as error:
        raise ConfigError(
            f"the outbox in {folder} cannot be read: {error}. Mend that, or start without --forward; what waits stays"
        ) from None

"""The files of the outbox of a server that sends reports on (stores/forwarding)."""

from __future__ import annotations

import logging
from pathlib import Path

from shardhash.errors import ConfigError
from shardhash.outbox.files import FileJournal
from shardhash.outbox.journal import Journal, MemoryJournal
from shardhash.shard.storage.filesystem import FileSystem
from shardhash.shard.storage.layout import OUTBOX, outbox_folders

log = logging.getLogger(__name__)


def open_journals(fs: FileSystem, data: Path | None) -> list[Journal]:
    """The journals of a `Forwarder`, in memory without a data directory. Raises ConfigError."""
    if data is None:
        return [MemoryJournal() for _ in range(3)]
    folder = data / OUTBOX
    try:
        return [FileJournal(fs, place) for place in outbox_folders(data)]
    except OSError as error:
        raise ConfigError(
            f"the outbox in {folder} cannot be read: {error}. Mend that, or start without --forward; what waits stays"
        ) from None


def warn_of_outbox(fs: FileSystem, data: Path) -> None:
    """Tell the log if reports wait in the outbox of a server that sends none on."""
    try:
        if not fs.exists(data / OUTBOX):
            return
        waiting, refused, _ = open_journals(fs, data)
    except (ConfigError, OSError) as error:
        log.warning("%s", error)
        return
    if waiting.count:
        log.warning(
            "%d reports wait in %s and are not sent on, nor are new ones: --forward is not given",
            waiting.count,
            data / OUTBOX,
        )
    if refused.count:
        log.info("%d reports are in %s that an upstream refused", refused.count, data / OUTBOX)

"""Every error that shardhash raises on purpose, in one small tree.

A text says what was wrong, where, and what to do about it. Anything else that escapes is a bug.
"""

from __future__ import annotations

from pathlib import Path


class ShardhashError(Exception):
    """Root of the tree."""


class ConfigError(ShardhashError):
    """A setting, address or data directory cannot be used as given."""


class ProtocolError(ShardhashError):
    """The peer broke the wire protocol; the connection closes without an answer."""


class SilentHeadersError(ProtocolError):
    """The server did not answer a request for its headers, as those before BitBake 2.8 do not."""


class LimitError(ProtocolError):
    """The peer went over a limit; the connection closes before the memory is spent."""


class InvokeError(ShardhashError):
    """A request was refused in-band: ``{"invoke-error": {"message": TEXT}}``, then the server closes."""


class InvalidRequestError(InvokeError):
    """A request is malformed; the text names the field."""


class UnavailableError(ShardhashError):
    """A shard did not answer within the limit; the same request may be sent again."""


class StorageError(ShardhashError):
    """The disk refused a write (full, for example); nothing of the request was stored."""


class DamageError(ShardhashError):
    """A file of the data directory holds something it cannot hold.

    ``path`` and ``offset`` (bytes) say where; ``hint`` names the command that helps.
    """

    def __init__(self, path: Path, offset: int, what: str, hint: str = "") -> None:
        self.path = path
        self.offset = offset
        self.what = what
        self.hint = hint
        super().__init__(f"{path}: at byte {offset}: {what}" + (f" ({hint})" if hint else ""))


class SyncError(ShardhashError):
    """An fsync failed, or a failed write could not be undone: what the disk holds is unknown.

    Final for the process: it ends without acknowledging, and its successor recovers from what is on disk.
    """

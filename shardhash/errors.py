"""Every error that shardhash raises on purpose, in one small tree.

A text says what was wrong, where, and what to do about it. Anything else that escapes is a bug.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path  # clients need not wait for its import


class ShardhashError(Exception):
    """Root of the tree."""


class ConfigError(ShardhashError):
    """A setting, address or data directory cannot be used as given."""


class InUseError(ConfigError):
    """Another process serves or changes the data directory."""


class DamagedShardError(ConfigError):
    """A shard of the data directory is damaged, so that the server cannot start; the worker's log says where."""


class StartError(ShardhashError):
    """A server that was to be started does not listen. `status` is its exit status, or 1."""

    def __init__(self, text: str, status: int = 1) -> None:
        self.status = status
        super().__init__(text)


class ProtocolError(ShardhashError):
    """The peer broke the wire protocol; the connection closes without an answer."""


class WrongKindError(ProtocolError):
    """The server seems to speak lines where the address says WebSocket, or the other way round."""


class SilentHeadersError(ProtocolError):
    """The server did not answer a request for its headers, as those before BitBake 2.8 do not."""


class BreakerOpenError(ShardhashError, ConnectionError):
    """A client does not ask its server, because that failed a short time ago."""


class LimitError(ProtocolError):
    """The peer went over a limit; the connection closes before the memory is spent. `limit` is a word for which."""

    def __init__(self, text: str, limit: str) -> None:
        self.limit = limit
        super().__init__(text)


class InvokeError(ShardhashError):
    """A request was refused in-band: ``{"invoke-error": {"message": TEXT}}``, then the server closes."""


class InvalidRequestError(InvokeError):
    """A request is malformed; the text names the field."""


class ServerFaultError(ShardhashError):
    """A request failed by what its client did not cause. It may be sent again."""


class UnavailableError(ServerFaultError):
    """A shard did not answer within the limit."""


class StorageError(ServerFaultError):
    """The disk refused a write (full, for example); nothing of the request was stored."""


class NoRoomError(ServerFaultError):
    """A report is not stored: the disk is nearly full, or its user stored enough for today."""


class TextError(StorageError):
    """The disk refused an outhash_siginfo; what does not refer to it may be stored."""


class InternalError(ServerFaultError):
    """A request met a bug, which the log describes with a traceback; nothing of the request was stored."""


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

"""Asking the server that holds a data directory, by its control socket (server/control.py)."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from shardhash.errors import ConfigError
from shardhash.shard.storage.layout import CONTROL

_PIECE = 65536


def request_of(command: str) -> bytes:
    """The line that asks for a command."""
    return orjson.dumps({"command": command}, option=orjson.OPT_APPEND_NEWLINE)


@contextmanager
def connect(directory: Path, limit: float) -> Iterator[socket.socket]:
    """A connection to the server of a data directory, whose calls take `limit` seconds at most.

    Raises OSError when nobody answers there, ConfigError when the server is another user's.
    """
    folder = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(limit)
            try:
                # By its descriptor, since a path may be longer than the 107 bytes that the kernel takes.
                connection.connect(f"/proc/self/fd/{folder}/{CONTROL}")
            except PermissionError:
                raise ConfigError(f"the server of {directory} belongs to another user; ask as that user") from None
            yield connection
    finally:
        os.close(folder)


def ask(directory: Path, command: str, limit: float) -> dict[str, Any] | None:
    """The answer to a command, ``{"error": TEXT}`` if it was refused; None when nobody answers. Raises ConfigError."""
    answer = b""
    try:
        with connect(directory, limit) as connection:
            connection.sendall(request_of(command))
            while not answer.endswith(b"\n"):
                part = connection.recv(_PIECE)
                if not part:
                    return None  # it ended
                answer += part
        found = orjson.loads(answer)
    except (OSError, orjson.JSONDecodeError):
        return None
    return found if isinstance(found, dict) else None

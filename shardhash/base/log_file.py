"""A log file of limited size, for a process that nobody watches: NAME, and NAME.1 with what was before."""

from __future__ import annotations

import os
from logging.handlers import RotatingFileHandler
from pathlib import Path

MOST_BYTES = 1 << 20
"""Bytes of each of the two files."""


class LimitedLog(RotatingFileHandler):
    """Writes to a file, and to a new one of that name when it is full. Standard error is the same file.

    So what is written there by others, a traceback of the interpreter for example, is neither lost nor elsewhere.
    """

    def __init__(self, path: Path, most: int = MOST_BYTES) -> None:
        super().__init__(path, maxBytes=most, backupCount=1, encoding="utf-8", errors="backslashreplace")
        self._redirect()

    def doRollover(self) -> None:  # noqa: N802  # the name of the standard library
        """See RotatingFileHandler."""
        super().doRollover()
        self._redirect()

    def _redirect(self) -> None:
        assert self.stream is not None
        os.dup2(self.stream.fileno(), 2)

"""What each process that is a coordinator begins with, the server's own and each follower's."""

from __future__ import annotations

import logging
import os
import sys

from shardhash.base import descriptors
from shardhash.base.log_format import formatter_of
from shardhash.base.malloc import collect_little
from shardhash.server.settings import Settings


def prepare_process() -> None:
    """Have short collections, and as many descriptors as may be."""
    collect_little()
    descriptors.raise_limit()


def open_log(settings: Settings) -> None:
    """Write the log to standard error, or to a file, as the settings say."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if settings.log_file is not None:
        from shardhash.base.log_file import LimitedLog  # few have one

        handler = LimitedLog(settings.log_file)
    handler.setFormatter(formatter_of(settings.log_format, 2, os.environ))
    logging.basicConfig(level=settings.log_level, handlers=[handler])

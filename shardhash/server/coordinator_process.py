"""What each process that is a coordinator begins with, the server's own and each follower's."""

from __future__ import annotations

import gc
import logging
import os
import sys

from shardhash.base import descriptors
from shardhash.base.log_format import formatter_of
from shardhash.server.settings import Settings

GC_THRESHOLD = (700, 2, 3_000)
"""Objects between collections of young ones; and how many of these between those of older ones, and of those between
those of all. A coordinator makes few cycles, and a collection is a pause for every client: 3 ms for 10,000 reports."""


def prepare_process() -> None:
    """Have few collections, and as many descriptors as may be."""
    gc.set_threshold(*GC_THRESHOLD)
    descriptors.raise_limit()


def open_log(settings: Settings) -> None:
    """Write the log to standard error, or to a file, as the settings say."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if settings.log_file is not None:
        from shardhash.base.log_file import LimitedLog  # few have one

        handler = LimitedLog(settings.log_file)
    handler.setFormatter(formatter_of(settings.log_format, 2, os.environ))
    logging.basicConfig(level=settings.log_level, handlers=[handler])

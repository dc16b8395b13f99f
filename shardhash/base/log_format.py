"""Log formats: one event a line, for people, for a journal or for a program.

========  ============================================================================================================
text      ``TIME LEVEL LOGGER: MESSAGE``. In systemd's journal, which has its own times, ``<PRIORITY>LOGGER: MESSAGE``
json      ``{"time", "level", "logger", "message"}``, and ``"error"``, a traceback; of the audit trail, whose messages
          are JSON, ``"audit"`` has the fields instead of ``"message"``. Times are ISO 8601, UTC
========  ============================================================================================================
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from shardhash.base.text import OneLineFormatter

FORMATS = ("text", "json")
AUDIT = "shardhash.audit"
"""The logger of the audit trail."""
_PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}
"""syslog(3)."""


def formatter_of(name: str, stream: int, environment: Mapping[str, str]) -> logging.Formatter:
    """The formatter of this name for a log that goes to a descriptor."""
    if name == "json":
        return JsonFormatter()
    if goes_to_journal(stream, environment):
        return JournalFormatter("%(name)s: %(message)s")
    return OneLineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s")


def goes_to_journal(stream: int, environment: Mapping[str, str]) -> bool:
    """Whether systemd's journal reads this descriptor: JOURNAL_STREAM names its device and inode."""
    try:
        found = os.fstat(stream)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class JournalFormatter(OneLineFormatter):
    """Lines whose priority the journal takes from their beginning; of a traceback, each line has it."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        level = max((level for level in _PRIORITIES if level <= record.levelno), default=logging.DEBUG)
        head = f"<{_PRIORITIES[level]}>"
        return "\n".join(head + line for line in super().format(record).splitlines())


class JsonFormatter(logging.Formatter):
    """An object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        event: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
        }
        message = record.getMessage()
        if record.name == AUDIT:
            event["audit"] = orjson.loads(message)
        else:
            event["message"] = message
        if record.exc_info:
            event["error"] = self.formatException(record.exc_info)
        # Half a surrogate pair, which orjson refuses, is written as an escape.
        text = {
            key: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
            for key, value in event.items()
        }
        return orjson.dumps(text).decode()

"""Log formats: one event a line, for people, for a journal or for a program.

========  ============================================================================================================
text      ``TIME LEVEL LOGGER: MESSAGE``. In systemd's journal, which has its own times, ``<PRIORITY>LOGGER: MESSAGE``
logfmt    ``time=T level=L logger=N message="M"``, and ``error="traceback"``; in the journal ``<PRIORITY>level=...``
json      ``{"time", "level", "logger", "message"}``, and ``"error"``, a traceback
========  ============================================================================================================

Times are ISO 8601, UTC. For programs (logfmt and json), what happened to a client is an ``event``, connected,
disconnected, gone, closed, refused or slow, and has the ``peer``; a slow request also ``command`` and ``milliseconds``.
These keys come from the templates of messages, which are ours, and never from a client's text. Of the audit trail,
whose messages are JSON, the fields take the place of the message: in json as ``"audit"``, in logfmt each as a key
behind ``event=audit``.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

import orjson

from shardhash.base.text import OneLineFormatter, printable

FORMATS = ("text", "logfmt", "json")
AUDIT = "shardhash.audit"
"""The logger of the audit trail."""
_PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}
"""syslog(3)."""
_EVENT = re.compile(r"%s: (connected|disconnected|gone|closed|refused|slow)\b")
"""What templates of messages about a client begin with; the first argument is the peer."""
SLOW = "%s: slow: %s%s took %.1f ms"
"""The template of slow requests: the peer, the command, how many it asked in words, milliseconds."""
_PLAIN = re.compile(r"[^\s\"=\\]+")


def formatter_of(name: str, stream: int, environment: Mapping[str, str]) -> logging.Formatter:
    """The formatter of this name for a log that goes to a descriptor."""
    if name == "json":
        return JsonFormatter()
    if name == "logfmt":
        return LogfmtFormatter(journal=goes_to_journal(stream, environment))
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
        head = _priority(record)
        return "\n".join(head + line for line in super().format(record).splitlines())


class JsonFormatter(logging.Formatter):
    """An object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        event = _head(record)
        if record.name == AUDIT:
            event["audit"] = orjson.loads(record.getMessage())
        else:
            event |= _event_of(record) | {"message": record.getMessage()}
        if record.exc_info:
            event["error"] = self.formatException(record.exc_info)
        # Half a surrogate pair, which orjson refuses, is written as an escape.
        text = {
            key: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
            for key, value in event.items()
        }
        return orjson.dumps(text).decode()


class LogfmtFormatter(logging.Formatter):
    """Keys and values a line."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        event = _head(record)
        if record.name == AUDIT:
            event |= {"event": "audit"} | orjson.loads(record.getMessage())
        else:
            event |= _event_of(record) | {"message": record.getMessage()}
        if record.exc_info:
            event["error"] = self.formatException(record.exc_info)
        if self._journal:
            del event["time"]
        return (_priority(record) if self._journal else "") + " ".join(f"{k}={_quoted(v)}" for k, v in event.items())


def _priority(record: logging.LogRecord) -> str:
    level = max((level for level in _PRIORITIES if level <= record.levelno), default=logging.DEBUG)
    return f"<{_PRIORITIES[level]}>"


def _head(record: logging.LogRecord) -> dict[str, Any]:
    return {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname,
        "logger": record.name,
    }


def _event_of(record: logging.LogRecord) -> dict[str, Any]:
    """What happened to which client, if the message is of one."""
    found = _EVENT.match(record.msg) if isinstance(record.msg, str) else None
    if found is None or not isinstance(record.args, tuple) or not record.args:
        return {}
    event = {"event": found[1], "peer": str(record.args[0])}
    if record.msg == SLOW:
        event |= {"command": record.args[1], "milliseconds": round(cast("float", record.args[3]), 1)}
    return event


def _quoted(value: object) -> str:
    """A value of logfmt, JSON if it is no text: as it is if nothing in it separates, else in quotes, with escapes."""
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    if _PLAIN.fullmatch(text) and text.isprintable():
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{printable(escaped)}"'

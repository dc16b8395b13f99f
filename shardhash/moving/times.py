"""Times of the stock server: with a zone or without, as text or as a datetime, all as microseconds since 1970 UTC.

Without a zone they are local times of the machine that wrote them. In the hour that comes twice a year such a time
means the first of the two; nothing in the database tells more.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from shardhash.errors import ConfigError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)", re.ASCII)
LOCALTIME = Path("/etc/localtime")


class SourceTimes:
    """Reads the times of one database; `zone` is for those that say none, None for this machine's local time."""

    def __init__(self, zone: tzinfo | None) -> None:
        self._zone = zone
        self.naive = 0
        """Times that had no zone."""
        self.bad = 0
        """Times that could not be read, and stand as 0, older than all others."""

    def timestamp(self, created: object) -> int:
        """Microseconds since 1970 UTC; about 1 us."""
        try:
            time = datetime.fromisoformat(created) if isinstance(created, str) else created
            if not isinstance(time, datetime):
                raise ValueError(f"{created!r} is not a time")  # one place counts them
            if time.tzinfo is None:
                self.naive += 1
                time = time.astimezone() if self._zone is None else time.replace(tzinfo=self._zone)
            moment = (time - _EPOCH) // _MICROSECOND
            if moment < 0:
                raise ValueError(f"{created!r} is before 1970")
        except (ValueError, OverflowError, OSError):
            self.bad += 1
            return 0
        return moment


def local_time(moment: int, zone: tzinfo | None) -> datetime:
    """The inverse, as the stock server writes it through SQLAlchemy: local time without a zone."""
    return (_EPOCH + moment * _MICROSECOND).astimezone(zone).replace(tzinfo=None)


def to_zone(text: str) -> tzinfo:
    """The zone that a setting names: Europe/Berlin, UTC, or an offset like +02:00. Raises ConfigError."""
    if text.upper() in ("UTC", "Z"):
        return UTC
    if match := _OFFSET.fullmatch(text):
        offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
        if offset < timedelta(hours=24):
            return timezone(offset if match[1] == "+" else -offset)
    try:
        return ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigError(
            f"{text!r} is not a time zone that this machine knows: write Europe/Berlin (it needs the tzdata package),"
            " UTC, or an offset like +02:00"
        ) from None


def name_of_zone(zone: tzinfo | None) -> str:
    """How a report calls the zone."""
    if zone is not None:
        return str(zone)
    if name := os.environ.get("TZ", "").lstrip(":"):
        return f"{name}, this machine's"
    _, found, name = str(LOCALTIME.resolve()).partition("zoneinfo/")
    return f"{name or 'local time'}, this machine's" if found else "this machine's local time"

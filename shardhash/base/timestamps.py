"""Timestamps: points in time, kept as whole microseconds since 1970 UTC, and as people and JSON write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

DAY = 86_400_000_000
"""Microseconds of a day."""
WEEK = 7 * DAY
FIRST_MONDAY = 4 * DAY
"""1970-01-05."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = datetime.max.replace(tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_iso(moment: int, timespec: str = "microseconds") -> str:
    """A moment as ISO 8601 in UTC, to the microsecond or as `timespec` says (see datetime.isoformat)."""
    return (_EPOCH + moment * _MICROSECOND).isoformat(timespec=timespec)


def week_of(moment: int) -> int:
    """When the week of a moment began, on a Monday, UTC."""
    return moment - (moment - FIRST_MONDAY) % WEEK


def from_iso(text: str) -> int:
    """The moment that ISO 8601 says, UTC without a zone. Raises ValueError unless it is one from 1970 to 9999, UTC."""
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    if not _EPOCH <= time <= _LAST:
        raise ValueError(f"{text!r} is not a time from 1970 to 9999, UTC")
    return (time - _EPOCH) // _MICROSECOND

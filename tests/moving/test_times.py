"""Times of the stock server, with and without a zone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

import pytest

from shardhash.base.timestamps import from_iso
from shardhash.errors import ConfigError
from shardhash.moving.times import SourceTimes, local_time, name_of_zone, to_zone

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture
def in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("created", "utc"),
    [
        ("2025-01-01 12:00:00.500000", "2025-01-01T11:00:00.500000"),
        ("2025-07-01 12:00:00", "2025-07-01T10:00:00"),
        ("2025-07-01T12:00:00", "2025-07-01T10:00:00"),
        ("2025-07-01T12:00:00+00:00", "2025-07-01T12:00:00"),
        ("2025-07-01T12:00:00.000001-05:00", "2025-07-01T17:00:00.000001"),
        ("2025-10-26 02:30:00", "2025-10-26T00:30:00"),  # comes twice; the first
        ("2025-03-30 02:30:00", "2025-03-30T01:30:00"),  # never came
        (datetime(2025, 7, 1, 12), "2025-07-01T10:00:00"),  # noqa: DTZ001  # as a database gives it
        (datetime(2025, 7, 1, 12, tzinfo=UTC), "2025-07-01T12:00:00"),
    ],
)
def test_times_with_and_without_a_zone(created: object, utc: str) -> None:
    times = SourceTimes(BERLIN)
    assert times.timestamp(created) == from_iso(utc)
    assert times.naive == (getattr(created, "tzinfo", None) is None and str(created)[-6] not in "+-")
    assert times.bad == 0


def test_this_machines_zone(in_tokyo: None) -> None:
    assert SourceTimes(None).timestamp("2025-01-01 12:00:00") == from_iso("2025-01-01T03:00")
    assert name_of_zone(None) == "Asia/Tokyo, this machine's"


@pytest.mark.parametrize("created", [None, "", "noon", 5, 1.5, b"2025", "1950-01-01", "0001-01-01 00:00:00"])
def test_what_is_no_time_is_the_oldest(created: object) -> None:
    times = SourceTimes(BERLIN)
    assert (times.timestamp(created), times.bad) == (0, 1)


@pytest.mark.parametrize("zone", [BERLIN, UTC, timezone(timedelta(hours=-5))])
@pytest.mark.parametrize("moment", [0, 1, from_iso("2025-07-01T10:00:00.000001"), from_iso("2025-12-31T23:59:59")])
def test_back_to_local_time(zone: tzinfo, moment: int) -> None:
    assert SourceTimes(zone).timestamp(local_time(moment, zone)) == moment


@pytest.mark.parametrize(("text", "hours"), [("UTC", 0), ("utc", 0), ("+02:00", 2), ("-0530", -5.5), ("Asia/Tokyo", 9)])
def test_zones(text: str, hours: float) -> None:
    assert datetime(2025, 1, 1, tzinfo=to_zone(text)).utcoffset() == timedelta(hours=hours)


@pytest.mark.parametrize("text", ["", "Moon/Sea", "+25:00", "../etc/passwd", "CEST-1"])
def test_what_is_no_zone(text: str) -> None:
    with pytest.raises(ConfigError, match="not a time zone that this machine knows"):
        to_zone(text)

"""Moments and their text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardhash.base.timestamps import from_iso, to_iso


@given(st.integers(0, 253_402_300_799_999_999))
def test_there_and_back(moment: int) -> None:
    assert from_iso(to_iso(moment)) == moment


def test_zones() -> None:
    assert from_iso("2026-11-24T01:00") == from_iso("2026-11-24T01:00Z") == from_iso("2026-11-24T02:30+01:30")
    assert to_iso(1, "seconds") == "1970-01-01T00:00:00+00:00"


@pytest.mark.parametrize("text", ["", "noon", "1969-12-31", "1970-01-01T00:00+00:01", "9999-12-31T23:59-01:00"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # its words differ; callers say it in theirs
        from_iso(text)

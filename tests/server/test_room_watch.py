"""The file with what everybody stored today: whole, and as late as it can be."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from shardhash.coordinator import quotas as module
from shardhash.coordinator.callers import Caller
from shardhash.coordinator.complaints import Complaints
from shardhash.coordinator.limits import ServerLimits
from shardhash.coordinator.permissions import Identity
from shardhash.coordinator.quotas import Quotas
from shardhash.server.room_watch import load_quotas, save_quotas
from shardhash.wire.rows import Report

USERS = ["me", 'a "name"', "\\", "\ud800", "\u00fc\n", None]
LIMITS = ServerLimits(user_rows=3, peer_rows=3)


def store(quotas: Quotas, user: str | None, count: int) -> bool:
    """Whether somebody may store so many rows."""
    row = Report("m", "0" * 64, "o", "u")
    caller = Caller(Identity(user, frozenset()), read_only=False, peer="203.0.113.7:1")
    return quotas.take(caller, [row] * count) is None


async def test_the_last_writing_waits_for_the_one_before_and_misses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DUMPED_AT_ONCE", 2)
    quotas = Quotas(LIMITS, Complaints())
    for user in USERS:
        assert store(quotas, user, 1)
    before = asyncio.create_task(save_quotas(tmp_path, quotas))
    await asyncio.sleep(0)
    assert not quotas.changed, "it is under way"
    await save_quotas(tmp_path, quotas)
    again = Quotas(LIMITS, Complaints())
    load_quotas(tmp_path, again)
    assert [(store(again, user, 3), store(again, user, 2)) for user in USERS] == [(False, True)] * len(USERS)
    await before

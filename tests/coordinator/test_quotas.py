"""Quotas and room: what is counted, when it is too much, and when it is right again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardhash.coordinator import quotas as module
from shardhash.coordinator.callers import Caller
from shardhash.coordinator.complaints import Complaints
from shardhash.coordinator.limits import ServerLimits
from shardhash.coordinator.permissions import Identity
from shardhash.coordinator.quotas import DAY, Quotas
from shardhash.coordinator.room import Room
from shardhash.wire.rows import Report

GIB = 1 << 30


class Clock:
    def __init__(self) -> None:
        self.now = 20_000.0 * DAY + 3600

    def __call__(self) -> float:
        return self.now


def caller(user: str | None = None, peer: str = "203.0.113.7:1") -> Caller:
    return Caller(Identity(user, frozenset()), read_only=False, peer=peer)


def reports(count: int, method: str = "m", siginfo: str | None = None) -> list[Report]:
    return [Report(method, f"{number:064x}", "o", "u", outhash_siginfo=siginfo) for number in range(count)]


def dumped(one: Quotas, most_steps: int = 2) -> Any:
    """What `dump` returns, read as JSON."""
    steps = one.dump()
    for _ in range(most_steps + 1):
        try:
            next(steps)
        except StopIteration as end:
            return json.loads(b"".join(end.value))
    raise AssertionError("too many steps")


def quotas(clock: Clock | None = None, **limits: int) -> Quotas:
    return Quotas(ServerLimits(**limits), Complaints(), clock or Clock())


def test_rows_siginfo_and_methods_have_each_their_limit() -> None:
    some = quotas(user_rows=5, user_siginfo=100, user_methods=2)
    assert some.take(caller("a"), reports(4)) is None
    refusal = some.take(caller("a"), reports(2))
    assert refusal is not None
    assert "a stores no more than 5 rows in a day" in refusal
    assert "--limit user_rows=N allows more" in refusal
    assert some.take(caller("a"), reports(1)) is None, "what was refused is not counted"
    assert "user_siginfo" in (some.take(caller("b"), reports(2, siginfo="x" * 51)) or "")
    assert some.take(caller("b"), reports(2, siginfo="x" * 50)) is None
    assert [some.take(caller("c"), reports(1, method)) is None for method in "mnopm"] == [
        True,
        True,
        False,
        False,
        True,
    ]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, "alex"]),
            st.sampled_from(["m", "n", "o"]),
            st.sampled_from([None, "", "info"]),
            st.sampled_from([0.0, 0.0, 0.0, DAY / 2, -DAY]),
        ),
        max_size=30,
    )
)
def test_one_report_is_counted_as_many_are(asked: list[tuple[str | None, str, str | None, float]]) -> None:
    limits = {
        f"{who}_{what}": most
        for who in ("user", "peer")
        for what, most in (("rows", 9), ("siginfo", 10), ("methods", 2))
    }
    clock = Clock()
    one, many = quotas(clock, **limits), quotas(clock, **limits)
    for user, method, siginfo, later in asked:
        clock.now += later
        (report,) = reports(1, method, siginfo)
        assert one.count_one(caller(user), report) == (many.count(caller(user), [report]) is None)
        assert dumped(one) == dumped(many)


def test_those_who_do_not_log_in_are_counted_by_host() -> None:
    some = quotas(peer_rows=2, user_rows=100)
    assert some.take(caller(), reports(2)) is None
    assert "203.0.113.7" in (some.take(caller(peer="203.0.113.7:99"), reports(1)) or "")
    assert some.take(caller(peer="203.0.113.8:1"), reports(1)) is None
    assert some.take(caller("user"), reports(50)) is None
    assert some.take(caller(peer="[2001:db8::1]:5"), reports(2)) is None
    assert some.take(caller(peer="[2001:db8::2]:5"), reports(1)) is not None


def test_a_new_day_begins_anew() -> None:
    clock = Clock()
    some = quotas(clock, user_rows=2)
    assert some.take(caller("a"), reports(2)) is None
    assert some.take(caller("a"), reports(1)) is not None
    clock.now += DAY
    assert some.take(caller("a"), reports(2)) is None


def test_what_was_not_stored_is_given_back() -> None:
    some = quotas(user_rows=2)
    for _ in range(5):
        assert some.take(caller("a"), reports(2)) is None
        some.give_back(caller("a"), reports(2))


def test_an_enemy_with_many_networks_has_no_count_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its own, so that it stores more, nor a user's; and an innocent newcomer may still store."""
    monkeypatch.setattr(module, "MOST_KEYS", 50)
    monkeypatch.setattr(module, "FORGOTTEN", 5)
    some = quotas(peer_rows=100, user_rows=100, peer_methods=1000)
    assert some.take(caller("victim"), reports(100)) is None
    stored = 0
    for network in range(3000):
        for _ in range(10):
            stored += 10 * (some.take(caller(peer=f"[2001:db8:{network % 700:x}::1]:1"), reports(10)) is None)
    assert stored <= 50 * 100 + 5 * 100
    assert some.take(caller("victim"), reports(1)) is not None
    assert sum(map(len, some._used.values())) <= 51


def test_an_innocent_newcomer_stores_while_networks_come_by_the_thousand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_KEYS", 50)
    monkeypatch.setattr(module, "FORGOTTEN", 5)
    some = quotas(peer_rows=1000)
    assert some.take(caller(peer="192.0.2.1:1"), reports(900)) is None
    for network in range(5000):
        some.take(caller(peer=f"[2001:db8:{network:x}::1]:1"), reports(1))
    assert some.take(caller(peer="192.0.2.2:1"), reports(800)) is None
    assert some.take(caller(peer="192.0.2.1:1"), reports(101)) is not None, "who stored most is known"


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(1, 4), st.sampled_from("mno")), max_size=30),
    st.integers(0, 1),
)
def test_a_restart_goes_on_with_the_day(steps: list[tuple[str | None, int, str]], days: int) -> None:
    limits = {"user_rows": 20, "peer_rows": 10, "user_methods": 2}
    clock = Clock()
    one = quotas(clock, **limits)
    for user, count, method in steps:
        one.take(caller(user), reports(count, method, "s"))
    clock.now += days * DAY
    two = quotas(clock, **limits)
    two.load(dumped(one))
    for user, count, method in steps:
        assert (one.take(caller(user), reports(count, method)) is None) == (
            two.take(caller(user), reports(count, method)) is None
        )


def test_many_are_dumped_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart remembers those with the most rows, who may be forgotten, or be others on another day, meanwhile."""
    monkeypatch.setattr(module, "LOOKED_AT_ONCE", 10)
    monkeypatch.setattr(module, "DUMPED_AT_ONCE", 5)
    monkeypatch.setattr(module, "MOST_KEPT", 20)
    clock = Clock()
    some = quotas(clock)
    for number in range(100):
        some.take(caller(f"user{number}"), reports(number + 1))
    found = dumped(some, 100 // 10 + 20 // 5)
    assert set(found["used"]) == {f"user:user{number}" for number in range(80, 100)}
    assert not some.changed
    steps = some.dump()
    for _ in range(11):
        next(steps)
    clock.now += DAY
    some.take(caller("another"), reports(1))
    day = None
    while day is None:
        try:
            next(steps)
        except StopIteration as end:
            day = json.loads(b"".join(end.value))
    assert day == found


def test_room_warns_then_refuses_then_heals() -> None:
    complaints = Complaints()
    room = Room(ServerLimits(disk_warn=10 * GIB, disk_refuse=4 * GIB), complaints)
    seen = []
    for free in (20, 11, 9, 10.5, 12, 9, 3.9, 4.1, 4.4, 4.6, 20):
        room.update(int(free * GIB), 100 * GIB)
        seen.append((room.scarce, room.low))
    warned, refused, well = (True, False), (True, True), (False, False)
    assert seen == [well, well, warned, warned, well, warned, refused, refused, refused, warned, well]
    assert complaints.counts["disk_warn"] == 2
    assert "limit disk_refuse" in room.refuse()
    assert complaints.counts["disk_refuse"] == 1


@pytest.mark.parametrize(("total", "level"), [(1 << 40, 512 << 20), (4 * GIB, 4 * GIB // 20)])
def test_unless_told_the_levels_suit_the_disk(total: int, level: int) -> None:
    room = Room(ServerLimits(), Complaints())
    room.update(level + 1, total)
    assert not room.low
    room.update(level - 1, total)
    assert room.low

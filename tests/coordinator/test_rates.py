"""Rates, wrong logins and new tokens: who waits, who is refused, how long. The clock goes when it is told to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardhash.coordinator.buckets import Buckets
from shardhash.coordinator.complaints import Complaints
from shardhash.coordinator.guesses import Guesses
from shardhash.coordinator.limits import ServerLimits
from shardhash.coordinator.rates import PATIENCE, REQUESTS, SPAN, Rates
from shardhash.errors import InvokeError


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0.1, 30), st.floats(0, 100)), max_size=60))
def test_in_the_long_run_nobody_draws_more_than_flows_in(draws: list[tuple[float, float, float]]) -> None:
    clock, rate, span = Clock(), 3.0, 10.0
    buckets = Buckets(span, 1e9, clock)
    began, total = clock.now, 0.0
    for pause, least, more in draws:
        clock.now += pause
        drawn, wait = buckets.draw("k", rate, least, least + more)
        assert least <= drawn <= least + more
        total += drawn
        assert total <= span * rate + (clock.now + wait - began) * rate + 1e-3


def test_a_bounded_number_of_buckets_is_kept() -> None:
    buckets = Buckets(1.0, 1.0, Clock(), most=3)
    for key in "abcab":
        buckets.draw(key, 1.0, 1.0, 1.0)
    buckets.draw("d", 1.0, 1.0, 1.0)
    assert len(buckets) == 3
    assert buckets.wait("c", 1.0, 1.0) == 0, "it was not used for longest"
    assert buckets.wait("a", 1.0, 1.0) > 0


def rates(clock: Clock, **limits: int) -> tuple[Rates, Complaints]:
    complaints = Complaints()
    return Rates(ServerLimits(**limits), complaints, clock), complaints


def test_a_host_that_asks_much_waits_and_another_does_not() -> None:
    clock = Clock()
    some, complaints = rates(clock, peer_requests=100)
    purse, other = some.purse("a"), some.purse("b")
    waited, asked = 0.0, 0
    while asked < 3000:
        wait = purse.refill(None, "a:1")
        clock.now += wait
        waited += wait
        asked += int(purse.requests)
        purse.requests = 0.0
    assert (3000 - SPAN * 100) / 100 - 1 <= waited <= 3000 / 100
    assert complaints.counts["peer_requests"] > 0
    assert other.refill(None, "b:1") == 0


def test_connections_of_one_host_share_and_none_waits_for_long() -> None:
    clock = Clock()
    some, _ = rates(clock, peer_requests=10)
    waits = [some.purse("a").refill(None, "a") for _ in range(200)]
    assert waits[0] == 0
    assert max(waits) == PATIENCE


def test_a_user_is_held_to_its_rate_wherever_it_comes_from() -> None:
    clock = Clock()
    some, complaints = rates(clock, user_bytes=100_000)
    purses = [some.purse(host) for host in "abc"]
    for purse in purses:
        purse.bytes -= 400_000
    waits = [purse.refill("builder", "x") for purse in purses]
    assert waits[0] == waits[1] == 0 < waits[2]
    assert complaints.counts["user_bytes"] > 0
    assert complaints.counts["peer_bytes"] == 0


def test_what_a_connection_did_not_use_is_given_back() -> None:
    some, _ = rates(Clock(), peer_requests=10)
    for _ in range(90):  # of 100 that may be asked in one go
        purse = some.purse("a")
        assert purse.refill(None, "a") == 0
        assert purse.requests <= REQUESTS
        purse.requests -= 1
        purse.close()


@pytest.mark.parametrize("user", [None, "builder"])
def test_what_waits_for_nobody_is_drawn_at_once(user: str | None) -> None:
    clock = Clock()
    some, complaints = rates(clock, peer_requests=10, user_requests=10)
    purse, asked = some.purse("a"), 0
    while purse.refill_at_once(user, "a"):
        assert not purse.empty
        asked += int(purse.requests)
        purse.requests = 0.0
    assert asked == SPAN * 10
    assert complaints.counts["peer_requests"] == 0, "who looks is not slowed down"
    assert not purse.refill_at_once(user, "a")
    clock.now += 0.2
    assert purse.refill_at_once(user, "a"), "nothing was drawn by looking"


def test_bytes_that_are_owed_are_paid_before_more_is_drawn_at_once() -> None:
    clock = Clock()
    some, _ = rates(clock, peer_bytes=100_000)
    purse = some.purse("a")
    purse.bytes = -3_000_000.0
    assert not purse.refill_at_once(None, "a")
    wait = purse.refill(None, "a")
    assert wait == pytest.approx(20.0, abs=0.1)


def guesses(clock: Clock, **limits: int) -> tuple[Guesses, Complaints]:
    complaints = Complaints()
    return Guesses(ServerLimits(**limits), complaints, clock), complaints


def test_wrong_logins_of_a_host_are_refused_in_words_for_a_while() -> None:
    clock = Clock()
    some, complaints = guesses(clock, peer_logins=6)
    for number in range(6):
        assert some.refusal("admin", "a") is None
        some.failed(f"user{number}", "a")
    refusal = some.refusal("admin", "a")
    assert refusal is not None
    assert "peer_logins is 6 a minute; --limit peer_logins=N" in refusal
    assert some.refusal("admin", "b") is None
    assert complaints.counts["peer_logins"] == 1
    clock.now += 10
    assert some.refusal("admin", "a") is None


def test_strangers_do_not_lock_a_user_out_where_it_logs_in() -> None:
    some, _ = guesses(Clock(), user_logins=5)
    some.succeeded("admin", "office")
    for number in range(10):
        some.failed("admin", f"stranger{number}")
    assert some.refusal("admin", "stranger99") is not None
    assert some.refusal("admin", "office") is None


def test_new_tokens_are_limited_by_user_and_host() -> None:
    clock = Clock()
    some, complaints = guesses(clock, user_tokens=3, peer_tokens=5)
    for _ in range(3):
        some.ask_token("one", "a")
    with pytest.raises(InvokeError, match="limit user_tokens is 3 a minute"):
        some.ask_token("one", "b")
    some.ask_token("two", "a")
    some.ask_token("two", "a")
    with pytest.raises(InvokeError, match=r"asked for by a.*limit peer_tokens"):
        some.ask_token("two", "a")
    assert complaints.counts == {"user_tokens": 1, "peer_tokens": 1}
    clock.now += 60
    some.ask_token("one", "a")


def test_names_of_a_megabyte_are_not_kept() -> None:
    some, _ = guesses(Clock(), user_logins=2)
    for length in (1_000_000, 1_000_001):
        for _ in range(2):
            assert some.refusal("x" * length, "a") is None
            some.failed("x" * length, "a")
        assert some.refusal("x" * length, "b") is not None
    assert max(len(key) for key in some._logins["user_logins"]._kept) < 100


def test_long_messages_over_many_connections_are_paid_for_in_full() -> None:
    """Two hundred connections send 4 MB each at one time, again and again. Small requests go on every few seconds."""
    clock = Clock()
    rate, size, connections = 8_000_000, 4_000_000, 200
    some, _ = rates(clock, peer_bytes=rate)
    purses = [some.purse("a") for _ in range(connections)]
    ready = [clock.now] * connections
    began, sent = clock.now, 0
    while clock.now < began + 500:
        at = min(range(connections), key=ready.__getitem__)
        clock.now = max(clock.now, ready[at])
        purses[at].bytes -= size
        sent += size
        ready[at] = clock.now + purses[at].refill(None, "a:1")
    assert sent <= rate * (SPAN + clock.now - began) + connections * size
    small = some.purse("a")
    assert 0 < small.refill(None, "a:2") <= PATIENCE


def test_who_logged_in_pays_for_long_messages_too() -> None:
    clock = Clock()
    some, _ = rates(clock, peer_bytes=1_000_000)
    purse = some.purse("a")
    assert purse.refill("builder", "a:1") == 0
    purse.bytes -= 40_000_000
    assert purse.refill("builder", "a:1") == pytest.approx(40 - SPAN, abs=1)


def test_new_connections_of_a_host_have_a_rate_and_none_waits_for_long() -> None:
    clock = Clock()
    some, complaints = rates(clock, peer_arrivals=10)
    waits = [some.arrive("a", "a:1") for _ in range(200)]
    assert waits[:20] == [0.0] * 20
    assert 0.0 < waits[20] < waits[21]
    assert max(waits) == pytest.approx(PATIENCE)
    assert some.arrive("b", "b:1") == 0.0
    assert complaints.counts == {"peer_arrivals": 180}
    clock.now += PATIENCE + 0.1
    assert some.arrive("a", "a:1") == 0.0


def test_who_logged_in_elsewhere_is_not_locked_out_by_strangers() -> None:
    some, _ = guesses(Clock(), user_logins=1)
    told: list[tuple[str, str]] = []
    some.made_known = lambda group, username: told.append((group, username))
    some.know([("elsewhere", "me")])
    for _ in range(2):
        some.succeeded("me", "here")
    some.failed("me", "stranger")
    assert told == [("here", "me")], "once, and nothing of what was told here"
    assert some.known == [("elsewhere", "me"), ("here", "me")]
    assert [some.refusal("me", group) is None for group in ("elsewhere", "here", "stranger")] == [True, True, False]

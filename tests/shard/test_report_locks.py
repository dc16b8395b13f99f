"""ReportLocks: one at a time, in order of arrival, given up with the link."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shardhash.shard.worker.report_locks import ReportLocks

PLACE = ("m", "o")


class Log:
    def __init__(self) -> None:
        self.turns = ReportLocks()
        self.granted: list[object] = []

    def take(self, link: object, number: int, place: tuple[str, str] = PLACE) -> None:
        self.turns.take(place, link, number, lambda: self.granted.append((link, number)))


def test_the_next_in_line_is_granted_on_release() -> None:
    log = Log()
    log.take("a", 1)
    log.take("a", 2)
    log.take("b", 1)
    assert log.granted == [("a", 1)]
    log.turns.release(PLACE, "a", 1)
    assert log.granted == [("a", 1), ("a", 2)]
    log.turns.release(PLACE, "a", 2)
    assert log.granted == [("a", 1), ("a", 2), ("b", 1)]
    log.turns.release(PLACE, "b", 1)
    assert len(log.turns) == 0


def test_other_outhashes_do_not_wait() -> None:
    log = Log()
    log.take("a", 1)
    log.take("a", 2, ("m", "other"))
    assert log.granted == [("a", 1), ("a", 2)]


def test_asking_again_keeps_the_place_and_answers_the_holder() -> None:
    log = Log()
    log.take("a", 1)
    log.take("a", 2)
    log.take("a", 1)
    log.take("a", 2)
    assert log.granted == [("a", 1), ("a", 1)]
    log.turns.release(PLACE, "a", 1)
    assert log.granted[-1] == ("a", 2)
    assert len(log.granted) == 3


def test_a_place_in_a_long_queue_costs_no_look_at_the_others() -> None:
    """Batches of reports of one outhash make queues of tens of thousands."""
    looks = 0

    class Number(int):
        def __eq__(self, other: object) -> bool:
            nonlocal looks
            looks += 1
            return int(self) == other

        __ne__ = int.__ne__
        __hash__ = int.__hash__

    log = Log()
    for number in range(1000):
        log.take("a", Number(number))
    for number in range(1000):
        log.turns.release(PLACE, "a", Number(number))
    assert looks < 10_000
    assert log.granted == [("a", number) for number in range(1000)]


def test_one_who_leaves_the_queue_is_passed_over() -> None:
    log = Log()
    for number in (1, 2, 3):
        log.take("a", number)
    log.turns.release(PLACE, "a", 2)
    log.turns.release(PLACE, "a", 1)
    assert log.granted == [("a", 1), ("a", 3)]


def test_releasing_what_is_not_held_changes_nothing() -> None:
    log = Log()
    log.turns.release(PLACE, "a", 1)
    log.take("a", 1)
    log.turns.release(PLACE, "b", 1)
    assert log.granted == [("a", 1)]
    assert len(log.turns) == 1


@given(st.lists(st.tuples(st.sampled_from(["take", "release", "drop"]), st.sampled_from("ab"), st.integers(0, 4))))
def test_whoever_is_first_in_line_is_granted_and_no_one_else(steps: list[tuple[str, str, int]]) -> None:
    log = Log()
    queue: list[tuple[str, int]] = []
    for action, link, number in steps:
        before = list(queue)
        if action == "take":
            log.take(link, number)
            queue += [] if (link, number) in queue else [(link, number)]
        elif action == "release":
            log.turns.release(PLACE, link, number)
            queue = [entry for entry in queue if entry != (link, number)]
        else:
            log.turns.drop(link)
            queue = [entry for entry in queue if entry[0] != link]
        if queue and queue[0] not in before[:1]:
            assert log.granted[-1] == queue[0]
        assert set(log.granted).isdisjoint(queue[1:])
        log.granted = [entry for entry in log.granted if entry in queue]
        assert len(log.turns) == bool(queue)

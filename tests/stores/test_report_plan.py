"""Plans of reports, against the plain model of a server: what is decided together is what one after the other gives."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from shardhash.stores.postgresql.report_plan import Asked, Line, Mapped, Place, plan_reports
from tests.model import Model

M = 1
TASKS = [b"t%d" % n for n in range(4)]
OUTS = [b"o%d" % n for n in range(3)]
reports = st.builds(
    lambda task, out, uni: Asked(M, task, out, uni),
    st.sampled_from(TASKS), st.sampled_from(OUTS), st.sampled_from([b"a", b"b", b"c", b"d"]),
)  # fmt: skip


class Tables:
    """The tables as dicts, read and written as report_rounds.py does."""

    def __init__(self) -> None:
        self.mappings: dict[Place, bytes] = {}
        self.rows: dict[tuple[bytes, bytes], int] = {}
        self.now = 1000

    def report(self, asked: list[Asked]) -> list[bytes | None]:
        own = [(self.rows.get((one.taskhash, one.outhash)), self.mappings.get((M, one.taskhash))) for one in asked]
        lines = {}
        for outhash in {one.outhash for one in asked}:
            rows = sorted((created, task) for (task, out), created in self.rows.items() if out == outhash)
            line = lines[M, outhash] = Line(max((created for created, _ in rows), default=-1))
            mapped = [(created, task) for created, task in rows if (M, task) in self.mappings]
            for created, task in mapped[:2]:
                line.add(Mapped(created, task, self.mappings[M, task]))
        plan = plan_reports(asked, own, lines, self.now)
        assert not plan.mappings.keys() & self.mappings.keys()
        self.mappings |= plan.mappings
        for position, created in plan.rows:
            self.rows[asked[position].taskhash, asked[position].outhash] = created
        return plan.answers


@settings(max_examples=300, deadline=None)
@given(rounds=st.lists(st.lists(reports, min_size=1, max_size=6), max_size=5), clock=st.sampled_from([1, 0, -1000]))
def test_reports_of_a_round_are_as_if_one_came_after_the_other(rounds: list[list[Asked]], clock: int) -> None:
    """Also when the clock stands or goes back."""
    tables, model = Tables(), Model()
    for asked in rounds:
        tables.now += clock
        due = [model.report("m", *(text.decode() for text in one[1:4])).encode() for one in asked]
        assert tables.report(asked) == due
    for (task, out), created in tables.rows.items():
        others = [tables.rows[t, o] for t, o in tables.rows if o == out and t != task]
        assert created not in others, "the order of an outhash's rows is that of their reports"


@given(
    before=st.lists(reports, min_size=1, max_size=6),
    gone=st.sets(st.sampled_from(TASKS)),
    asked=st.lists(reports, min_size=1, max_size=4),
)
def test_rows_whose_mappings_were_removed_give_nothing(
    before: list[Asked], gone: set[bytes], asked: list[Asked]
) -> None:
    tables, model = Tables(), Model()
    for one in before:
        tables.report([one])
        model.report("m", *(text.decode() for text in one[1:4]))
    for task in gone:
        tables.mappings.pop((M, task), None)
        model.mappings.pop(("m", task.decode()), None)
    outhash = asked[0].outhash
    asked = [one._replace(outhash=outhash) for one in asked]
    due = [model.report("m", *(text.decode() for text in one[1:4])).encode() for one in asked]
    assert tables.report(asked) == due


def test_whoever_is_to_ask_elsewhere_waits_with_all_behind() -> None:
    asked = [
        Asked(M, b"t1", b"o1", b"a", ask=True),
        Asked(M, b"t2", b"o1", b"b"),
        Asked(M, b"t3", b"o2", b"c"),
    ]
    tables = Tables()
    assert tables.report(asked) == [None, None, b"c"]
    assert tables.rows.keys() == {(b"t3", b"o2")}
    asked[0] = asked[0]._replace(ask=False, elsewhere=b"z")
    assert tables.report(asked[:2]) == [b"z", b"z"]
    follower = Asked(M, b"t4", b"o1", b"d", ask=True)
    assert tables.report([follower]) == [b"z"], "a local equivalent was there"


def test_a_row_keeps_the_time_it_came_with() -> None:
    tables = Tables()
    tables.report([Asked(M, b"t1", b"o1", b"a")])
    tables.report([Asked(M, b"t2", b"o1", b"b", created=5)])
    assert tables.rows == {(b"t1", b"o1"): 1000, (b"t2", b"o1"): 5}


def test_rows_of_a_round_are_as_old_as_their_reports_came() -> None:
    """The oldest row of a taskhash must not depend on how its outhashes sort."""
    task, unihash = b"\1" * 32, b"\2" * 32
    asked = [Asked(1, task, outhash, unihash) for outhash in (b"\xff", b"\xff", b"\0", b"\x80")]
    plan = plan_reports(asked, [(None, None)] * 4, {}, 1000)
    assert plan.rows == [(0, 1000), (2, 1001), (3, 1002)]
    given = [asked[0]._replace(created=9_000_000), asked[2]]
    assert plan_reports(given, [(None, None)] * 2, {}, 1000).rows == [(0, 9_000_000), (1, 1000)]

"""Reports of many tasks, purely: what is in each request, and what a retry asks again."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardhash.client.reports import BATCH, BATCH_BYTES, EquivalenceList, ReportList
from shardhash.coordinator.limits import ServerLimits
from shardhash.errors import ProtocolError
from shardhash.wire.framing import check_values
from shardhash.wire.long_text import PART, LongText, cut_parts

UNIHASH = "ab" * 32


def rows(*sizes: int) -> list[dict[str, Any]]:
    """A row for each size of its siginfo."""
    return [{"taskhash": f"{place}", "outhash_siginfo": "x" * size} for place, size in enumerate(sizes)]


def told(reports: ReportList, *, batched: bool) -> list[list[dict[str, Any]]]:
    """The rows of each request for what is unanswered, as a server reads them."""
    requests = [reports.encode(*bounds, batched=batched) for bounds in reports.requests(batched=batched)]
    values = [orjson.loads(request) for request in requests]
    return [value["report-batch"]["reports"] if batched else [value["report"]] for value in values]


def answer(count: int, *, batched: bool) -> dict[str, Any]:
    """What a server says to a request of so many rows."""
    return {"unihashes": [UNIHASH] * count} if batched else {"unihash": UNIHASH}


@pytest.mark.parametrize("batched", [True, False])
def test_nothing_to_report_is_complete(batched: bool) -> None:
    reports = ReportList([])
    assert reports.complete
    assert reports.requests(batched=batched) == []


@pytest.mark.parametrize("count", [1, BATCH - 1, BATCH, BATCH + 1, 3 * BATCH, 3 * BATCH + 1])
def test_so_many_rows_share_a_request(count: int) -> None:
    some = rows(*[0] * count)
    requests = told(ReportList(some), batched=True)
    assert [row for request in requests for row in request] == some
    assert [len(request) for request in requests[:-1]] == [BATCH] * ((count - 1) // BATCH)
    assert told(ReportList(some), batched=False) == [[row] for row in some]


@pytest.mark.parametrize(
    ("sizes", "due"),
    [
        ([BATCH_BYTES], [1]),
        ([BATCH_BYTES] * 3, [1, 1, 1]),
        ([BATCH_BYTES // 2 - 100] * 5, [2, 2, 1]),
        ([BATCH_BYTES // 2] * 3, [1, 1, 1]),
        ([0, BATCH_BYTES, 0, 0], [1, 1, 2]),
        ([BATCH_BYTES - 100, 7 * BATCH_BYTES, 0], [1, 1, 1]),  # together they would be more than a server takes
    ],
)
def test_a_request_is_long_only_by_a_single_row(sizes: list[int], due: list[int]) -> None:
    some = rows(*sizes)
    requests = told(ReportList(some), batched=True)
    assert [row for request in requests for row in request] == some
    assert [len(request) for request in requests] == due


@pytest.mark.parametrize("text", ["{[,", ","])
def test_a_request_has_no_more_values_than_servers_take(text: str) -> None:
    """They count what may be values, within texts, too."""
    some = [row | {"outhash_siginfo": text * 200} for row in rows(*[0] * 500)]
    reports = ReportList(some)
    bounds = reports.requests(batched=True)
    assert len(bounds) > 1
    for one in bounds:
        check_values(reports.encode(*one, batched=True), ServerLimits().values)


@given(st.integers(0, 2 * BATCH + 5), st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=4))
def test_a_retry_tells_only_what_is_unanswered(count: int, tries: list[tuple[int, bool]]) -> None:
    """Each try is of a kind of server, and ends after some answers."""
    some = rows(*[0] * count)
    reports = ReportList(iter(some))
    for answers, batched in [*tries, (count, True)]:
        requests = told(reports, batched=batched)
        assert [row for request in requests for row in request] == some[len(reports.unihashes) :]
        for request in requests[:answers]:
            reports.take_answer(answer(len(request), batched=batched), len(request), batched=batched)
    assert reports.complete
    assert reports.unihashes == [UNIHASH] * count


NO_UNIHASHES: list[object] = [None, 1, "", "short", [UNIHASH], UNIHASH.upper(), UNIHASH + "\n"]
NO_ANSWERS: list[object] = [None, [], "ok", {}, 1, [UNIHASH] * 2]
NO_LISTS: list[object] = [
    None,
    UNIHASH,
    {},
    [],
    [UNIHASH],
    [UNIHASH] * 3,
    *([UNIHASH, wrong] for wrong in NO_UNIHASHES),
]


@pytest.mark.parametrize(
    ("wrong", "batched"),
    [
        *((wrong, batched) for wrong in NO_ANSWERS for batched in (True, False)),
        *(({"unihashes": wrong}, True) for wrong in NO_LISTS),
        *(({"unihash": wrong}, False) for wrong in NO_UNIHASHES),
        ({"unihash": UNIHASH}, True),
        ({"unihashes": [UNIHASH]}, False),
    ],
)
def test_malformed_answers_are_refused_and_not_kept(wrong: object, batched: bool) -> None:
    reports = ReportList(rows(0, 0))
    with pytest.raises(ProtocolError, match="malformed"):
        reports.take_answer(wrong, 2 if batched else 1, batched=batched)
    assert reports.unihashes == []


def test_equivalences_travel_one_by_one() -> None:
    mappings = [{"method": "m", "taskhash": str(number), "unihash": UNIHASH} for number in range(3)]
    for batched in (True, False):
        reports = EquivalenceList(mappings)
        requests = [reports.encode(*bounds, batched=batched) for bounds in reports.requests(batched=batched)]
        assert [orjson.loads(request) for request in requests] == [{"report-equiv": mapping} for mapping in mappings]
        for _ in mappings:
            reports.take_answer({"unihash": UNIHASH}, 1, batched=batched)
        assert reports.complete


@pytest.mark.parametrize("batched", [True, False])
def test_a_long_text_travels_by_itself_and_in_pieces(batched: bool) -> None:
    text = "\u00e9\n" * 3 * PART
    some = rows(0, 10, 0)
    long = {"taskhash": "long", "outhash_siginfo": LongText(cut_parts(text.encode(), more=False)[0])}
    reports = ReportList([some[0], long, *some[1:]])
    requests = reports.requests(batched=batched)
    assert (1, 2) in requests
    assert [reports.long(*bounds) for bounds in requests] == [bounds == (1, 2) for bounds in requests]
    assert max(map(len, reports.pieces(1, 2, batched=batched))) <= 2 * PART
    told_rows = [row for request in told(reports, batched=batched) for row in request]
    assert told_rows == [some[0], {"taskhash": "long", "outhash_siginfo": text}, *some[1:]]

"""Random commands, in a universe so small that they collide, at a real server and at the plain model of one.

Reports, equivalences, removals, collections and restarts (in order, or by a kill) follow each other in any order; each
answer, and from time to time the whole state, must be the model's.
"""

from __future__ import annotations

import tempfile
from copy import deepcopy
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shardhash.client import Client, InvokeError, create_client
from tests.coordinators import SEVERAL, InTurn, connect_to_each
from tests.model import DETAILS, Model, stripped
from tests.servers import ServerProcess

pytestmark = pytest.mark.once

METHODS = ["m", "other.method"]
TASKHASHES = ["00" * 32, "7f" * 32, "80" * 32, "short"]
OUTHASHES = ["01" * 32, "fe" * 32, "no-digest"]
UNIHASHES = [f"{n:x}" * 64 for n in range(3)]
MARKS = ["A", "B"]

methods = st.sampled_from(METHODS)
taskhashes = st.sampled_from(TASKHASHES)
outhashes = st.sampled_from(OUTHASHES)
unihashes = st.sampled_from(UNIHASHES)
details = st.dictionaries(st.sampled_from(DETAILS), st.sampled_from(["x", "y"]), max_size=3)
reports = st.builds(
    lambda columns, extra: extra | columns,
    st.fixed_dictionaries({"method": methods, "taskhash": taskhashes, "outhash": outhashes, "unihash": unihashes}),
    details,
)
where = st.fixed_dictionaries(
    {},
    optional={
        "method": methods,
        "taskhash": taskhashes,
        "outhash": outhashes,
        "unihash": unihashes,
        "owner": st.sampled_from(["x", "y"]),
        "gc_mark": st.sampled_from(["", *MARKS]),
        "outhash_siginfo": st.sampled_from(["x", "y"]),
    },
)


class Served(RuleBasedStateMachine):
    """A server that lives through all examples, emptied before each."""

    folder: ClassVar[str]
    server: ClassVar[ServerProcess]

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.client = self.connect()
        self.restarts = 0

    @classmethod
    def start(cls) -> None:
        arguments = ("--data", cls.folder + "/data", "--workers", "2", "--log", "WARNING")
        cls.server = ServerProcess(*arguments, binds=["ws://127.0.0.1:0"])

    @classmethod
    def connect(cls) -> Client:
        return create_client(cls.server.address)

    @initialize()
    def empty(self) -> None:
        for method in METHODS:
            self.client.remove({"method": method})
        mark = self.client.gc_status()["mark"]
        if mark:
            self.client.gc_sweep(mark)
        assert self.usage() == (0, 0)

    def teardown(self) -> None:
        self.client.close()

    def usage(self) -> tuple[int, int]:
        usage = self.client.get_db_usage()
        return usage["unihashes_v3"]["rows"], usage["outhashes_v2"]["rows"]

    # ---------------------------------------------------------------------------------------------- commands

    @rule(method=methods, taskhash=taskhashes, outhash=outhashes, unihash=unihashes, extra=details)
    def report(self, method: str, taskhash: str, outhash: str, unihash: str, extra: dict[str, str]) -> None:
        answer = self.client.report_unihash(taskhash, method, outhash, unihash, extra)
        assert answer["unihash"] == self.model.report(method, taskhash, outhash, unihash, **extra)

    @rule(batch=st.lists(reports, max_size=4))
    def report_batch(self, batch: list[dict[str, str]]) -> None:
        answers = self.client.report_unihash_batch(batch)
        assert self.model.report_batch(batch, answers), answers

    @rule(method=methods, outhash=outhashes, batch=st.lists(reports, min_size=5, max_size=10))
    def report_batch_of_an_outhash(self, method: str, outhash: str, batch: list[dict[str, str]]) -> None:
        batch = [report | {"method": method, "outhash": outhash} for report in batch]
        due = [self.model.report(**report) for report in batch]
        assert self.client.report_unihash_batch(batch) == due

    @rule(method=methods, taskhash=taskhashes, unihash=unihashes)
    def report_equiv(self, method: str, taskhash: str, unihash: str) -> None:
        answer = self.client.report_unihash_equiv(taskhash, method, unihash)
        assert answer["unihash"] == self.model.report_equiv(method, taskhash, unihash)

    @rule(where=where)
    def remove(self, where: dict[str, str]) -> None:
        assert self.client.remove(where)["count"] == self.model.remove(where)

    @rule()
    def clean_unused(self) -> None:
        assert self.client.clean_unused(0)["count"] == self.model.clean_unused()

    @rule(mark=st.sampled_from(MARKS), where=where)
    def gc_mark(self, mark: str, where: dict[str, str]) -> None:
        assert self.client.gc_mark(mark, where)["count"] == self.model.gc_mark(mark, where)

    @rule(mark=st.sampled_from(MARKS))
    def gc_sweep(self, mark: str) -> None:
        due = self.model.gc_sweep(mark)
        if due is None:
            with pytest.raises(InvokeError, match="is not the current mark"):
                self.client.gc_sweep(mark)
        else:
            assert self.client.gc_sweep(mark)["count"] == due

    @precondition(lambda self: self.restarts < 1)
    @rule(killed=st.booleans())
    def restart(self, killed: bool) -> None:
        self.restarts += 1
        self.client.close()
        if killed:
            self.server.kill()
        else:
            assert self.server.stop() == 0
        self.start()
        self.client = self.connect()

    # -------------------------------------------------------------------------------------------- the state

    @invariant()
    def looks_the_same(self) -> None:
        keys = [(method, taskhash) for method in METHODS for taskhash in TASKHASHES]
        assert self.client.get_unihash_batch(keys) == [self.model.get(*key) for key in keys]
        assert self.client.unihash_exists_batch(UNIHASHES) == [self.model.exists(unihash) for unihash in UNIHASHES]
        assert self.client.gc_status() == self.model.gc_status()
        assert self.usage() == self.model.usage()

    @rule(method=methods, taskhash=taskhashes)
    def get_all(self, method: str, taskhash: str) -> None:
        row: Any = self.client.get_taskhash(method, taskhash, all_properties=True)
        assert stripped(row) == self.model.get_all(method, taskhash)

    @rule(method=methods, outhash=outhashes, with_unihash=st.booleans())
    def get_outhash(self, method: str, outhash: str, with_unihash: bool) -> None:
        row = self.client.get_outhash(method, outhash, "", with_unihash)
        assert stripped(row) == self.model.get_outhash(method, outhash, with_unihash)


@pytest.fixture
def served() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        Served.folder = folder
        Served.start()
        yield Served
        assert Served.server.stop() == 0


class ServedBySeveral(Served):
    """The same with several coordinators, which are asked in turn."""

    @classmethod
    def start(cls) -> None:
        arguments = ("--data", cls.folder + "/data", "--workers", "2", "--log", "WARNING", *SEVERAL)
        cls.server = ServerProcess(*arguments, binds=["ws://127.0.0.1:0"])

    @classmethod
    def connect(cls) -> Any:
        return InTurn(connect_to_each(cls.server, cls.server.address))


@pytest.fixture
def served_by_several() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        ServedBySeveral.folder = folder
        ServedBySeveral.start()
        yield ServedBySeveral
        assert ServedBySeveral.server.stop() == 0


def test_several_coordinators_are_the_model(served_by_several: Any) -> None:
    run(served_by_several, 10, 40)


def run(machine: Any, examples: int, steps: int) -> None:
    machine.TestCase.settings = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, print_blob=True
    )
    machine.TestCase().runTest()


def test_the_server_is_the_model(served: Any) -> None:
    run(served, 20, 40)


@pytest.mark.soak
def test_the_server_is_the_model_for_long(served: Any) -> None:
    run(served, 300, 60)


def test_reports_that_share_no_outhash_may_cross() -> None:
    """Each decides before the other has stored: no order of the two gives these answers, and side by side they go."""
    task, other, one, two = ("1" * 64, "2" * 64, "a" * 64, "b" * 64)
    model = Model()
    for taskhash, outhash in ((task, "x"), (task, "y"), (other, "y")):
        model.report("m", taskhash, outhash, one)
    model.remove({"unihash": one})
    crossing = [
        {"method": "m", "taskhash": task, "outhash": "y", "unihash": one},
        {"method": "m", "taskhash": other, "outhash": "x", "unihash": two},
    ]
    assert not deepcopy(model).report_batch(crossing, [two, one])
    sharing = [crossing[0], crossing[1] | {"outhash": "y"}]
    assert not deepcopy(model).report_batch(sharing, [one, two])
    assert model.report_batch(crossing, [one, two])

"""The signature handler against BitBake's own: the same hashes, whatever the server says, and few questions."""

from __future__ import annotations

import functools
import json
import logging
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardhash_bitbake.client import Client, report_fields
from shardhash_bitbake.errors import InvokeError
from shardhash_bitbake.spool import Spool
from tests.layer.builds import METHOD, Answer, Build, RunQueueData, digest, load, random_answers, random_build, split
from tests.layer.function_server import FunctionServer, Guess
from tests.servers import IN_MEMORY, ServerProcess

pytest.importorskip("bb")

STOCK = "OEEquivHash"
LAYER = "OEEquivHashShardhash"
Question = tuple[str, str]


@pytest.fixture(autouse=True)
def no_oracle_left() -> Iterator[None]:
    yield
    load("hashserv").oracle = lambda method, taskhash: None


def run_stock(build: Build, answer: Answer) -> dict[str, Any]:
    """The state after BitBake's own handler."""
    load("hashserv").oracle = answer
    return RunQueueData(build, STOCK).prepare()


def run_layer(build: Build, address: str, **variables: Any) -> tuple[dict[str, Any], int]:
    """The state after the layer's handler, and how many questions were left to the loop."""
    runqueue = RunQueueData(build, LAYER, BB_HASHSERVE=address, SHARDHASH_TIMEOUT="60", **variables)
    try:
        return runqueue.prepare(), runqueue.siggen._client.left
    finally:
        runqueue.siggen.exit()


def with_history(build: Build, chance: random.Random, answer: Answer) -> Build:
    """The build after an earlier one: cached unihashes, some of them of what has changed since, locks, a map."""
    before = run_stock(build, random_answers(chance) if chance.random() < 0.5 else answer)
    changed = {tid for tid in build.depends if chance.random() < 0.1}
    locked: dict[str, dict[str, list[str]]] = {}
    mapped: dict[tuple[str, str], tuple[str, str]] = {}
    for tid in build.depends:
        _, mcfn, task = split(tid)
        if chance.random() < 0.1:
            lock = chance.choice([before["taskhash"][tid], digest("lock", tid)])
            locked.setdefault(build.recipes[mcfn], {})[task] = [lock, "VARIABLE"]
        if chance.random() < 0.1:
            mapped[build.recipes[mcfn], task] = (before["taskhash"][tid], digest("mapped", tid))
    return Build(
        **{
            **vars(build),
            "basehash": {tid: digest(tid in changed, "base", tid) for tid in build.depends},
            "unitaskhashes": {key: entry for key, entry in before["unitaskhashes"].items() if chance.random() < 0.5},
            "variables": {
                **build.variables,
                "LOCKED": locked,
                "MAPPED": mapped,
                "UNLOCKED": [name for name in build.recipes.values() if chance.random() < 0.1],
            },
        }
    )


def random_guesses(chance: random.Random, state: dict[str, Any]) -> Guess:
    """Guesses of a server, some of them true."""
    seed = chance.randint(0, 1 << 30)

    def guess(recipe: str, task: str) -> list[tuple[str, str | None]]:
        fixed = random.Random(f"{seed} {recipe} {task}")
        hashes = [taskhash for tid, taskhash in state["taskhash"].items() if tid.endswith(":do_" + task)]
        return [
            (taskhash, fixed.choice([None, digest("guess", taskhash)]))
            for taskhash in fixed.sample([*hashes, digest(recipe), digest(task)], fixed.randint(0, 2))
        ]

    return guess


@given(st.randoms(use_true_random=False), st.booleans())
def test_all_hashes_are_those_of_bitbake(chance: random.Random, native: bool) -> None:
    answer = random_answers(chance)
    build = random_build(chance)
    if chance.random() < 0.7:
        build = with_history(build, chance, answer)
    expected = run_stock(build, answer)
    guess = random_guesses(chance, expected) if chance.random() < 0.7 else None
    with FunctionServer(answer, native=native, guess=guess) as server:
        state, left = run_layer(build, server.address)
    assert state == expected
    # Which recipes are unlocked depends on the order.
    assert not left or build.variables.get("UNLOCKED")


class Recorder(Client):
    """A client that keeps what was answered."""

    received: dict[Question, str | None]
    failed_later = False
    """Whether a question failed that was answered before. What BitBake makes of that depends on when it asked."""

    def get_unihash_batch(self, args: Any) -> list[str | None]:
        questions = list(args)
        try:
            answers = super().get_unihash_batch(questions)
        except ConnectionError:
            Recorder.failed_later = Recorder.failed_later or any(question in self.received for question in questions)
            raise
        self.received.update(zip(questions, answers, strict=True))
        return answers


@given(st.randoms(use_true_random=False), st.booleans(), st.integers(0, 20))
def test_a_server_that_dies_in_the_middle(chance: random.Random, native: bool, lives: int) -> None:
    """Then the hashes are those of a server that knows what this one answered before its end, and no more."""
    answer = random_answers(chance)
    build = with_history(random_build(chance), chance, answer)
    received = Recorder.received = {}
    with pytest.MonkeyPatch.context() as patch, FunctionServer(answer, native=native, lives=lives) as server:
        patch.setattr("shardhash_bitbake.handler.Client", Recorder)
        state, _ = run_layer(build, server.address)
    assert state == run_stock(build, lambda method, taskhash: received.get((method, taskhash)))


@given(st.randoms(use_true_random=False), st.none() | st.integers(5, 30))
def test_hashes_that_change_while_tasks_run(chance: random.Random, lives: int | None) -> None:
    """The same as above, step by step: a preparation, then changes of unihashes."""
    answer = random_answers(chance)
    build = random_build(chance)
    if chance.random() < 0.7:
        build = with_history(build, chance, answer)
    changes = [
        {tid: digest(number, tid) for tid in build.depends if chance.random() < 0.1}
        for number in range(chance.randint(1, 3))
    ]
    with pytest.MonkeyPatch.context() as patch, FunctionServer(answer, lives=lives) as server:
        patch.setattr("shardhash_bitbake.handler.Client", Recorder)
        patch.setattr("shardhash_bitbake.handler.FRESH", 3600.0)
        layer = RunQueueData(build, LAYER, BB_HASHSERVE=server.address, SHARDHASH_TIMEOUT="60")
        stock = RunQueueData(build, STOCK)
        steps: list[Callable[[RunQueueData], dict[str, Any]]] = [RunQueueData.prepare]
        steps += [functools.partial(rehash, unihashes) for unihashes in changes]
        for step in steps:
            # What a running build was answered counts for the next step, too.
            received = Recorder.received = dict(layer.siggen._answers)
            Recorder.failed_later = False
            state = step(layer)
            if Recorder.failed_later:
                break
            load("hashserv").oracle = answer if lives is None else lambda *question: received.get(question)  # noqa: B023
            assert step(stock) == state
        layer.siggen.exit()


def rehash(unihashes: dict[str, str], runqueue: RunQueueData) -> dict[str, Any]:
    return runqueue.rehash(unihashes)


@given(st.randoms(use_true_random=False))
def test_a_formula_that_bitbake_changed_costs_questions_only(chance: random.Random) -> None:
    answer = random_answers(chance)
    build = random_build(chance)
    expected = run_stock(build, answer)
    with pytest.MonkeyPatch.context() as patch, FunctionServer(answer) as server:
        patch.setattr("shardhash_bitbake.gathering.Gatherer._taint", lambda self, tid: "another formula")
        state, _ = run_layer(build, server.address)
    assert state == expected


@pytest.fixture
def world() -> Build:
    """A build of 40 recipes in 8 layers, with 5 tasks each, of which two are setscene tasks."""
    depends: dict[str, set[str]] = {}
    for number in range(40):
        for at, task in enumerate(names := ["do_fetch", "do_compile", "do_install", "do_package", "do_sysroot"]):
            tid = f"/meta/r{number}.bb:{task}"
            depends[tid] = {f"/meta/r{number}.bb:{names[at - 1]}"} if at else set()
            if task == "do_compile":
                depends[tid] |= {
                    f"/meta/r{other}.bb:do_sysroot"
                    for other in range(number // 5 * 5 - 5, number // 5 * 5)
                    if other >= 0
                }
    return Build(
        depends=depends,
        recipes={f"/meta/r{number}.bb": f"r{number}" for number in range(40)},
        basehash={tid: digest("base", tid) for tid in depends},
        setscene={tid for tid in depends if tid.endswith(("package", "sysroot"))},
    )


def test_one_batch_instead_of_one_a_wave(world: Build) -> None:
    with FunctionServer(lambda method, taskhash: taskhash) as server:
        run_layer(world, server.address)
        assert server.batches == [80]
        run_layer(world, server.address, SHARDHASH_OPTIMISTIC="0")
        assert len(server.batches) > 10
        assert sum(server.batches) == 160


def test_one_batch_when_a_unihash_changes_while_tasks_run(world: Build) -> None:
    changed = {"/meta/r0.bb:do_sysroot": digest("changed")}
    with FunctionServer(lambda method, taskhash: taskhash) as server:
        layer = RunQueueData(world, LAYER, BB_HASHSERVE=server.address)
        layer.prepare()
        server.batches.clear()
        state = layer.rehash(changed)
        layer.siggen.exit()
        assert server.batches == [70]
    load("hashserv").oracle = lambda method, taskhash: taskhash
    stock = RunQueueData(world, STOCK)
    stock.prepare()
    assert stock.rehash(changed) == state


def test_answers_of_a_running_build_grow_old(world: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardhash_bitbake.handler.FRESH", -1.0)
    with FunctionServer(lambda method, taskhash: taskhash) as server:
        layer = RunQueueData(world, LAYER, BB_HASHSERVE=server.address)
        layer.prepare()
        server.batches.clear()
        layer.rehash({"/meta/r0.bb:do_sysroot": digest("changed")})
        layer.siggen.exit()
        assert len(server.batches) > 10


def test_guesses_from_an_earlier_build_in_another_directory(world: Build, tmp_path: Path) -> None:
    equivalent = lambda method, taskhash: digest("other", taskhash)  # noqa: E731
    guesses = str(tmp_path / "shared" / "guesses.json")
    with FunctionServer(equivalent) as server:
        first, _ = run_layer(world, server.address, SHARDHASH_GUESSES=guesses)
        assert len(server.batches) > 5
        server.batches.clear()
        again, _ = run_layer(world, server.address, SHARDHASH_GUESSES=guesses)
        assert server.batches == [80]
    assert again == first
    assert len(json.loads(Path(guesses).read_bytes())) == 80


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 5, "b": [1, 2]}', "\udcff"])
def test_guesses_that_cannot_be_read(world: Build, tmp_path: Path, content: str) -> None:
    path = tmp_path / "guesses.json"
    path.write_text(content, errors="surrogateescape")
    with FunctionServer(lambda method, taskhash: taskhash) as server:
        run_layer(world, server.address, SHARDHASH_GUESSES=str(path))
        run_layer(world, server.address, SHARDHASH_GUESSES=str(tmp_path / "guesses.json" / "nowhere"))
        assert server.batches == [80, 80]
    assert len(json.loads(path.read_bytes())) == 80


def test_a_real_server(world: Build, shared_server: ServerProcess) -> None:
    """Every tenth task has another unihash there."""
    world.variables["SSTATE_HASHEQUIV_METHOD"] = method = "a.real.server"
    known: dict[str, str] = {}
    with Client(shared_server.address) as client:

        def answer(method: str, taskhash: str) -> str | None:
            if int(taskhash[:4], 16) % 10 == 0:
                known[taskhash] = digest("other", taskhash)
                client.report_unihash_equiv(taskhash, method, known[taskhash])
            return known.get(taskhash)

        expected = run_stock(world, answer)
    assert known
    for address in shared_server.addresses:
        state, _ = run_layer(world, address)
        assert state == expected
    with Client(shared_server.address) as client:
        assert client.get_unihash(method, next(iter(known))) in known.values()


def test_each_task_is_prepared_once(world: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[str] = []
    siggen = load("bb.siggen")
    prepare = siggen.SignatureGeneratorBasic.prep_taskhash

    def count(self: Any, tid: str, *rest: Any) -> Any:
        prepared.append(tid)
        return prepare(self, tid, *rest)

    monkeypatch.setattr(siggen.SignatureGeneratorBasic, "prep_taskhash", count)
    with FunctionServer(lambda method, taskhash: None) as server:
        run_layer(world, server.address)
    assert sorted(prepared) == sorted(world.depends)


def test_a_dead_server_is_told_of_once(world: Build, dead_address: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        state, _ = run_layer(world, dead_address)
    assert state == run_stock(world, lambda method, taskhash: None)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "refused" in warnings[0]
    assert "goes on without it" in warnings[0]


def test_refusals_end_the_build_as_ever(world: Build) -> None:
    class Refusing(FunctionServer):
        def _answer_line(self, line: str) -> str | None:
            if line.startswith("{"):
                return '{"invoke-error": {"message": "not allowed"}}'
            return super()._answer_line(line)

    with Refusing(lambda method, taskhash: None) as server, pytest.raises(InvokeError, match="not allowed"):
        run_layer(world, server.address)


@pytest.mark.parametrize("damage", [{"a": {"b"}, "b": {"a"}}, {"a": {"gone"}}])
def test_graphs_without_an_order(damage: dict[str, set[str]]) -> None:
    load("bb.siggen")
    order = load("shardhash_bitbake.gathering").order_by_dependency
    assert order(damage) is None
    assert order({"b": {"a"}, "a": set()}) == ["a", "b"]


def test_a_prefetch_that_breaks_leaves_all_to_bitbake(world: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> str:
        raise AttributeError("another BitBake")

    monkeypatch.setattr("shardhash_bitbake.gathering.Gatherer._checksums", broken)
    with FunctionServer(lambda method, taskhash: digest("other", taskhash)) as server:
        state, _ = run_layer(world, server.address)
    assert state == run_stock(world, lambda method, taskhash: digest("other", taskhash))


# -- reports ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def one_task() -> Build:
    return Build({"/a.bb:do_package": set()}, {"/a.bb": "a"}, {"/a.bb:do_package": digest("base")})


def test_reports_wait_for_a_server_that_is_down(
    one_task: Build, dead_address: str, shared_server: ServerProcess, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runqueue = RunQueueData(one_task, LAYER, BB_HASHSERVE=dead_address, CACHE=str(tmp_path))
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            with runqueue.siggen.client() as client:
                answer = client.report_unihash(f"t{number}", "kept", "o", digest(number), {"PN": "a"})
                assert answer["unihash"] == digest(number)
                equiv = client.report_unihash_equiv(f"t{number}", "kept", digest(number))
                assert equiv["unihash"] != digest(number)
    assert len(caplog.records) == 1
    runqueue.siggen.save_unitaskhashes()
    (kept,) = tmp_path.glob("*.sending")
    assert len(kept.read_bytes().splitlines()) == 3
    # The server is back.
    kept.rename(Spool(tmp_path, shared_server.address).path)
    later = RunQueueData(one_task, LAYER, BB_HASHSERVE=shared_server.address, CACHE=str(tmp_path))
    later.siggen.save_unitaskhashes()
    with later.siggen.client() as client:
        assert client.get_unihash("kept", "t2") == digest(0)
    later.siggen.exit()
    assert [path.suffix for path in tmp_path.glob("shardhash-*")] == [".lock", ".lock"]


def test_kept_reports_that_are_refused_are_dropped(
    one_task: Build, shared_server: ServerProcess, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(tmp_path, shared_server.address)
    spool.add({"method": "m", "taskhash": "t", "outhash": "o", "unihash": "no unihash"})
    runqueue = RunQueueData(one_task, LAYER, BB_HASHSERVE=shared_server.address, CACHE=str(tmp_path))
    with caplog.at_level(logging.WARNING):
        runqueue.prepare()
    runqueue.siggen.exit()
    assert "are dropped" in caplog.text
    assert not spool.path.exists()


def test_what_bitbake_imports_has_no_names_to_look_into() -> None:
    package = load("shardhash_bitbake")
    for name in package.BBIMPORTS:
        module = load(f"shardhash_bitbake.{name}")
        assert not [item for item in vars(module) if not item.startswith("_")]


# -- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"BB_HASHSERVE": "nothing"}, "BB_HASHSERVE: 'nothing' is not"),
        ({"SHARDHASH_TIMEOUT": "x"}, "SHARDHASH_TIMEOUT is 'x'"),
    ],
)
def test_settings_that_cannot_be_used(
    one_task: Build, variables: dict[str, str], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(load("bb").BBHandledException):
        RunQueueData(one_task, LAYER, **variables).prepare()
    assert text in caplog.text


@pytest.mark.parametrize(
    ("variables", "texts"),
    [
        ({}, []),
        ({"SSTATE_MIRRORS": "file://.* http://x"}, ["SSTATE_MIRRORS"]),
        ({"SSTATE_MIRRORS": "file://.* http://x", "BB_HASHSERVE_UPSTREAM": "x:1"}, []),
        ({"SSTATE_MIRRORS": "file://.* http://x", "BB_HASHSERVE": "x:1"}, []),
        ({"SSTATE_DIR": "/build/sstate"}, []),
        ({"SSTATE_DIR": "/shared"}, ["SSTATE_DIR"]),
        ({"SSTATE_DIR": "/shared", "BB_HASHSERVE_DB_DIR": "/shared"}, []),
    ],
)
def test_advice(one_task: Build, caplog: pytest.LogCaptureFixture, variables: dict[str, str], texts: list[str]) -> None:
    settings = {"BB_HASHSERVE": "unix:///build/hashserve.sock", "TOPDIR": "/build", "PERSISTENT_DIR": "/build/cache"}
    find = load("shardhash_bitbake.advice").find_advice
    assert [text.split()[0] for text in find(one_task.data(**{**settings, **variables}))] == texts


def test_advice_is_given_once(one_task: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runqueue = RunQueueData(one_task, LAYER, BB_HASHSERVE=f"unix://{tmp_path}/s", SSTATE_MIRRORS="file://.* http://x")
    runqueue.prepare()
    runqueue.prepare()
    assert sum("SSTATE_MIRRORS" in record.getMessage() for record in caplog.records) == 1


def test_credentials_and_parallel_clients(one_task: Build, start_server: Callable[..., ServerProcess]) -> None:
    """Also what BitBake 2.8 calls."""
    server = start_server(
        "--memory", "--workers", "1", "--admin-user", "boss", "--admin-password", "secret", "--anon-perms", "@none"
    )
    variables = {"BB_HASHSERVE": server.address, "BB_HASHSERVE_USERNAME": "boss", "BB_HASHSERVE_PASSWORD": "secret"}
    siggen = RunQueueData(one_task, LAYER, **variables).siggen
    with siggen.client_pool() as pool:
        assert pool.report_unihash("t", METHOD, "o", digest("u"))["unihash"] == digest("u")
        assert pool.get_unihashes({"a": (METHOD, "t"), "b": (METHOD, "no")}) == {"a": digest("u"), "b": None}
        assert pool.unihashes_exist({"a": digest("u"), "b": digest("no")}) == {"a": True, "b": False}
    assert siggen.unihashes_exist({"a": digest("u")}) == {"a": True}
    siggen.exit()


def test_a_fresh_container_guesses_what_others_reported(tmp_path: Path) -> None:
    """All tasks were reported, each with another unihash; a build that knows nothing asks one batch."""
    build = random_build(random.Random(5))
    build.nostamp.clear()

    def other(method: str, taskhash: str) -> str:
        return digest("other", taskhash)

    expected = run_stock(build, other)
    with ServerProcess(*IN_MEMORY) as server:
        with Client(server.address) as client:
            client.report_batch(
                [
                    report_fields(
                        taskhash,
                        METHOD + build.extramethod.get(tid, ""),
                        digest("out", tid),
                        other("", taskhash),
                        {"PN": expected["tidtopn"][tid], "task": tid.rpartition(":do_")[2]},
                    )
                    for tid, taskhash in expected["taskhash"].items()
                ]
            )
        runqueue = RunQueueData(build, LAYER, BB_HASHSERVE=server.address, SHARDHASH_TIMEOUT="60")
        try:
            assert runqueue.prepare() == expected
            figures = runqueue.siggen._client.figures
            assert figures.guesses > 0
            assert figures.calls == 2, "one for the guesses and one for the questions"
        finally:
            runqueue.siggen.exit()


def test_reports_name_recipe_and_task_if_they_shall(tmp_path: Path) -> None:
    build = random_build(random.Random(1))
    variables = {"PN": "zlib", "SHARDHASH_REPORT_NAMES": "1"}
    with ServerProcess(*IN_MEMORY) as server:
        runqueue = RunQueueData(build, LAYER, BB_HASHSERVE=server.address)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(load("bb.siggen").SignatureGeneratorUniHashMixIn, "report_unihash", report_something)
            for taskhash, values in (("a", variables), ("b", {"PN": "zlib"})):
                runqueue.siggen.reported = digest(taskhash)
                runqueue.siggen.report_unihash("", "compile", SimpleNamespace(getVar=values.get))
        runqueue.siggen.exit()
        with Client(server.address) as client:
            rows = [client.get_taskhash(METHOD, digest(taskhash), all_properties=True) for taskhash in "ab"]
    assert [(row["PN"], row["task"]) for row in rows] == [("zlib", "compile"), (None, None)]


def report_something(self: Any, path: str, task: str, d: Any) -> None:
    with self.client() as client:
        client.report_unihash(self.reported, METHOD, digest("out"), self.reported, {})

"""Reports that come at the same time over many connections answer as if they had come one after the other.

Some come in batches: there those that share an outhash keep their order.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardhash.client import AsyncClient, create_async_client
from tests.model import Model, orders, stripped
from tests.servers import ServerProcess

CONNECTIONS = 6

TASKHASHES = [f"{n:02x}" + "0" * 62 for n in (0x00, 0x7F, 0x80, 0xFF)]
OUTHASHES = [f"{n:02x}" + "1" * 62 for n in (0x01, 0xFE)] + ["an-outhash-that-is-no-digest"]
Report = tuple[str, str, str]
"""taskhash, outhash, unihash"""

report = st.tuples(
    st.sampled_from(TASKHASHES), st.sampled_from(OUTHASHES), st.integers(0, 5).map(lambda n: f"{n:x}" * 64)
)


@pytest.fixture(
    scope="module", params=[(1, 1), (2, 1), (2, 3)], ids=["one worker", "two workers", "three coordinators"]
)
def order_server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    workers, coordinators = map(str, request.param)
    arguments = ("--memory", "--workers", workers, "--coordinators", coordinators)
    with ServerProcess(*arguments, binds=["127.0.0.1:0", "ws://127.0.0.1:0"]) as server:
        yield server


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """One event loop for all examples: hypothesis calls its tests synchronously, and connections are kept."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def clients(order_server: ServerProcess, runner: asyncio.Runner) -> Iterator[list[AsyncClient]]:
    async def connect() -> list[AsyncClient]:
        return [await create_async_client(order_server.addresses[n % 2]) for n in range(CONNECTIONS)]

    async def close(some: list[AsyncClient]) -> None:
        for client in some:
            await client.close()

    connected = runner.run(connect())
    yield connected
    runner.run(close(connected))


def outcomes(
    method: str, before: list[Report], together: list[Report], senders: list[int]
) -> list[tuple[list[str], Model]]:
    """What the answers to `together` may be, and the state behind: one of each order."""
    found = []
    for order in orders([(sender, outhash) for sender, (_, outhash, _) in zip(senders, together, strict=True)]):
        model = Model()
        for t, o, u in before:
            model.report(method, t, o, u)
        answers = [""] * len(together)
        for n in order:
            answers[n] = model.report(method, *together[n])
        found.append((answers, model))
    return found


@settings(max_examples=100, deadline=None, print_blob=True)
@given(
    before=st.lists(report, max_size=3),
    together=st.lists(st.tuples(st.integers(0, CONNECTIONS - 1), report), min_size=2, max_size=5),
)
def test_concurrent_reports_have_an_order(
    runner: asyncio.Runner, clients: list[AsyncClient], before: list[Report], together: list[tuple[int, Report]]
) -> None:
    """Each example has a method of its own, which is a namespace of its own."""
    runner.run(check_order(clients, before, sorted(together, key=lambda sent: sent[0])))


async def check_order(clients: list[AsyncClient], before: list[Report], sent: list[tuple[int, Report]]) -> None:
    """`sent`: who sends each report, in ascending order; one who sends several sends a batch."""
    method = secrets.token_hex(8)
    for t, o, u in before:
        await clients[0].report_unihash(t, method, o, u)
    together = [report for _, report in sent]
    senders = [sender for sender, _ in sent]
    parts = [
        tell(client, method, [report for sender, report in sent if sender == number])
        for number, client in enumerate(clients)
    ]
    answers = [answer for part in await asyncio.gather(*parts) for answer in part]
    state = await read_state(clients[0], method)
    possible = outcomes(method, before, together, senders)
    assert any(answers == due and state == model_state(model, method) for due, model in possible)


async def tell(client: AsyncClient, method: str, some: list[Report]) -> list[str]:
    """Report one by itself, several in a batch."""
    if len(some) == 1:
        ((taskhash, outhash, unihash),) = some
        answer = await client.report_unihash(taskhash, method, outhash, unihash)
        return [answer["unihash"]]
    return await client.report_unihash_batch(
        {"taskhash": t, "method": method, "outhash": o, "unihash": u} for t, o, u in some
    )


async def read_state(client: AsyncClient, method: str) -> list[object]:
    state: list[object] = [await client.get_unihash(method, t) for t in TASKHASHES]
    return state + [stripped(await client.get_outhash(method, outhash, "", with_unihash=True)) for outhash in OUTHASHES]


def model_state(model: Model, method: str) -> list[object]:
    state: list[object] = [model.get(method, t) for t in TASKHASHES]
    return state + [model.get_outhash(method, outhash) for outhash in OUTHASHES]


def test_hundreds_that_share_an_outhash_get_one_unihash(runner: asyncio.Runner, clients: list[AsyncClient]) -> None:
    method, outhash = secrets.token_hex(8), secrets.token_hex(32)
    taskhashes = [secrets.token_hex(32) for _ in range(300)]

    async def report_some(client: AsyncClient, some: list[str], at_once: int) -> list[str]:
        batches = [[(t, outhash, t) for t in some[start : start + at_once]] for start in range(0, len(some), at_once)]
        return [unihash for batch in batches for unihash in await tell(client, method, batch)]

    async def report_all() -> set[str]:
        parts = [report_some(client, taskhashes[n::CONNECTIONS], 1 + n) for n, client in enumerate(clients)]
        return {unihash for answers in await asyncio.gather(*parts) for unihash in answers}

    unihashes = runner.run(report_all())
    assert len(unihashes) == 1
    assert unihashes < set(taskhashes)
    assert set(runner.run(clients[0].get_unihash_batch((method, t) for t in taskhashes))) == unihashes


def test_the_same_report_from_all_at_once_is_stored_once(runner: asyncio.Runner, clients: list[AsyncClient]) -> None:
    method, taskhash, outhash = secrets.token_hex(8), secrets.token_hex(32), secrets.token_hex(32)

    async def report_all() -> list[str]:
        reports = (client.report_unihash(taskhash, method, outhash, taskhash) for client in clients)
        return [answer["unihash"] for answer in await asyncio.gather(*reports)]

    before = runner.run(clients[0].get_db_usage())
    assert runner.run(report_all()) == [taskhash] * CONNECTIONS
    after = runner.run(clients[0].get_db_usage())
    assert [after[table]["rows"] - before[table]["rows"] for table in ("unihashes_v3", "outhashes_v2")] == [1, 1]

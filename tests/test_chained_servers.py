"""Chained servers as processes, a proxy between them: what clients see of an upstream, far away, dying or refusing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from shardhash.client import AsyncClient, create_async_client
from shardhash.errors import InvokeError
from tests.player import CONFORMANCE, Player
from tests.proxy import Proxy
from tests.servers import IN_MEMORY, ServerProcess

pytestmark = pytest.mark.once

METHOD = "oe.sstatesig.OEOuthashBasic"
FAR = 0.01
"""Seconds one way to a far upstream."""
PLAIN = sorted(
    path.stem for path in CONFORMANCE.glob("*.jsonl") if '"server": "auth"' not in path.read_text(encoding="utf-8")
)
Start = Callable[..., ServerProcess]
Connect = Callable[..., Any]


def fresh() -> str:
    """A hash that nobody has seen."""
    return uuid4().hex * 2


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Any]]:
    """Connects clients; they are closed at the end."""
    async with AsyncExitStack() as stack:

        async def make(address: str, *credentials: str, native: bool = True) -> AsyncClient:
            return await stack.enter_async_context(await create_async_client(address, *credentials, native=native))

        yield make


async def tell(client: AsyncClient, taskhashes: list[str]) -> dict[tuple[str, str], str | None]:
    """Give each taskhash a unihash; by (method, taskhash)."""
    answers = [await client.report_unihash_equiv(taskhash, METHOD, fresh()) for taskhash in taskhashes]
    return {(METHOD, answer["taskhash"]): answer["unihash"] for answer in answers}


@pytest.fixture(scope="module")
def ignorant() -> Iterator[ServerProcess]:
    """An upstream that knows nothing; reports never reach it."""
    with ServerProcess(*IN_MEMORY) as server:
        yield server


@pytest.mark.parametrize("scenario", PLAIN)
async def test_an_upstream_that_knows_nothing_cannot_be_told_from_none(
    scenario: str, start_server: Start, ignorant: ServerProcess
) -> None:
    server = start_server(*IN_MEMORY, "--upstream", ignorant.address, binds=["127.0.0.1:0", "127.0.0.1:0,read-only"])
    plain, readonly = server.addresses
    await Player({"plain": plain, "readonly": readonly}).play(CONFORMANCE / f"{scenario}.jsonl")


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("transport", ["tcp", "ws"])
async def test_a_stream_that_is_known_here_there_and_nowhere(
    transport: str, native: bool, start_server: Start, connect: Connect
) -> None:
    upstream = start_server(*IN_MEMORY)
    async with Proxy(upstream.address, FAR) as proxy:
        scheme = "ws://" if transport == "ws" else ""
        server = start_server(*IN_MEMORY, "--upstream", f"127.0.0.1:{proxy.port}", binds=[f"{scheme}127.0.0.1:0"])
        there, here = await connect(upstream.address), await connect(server.address, native=native)
        known = await tell(there, [fresh() for _ in range(300)] + [uuid4().hex for _ in range(5)])
        known |= await tell(here, [fresh() for _ in range(300)])
        asked = sorted([*known, *((METHOD, fresh()) for _ in range(300)), *list(known)[:50]], key=lambda pair: pair[1])
        expected = [known.get(pair) for pair in asked]
        before = proxy.pieces
        assert await here.get_unihash_batch(asked) == expected
        assert proxy.pieces - before <= 40, "misses go upstream together"
        await here.backfill_wait()
        proxy.cut()
        assert await here.get_unihash_batch(asked) == expected
        unihashes = [unihash or fresh() for unihash in expected]
        exists = [unihash is not None for unihash in expected]
        assert await here.unihash_exists_batch(unihashes) == exists


@pytest.mark.parametrize("native", [True, False])
async def test_a_batch_of_reports_gets_the_unihashes_of_outhashes_that_are_known_there(
    native: bool, start_server: Start, connect: Connect
) -> None:
    """Unless an equivalent is known here. Of those that nobody knows, the first decides."""
    upstream = start_server(*IN_MEMORY)
    async with Proxy(upstream.address) as proxy:
        server = start_server(*IN_MEMORY, "--upstream", f"127.0.0.1:{proxy.port}")
        there, here = await connect(upstream.address), await connect(server.address, native=native)
        outhashes = [fresh() for _ in range(30)]
        theirs = {outhash: fresh() for outhash in outhashes[:20]}
        (signal,) = await tell(there, [fresh()])
        await there.report_unihash_batch(report_of(outhash, unihash) for outhash, unihash in theirs.items())
        proxy.cut()
        ours = {outhash: fresh() for outhash in outhashes[15:25]}
        mine = [report_of(outhash, unihash) for outhash, unihash in ours.items()]
        assert await here.report_unihash_batch(mine) == [*ours.values()]
        proxy.heal()
        async with asyncio.timeout(30):
            while await here.get_unihash_batch([signal]) == [None]:  # noqa: ASYNC110  # in another process
                await asyncio.sleep(0.05)
        reports = [report_of(outhash) for outhash in outhashes * 3]
        news = {report["outhash"]: report["unihash"] for report in reports[25:30]}
        due = theirs | ours | news
        assert await here.report_unihash_batch(reports) == [due[report["outhash"]] for report in reports]
        proxy.cut()
        pairs = [(METHOD, report["taskhash"]) for report in reports]
        assert await here.get_unihash_batch(pairs) == [due[report["outhash"]] for report in reports]
    assert await there.get_unihash_batch(pairs) == [None] * 90


def report_of(outhash: str, unihash: str | None = None) -> dict[str, str]:
    """A report of a new taskhash."""
    return {"taskhash": fresh(), "method": METHOD, "outhash": outhash, "unihash": unihash or fresh()}


async def test_it_dies_and_comes_back(start_server: Start, connect: Connect) -> None:
    upstream = start_server(*IN_MEMORY)
    async with Proxy(upstream.address) as proxy:
        server = start_server(*IN_MEMORY, "--upstream", f"127.0.0.1:{proxy.port}")
        there, here = await connect(upstream.address), await connect(server.address)
        known = await tell(there, [fresh() for _ in range(3)])
        first, second, third = known
        assert await here.get_unihash_batch([first]) == [known[first]]
        await here.backfill_wait()
        proxy.cut()
        assert await here.get_unihash_batch([first, second]) == [known[first], None]
        assert (await here.report_unihash(third[1], METHOD, fresh(), third[1]))["unihash"] == third[1]
        proxy.heal()
        async with asyncio.timeout(30):
            while await here.get_unihash_batch([second]) != [known[second]]:  # noqa: ASYNC110  # in another process
                await asyncio.sleep(0.05)
        assert await here.get_unihash_batch([third]) == [third[1]]


@pytest.mark.parametrize("token", ["password", "wrong"])
async def test_it_wants_a_login(token: str, start_server: Start, connect: Connect, tmp_path: Path) -> None:
    upstream = start_server(
        *IN_MEMORY, "--anon-perms", "@none", "--admin-user", "admin", "--admin-password", "password"
    )
    file = tmp_path / "token"
    file.write_text(f"{token}\n", encoding="utf-8")
    login = ["--upstream-user", "admin", "--upstream-token-file", str(file)]
    server = start_server(*IN_MEMORY, "--upstream", upstream.address, *login)
    there, here = await connect(upstream.address, "admin", "password"), await connect(server.address)
    (known,) = (await tell(there, [fresh()])).items()
    assert await here.get_unihash(*known[0]) == (known[1] if token == "password" else None)


@pytest.mark.parametrize(
    "created", ["", "0001-01-01T00:00:00", "1969-12-31T23:59:59+00:00", "9999-12-31T23:59:59-23:59"]
)
async def test_a_row_keeps_its_unihash_and_any_time(created: str, start_server: Start, connect: Connect) -> None:
    """Whatever is equivalent to it here, and whenever the upstream says that it was made."""
    upstream = start_server(*IN_MEMORY)
    async with Proxy(upstream.address) as proxy:
        server = start_server(*IN_MEMORY, "--upstream", f"127.0.0.1:{proxy.port}")
        there, here = await connect(upstream.address), await connect(server.address)
        taskhash, outhash = fresh(), fresh()
        theirs = await there.report_unihash(taskhash, METHOD, outhash, fresh())
        row = await there.get_taskhash(METHOD, taskhash, all_properties=True)
        assert row is not None
        proxy.cut()
        ours = await here.report_unihash(fresh(), METHOD, outhash, fresh())
        assert ours["unihash"] != theirs["unihash"]
        proxy.heal()
        if created:
            proxy.answers = lambda data: data.replace(row["created"].encode(), created.encode())
        async with asyncio.timeout(30):
            while (found := await here.get_taskhash(METHOD, taskhash, all_properties=True)) is None:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.05)
        assert found == row | ({"created": created} if created else {})
        proxy.cut()
        assert await here.get_unihash(METHOD, taskhash) == theirs["unihash"]
        kept = await here.get_taskhash(METHOD, taskhash, all_properties=True)
        assert kept is not None
        assert kept | {"created": ""} == row | {"created": ""}
        if not created:
            assert kept["created"] == row["created"]


async def test_readers_of_a_read_only_address_fill_it_too(start_server: Start, connect: Connect) -> None:
    upstream = start_server(*IN_MEMORY)
    server = start_server(*IN_MEMORY, "--upstream", upstream.address, binds=["127.0.0.1:0", "127.0.0.1:0,read-only"])
    there, reader = await connect(upstream.address), await connect(server.addresses[1])
    (known,) = (await tell(there, [fresh()])).items()
    assert await reader.get_unihash(*known[0]) == known[1]
    answer = await reader.report_unihash(fresh(), METHOD, fresh(), known[1])
    assert answer["unihash"] == known[1]
    here = await connect(server.address)
    await here.backfill_wait()
    assert (await here.get_db_usage())["unihashes_v3"] == {"rows": 1}
    with pytest.raises((InvokeError, ConnectionError)):
        await reader.backfill_wait()

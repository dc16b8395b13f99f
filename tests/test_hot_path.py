"""A guard for speed that no load on the machine can move: how many calls the hot paths make.

A lookup of 9000 hashes must make as many Python and C calls as one of 900: nothing happens for each hash but inside C
loops. The bounds are what the code does today and a little; a change that needs more should say why.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import pytest

from shardhash.coordinator.counters import Build, Counters
from shardhash.coordinator.stats import Stats
from shardhash.errors import InvalidRequestError
from shardhash.link.worker_link import WorkerLink
from shardhash.shard.state.table import Table
from shardhash.shard.state.transaction import RowFields, Transaction
from shardhash.stores.answers import Answers
from shardhash.stores.sharded.clock import Clock
from shardhash.stores.sharded.lookup_rounds import Lookups
from shardhash.stores.sharded.report_order import Reports
from shardhash.wire import batch, streams
from shardhash.wire.batch import Batch, Found
from shardhash.wire.commands import COMMANDS, parse_request
from shardhash.wire.connection import ServerConnection
from shardhash.wire.events import StreamLines
from shardhash.wire.fields import ROWS_AT_ONCE
from shardhash.wire.rows import Report

SIZES = (900, 9000)


class Calls:
    """Counts calls of Python functions and of C functions while it is entered."""

    def __init__(self) -> None:
        self.python = 0
        self.c = 0

    def __enter__(self) -> Calls:
        gc.collect()
        gc.disable()  # what other tests left behind is not counted here
        sys.setprofile(self._count)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        gc.enable()

    def _count(self, _frame: FrameType, event: str, _argument: Any) -> None:
        if event == "call":
            self.python += 1
        elif event == "c_call":
            self.c += 1


def counted(work: Callable[[], object]) -> tuple[int, int]:
    work()  # caches are warm
    with Calls() as calls:
        work()
    return calls.python, calls.c


def filled(count: int) -> tuple[Table, bytes]:
    table = Table()
    digests = os.urandom(32 * count)
    for start in range(0, len(digests), 32):
        table.set_mapping(table.method("m"), digests[start : start + 32], digests[start : start + 32], "")
    return table, digests


class TableLink:
    """A worker's link that answers at once, from a table in this process: what is counted is all a lookup costs."""

    def __init__(self, shard: int, table: Table) -> None:
        self.shard = shard
        self._table = table

    def lookup(self, asked: Batch) -> asyncio.Future[memoryview]:
        asked = batch.decode_request(batch.encode_request(asked))
        future: asyncio.Future[memoryview] = asyncio.get_running_loop().create_future()
        if asked.op == batch.EXISTS:
            frame = batch.encode_exists(self._table.exists(asked.digests))
        else:
            frame = batch.encode_found(self._table.lookup(asked.method, asked.digests))
        future.set_result(memoryview(frame))
        return future


def test_a_worker_looks_up_without_a_call_a_hash() -> None:
    costs = []
    for size in SIZES:
        table, digests = filled(size)
        frame = batch.encode_request(Batch(batch.GET, "m", digests))

        def look_up(table: Table = table, frame: bytes = frame) -> bytes:
            asked = batch.decode_request(frame)
            return batch.encode_found(table.lookup(asked.method, asked.digests))

        costs.append(counted(look_up))
    assert costs[0] == costs[1]
    assert sum(costs[0]) <= 40


@pytest.mark.parametrize("known", [True, False])
def test_a_stream_block_is_read_and_answered_without_a_call_a_line(known: bool) -> None:
    costs = []
    for size in SIZES:
        table, digests = filled(size)
        asked = digests if known else digests[: 32 * (size - 1)] + bytes(32)
        text = b"".join(b"m %b\n" % asked[n : n + 32].hex().encode() for n in range(0, len(asked), 32))

        def answer(table: Table = table, text: bytes = text) -> bytes:
            block = streams.parse_get_lines(text)
            (group,) = block.groups
            assert isinstance(group.hashes, bytes)
            return streams.encode_found_lines(block.join([table.lookup(group.method, group.hashes)]))

        costs.append(counted(answer))
    assert costs[0] == costs[1]
    assert sum(costs[0]) <= 60


def test_a_block_of_lines_is_counted_in_few_calls() -> None:
    counters, stats, build = Counters(), Stats(), Build("host")
    for size in SIZES:
        found = Found(bytes(32 * size), bytes(size))

        def count(found: Found = found, size: int = size) -> None:
            counters.looked_up(found, build)
            stats.add(0.001, size)
            counters.answered_lines("get-stream", size, 0.001)

        python, c = counted(count)
        assert python == 5  # `count` itself, the three, and the end of the profile
        assert c <= 5  # len, count of the unknown, two places in histograms; the end of the profile


def test_the_state_machine_takes_a_block_of_lines_as_one() -> None:
    costs = []
    for size in SIZES:
        text = (b"m " + b"ab" * 32 + b"\n") * size

        def receive(text: bytes = text) -> None:
            connection = ServerConnection()
            connection.receive_data(b'OEHASHEQUIV 1.1\n\n{"get-stream": null}\n')
            (event,) = connection.receive_data(text)
            assert isinstance(event, StreamLines)

        costs.append(counted(receive))
    assert costs[0][0] == costs[1][0]
    assert costs[1][1] <= costs[0][1] + 20  # the text is looked through in pieces of 64 KiB


def test_a_round_of_lookups_costs_the_same_for_any_number_of_hashes() -> None:
    """Forty builders ask in one tick; each worker is asked once."""
    costs = []
    for size in SIZES:
        table, digests = filled(size)
        costs.append(asyncio.run(count_round(table, digests)))
    assert costs[0] == costs[1]
    assert sum(costs[0]) <= 40 * 50


async def count_round(table: Table, digests: bytes) -> tuple[int, int]:
    links = [TableLink(shard, table) for shard in range(2)]
    lookups = Lookups(links)  # type: ignore[arg-type]  # all of a link that it uses

    async def ask_all() -> list[Found]:
        return await asyncio.gather(*(lookups.get("m", digests) for _ in range(40)))

    assert all(found == Found(digests, None) for found in await ask_all())
    with Calls() as calls:
        await ask_all()
    return calls.python, calls.c


def test_a_batch_of_existence_checks_costs_the_same_for_any_number() -> None:
    costs = []
    for size in SIZES:
        table, digests = filled(size)
        costs.append(counted(partial(table.exists, digests)))
    assert costs[0] == costs[1]


def test_a_batch_of_reports_is_read_without_a_call_a_field() -> None:
    """Column by column: of each row a look for each field, at C speed, and the making of the tuple."""
    costs = []
    for size in SIZES:
        row = {"method": "m", "outhash": "ab" * 32, "unihash": "cd" * 32, "PN": "zlib"}
        message = {"report-batch": {"reports": [row | {"taskhash": f"{n:064x}"} for n in range(size)]}}
        costs.append(counted(partial(parse_request, COMMANDS, message)))
    (few, few_c), (many, many_c) = costs
    assert many - few == SIZES[1] - SIZES[0]
    assert many_c - few_c <= 23 * (SIZES[1] - SIZES[0])


def test_a_batch_that_is_read_in_steps_costs_the_same_in_each() -> None:
    row = {"method": "m", "outhash": "ab" * 32, "unihash": "cd" * 32, "PN": "zlib"}
    message = {"reports": [row | {"taskhash": f"{n:064x}"} for n in range(10 * ROWS_AT_ONCE)]}
    steps = COMMANDS["report-batch"].steps(message)
    next(steps)
    costs = {counted(partial(next, steps)) for _ in range(4)}
    assert len(costs) == 1
    ((calls, in_c),) = costs
    assert calls <= 1.2 * ROWS_AT_ONCE
    assert in_c <= 23.5 * ROWS_AT_ONCE


def test_of_many_wrong_reports_in_one_message_a_few_are_looked_at() -> None:
    """Two bytes each: fourteen thousand of them in a message that is short enough to be read in one step."""
    costs = []
    for count in (2 * ROWS_AT_ONCE, 28 * ROWS_AT_ONCE):
        rows: list[Any] = [{}] * count
        message = {"report-batch": {"reports": rows}}
        with Calls() as calls, pytest.raises(InvalidRequestError):
            parse_request(COMMANDS, message)
        costs.append((calls.python, calls.c))
    assert costs[0] == costs[1]


async def test_reports_of_a_tick_share_a_round_and_cost_no_task_each() -> None:
    """Five hundred reports of new outhashes to one worker, which is played here; from request to answers."""
    link = WorkerLink(0, 30.0)
    reports = Reports([link], Clock(), Answers(0).written)
    some = [Report("m", f"{n:064x}", f"{n + 1000:064x}", f"{n:064x}") for n in range(500)]
    with Calls() as calls:
        stored = reports.report(some)
        await asyncio.sleep(0)  # the tick ends
        ((number, request),) = link._waiting.items()
        assert isinstance(request.sent, list)
        link._settle(number, [step[6] for step in request.sent[2]], None)
        unihashes = await stored
    assert unihashes == [bytes.fromhex(report.unihash) for report in some]
    assert len(asyncio.all_tasks()) == 1
    assert calls.python <= 500 * 14
    assert calls.c <= 500 * 24


def test_a_report_stays_cheap() -> None:
    """Decided and applied: the calls of one report in a group."""
    table = Table()

    def report() -> None:
        taskhash, outhash = os.urandom(32).hex(), os.urandom(32).hex()
        transaction = Transaction(table)
        row = RowFields("m", taskhash, outhash, 1, None, "zlib", "1.3", "r0", "do_install")
        transaction.insert_row(row, 0, bytes.fromhex(taskhash), indexed=True)
        for record in transaction.records:
            table.apply(record)

    python, c = counted(report)
    assert python <= 60
    assert c <= 110

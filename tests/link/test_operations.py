"""Operations: both ends know the same ones, and what one encodes the other decodes."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from shardhash.base.figures import ProcessFigures, ShardFigures
from shardhash.link import messages
from shardhash.link import operations as op
from shardhash.link.collection_operations import (
    BeginCollection,
    ChooseDoomed,
    Doomed,
    DoomedPage,
    EndCollection,
    KeepUnihashes,
    KeepUsed,
    ShowDoomed,
    TakeDoomed,
    Taken,
)
from shardhash.link.follower_operations import Drained, ReleaseFollower
from shardhash.link.import_operations import TakeMappings, TakeRows
from shardhash.link.operation import Operation
from shardhash.link.operations import OPERATIONS
from shardhash.link.search_operations import (
    ChooseRows,
    ChosenRows,
    CountSaved,
    Diverging,
    FindDiverging,
    FindRows,
    FoundRows,
    GuessUnihashes,
    TaskVariants,
)
from shardhash.shard.storage.memory import MemoryShard
from shardhash.shard.worker.service import Service
from shardhash.shard.worker.writer import Writer
from shardhash.wire.long_text import LongText

COMMIT: Any = ("commit", 2, 2, "m", "t", "o", "u", *[None] * 6)
EXAMPLES: list[tuple[Operation[Any], Any]] = [
    (op.Lock("m", "o", [(1, "t"), (2, "u")], 7), op.Granted(["t"], [(1, "t")], 3)),
    (op.Release([("m", "o", 7)]), None),
    (op.Round([("index", 1, 1, "m", "t", "o"), COMMIT]), [True, "ab"]),
    (op.Page("m", "o", (1, "t"), mapped=True), [(2, "u")]),
    (op.Skip("m", "o", (1, "t"), bare=True), None),
    (op.Unskip([("m", "o")]), None),
    (op.Retime("m", "o", [(1, "t")]), None),
    (op.Equivalents("m", "o", ["t"]), ["", None]),
    (op.Map("m", "t", "ab"), ("ab", ["o"])),
    (TakeMappings([("m", "t", "ab"), ("m", "u", "ab")]), [("new", ["o"]), "known"]),
    (TakeRows([("m", "t", "o", 5, *[None] * 6)]), [("older", 5)]),
    (op.Unihashes("m", ["t"]), [None]),
    (op.ReadRow("m", "t", "o", joined=True), {"method": "m"}),
    (op.OldestRow("m", "t"), None),
    (op.Counts(), {"rows": 1}),
    (op.Figures(), ShardFigures(1, 2, 3, [4, 5], 0.5, 6.5, 0.25, ProcessFigures(7, 8.5, 9, 10, 11, 12.5))),
    (
        FindRows({"PN": "zlib", "since": 5}, ["t"], 10, whole=False),
        FoundRows(1, [{"PN": "z"}], complete=True),
    ),
    (
        ChooseRows({"PN": "zlib"}, None, 10),
        ChosenRows(LongText([b'[["m", "t", "o", null]]']), complete=True),
    ),
    (op.RemoveRows("job", [("m", "t", "o")]), op.Removed(1, [], done=True)),
    (op.DropMappings([("m", "t", "ab")]), 1),
    (
        FindDiverging({}, 10),
        Diverging(1, LongText([b'[[{"taskhash": "t"}]]']), [("zlib", 1)], complete=False),
    ),
    (CountSaved(5), [("zlib", 6, 7)]),
    (GuessUnihashes("m", [("zlib", "compile")]), TaskVariants([[(5, "t", None)]], complete=True)),
    (op.Watch("job"), None),
    (op.RemoveMatching("job", {"method": "m"}), op.Removed(1, [("m", [("o", "t")])], done=True)),
    (op.Clean("job", 5), op.Removed(0, [], done=False)),
    (op.Unindex("job", "m", [("o", "t")]), None),
    (op.Unwatch("job"), None),
    (op.SetMarks([("mark", {"method": "m"})]), [3]),
    (op.Sweep("job", "mark"), op.Removed(3, [], done=False)),
    (op.Status(), (1, 2, "mark")),
    (BeginCollection("c"), 5),
    (KeepUnihashes("c", "ab" * 32), None),
    (KeepUsed("c", 20_000), 3),
    (ChooseDoomed("c"), Doomed(1, 2, 3, [("zlib", 1, 2), (None, 0, 0)])),
    (ShowDoomed("c", 0, 10), DoomedPage([{"method": "m", "rows": []}], None)),
    (TakeDoomed("c", [("m", "t", "u")]), Taken(1, 1, [("m", [("o", "t")])])),
    (EndCollection("c"), None),
    (op.GetEntry("user", "me"), {"permissions": []}),
    (op.ListEntries("user", values=True), LongText([b"[]"])),
    (op.SetEntry("user", "me", None), None),
    (op.Snapshot(), None),
    (Drained(3), None),
    (ReleaseFollower(3), None),
]


async def test_the_service_carries_out_every_operation() -> None:
    shard = MemoryShard()
    writer = Writer(shard, wait_for_sync=False)
    writing = asyncio.create_task(writer.run())
    assert set(Service(shard, writer).operations) == set(OPERATIONS.values())
    writer.stop()
    await writing


def test_there_is_an_example_of_every_operation() -> None:
    assert {type(operation) for operation, _ in EXAMPLES} == set(OPERATIONS.values())


def travel(value: Any) -> Any:
    """What arrives at the other end of a link."""
    texts, refused = messages.Texts(), list[Any]()
    *parts, message = messages.encode_messages([value], refused.append)
    for part in parts:
        texts.add(part)
    assert not refused
    return messages.decode_json(message, texts)[0]


def plain(value: Any) -> bytes:
    return orjson.dumps(value, str)


@pytest.mark.parametrize(("operation", "result"), EXAMPLES, ids=lambda one: getattr(one, "name", ""))
def test_what_is_encoded_is_decoded(operation: Operation[Any], result: Any) -> None:
    name, *arguments = travel(operation.encode())
    decoded = OPERATIONS[name].decode(arguments)
    assert plain(decoded.encode()) == plain(operation.encode())
    travelled = decoded.decode_result(travel([decoded.encode_result(result)])[0])
    assert type(travelled) is type(result) or isinstance(result, tuple)
    assert plain(decoded.encode_result(travelled)) == plain(decoded.encode_result(result))

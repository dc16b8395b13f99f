"""Blocks of lines that take long: a part is looked at at a time."""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Sequence

import pytest

from shardhash.base.turns import Slice
from shardhash.coordinator.callers import Caller
from shardhash.coordinator.permissions import ANONYMOUS_DEFAULT, Identity
from shardhash.coordinator.services import Services
from shardhash.coordinator.stats import Stats
from shardhash.coordinator.stream_answers import SHORT_LINES, StreamAnswers
from shardhash.coordinator.users import Users
from shardhash.errors import ProtocolError
from shardhash.wire import streams
from shardhash.wire.batch import Found
from shardhash.wire.commands import COMMANDS
from shardhash.wire.events import StreamLines
from shardhash.wire.hashes import Buffer
from shardhash.wire.rows import Where
from tests.stores.plain_store import PlainStore


def mark_lines(count: int) -> StreamLines:
    lines = [b'{"mark": "m", "where": {"unihash": "%s"}}\n' % secrets.token_hex(32).encode() for _ in range(count)]
    return StreamLines(COMMANDS["gc-mark-stream"], b"".join(lines), count)


def answers_of(store: PlainStore) -> StreamAnswers:
    services = Services(store=store, users=Users(store), stats=Stats())
    caller = Caller(Identity(None, ANONYMOUS_DEFAULT), read_only=False)
    return StreamAnswers(services, caller, Slice(services.turns), bool)


@pytest.mark.parametrize("count", [1, SHORT_LINES, SHORT_LINES + 1, 3 * SHORT_LINES - 1])
async def test_marks_are_parsed_in_parts_and_set_at_once(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    parsed: list[int] = []
    parse = streams.parse_mark_lines

    def counting(text: bytes) -> list[streams.Mark]:
        marks = parse(text)
        parsed.append(len(marks))
        return marks

    monkeypatch.setattr(streams, "parse_mark_lines", counting)
    store = PlainStore()
    assert await answers_of(store).answer(mark_lines(count)) == b'{"count": 0}\n' * count
    assert sum(parsed) == count
    assert max(parsed) <= SHORT_LINES
    assert store.written == ["gc_mark"]


async def test_no_mark_is_set_before_all_are_parsed() -> None:
    block, store = mark_lines(2 * SHORT_LINES), PlainStore()
    with pytest.raises(ProtocolError):
        await answers_of(store).answer(StreamLines(block.command, block.text + b"[]\n", block.count + 1))
    assert store.written == []


class MarkStore(PlainStore):
    """Keeps the marks in the order in which they are set."""

    def __init__(self) -> None:
        super().__init__()
        self.marks: list[str] = []

    async def gc_mark(self, marks: Sequence[tuple[str, Where]]) -> list[int]:
        self.marks += [mark for mark, _ in marks]
        return await super().gc_mark(marks)


async def test_blocks_of_marks_are_set_in_the_order_in_which_they_came() -> None:
    """A session answers several at one time, and the mark that is set last is the one that counts."""
    store, long = MarkStore(), mark_lines(20 * SHORT_LINES)
    answers = answers_of(store)
    short = StreamLines(long.command, long.text[: len(long.text) // long.count].replace(b'"m"', b'"last"'), 1)
    await asyncio.gather(answers.answer(long), answers.answer(short), answers.answer(short))
    assert store.marks == ["m"] * long.count + ["last", "last"]


class KnownStore(PlainStore):
    """Has everything at hand, or nothing."""

    remote = False

    def __init__(self, *, at_hand: bool = True) -> None:
        super().__init__()
        self._at_hand = at_hand

    def find(self, _method: str, digests: Buffer) -> Found | None:
        return Found(bytes(digests), None) if self._at_hand else None

    async def lookup(self, _method: str, digests: Buffer) -> Found:
        return Found(bytes(digests), None)


def get_lines(count: int, line: str = "m {hash}") -> StreamLines:
    lines = [line.format(hash=secrets.token_hex(32), number=number) + "\n" for number in range(count)]
    return StreamLines(COMMANDS["get-stream"], "".join(lines).encode(), count)


@pytest.mark.parametrize("line", ["a b", "m {number}", "{number} b", "m{number} {hash}", "m X{hash}", "\udcff {hash}"])
async def test_unusual_lines_are_not_parsed_when_they_are_read(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """One by one they take a hundred times as long, which is a matter of the session, in parts."""
    monkeypatch.setattr(streams, "_parse_get_line", pytest.fail)
    text = "".join(line.format(hash="a" * 64, number=number) + "\n" for number in range(500))
    block = StreamLines(COMMANDS["get-stream"], text.encode("utf-8", "surrogateescape"), 500)
    assert answers_of(KnownStore()).at_hand(block) is None


async def test_unusual_lines_are_looked_up_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[int] = []
    parse = streams.parse_get_lines

    def counting(text: bytes) -> streams.LookupBlock:
        parsed.append(text.count(b"\n"))
        return parse(text)

    monkeypatch.setattr(streams, "parse_get_lines", counting)
    answers, usual, unusual = answers_of(KnownStore()), get_lines(2500), get_lines(2500, "m{number} {hash}")
    for block in (usual, unusual):
        due = b"".join(line.split()[1] + b"\n" for line in block.lines)
        assert await answers.answer(block) == due
    assert parsed == [1000, 1000, 500]


@pytest.mark.parametrize("at_hand", [True, False])
async def test_nothing_is_kept_of_what_was_answered(*, at_hand: bool) -> None:
    answers, block = answers_of(KnownStore(at_hand=at_hand)), get_lines(100)
    before = sys.getrefcount(block.text)
    due = b"".join(line.removeprefix(b"m ") + b"\n" for line in block.lines)
    answer = answers.at_hand(block)
    assert answer == (due if at_hand else None)
    if not at_hand:
        assert await answers.answer(block) == due
    after = sys.getrefcount(block.text)
    assert after == before


async def test_nothing_is_kept_of_what_nobody_waits_for() -> None:
    answers, block = answers_of(KnownStore(at_hand=False)), get_lines(100)
    before = sys.getrefcount(block.text)
    assert answers.at_hand(block) is None
    answers.let_go()
    after = sys.getrefcount(block.text)
    assert after == before

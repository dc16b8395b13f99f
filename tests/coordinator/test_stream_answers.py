"""Blocks of lines that take long: a part is looked at at a time."""

from __future__ import annotations

import secrets

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
from shardhash.wire.commands import COMMANDS
from shardhash.wire.events import StreamLines
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

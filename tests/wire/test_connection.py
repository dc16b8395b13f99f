"""The state machine of a connection: every row of its table, and the same events however the bytes are cut."""

from __future__ import annotations

import gc
import json
import tracemalloc
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardhash.errors import InvalidRequestError
from shardhash.wire import batch
from shardhash.wire.commands import COMMANDS, MOST_SMALL, READ_ONLY_COMMANDS
from shardhash.wire.connection import ServerConnection
from shardhash.wire.events import Asked, BatchAsked, Ended, Event, Refused, Send, StreamEnd, StreamLines
from shardhash.wire.fields import ROWS_AT_ONCE, Rows
from shardhash.wire.framing import encode_json
from shardhash.wire.limits import Limits
from shardhash.wire.long_text import LongText
from shardhash.wire.messages import Get, GetBatch, Ping, ReportBatch
from shardhash.wire.rows import Report

HELLO = ["OEHASHEQUIV 1.1", ""]
HELLO_HEADERS = ["OEHASHEQUIV 1.1", "needs-headers: true", ""]
OFFERED = [Send(b"shardhash-batch: 1"), Send(b"shardhash-report-batch: 1"), Send(b"shardhash-guess: 1"), Send(b"")]
PING = Asked(COMMANDS["ping"], Ping())
GET_STREAM = COMMANDS["get-stream"]
SMALL = Limits(line=40, message=100, headers=3, header_bytes=30)


def told(events: Iterable[Event]) -> list[object]:
    """Events so that equal conversations compare equal: neighbouring blocks joined, errors as text."""
    result: list[object] = []
    for event in events:
        if isinstance(event, StreamLines) and result and isinstance(last := result[-1], StreamLines):
            result[-1] = StreamLines(event.command, last.text + event.text, last.count + event.count)
        elif isinstance(event, Refused):
            result.append(f"refused: {event.error}")
        elif isinstance(event, Ended):
            result.append("ended")
        else:
            result.append(event)
    return result


def over_lines(lines: Sequence[str], limits: Limits | None = None) -> list[object]:
    """What a line transport makes of some lines."""
    return told(ServerConnection(limits=limits).receive_data("".join(line + "\n" for line in lines).encode()))


def over_messages(messages: Sequence[str | bytes], limits: Limits | None = None) -> list[object]:
    """What a WebSocket makes of some messages, after a check that one by one they give the same."""
    whole = told(ServerConnection(lines=False, limits=limits).receive_messages(messages))
    single = ServerConnection(lines=False, limits=limits)
    assert told(event for message in messages for event in single.receive_messages([message])) == whole
    return whole


def over_both(lines: Sequence[str], limits: Limits | None = None) -> list[object]:
    """What both kinds of transport make of some lines, which must be the same."""
    result = over_lines(lines, limits)
    assert over_messages(lines, limits) == result
    return result


def block(*lines: str, command: str = "get-stream") -> StreamLines:
    """A block of stream lines."""
    return StreamLines(COMMANDS[command], "".join(line + "\n" for line in lines).encode(), len(lines))


# The handshake


@pytest.mark.parametrize("first", ["OEHASHEQUIV 1.1", "OEHASHEQUIV  1.1 "])
@pytest.mark.parametrize("headers", [[], ["needs-headers: false"], ["x-client: a:b", "Y:"]])
def test_handshake(first: str, headers: list[str]) -> None:
    assert over_both([first, *headers, "", '{"ping": {}}']) == [PING]


@pytest.mark.parametrize("header", ["needs-headers: true", "NEEDS-Headers:TRUE ", " needs-headers : true"])
def test_headers_on_request(header: str) -> None:
    asked = ["OEHASHEQUIV 1.1", "x: y", header, "", '{"ping": {}}']
    assert over_lines(asked) == [Send(b"shardhash-batch: 1\nshardhash-report-batch: 1\nshardhash-guess: 1\n\n"), PING]
    assert over_messages(asked) == [*OFFERED, PING]


def test_no_headers_to_offer() -> None:
    hello = "".join(line + "\n" for line in HELLO_HEADERS).encode()
    assert ServerConnection(offers=()).receive_data(hello) == [Send(b"\n")]
    assert ServerConnection(offers=(), lines=False).receive_messages(HELLO_HEADERS) == [Send(b"")]


@pytest.mark.parametrize(
    "first", ["", "OEHASHEQUIV 1.0", "OEHASHEQUIV 1.2", "OEHASHEQUIV", "PRSERVICE 1.1", "GET / HTTP/1.1", "{}"]
)
def test_another_protocol_ends(first: str) -> None:
    assert over_both([first, "", '{"ping": {}}']) == ["ended"]


def test_a_header_without_a_colon_ends() -> None:
    assert over_both(["OEHASHEQUIV 1.1", "nonsense", "", '{"ping": {}}']) == ["ended"]


@pytest.mark.parametrize("headers", [["a:"] * 4, ["a: " + "b" * 28]])
def test_a_header_bomb_ends(headers: list[str]) -> None:
    assert over_both(["OEHASHEQUIV 1.1", *headers], SMALL) == ["ended"]


# Commands


def test_pipelined_commands() -> None:
    get = '{"get": {"method": "m", "taskhash": "t"}}'
    expected = [PING, Asked(COMMANDS["get"], Get("m", "t", all=False)), PING]
    assert over_both([*HELLO, '{"ping": {}}', get, '{"ping": {}}']) == expected


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("not json", "must be JSON"),
        ("", "must be JSON"),
        ("[1]", "not a list"),
        ('{"get": {"method": "m"}}', "get: 'taskhash' is missing"),
        ("[" * 5_000, "nested too deep"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_a_malformed_request_is_refused_and_nothing_more_is_read(line: str, text: str) -> None:
    connection = ServerConnection()
    events = connection.receive_data("\n".join([*HELLO, line, '{"ping": {}}', ""]).encode())
    assert len(events) == 1
    assert isinstance(events[0], Refused)
    assert text in str(events[0].error)
    assert connection.closed
    assert connection.receive_data(b'{"ping": {}}\n') == []
    assert over_both([*HELLO, line, '{"ping": {}}']) == told(events)


def test_invalid_utf8_is_refused() -> None:
    (event,) = ServerConnection().receive_data(b'OEHASHEQUIV 1.1\n\n{"ping": "\xff"}\n')
    assert isinstance(event, Refused)
    assert isinstance(event.error, InvalidRequestError)


@pytest.mark.parametrize("line", ['{"no-such-command": {}}', "{}"])
def test_an_unknown_command_ends(line: str) -> None:
    assert over_both([*HELLO, '{"ping": {}}', line, '{"ping": {}}']) == [PING, "ended"]


def test_a_read_only_server_does_not_know_commands_that_write() -> None:
    connection = ServerConnection(READ_ONLY_COMMANDS)
    data = b'OEHASHEQUIV 1.1\n\n{"ping": {}}\n{"gc-status": {}}\n'
    assert told(connection.receive_data(data)) == [PING, "ended"]


def test_chunked_request() -> None:
    taskhashes = [f"{i:064x}" for i in range(3000)]
    message = json.dumps({"get-batch": {"method": "m", "taskhashes": taskhashes}}).encode()
    connection = ServerConnection()
    connection.receive_data(b"OEHASHEQUIV 1.1\n\n")
    expected = Asked(COMMANDS["get-batch"], GetBatch("m", taskhashes))
    assert connection.receive_data(encode_json(message) + b'{"ping": {}}\n') == [expected, PING]


def test_chunks_of_chunks_are_an_unknown_command() -> None:
    lines = [*HELLO, '{"chunk-stream": null}', '{"chunk-stream"', ": null}", "", '{"ping": {}}']
    assert over_lines(lines) == ["ended"]


def test_chunks_over_a_websocket_are_an_unknown_command() -> None:
    assert over_messages([*HELLO, '{"chunk-stream": null}']) == ["ended"]


def test_chunks_over_the_limit_end() -> None:
    lines = [*HELLO, '{"ping": {}}', '{"chunk-stream": null}', *["x" * 40] * 3]
    assert over_lines(lines, SMALL) == [PING, "ended"]


def test_a_line_over_the_limit_ends_before_it_is_whole() -> None:
    connection = ServerConnection(limits=SMALL)
    connection.receive_data(b"OEHASHEQUIV 1.1\n\n")
    assert told(connection.receive_data(b'{"ping": {}}\n' + b"x" * 41)) == [PING, "ended"]


def test_a_message_over_the_limit_ends() -> None:
    assert over_messages([*HELLO, '{"ping": {}}' + " " * 88, '{"ping": {}}' + " " * 89], SMALL) == [PING, "ended"]
    assert over_messages(["OEHASHEQUIV 1.1" + " " * 30], SMALL) == ["ended"]
    assert over_messages([*HELLO, '{"get-stream": 0}', "m t", "m " + "é" * 20, "m t"], SMALL) == [
        Asked(GET_STREAM, GET_STREAM.parse(None)),
        block("m t"),
        "ended",
    ]


@pytest.mark.parametrize("message", ['{"ping": [' + "[]," * 40 + "0]}", '{"ping": ' + '{"":' * 90, "," * 100])
def test_many_values_end_before_they_are_made(message: str) -> None:
    assert over_both([*HELLO, '{"ping": {}}', message], Limits(values=80)) == [PING, "ended"]


def test_long_text_is_no_many_values() -> None:
    assert over_both([*HELLO, json.dumps({"ping": "x" * 1000})], Limits(values=80)) == [PING]


# Streams


@pytest.mark.parametrize("name", ["get-stream", "exists-stream", "gc-mark-stream"])
def test_stream_modes(name: str) -> None:
    asked = Asked(COMMANDS[name], COMMANDS[name].parse(None))
    lines = [*HELLO, f'{{"{name}": null}}', "a b", "END of", " END", "END", '{"ping": {}}']
    assert over_both(lines) == [asked, block("a b", "END of", " END", command=name), StreamEnd(), PING]


@pytest.mark.parametrize("name", ["get-stream", "exists-stream", "gc-mark-stream"])
def test_an_empty_line_ends_a_stream(name: str) -> None:
    asked = Asked(COMMANDS[name], COMMANDS[name].parse(None))
    start = f'{{"{name}": null}}'
    lines = [*HELLO, start, "a b", "", '{"ping": {}}', start, "", start, "END"]
    assert over_both(lines) == [
        asked, block("a b", command=name), StreamEnd(), PING, asked, StreamEnd(), asked, StreamEnd(),
    ]  # fmt: skip


def test_empty_streams_back_to_back() -> None:
    asked = Asked(GET_STREAM, GET_STREAM.parse(None))
    start = '{"get-stream": null}'
    lines = [*HELLO, start, "END", start, "a b", "END", start, "END"]
    assert over_both(lines) == [asked, StreamEnd(), asked, block("a b"), StreamEnd(), asked, StreamEnd()]


def test_consecutive_lines_come_as_one_block() -> None:
    connection = ServerConnection()
    connection.receive_data(b'OEHASHEQUIV 1.1\n\n{"get-stream": null}\n')
    assert connection.receive_data(b"a b\nc d\ne") == [block("a b", "c d")]
    assert connection.receive_data(b" f\n") == [block("e f")]
    assert block("a b", "").lines == [b"a b", b""]
    websocket = ServerConnection(lines=False)
    websocket.receive_messages([*HELLO, '{"get-stream": null}'])
    assert websocket.receive_messages(["a b", "c d"]) == [block("a b", "c d")]


def test_carriage_returns_are_taken() -> None:
    data = b'OEHASHEQUIV 1.1\r\n\r\n{"get-stream": null}\r\na b\r\nEND\r\n'
    assert told(ServerConnection().receive_data(data))[1:] == [block("a b"), StreamEnd()]


def test_a_newline_in_a_stream_message_is_white_space() -> None:
    assert over_messages([*HELLO, '{"get-stream": null}', "a\nb", "END"])[1:] == [block("a b"), StreamEnd()]


# Binary messages

BATCH = batch.Batch(batch.GET, "m", bytes(64))
FRAME = batch.encode_request(BATCH)


def test_batches_in_command_mode() -> None:
    assert over_messages([*HELLO_HEADERS, FRAME, '{"ping": {}}', FRAME]) == [
        *OFFERED,
        BatchAsked(BATCH),
        PING,
        BatchAsked(BATCH),
    ]


LARGE_FRAME = batch.encode_request(batch.Batch(batch.GET, "m", bytes(32 * 5)))


@pytest.mark.parametrize("frame", [FRAME, FRAME[:-1], b"", LARGE_FRAME, bytes(200)])
@pytest.mark.parametrize("before", [[], HELLO, HELLO_HEADERS, [*HELLO_HEADERS, '{"get-stream": null}'], ["x"]])
def test_a_batch_alone_is_what_it_would_be_among_others(before: list[str | bytes], frame: bytes) -> None:
    """Or nothing, and then the message is still to come."""
    limits = Limits(message=199, batch=4)
    alone, among = (ServerConnection(limits=limits, lines=False) for _ in range(2))
    for connection in (alone, among):
        connection.receive_messages(before)
    asked, due = alone.receive_batch(frame), told(among.receive_messages([frame]))
    if asked is None:
        assert told(alone.receive_messages([frame])) == due
        assert not any(isinstance(event, BatchAsked) for event in due)
    else:
        assert [BatchAsked(asked)] == due
    assert told(alone.receive_messages(['{"ping": {}}'])) == told(among.receive_messages(['{"ping": {}}']))


@pytest.mark.parametrize(
    "messages",
    [
        [FRAME],
        ["OEHASHEQUIV 1.1", FRAME],
        [*HELLO, FRAME],
        [*HELLO_HEADERS, b""],
        [*HELLO_HEADERS, FRAME[:-1]],
        [*HELLO_HEADERS, '{"get-stream": null}', "a b", FRAME],
        [*HELLO_HEADERS, b'{"ping": {}}'],
        [*HELLO, "\ud800"],
    ],
)
def test_messages_out_of_place_end(messages: list[str | bytes]) -> None:
    assert over_messages([*messages, '{"ping": {}}'])[-1] == "ended"


def test_batches_that_were_not_offered_end() -> None:
    connection = ServerConnection(offers=(), lines=False)
    assert told(connection.receive_messages([*HELLO_HEADERS, FRAME])) == [Send(b""), "ended"]


def test_a_batch_over_the_limit_ends() -> None:
    frame = batch.encode_request(batch.Batch(batch.GET, "m", bytes(96)))
    assert over_messages([*HELLO_HEADERS, FRAME, frame], Limits(message=100))[-2:] == [BatchAsked(BATCH), "ended"]


# Any input

WORDS = [
    "OEHASHEQUIV 1.1", "needs-headers: true", "x: y", "", '{"ping": {}}', '{"get": {"method": "m", "taskhash": "t"}}',
    '{"get-stream": null}', '{"gc-mark-stream": null}', "m t", "END", '{"chunk-stream": null}', '{"pi', 'ng": {}}',
    '{"unknown": 1}', "[", '{"get": {}}', "x" * 41, "x" * 39 + "\r", "é" * 20, "\r",
]  # fmt: skip
lines_of_words = st.lists(st.sampled_from(WORDS) | st.sampled_from(WORDS[3:10]), max_size=25)
greetings = st.sampled_from([HELLO, HELLO_HEADERS, []])


@given(greetings, lines_of_words, st.lists(st.integers(0, 600)), st.sampled_from([None, SMALL]))
def test_bytes_give_the_same_events_however_they_arrive(
    hello: list[str], words: list[str], places: list[int], limits: Limits | None
) -> None:
    data = "\n".join([*hello, *words]).encode()
    ends = sorted({place % (len(data) + 1) for place in places} | {len(data)})
    pieces = [data[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    conversations = []
    for fed in ([data], pieces, [data[i : i + 1] for i in range(len(data))]):
        connection = ServerConnection(limits=limits)
        conversations.append(told(event for piece in fed for event in connection.receive_data(piece)))
    assert conversations[1] == conversations[0]
    assert conversations[2] == conversations[0]


@given(greetings, st.lists(st.sampled_from(WORDS) | st.just(FRAME) | st.binary(max_size=9) | st.text(max_size=9)))
def test_messages_give_the_same_events_however_they_arrive(hello: list[str], messages: list[str | bytes]) -> None:
    events = over_messages([*hello, *messages], SMALL)
    assert all(event != "ended" and not str(event).startswith("refused") for event in events[:-1])


@given(greetings, st.lists(st.binary(max_size=60) | st.sampled_from([b"\n", b"END\n", b'{"get-stream":0}\n'])))
def test_any_bytes_give_events(hello: list[str], pieces: list[bytes]) -> None:
    connection = ServerConnection(limits=SMALL)
    events = connection.receive_data("".join(line + "\n" for line in hello).encode())
    for piece in pieces:
        was_closed = connection.closed
        new = connection.receive_data(piece)
        assert not (was_closed and new)
        events += new
    ends = [isinstance(event, Refused | Ended) for event in events]
    assert True not in ends[:-1]
    assert connection.closed == (bool(ends) and ends[-1])


def test_what_came_in_is_forgotten_when_the_connection_is_over() -> None:
    """By reference counts alone: a collector that rarely runs would leave each vanished client's megabytes."""
    connection = ServerConnection()
    gc.disable()
    try:
        tracemalloc.start()
        connection.receive_data(
            b"OEHASHEQUIV 1.1\n\n"
            b'{"chunk-stream": null}\n{"report": {"outhash_siginfo": "' + (b"x" * 30_000 + b"\n") * 100
        )
        held, _ = tracemalloc.get_traced_memory()
        connection.discard()
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert held > 3_000_000
    assert left < 100_000
    assert connection.receive_data(b'{"ping": {}}\n') == []


@pytest.mark.parametrize(
    "message",
    [
        b'{"get-batch": {"method": "m", "taskhashes": [' + b",".join([b'"%064d"' % n for n in range(20_000)]) + b"]}}",
        b'{"report": {"outhash_siginfo": "' + b"x" * 900_000 + b'", nonsense',
        b'{"report": {"method": "' + b"x" * 250_000 + b'", nonsense',
    ],
)
def test_what_is_refused_is_forgotten_though_the_refusal_stays(message: bytes) -> None:
    connection = ServerConnection()
    data = b"OEHASHEQUIV 1.1\n\n" + encode_json(message)
    gc.disable()
    try:
        tracemalloc.start()
        events = connection.receive_data(data)
        connection.discard()
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert isinstance(events[-1], Refused)
    assert left < 100_000


def test_long_details_of_reports_are_cut_off() -> None:
    unihash = "ab" * 32
    row = {"method": "m", "taskhash": "t", "outhash": "o", "unihash": unihash, "PN": "p" * 50, "PV": "1.0"}
    row["outhash_siginfo"] = "s" * 50
    limits = Limits(detail=20)
    for message in ({"report": row}, {"report-batch": {"reports": [row, row | {"PN": None, "owner": "o" * 21}]}}):
        machine = ServerConnection(limits=limits)
        (event,) = machine.receive_data(b"OEHASHEQUIV 1.1\n\n" + json.dumps(message).encode() + b"\n")
        assert isinstance(event, Asked)
        reports = event.request.reports if isinstance(event.request, ReportBatch) else [event.request]
        assert isinstance(reports[0], Report)
        assert (reports[0].PN, reports[0].PV, reports[0].outhash_siginfo) == ("p" * 20, "1.0", "s" * 50)
        if len(reports) > 1:
            assert isinstance(reports[1], Report)
            assert (reports[1].PN, reports[1].owner, reports[1].task) == (None, "o" * 20, None)


LONG = "x" * 350_000


@pytest.mark.parametrize(
    ("message", "permissions", "refusal"),
    [
        ({"get-batch": {"method": "m", "taskhashes": ["t", LONG[:1000]] * 500}}, ["@read"], None),
        (
            {"get-batch": {"method": "m", "taskhashes": ["t", LONG[:1000]] * 500}},
            [],
            "get-batch: not allowed to access",
        ),
        ({"report": {"taskhash": "t", "outhash_siginfo": LONG}}, ["@read"], "report: 'method' is missing"),
        ({"gc-mark": {"mark": LONG, "where": {}}}, ["@db-admin"], "gc-mark: a request has at most 256 KiB"),
        ({"ping": LONG}, [], "ping: a request has at most 256 KiB"),
        ({"other": LONG, "ping": {}}, [], "must begin with its command"),
        ([LONG], [], "must begin with its command"),
    ],
)
def test_long_requests_are_refused_before_they_are_parsed(
    message: object, permissions: list[str], refusal: str
) -> None:
    """And in pieces, before they are there as a whole."""
    text = json.dumps(message)
    limits = Limits(permissions=frozenset(permissions))
    pieces = encode_json(text.encode())
    for data in (pieces, pieces[:-40_000]):
        machine = ServerConnection(limits=limits)
        machine.receive_data(b"OEHASHEQUIV 1.1\n\n")
        events = [event for start in range(0, len(data), 5000) for event in machine.receive_data(data[start:][:5000])]
        by_message = ServerConnection(limits=limits, lines=False)
        by_message.receive_messages([*HELLO])
        if data is pieces:
            assert list(map(type, by_message.receive_messages([text]))) == list(map(type, events))
            assert by_message.held == 0
        if refusal is None or (data is not pieces and "missing" in refusal):
            assert all(isinstance(event, Asked) for event in events)
        else:
            (event,) = events
            assert isinstance(event, Refused)
            assert refusal in str(event.error)
            assert machine.held < 5000


def test_values_in_pieces_are_counted_as_they_come() -> None:
    machine = ServerConnection(limits=Limits(values=1000))
    machine.receive_data(b"OEHASHEQUIV 1.1\n\n" + b'{"chunk-stream": null}\n{"get-batch": [\n')
    assert machine.receive_data(b"1," * 900 + b"\n") == []
    (event,) = machine.receive_data(b"1," * 200 + b"\n")
    assert isinstance(event, Ended)
    assert event.limit == "values"


@pytest.mark.parametrize("lines", [True, False])
def test_a_long_request_is_read_a_part_at_a_time(lines: bool) -> None:
    row = {"method": "m", "taskhash": "t", "outhash": "o", "unihash": "ab" * 32, "outhash_siginfo": LONG * 10 + "\n"}
    message = json.dumps({"report": row}).encode()
    machine = ServerConnection(lines=lines)
    steps = 1
    if lines:
        machine.receive_data(b"OEHASHEQUIV 1.1\n\n")
        data = encode_json(message)
        events = [event for at in range(0, len(data), 65_536) for event in machine.receive_data(data[at : at + 65_536])]
    else:
        machine.receive_messages([*HELLO])
        events = machine.receive_texts([message])
        while machine.more:
            assert events == []
            assert 0 < machine.held <= 2 * len(message)
            events = machine.receive_data(b"")
            steps += 1
        assert steps == -(-len(message) // MOST_SMALL) + 1  # the fields
    (event,) = events
    assert isinstance(event, Asked)
    assert event.size == len(message)
    assert isinstance(event.request, Report)
    assert isinstance(event.request.outhash_siginfo, LongText)
    assert str(event.request.outhash_siginfo) == row["outhash_siginfo"]
    assert machine.held == 0


ROW = {"method": "m", "taskhash": "t", "outhash": "o", "unihash": "ab" * 32}
MAPPING = {"method": "m", "taskhash": "t", "unihash": "ab" * 32}
USER = {"username": "u", "token": "a:b:c", "permissions": []}


@pytest.mark.parametrize("lines", [True, False])
@pytest.mark.parametrize(
    ("command", "name", "row", "at_once"),
    [
        ("report-batch", "reports", ROW, ROWS_AT_ONCE),
        ("report-batch", "reports", ROW | {"PN": 1, "PV": [], "PR": {}}, ROWS_AT_ONCE),
        ("import-batch", "rows", ROW | {"created": 1}, ROWS_AT_ONCE),
        ("import-batch", "mappings", MAPPING, ROWS_AT_ONCE),
        ("import-batch", "users", USER, 100),
    ],
)
def test_no_step_reads_more_than_some_rows(
    lines: bool, command: str, name: str, row: dict[str, Any], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of those that are sound nor of those that hold something else than text."""
    read: list[int] = []
    columns = Rows._values

    def values(self: Rows, name: str) -> list[Any]:
        found = columns(self, name)
        read.append(len(found))
        return found

    monkeypatch.setattr(Rows, "_values", values)
    rows = [row] * (600_000 // len(json.dumps(row)))
    message = {command: {name: rows}}
    machine, events = feed_whole(message, lines=lines)
    assert events == []
    assert read == [], "its JSON alone is a step"
    steps = 0
    while machine.more:
        assert events == []
        assert machine.held
        before = len(read)
        events = machine.receive_data(b"")
        assert len(read) - before <= 10, "the columns of one part"
        steps += 1
    assert steps >= len(rows) // at_once
    assert max(read, default=0) <= ROWS_AT_ONCE
    assert events == [Asked(COMMANDS[command], COMMANDS[command].parse(message[command]))]
    assert not machine.held
    assert machine.receive_data(b'{"ping": {}}\n') if lines else machine.receive_texts([b'{"ping": {}}'])


def test_a_wrong_row_far_behind_is_named_by_its_place() -> None:
    rows = [ROW] * 1700 + [ROW | {"taskhash": "no token"}] + [ROW] * 800
    machine, events = feed_whole({"report-batch": {"reports": rows}}, lines=True)
    while machine.more:
        events = machine.receive_data(b"")
    (event,) = events
    assert isinstance(event, Refused)
    assert "'reports': 1701: 'taskhash'" in str(event.error)
    assert machine.closed
    assert not machine.held


def test_lines_behind_a_long_request_wait_for_it() -> None:
    machine, events = feed_whole({"report-batch": {"reports": [ROW] * 2000}}, lines=True)
    events += machine.receive_data(b'{"ping": {}}\n')
    while machine.more:
        events += machine.receive_data(b"")
    assert [event.command.name for event in events if isinstance(event, Asked)] == ["report-batch", "ping"]


def feed_whole(message: object, *, lines: bool) -> tuple[ServerConnection, list[Event]]:
    """A machine that has got all of a long message, and has looked at its JSON at most."""
    text = json.dumps(message).encode()
    machine = ServerConnection(lines=lines, at_once=100)
    if lines:
        machine.receive_data(b"OEHASHEQUIV 1.1\n\n")
        return machine, machine.receive_data(encode_json(text))
    machine.receive_messages([*HELLO])
    events = machine.receive_texts([text])
    for _ in range(len(text) // MOST_SMALL):
        events += machine.receive_data(b"")
    return machine, events

"""The client against an older server, which knows streams only, and its retries on both kinds of server."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
from pathlib import Path

import pytest

from shardhash.client import AsyncClient, InvokeError, connection, create_async_client
from tests.client.older_server import OlderServer
from tests.line_server import serving

METHOD = "oe.sstatesig.OEOuthashBasic"


def some_hash(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def fill(server: OlderServer, count: int, method: str = METHOD) -> tuple[list[tuple[str, str]], list[str | None]]:
    """Questions and their answers: every third taskhash is unknown."""
    pairs, unihashes = [], list[str | None]()
    for i in range(count):
        taskhash, unihash = some_hash("task", i), some_hash("uni", i)
        pairs.append((method, taskhash))
        unihashes.append(unihash if i % 3 else None)
        if i % 3:
            server.mappings[method, taskhash] = unihash
    return pairs, unihashes


async def test_batches_become_streams_without_an_offer(older: OlderServer, older_address: str) -> None:
    pairs, unihashes = fill(older, 5000)
    async with await create_async_client(older_address) as client:
        assert await client.get_unihash_batch(pairs) == unihashes
        assert await client.get_unihash(*pairs[1]) == unihashes[1]
        found = await client.get_unihashes(METHOD, bytes.fromhex("".join(taskhash for _, taskhash in pairs)))
        assert [item and item.hex() for item in found.unihashes()] == unihashes
        known = [unihash for unihash in unihashes if unihash]
        assert await client.unihash_exists_batch([*known, some_hash("nobody's")]) == [True] * len(known) + [False]
        assert await client.ping() == {"alive": True}
    assert older.headers == [["needs-headers: true"]]
    commands = [line for line in older.heard[0] if str(line).startswith(("{", "END"))]
    assert commands == ['{"get-stream":null}', "END", '{"exists-stream":null}', "END", '{"ping":{}}']


async def test_native_batches_where_offered(native: OlderServer, native_address: str, kind: str) -> None:
    pairs, unihashes = fill(native, 2500)
    async with await create_async_client(native_address, block=1000) as client:
        assert await client.get_unihash_batch(pairs) == unihashes
        assert len(native.heard[0]) == 3
        found = await client.get_unihashes(METHOD, bytes.fromhex("".join(taskhash for _, taskhash in pairs)))
        assert [item and item.hex() for item in found.unihashes()] == unihashes
        assert await client.unihash_exists_batch([u or some_hash(0) for u in unihashes]) == list(map(bool, unihashes))
    assert {type(message) for message in native.heard[0]} == {bytes if kind == "ws" else str}
    assert not [message for message in native.heard[0] if isinstance(message, str) and "stream" in message]


async def test_native_batches_can_be_declined(native: OlderServer, native_address: str) -> None:
    pairs, unihashes = fill(native, 10)
    async with await create_async_client(native_address, native=False) as client:
        assert await client.get_unihash_batch(pairs) == unihashes
    assert native.headers == [["needs-headers: false"]]
    assert native.heard[0][0] == '{"get-stream":null}'


@pytest.mark.parametrize("offered", [False, True])
async def test_mixed_methods_and_hashes_keep_their_order(kind: str, tmp_path: Path, offered: bool) -> None:
    server = OlderServer(native=offered)
    pairs, unihashes = fill(server, 30)
    others, other_unihashes = fill(server, 30, "another.method")
    odd = [(METHOD, taskhash) for taskhash in ("a" * 40, "SHOUTING" * 8, "short", "ü" * 64)]
    for pair in odd:
        server.mappings[pair] = some_hash(pair)
    asked = [pair for triple in zip(pairs, others, odd * 8, strict=False) for pair in triple]
    due = [server.mappings.get(pair) for pair in asked]
    assert {*due} > {*unihashes, *other_unihashes}
    async with server.listen(kind, tmp_path) as address, await create_async_client(address) as client:
        assert await client.get_unihash_batch(asked) == due
        assert await client.get_unihash_batch([]) == []
        assert await client.get_unihash_batch(iter(asked)) == due
        assert await client.unihash_exists_batch(["short", *filter(None, due), "A" * 64]) == [
            False,
            *[True] * len([unihash for unihash in due if unihash]),
            False,
        ]
        assert await client.unihash_exists("short") is False


@pytest.mark.parametrize("wrong", ["", "two words", "line\nbreak", "END\n"])
async def test_what_would_ask_another_question_is_refused_here(native: OlderServer, tmp_path: Path, wrong: str) -> None:
    async with native.listen("tcp", tmp_path) as address, await create_async_client(address, native=False) as client:
        with pytest.raises(ValueError, match="not one word"):
            await client.get_unihash(METHOD, wrong)
        with pytest.raises(ValueError, match="not one word"):
            await client.get_unihash(wrong, some_hash(1))
    assert native.heard == [[]]


async def test_a_long_report_is_chunked(older: OlderServer, older_address: str) -> None:
    siginfo = "ü€\N{GRINNING FACE}" * 100_000
    async with await create_async_client(older_address) as client:
        answer = await client.report_unihash(
            some_hash(1), METHOD, some_hash(2), some_hash(3), {"outhash_siginfo": siginfo, "PN": "gcc", "task": "do_x"}
        )
    assert answer == {"method": METHOD, "taskhash": some_hash(1), "unihash": some_hash(3)}
    assert siginfo in str(older.heard[0][0])


# -- retries ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answered", [0, 1, 2, 20])
async def test_only_unanswered_stream_lines_are_sent_again(
    older: OlderServer, older_address: str, answered: int
) -> None:
    pairs, unihashes = fill(older, 100)
    older.hang_ups += [answered + 1, answered + 1]  # the opening "ok" is an answer too
    async with await create_async_client(older_address) as client:
        assert await client.get_unihash_batch(pairs) == unihashes
    lines = [f"{method} {taskhash}" for method, taskhash in pairs]
    assert [heard[0] for heard in older.heard] == ['{"get-stream":null}'] * 3
    assert older.heard[1][1] == lines[answered]
    assert older.heard[2][1:] == lines[2 * answered :]


async def test_a_stream_cut_while_it_is_sent(older: OlderServer, older_address: str) -> None:
    pairs, unihashes = fill(older, 6000)
    older.hang_ups += [1500, 3000]
    async with await create_async_client(older_address) as client:
        assert await client.get_unihash_batch(pairs) == unihashes
    # A server that closes on unread lines resets the connection: answers under way may be lost, but none that it
    # did not give is taken.
    lines = [f"{method} {taskhash}" for method, taskhash in pairs]
    starts = [lines.index(str(heard[1])) for heard in older.heard]
    assert starts == sorted(starts)
    assert starts[1] <= 1499
    assert starts[2] <= starts[1] + 2999


async def test_only_unanswered_native_blocks_are_sent_again(native: OlderServer, native_address: str) -> None:
    pairs, unihashes = fill(native, 1000)
    native.hang_ups += [4, 0, 1]
    async with await create_async_client(native_address, block=100) as client:
        assert await client.get_unihash_batch(pairs) == unihashes
    assert len(native.heard[-1]) == 5


async def test_a_question_ends_on_another_kind_of_server(native: OlderServer, native_address: str) -> None:
    pairs, unihashes = fill(native, 1000)
    native.hang_ups += [4, 101, 3]
    async with await create_async_client(native_address, block=100) as client:
        native.native = False
        assert await client.get_unihash_batch(pairs) == unihashes
    lines = [f"{method} {taskhash}" for method, taskhash in pairs]
    assert [heard[1] for heard in native.heard[1:]] == [lines[400], lines[500], lines[502]]


async def test_marks_are_counted_once(older: OlderServer, older_address: str) -> None:
    rows: list[str | dict[str, str]] = [f"unihash {some_hash(i)} method {METHOD}\n" for i in range(3000)]
    rows.append({"method": "with space"})
    older.hang_ups.append(2000)
    async with await create_async_client(older_address) as client:
        assert await client.gc_mark_stream("mark", rows) == {"count": 2 * len(rows)}
        with pytest.raises(ValueError, match="not pairs"):
            await client.gc_mark_stream("mark", ["unihash"])
    assert older.marks[0] == {"mark": "mark", "where": {"unihash": some_hash(0), "method": METHOD}}
    assert older.marks[-1] == {"mark": "mark", "where": {"method": "with space"}}


async def test_a_connection_lost_between_calls_goes_unnoticed(older: OlderServer, older_address: str) -> None:
    older.mappings[METHOD, some_hash(1)] = some_hash(2)
    older.hang_ups += [1, 3, None]
    async with await create_async_client(older_address, "builder", "secret") as client:
        assert await client.get_unihash(METHOD, some_hash(1)) == some_hash(2)
        assert await client.become_user("other") == {"username": "other", "permissions": []}
        assert await client.ping() == {"alive": True}
        assert await client.get_unihash(METHOD, some_hash(1)) == some_hash(2)
    auth = '{"auth":{"username":"builder","token":"secret"}}'
    become = '{"become-user":{"username":"other"}}'
    stream, line = '{"get-stream":null}', f"{METHOD} {some_hash(1)}"
    assert older.heard == [
        [auth, stream],
        [auth, stream, line, "END"],
        [auth, become, '{"ping":{}}', stream, line],
    ]


async def test_after_all_retries_a_connection_error(older: OlderServer, older_address: str, kind: str) -> None:
    async with await create_async_client(older_address) as client:
        older.hang_ups += [0] * 10
        await client.disconnect()
        with pytest.raises(ConnectionError, match="the server closed the connection"):
            await client.get_unihash(METHOD, some_hash(1))
        assert len(older.heard) == 5
        older.hang_ups.clear()
        assert await client.ping() == {"alive": True}


async def test_an_unknown_command_is_a_connection_error(older: OlderServer, older_address: str) -> None:
    async with await create_async_client(older_address) as client:
        with pytest.raises(ConnectionError, match="the server closed the connection"):
            await client.get_db_usage()
        assert await client.ping() == {"alive": True}


async def test_nobody_listens(kind: str, tmp_path: Path, older: OlderServer) -> None:
    async with older.listen(kind, tmp_path) as address:
        pass
    path = Path(address.removeprefix("unix://"))
    if kind == "unix" and not path.exists():  # noqa: ASYNC240  # since Python 3.13 a listener takes its socket away
        with socket.socket(socket.AF_UNIX) as left_behind:
            left_behind.bind(str(path))
    with pytest.raises(ConnectionError) as caught:
        await create_async_client(address)
    assert str(caught.value) == f"{address}: connection refused"


async def test_a_server_that_never_answers_with_headers_is_asked_once(
    older: OlderServer, older_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those before BitBake 2.8."""
    monkeypatch.setattr(connection, "HEADERS_WITHIN", 0.05)
    older.tells_headers = False
    pairs, unihashes = fill(older, 3)
    for _ in range(2):
        async with await create_async_client(older_address) as client:
            assert await client.ping() == {"alive": True}
            assert await client.get_unihash_batch(pairs) == unihashes
    assert older.headers == [["needs-headers: true"], ["needs-headers: false"], ["needs-headers: false"]]


async def test_a_silent_server_is_given_up(older: OlderServer, older_address: str) -> None:
    async with await create_async_client(older_address, timeout=0.05) as client:
        older.silent.set()
        with pytest.raises(ConnectionError, match=r"no answer within 0\.05 s"):
            await client.ping()
        assert len(older.heard) == 1, "a silent server would cost the same time once more"
        with pytest.raises(ConnectionError, match=r"no answer within 0\.05 s"):
            await client.get_unihash_batch(fill(older, 3000)[0])


def some_rows(count: int) -> tuple[list[dict[str, str]], list[str]]:
    """Rows, and the unihashes that the older server gives them: every tenth is that of the row before once more."""
    numbers = [i - (i % 10 == 9) for i in range(count)]
    rows = [
        {"method": METHOD, "taskhash": some_hash(n), "outhash": some_hash("out", n), "unihash": some_hash("uni", i)}
        for i, n in enumerate(numbers)
    ]
    return rows, [some_hash("uni", n) for n in numbers]


@pytest.mark.parametrize(("offered", "native"), [(True, True), (True, False), (False, True)])
async def test_reports_are_batched_where_offered(kind: str, tmp_path: Path, offered: bool, native: bool) -> None:
    server = OlderServer(native=True, reports=offered)
    rows, unihashes = some_rows(2500)
    async with server.listen(kind, tmp_path) as address, await create_async_client(address, native=native) as client:
        assert await client.report_unihash_batch(rows) == unihashes
        assert await client.report_unihash_batch([]) == []
        assert await client.report_unihash_batch(rows[:1]) == unihashes[:1]
    requests = [json.loads(message) for message in server.heard[0]]
    if offered and native:
        assert [len(request["report-batch"]["reports"]) for request in requests] == [1000, 1000, 500, 1]
    else:
        assert [request["report"] for request in requests] == [*rows, rows[0]]


async def test_reports_end_a_stream(kind: str, tmp_path: Path) -> None:
    server = OlderServer(reports=True)
    rows, unihashes = some_rows(3)
    async with server.listen(kind, tmp_path) as address, await create_async_client(address) as client:
        assert await client.get_unihash(METHOD, rows[0]["taskhash"]) is None
        assert await client.report_unihash_batch(rows) == unihashes
        assert await client.get_unihash(METHOD, rows[0]["taskhash"]) == unihashes[0]
    assert [line for line in server.heard[0] if line == "END"] == ["END"]


async def test_only_unanswered_batches_of_reports_are_sent_again(kind: str, tmp_path: Path) -> None:
    server = OlderServer(reports=True)
    rows, unihashes = some_rows(5500)
    server.hang_ups += [2, 0, 1]
    async with server.listen(kind, tmp_path) as address, await create_async_client(address) as client:
        assert await client.report_unihash_batch(rows) == unihashes
    starts = [_place(rows, json.loads(heard[0])["report-batch"]["reports"]) for heard in server.heard]
    # As below: answers may be lost, but none that was not given is taken.
    assert len(starts) == 4
    assert starts == sorted(starts)
    assert starts[1] <= 2000
    assert starts[2] == starts[1]
    assert starts[3] <= starts[2] + 1000
    last = [len(json.loads(message)["report-batch"]["reports"]) for message in server.heard[3]]
    assert sum(last) == 5500 - starts[3]


async def test_only_unanswered_single_reports_are_sent_again(older: OlderServer, older_address: str) -> None:
    rows, unihashes = some_rows(500)
    older.hang_ups += [40, 0, 7]
    async with await create_async_client(older_address) as client:
        assert await client.report_unihash_batch(rows) == unihashes
    starts = [_place(rows, [json.loads(heard[0])["report"]]) for heard in older.heard]
    assert len(starts) == 4
    assert starts == sorted(starts)
    assert starts[1] <= 40
    assert starts[2] == starts[1]
    assert starts[3] <= starts[2] + 7
    assert len(older.heard[3]) == 500 - starts[3]


def _place(rows: list[dict[str, str]], some: list[dict[str, str]]) -> int:
    """Where some rows begin."""
    place = rows.index(some[0])
    assert rows[place : place + len(some)] == some
    return place


async def test_reports_end_on_another_kind_of_server(kind: str, tmp_path: Path) -> None:
    server = OlderServer(reports=True)
    rows, unihashes = some_rows(1010)
    server.hang_ups += [1, 3]
    async with server.listen(kind, tmp_path) as address, await create_async_client(address) as client:
        server.reports = False
        assert await client.report_unihash_batch(rows) == unihashes
    assert len(server.heard) == 3
    assert {*json.loads(server.heard[0][0])} == {"report-batch"}
    assert {*json.loads(server.heard[1][0])} == {"report"}


async def test_reports_after_all_retries_are_a_connection_error(kind: str, tmp_path: Path) -> None:
    server = OlderServer(reports=True)
    rows, unihashes = some_rows(1500)
    async with server.listen(kind, tmp_path) as address, await create_async_client(address) as client:
        server.hang_ups += [0] * 10
        await client.disconnect()
        with pytest.raises(ConnectionError):
            await client.report_unihash_batch(rows)
        assert len(server.heard) == 5
        server.hang_ups.clear()
        assert await client.report_unihash_batch(rows) == unihashes


# -- refusals and lies -----------------------------------------------------------------------------------------------


async def test_a_refusal_is_not_tried_again(older: OlderServer, older_address: str) -> None:
    with pytest.raises(InvokeError, match="Unable to authenticate as builder"):
        await create_async_client(older_address, "builder", "wrong")
    assert len(older.heard) == 1
    async with await create_async_client(older_address) as client:
        with pytest.raises(InvokeError, match="Unable to authenticate as nobody"):
            await client.auth("nobody", "secret")
        assert await client.ping() == {"alive": True}
    assert len(older.heard) == 3


async def test_a_refused_stream(older: OlderServer, older_address: str) -> None:
    pairs, unihashes = fill(older, 2000)
    older.answer_override["get-stream"] = '{"invoke-error": {"message": "not allowed"}}'
    async with await create_async_client(older_address) as client:
        with pytest.raises(InvokeError, match="not allowed"):
            await client.get_unihash_batch(pairs)
        older.answer_override.clear()
        older.answer_override[" ".join(pairs[1000])] = '{"invoke-error": {"message": "enough"}}'
        older.hang_ups.append(1002)
        with pytest.raises(InvokeError, match="enough"):
            await client.get_unihash_batch(pairs)
        older.answer_override.clear()
        assert await client.get_unihash_batch(pairs) == unihashes


@pytest.mark.parametrize("answer", ["not JSON", '{"unihashes": []}', "[]", '{"unihashes": ["short"]}', '"ok"', "null"])
async def test_a_lying_server_is_a_connection_error(native: OlderServer, tmp_path: Path, answer: str) -> None:
    native.answer_override.update(dict.fromkeys(["get-batch", "ping", "get-stream", "exists-batch"], answer))
    native.answer_override[f"{METHOD} {some_hash(1)}"] = answer
    async with native.listen("tcp", tmp_path) as address, await create_async_client(address) as client:
        with pytest.raises(ConnectionError):
            await client.get_unihash(METHOD, some_hash(1))
        with pytest.raises(ConnectionError):
            await client.unihash_exists(some_hash(1))
    async with native.listen("tcp", tmp_path) as address, await create_async_client(address, native=False) as client:
        with pytest.raises(ConnectionError):
            await client.get_unihash(METHOD, some_hash(1))


@pytest.mark.parametrize(
    "answer",
    ["not JSON", '{"unihashes": []}', "[]", '{"unihashes": ["short"]}', '{"unihash": null}', '"ok"', "null", "{}"],
)
@pytest.mark.parametrize("reports", [True, False])
async def test_a_lie_about_reports_is_a_connection_error(kind: str, tmp_path: Path, reports: bool, answer: str) -> None:
    server = OlderServer(reports=reports)
    rows, unihashes = some_rows(1)
    server.answer_override.update(dict.fromkeys(["report", "report-batch"], answer))
    async with server.listen(kind, tmp_path) as address, await create_async_client(address) as client:
        with pytest.raises(ConnectionError):
            await client.report_unihash_batch(rows)
        assert len(server.heard) == 4
        server.answer_override.clear()
        assert await client.report_unihash_batch(rows) == unihashes


async def test_a_refreshed_token_is_used_from_then_on(older: OlderServer, older_address: str) -> None:
    async with await create_async_client(older_address, "builder", "secret") as client:
        assert await client.refresh_token() == {"username": "builder", "token": "secret+"}
        await client.disconnect()
        assert await client.ping() == {"alive": True}
    assert older.heard[1][0] == '{"auth":{"username":"builder","token":"secret+"}}'


async def trickle(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that always seems to be about to answer."""
    writer.write(b"\n")  # its headers: none
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"timeout": 0.05}, r"no answer within 0\.05 s"),
        ({"timeout": 60, "deadline": 0.05}, r"no complete answer within 0\.05 s"),
    ],
)
async def test_a_trickling_server_does_not_hold_a_call(limits: dict[str, float], told: str) -> None:
    async with serving(trickle) as address:
        client = AsyncClient(address, **limits)  # type: ignore[arg-type]
        with pytest.raises(ConnectionError, match=told):
            await client.ping()
        await client.close()

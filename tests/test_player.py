"""The player itself: it takes what is right and says what is wrong, with the line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.player import MismatchError, Player, check_json, check_line, fill

HELLO = ["OEHASHEQUIV 1.1", ""]
CLOSE = "\x04"
"""Ends an answer after which the scripted server closes."""


@pytest.fixture
async def scripted(tmp_path: Path) -> AsyncIterator[Callable[[dict[str, str]], Player]]:
    """Gives a player for a server that answers each line by what a script says; with CLOSE, it closes."""
    servers: list[asyncio.Server] = []
    path = tmp_path / "socket"
    script: dict[str, str] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for line in reader:
            answer = script.get(line.decode().rstrip("\n"), "")
            writer.write(answer.removesuffix(CLOSE).encode())
            if answer.endswith(CLOSE):
                break
        writer.close()

    servers.append(await asyncio.start_unix_server(serve, path))

    def player(answers: dict[str, str]) -> Player:
        script.update(answers)
        return Player({"plain": f"unix://{path}"})

    yield player
    for server in servers:
        server.close()


def transcript(folder: Path, *events: object) -> Path:
    """A transcript of one connection, its greeting left out."""
    path = folder / "scenario.jsonl"
    opened: list[object] = [{"open": 1, "server": "plain"}, *({"conn": 1, "send": line} for line in HELLO)]
    path.write_text("".join(json.dumps(event) + "\n" for event in [*opened, *events]))
    return path


def sent(line: str) -> dict[str, object]:
    return {"conn": 1, "send": line}


def due(line: str) -> dict[str, object]:
    return {"conn": 1, "recv": line}


EOF_DUE = {"conn": 1, "eof": True}
PING, ALIVE = '{"ping": {}}', '{"alive": true}'


async def test_plays_what_is_right(scripted: Callable[..., Player], tmp_path: Path) -> None:
    big = {"text": "é" * 40_000}
    text = json.dumps(big, ensure_ascii=False)
    pieces = [text[i : i + 32767] for i in range(0, len(text), 32767)]
    player = scripted(
        {
            PING: '{"alive":true}\n',
            '{"get-all": {}}': "\n".join(['{"chunk-stream": null}', *pieces, "", ""]),
            '{"user": {}}': '{"token":"abc"}\n',
            '{"is": "abc"}': '{"token":"abc","created":"now"}\n',
            "not json": '{"invoke-error": {"message": "x"}}\n',
            "{}": CLOSE,
        }
    )
    token = {"$": "token1"}
    await player.play(
        transcript(
            tmp_path,
            sent(PING),
            due(ALIVE),
            sent('{"get-all": {}}'),
            {"conn": 1, "chunked": True, "recv_json": big},
            sent('{"user": {}}'),
            {"conn": 1, "recv_json": {"token": token, "id": {"$": "id"}}},
            {"conn": 1, "send_json": {"is": token}},
            {"conn": 1, "recv_json": {"token": token, "created": {"$": "created"}}},
            sent("{}"),
            EOF_DUE,
            {"close": 1},
        )
    )


@pytest.mark.parametrize(
    ("answers", "events", "what"),
    [
        ({PING: '{"alive": false}\n'}, [sent(PING), due(ALIVE)], "line 5: .*alive: due:  true"),
        ({PING: CLOSE}, [sent(PING), due(ALIVE)], "line 5: the server has closed where an answer is due"),
        ({PING: '{"ali' + CLOSE}, [sent(PING), due(ALIVE)], "half a line before the close"),
        ({PING: "x\n"}, [sent(PING), EOF_DUE], "line 5: due: the server closes\ncame: x"),
        # An unknown command must give a bare close: clients probe for features this way.
        ({"{}": '{"invoke-error": {}}\n'}, [sent("{}"), EOF_DUE], "due: the server closes"),
        ({PING: ALIVE + "\n"}, [sent(PING), {"conn": 1, "chunked": True, "recv_json": {}}], "not in chunks"),
        (
            {PING: '{"chunk-stream": null}\n' + "x" * 32768 + "\n\n"},
            [sent(PING), {"conn": 1, "chunked": True, "recv_json": {}}],
            "a piece of 32768 characters",
        ),
    ],
)
async def test_says_what_is_wrong(
    scripted: Callable[..., Player], tmp_path: Path, answers: dict, events: list, what: str
) -> None:
    player = scripted(answers)
    with pytest.raises(MismatchError, match=what) as caught:
        await player.play(transcript(tmp_path, *events))
    assert str(caught.value).startswith("scenario.jsonl line ")


async def test_a_malformed_request_may_get_an_error_before_the_close(
    scripted: Callable[..., Player], tmp_path: Path
) -> None:
    bad = '{"get": {"method": "m"}}'
    player = scripted({bad: '{"invoke-error": {}}\n' + CLOSE})
    await player.play(transcript(tmp_path, sent(bad), EOF_DUE))


async def test_headers_of_the_server_are_passed_over(scripted: Callable[..., Player], tmp_path: Path) -> None:
    path = tmp_path / "headers.jsonl"
    lines = ["OEHASHEQUIV 1.1", "needs-headers: true", ""]
    events = [{"open": 1, "server": "plain"}, *map(sent, lines), due(""), sent(PING), due(ALIVE)]
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    player = scripted({"needs-headers: true": "a: b\nc: d\n\n", PING: ALIVE + "\n"})
    await player.play(path)


def test_lines_are_compared_as_json_only_if_both_are_objects() -> None:
    check_line('{"a": [1], "b": 2}', '{"b":2,"a":[1]}')
    check_line('{"columns": ["a", "b"]}', '{"columns": ["b", "a"]}')
    check_line('"ok"', '"ok"')
    for due_line, came in [("ok", '"ok"'), ("[1, 2]", "[1,2]"), ("", "null"), ('{"a": [1, 2]}', '{"a": [2, 1]}')]:
        with pytest.raises(MismatchError):
            check_line(due_line, came)


def test_placeholders() -> None:
    tokens: dict[str, object] = {}
    check_json({"a": {"$": "token1"}, "b": {"$": "num"}}, {"a": "secret", "b": 5}, tokens)
    assert fill({"x": {"y": {"$": "token1"}}, "z": [1]}, tokens) == {"x": {"y": "secret"}, "z": [1]}
    with pytest.raises(MismatchError, match="not the token1 of before"):
        check_json({"$": "token1"}, "other", tokens)
    with pytest.raises(MismatchError, match="'created' is missing"):
        check_json({"created": {"$": "created"}}, {}, tokens)
    with pytest.raises(MismatchError, match="'more' is too much"):
        check_json({"id": {"$": "id"}}, {"more": 1}, tokens)

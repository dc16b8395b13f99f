"""The HTTP interface as a document describes it, without a browser: what programs rely on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest

from shardhash.http.history import quantile
from tests.http.conftest import LIMIT, get, http_of, server_with_http
from tests.servers import IN_MEMORY, ServerProcess


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with server_with_http(*IN_MEMORY) as server:
        yield server


def send(url: str, method: str, body: str, content_type: str) -> tuple[int, Any]:
    parts = urlsplit(url)
    connection = HTTPConnection(parts.netloc, timeout=LIMIT)
    try:
        connection.request(method, parts.path, body.encode(), {"Content-Type": content_type})
        answer = connection.getresponse()
        text = answer.read().decode()
    finally:
        connection.close()
    return answer.status, json.loads(text) if answer.headers.get_content_type() == "application/json" else text


def test_the_document_names_every_path_and_each_answers(server: ServerProcess) -> None:
    url = server.addresses[1]
    document = json.loads(get(url + "/api/openapi.json").text)
    assert document["openapi"].startswith("3.1")
    assert {"/metrics", "/readyz", "/api/status", "/api/history", "/api/events", "/api/login"} <= set(document["paths"])
    identifiers = [of["operationId"] for path in document["paths"].values() for of in path.values()]
    assert len(identifiers) == len(set(identifiers))
    for path, operations in document["paths"].items():
        if "get" in operations and path != "/api/events":
            page = get(url + path)
            (kind,) = operations["get"]["responses"]["200"]["content"]
            assert page.status in (200, 400), (path, page.text)
            assert page.headers["Content-Type"].startswith(kind if page.status == 200 else "application/json")
            assert page.headers["X-Content-Type-Options"] == "nosniff"


def test_what_changes_something_takes_json_alone(server: ServerProcess) -> None:
    """A form, or a text, is what a page of another site may send without asking."""
    for path in ("/api/login", "/api/logout"):
        url = server.addresses[1] + path
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            status, answer = send(url, "POST", '{"username": "a", "token": "b"}', kind)
            assert status == 400
            assert "application/json" in answer["error"]
        for body in ("", "{", "[]", "1", '{"username": '):
            assert send(url, "POST", body, "application/json")[0] == 400
    status, answer = send(server.addresses[1] + "/api/login", "POST", '{"username": 1}', "application/json")
    assert (status, answer["error"]) == (400, "'username' and 'token' must be texts")


def test_other_methods_are_refused(server: ServerProcess) -> None:
    for address in server.addresses:
        for path in ("/api/status", "/", "/metrics", "/assets/page.js"):
            assert send(http_of(address) + path, "DELETE", "", "text/plain")[0] == 405
        assert send(http_of(address) + "/api/login", "GET", "", "text/plain")[0] == 405


def test_a_body_over_the_limit_is_refused(server: ServerProcess) -> None:
    status, _ = send(server.addresses[1] + "/api/login", "POST", " " * (2 << 20), "application/json")
    assert status == 413


def test_events_come_until_the_server_stops() -> None:
    with server_with_http(*IN_MEMORY) as server, urlopen(server.addresses[1] + "/api/events", timeout=LIMIT) as events:
        assert events.headers["Content-Type"] == "text/event-stream"
        assert events.readline() == b"event: sample\n"
        sample = json.loads(events.readline().removeprefix(b"data: "))
        assert events.readline() == b"\n"
        assert events.readline() == b"event: status\n"
        status = json.loads(events.readline().removeprefix(b"data: "))
        assert status["ready"]
        names = json.loads(get(server.addresses[1] + "/api/history").text)["names"]
        assert len(sample) == len(names)
        assert server.stop() == 0
        events.read()  # to its end


def test_a_head_is_answered_without_a_body(server: ServerProcess) -> None:
    with urlopen(Request(server.addresses[1] + "/livez", method="HEAD"), timeout=LIMIT) as answer:
        assert (answer.status, answer.read()) == (200, b"")


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([0, 0, 0], None), ([100, 0, 0], 0.99), ([0, 100, 0], 1.99), ([99, 1, 0], 1.0), ([0, 0, 5], 2.0)],
)
def test_a_quantile_lies_within_its_bucket(counts: list[int], expected: float | None) -> None:
    found = quantile(0.99, (1.0, 2.0), counts)
    assert found == (expected if expected is None else pytest.approx(expected))

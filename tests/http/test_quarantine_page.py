"""Quarantine, removal and undo in a real browser, for an administrator, and for one who is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shardhash.client import create_client
from tests.client.test_exploring import siginfo
from tests.client.test_quarantine import lookup
from tests.http.browser import Watched, browsing, watching
from tests.http.conftest import http_of
from tests.http.test_page import METHOD, SECRET, aside, digits, picture
from tests.servers import IN_MEMORY, ServerProcess

pytestmark = pytest.mark.once


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    """Two tasks of zlib and one of busybox; builders report, and an administrator logs in."""
    bind = "ws://127.0.0.1:0,anon=@read+@report"
    with ServerProcess(*IN_MEMORY, binds=[bind], environment=SECRET) as server:
        with create_client(server.address) as client:
            for number, recipe in ((1, "zlib"), (2, "zlib"), (3, "busybox")):
                extra = {"PN": recipe, "task": "do_compile", "outhash_siginfo": siginfo("compile", built=number)}
                client.report_unihash(digits(number), METHOD, digits(100 + number), digits(number), extra)
        yield server


def log_in(watched: Watched) -> None:
    page = watched.page
    page.click("#login-open")
    page.fill("#login-form input[name=username]", "admin")
    page.fill("#login-form input[name=token]", "pass word")
    page.click("#login-form button[type=submit]")
    watched.until("document.getElementById('who').textContent === 'admin'")


def preview(watched: Watched, recipe: str) -> None:
    watched.page.fill("#quarantine-form input[name=PN]", recipe)
    watched.page.click("#quarantine-form button")
    watched.until("!document.getElementById('quarantine-preview').hidden")


def test_who_is_no_administrator_is_refused(server: ServerProcess) -> None:
    with browsing() as context, watching(context, http_of(server.address)) as watched:
        page = watched.page
        page.wait_for_selector("#well.good")
        page.click("nav a[href='#quarantine']")
        watched.until("document.getElementById('quarantine-rights').textContent.includes('@db-admin')")
        assert not page.is_visible("#quarantine-form")
        ask = """body => fetch('api/ask', {method: 'POST', headers: {'Content-Type': 'application/json'},
            body: JSON.stringify(body)}).then(answer => answer.status)"""
        refused: list[dict[str, Any]] = [{"quarantine": {"where": {"PN": "x"}}}, {"release": {"name": "x"}}]
        for command in (*refused, {"quarantines": {}}):
            assert page.evaluate(ask, command) == 403
        assert page.evaluate(ask, {"report": {}}) == 400
        watched.errors.clear()  # the browser's words for these answers
    assert lookup(server.address, 1) == [digits(1)]


def test_quarantine_and_release(server: ServerProcess) -> None:
    with browsing() as context, watching(context, http_of(server.address)) as watched:
        page = watched.page
        log_in(watched)
        page.click("nav a[href='#quarantine']")
        preview(watched, "zlib")
        assert page.locator("#quarantine-count").inner_text() == "2 rows, 2 mappings, 2 outhashes"
        assert page.locator("#quarantine-rows tbody tr").count() == 2
        picture(page, "quarantine")
        assert watched.barriers() == []
        page.fill("#quarantine-reason", "broken compiler")
        page.click("#quarantine-begin")
        watched.until("document.getElementById('quarantine-list').textContent.includes('broken compiler')")
        assert aside(lookup, server.address, 1, 2, 3) == [None, None, digits(3)]
        page.click("#quarantine-list button")
        watched.until("document.getElementById('quarantine-done').textContent.includes('2 mappings are back')")
        assert aside(lookup, server.address, 1, 2, 3) == [digits(1), digits(2), digits(3)]


def test_removal_and_undo(server: ServerProcess, tmp_path: Path) -> None:
    with browsing(accept_downloads=True) as context, watching(context, http_of(server.address)) as watched:
        page = watched.page
        log_in(watched)
        page.click("nav a[href='#quarantine']")
        preview(watched, "zlib")
        page.click("#quarantine-discard")
        watched.until("document.getElementById('quarantine-done').textContent.includes('2 rows and 2 mappings')")
        assert aside(lookup, server.address, 1, 2, 3) == [None, None, digits(3)]
        with page.expect_download() as download:
            page.click("#quarantine-undo a")
        path = tmp_path / "undo.jsonl"
        download.value.save_as(path)
        assert "libz.so" in path.read_text()
        page.set_input_files("#quarantine-file", path)
        watched.until("document.getElementById('quarantine-done').textContent.includes('2 mappings are back')")
        assert aside(lookup, server.address, 1, 2, 3) == [digits(1), digits(2), digits(3)]

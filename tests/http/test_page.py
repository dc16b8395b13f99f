"""The page in a real browser: it loads, follows what happens, shows nothing to strangers, and bars nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

from shardhash.client import create_client
from tests.http.browser import browsing, watching
from tests.http.conftest import get, http_of, server_with_http
from tests.servers import IN_MEMORY, ServerProcess

pytestmark = pytest.mark.once

METHOD = "oe.sstatesig.OEOuthashBasic"
HOSTILE = "<img src=x onerror=alert(1)>'\";</script>"
SCREENSHOTS = os.environ.get("SHARDHASH_SCREENSHOTS")
"""A folder for pictures of the page, for people."""
T = TypeVar("T")
SECRET = {"SHARDHASH_ADMIN_USER": "admin", "SHARDHASH_ADMIN_PASSWORD": "pass word"}


def digits(number: int) -> str:
    return f"{number:064x}"


def ask(address: str, first: int, count: int) -> None:
    """Report some tasks, the second half with outhashes of the first, and look all of them up, and as many more."""
    with create_client(address) as client:
        for number in range(first, first + count):
            outhash = first + (number - first) % max(1, count // 2)
            client.report_unihash(digits(number), METHOD, digits(10**6 + outhash), digits(number), {"PN": "zlib"})
        client.get_unihash_batch([(METHOD, digits(number)) for number in range(first, first + 2 * count)])


def aside(work: Callable[..., T], *arguments: Any) -> T:
    """Do it in another thread: Playwright runs an event loop in this one, which our blocking client refuses."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work, *arguments).result()


def picture(page: Any, name: str) -> None:
    if SCREENSHOTS:
        page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png", full_page=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    data = str(tmp_path_factory.mktemp("page") / "data")
    with server_with_http("--data", data, "--workers", "2") as server:
        yield server


@pytest.mark.parametrize("place", [0, 1])
def test_it_loads_and_follows_what_happens(server: ServerProcess, place: int) -> None:
    url = http_of(server.addresses[place])
    first = 1000 * (place + 1)
    with browsing() as context, watching(context, url) as watched:
        page = watched.page
        page.wait_for_selector("#well.good")
        before = int(page.locator("#totals dd").nth(2).inner_text().replace(",", ""))
        aside(ask, server.addresses[0], first, 20)
        watched.until(f"+document.querySelectorAll('#totals dd')[2].textContent.replace(/,/g, '') >= {before + 20}")
        watched.until("+document.querySelectorAll('#plots figure').length === 6")
        watched.until("document.querySelector('#plots .plot').getAttribute('aria-label').includes('at most')")
        assert page.locator("#plots canvas").count() == 6
        assert "127.0.0.1" in page.locator("#builds tbody").inner_text()
        assert page.locator("#shards tbody tr").count() == 2


TOTALS = "[...document.querySelectorAll('#totals dd')].map((one) => one.textContent)"
PLOTS = "[...document.querySelectorAll('#plots canvas')].map((one) => one.toDataURL())"
LABELS = "[...document.querySelectorAll('#plots .plot')].map((one) => one.getAttribute('aria-label'))"


def test_plots_and_numbers_move_while_a_load_runs(server: ServerProcess) -> None:
    """Builders ask and report as fast as they can; the page shows it while they do, and not only in the end."""
    command = [sys.executable, "-m", "shardhash", "client", "--address", server.addresses[0], "--json", "stress",
               "--clients", "4", "--requests", "1000000", "--report"]  # fmt: skip
    with browsing() as context, watching(context, server.addresses[1]) as watched:
        page = watched.page
        page.wait_for_selector("#well.good")
        page.wait_for_selector("#plots canvas")
        load = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            seen: list[tuple[list[str], list[str], list[str]]] = []
            for _ in range(3):
                lookups_before = page.evaluate(TOTALS)[0]
                watched.until(f"{TOTALS}[0] !== {json.dumps(lookups_before)}")
                page.wait_for_timeout(1500)  # a sample a second
                seen.append((page.evaluate(TOTALS), page.evaluate(PLOTS), page.evaluate(LABELS)))
            assert load.poll() is None, "it still runs"
            connected = page.locator("#connected, #builds").first.inner_text()
        finally:
            load.kill()
            load.wait()
    lookups = [int(totals[0].replace(",", "")) for totals, _, _ in seen]
    assert lookups[0] < lookups[1] < lookups[2]
    assert len({tuple(plots) for _, plots, _ in seen}) == 3, "the plots move"
    assert all("at most" in label for label in seen[-1][2])
    assert "127.0.0.1" in connected


@pytest.mark.parametrize(
    ("name", "scheme", "width"), [("light", "light", 1280), ("dark", "dark", 1280), ("phone", "light", 390)]
)
def test_it_bars_nobody(server: ServerProcess, name: str, scheme: Any, width: int) -> None:
    ask(server.addresses[0], 5000 + width, 6)
    size: Any = {"width": width, "height": 844}
    with (
        create_client(server.address),
        browsing(color_scheme=scheme, viewport=size) as context,
        watching(context, server.addresses[1]) as watched,
    ):
        watched.page.wait_for_selector("#well.good")
        watched.page.wait_for_selector("#plots canvas")
        picture(watched.page, f"now-{name}")
        assert watched.barriers() == []
        assert watched.overflow() == 0


def test_it_can_be_used_by_keyboard(server: ServerProcess) -> None:
    with browsing() as context, watching(context, server.addresses[1]) as watched:
        page = watched.page
        page.wait_for_selector("#well.good")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        page.locator("#login-open").focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("#login[open]")
        assert page.evaluate("document.activeElement.name") == "username"
        assert watched.barriers() == []
        page.keyboard.press("Escape")
        assert page.locator("#login[open]").count() == 0


def test_strangers_see_nothing_and_users_log_in() -> None:
    with ServerProcess(*IN_MEMORY, binds=["ws://127.0.0.1:0,anon=@none"], environment=SECRET) as server:
        url = http_of(server.address)
        for path in ("/api/status", "/api/history", "/api/events"):
            assert get(url + path).status == 403
        with browsing() as context, watching(context, url) as watched:
            page = watched.page
            watched.until("document.getElementById('trouble').textContent.includes('@read')")
            assert page.locator("#plots canvas").count() == 0
            page.click("#login-open")
            page.fill("#login-form input[name=username]", "admin")
            page.fill("#login-form input[name=token]", "wrong")
            page.click("#login-form button[type=submit]")
            watched.until("document.getElementById('login-trouble').textContent.includes('Unable to auth')")
            assert watched.errors == [
                "Failed to load resource: the server responded with a status of 401 (Unauthorized)"
            ]
            watched.errors.clear()
            page.fill("#login-form input[name=token]", "pass word")
            page.click("#login-form button[type=submit]")
            page.wait_for_selector("#well.good")
            assert page.locator("#who").inner_text() == "admin"
            (cookie,) = context.cookies()
            assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
            assert page.evaluate("document.cookie") == ""
            page.click("#login-open")
            watched.until("document.getElementById('trouble').textContent.includes('@read')")
            assert context.cookies() == []


def test_a_user_who_is_deleted_is_logged_out() -> None:
    with (
        ServerProcess(*IN_MEMORY, binds=["ws://127.0.0.1:0,anon=@none"], environment=SECRET) as server,
        create_client(server.address, "admin", "pass word") as client,
        browsing() as context,
    ):
        token = aside(client.new_user, "reader", ["@read"])["token"]
        page = context.new_page()
        page.goto(http_of(server.address) + "/")
        page.click("#login-open")
        page.fill("#login-form input[name=username]", "reader")
        page.fill("#login-form input[name=token]", token)
        page.click("#login-form button[type=submit]")
        page.wait_for_selector("#well.good")
        assert page.evaluate("fetch('api/status').then(answer => answer.status)") == 200
        aside(client.delete_user, "reader")
        assert page.evaluate("fetch('api/status').then(answer => answer.status)") == 403


def test_no_page_of_another_site_gets_in(server: ServerProcess) -> None:
    """Neither to read, nor to be read in a frame, nor to send a form."""
    page = get(server.addresses[1] + "/")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "Access-Control-Allow-Origin" not in page.headers
    assert get(server.addresses[1] + "/api/status", Origin="https://evil.example.com").status == 403
    assert get(server.addresses[1] + "/", Host="evil.example.com").status == 403

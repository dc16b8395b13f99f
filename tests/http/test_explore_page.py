"""The exploring views in a real browser, with siginfo as oe-core writes it, and with texts that mean harm."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from shardhash.client import create_client
from tests.client.test_exploring import siginfo
from tests.http.browser import browsing, watching
from tests.http.conftest import server_with_http
from tests.http.test_page import HOSTILE, METHOD, aside, digits, picture
from tests.servers import IN_MEMORY, ServerProcess

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """Three tasks of zlib, the third with two outputs; one whose texts are markup and script."""
    with server_with_http(*IN_MEMORY) as server:
        with create_client(server.address) as client:
            for number, outhash in ((1, 101), (2, 101), (3, 103), (3, 104)):
                extra = {"PN": "zlib", "task": "do_compile", "owner": "builder",
                         "outhash_siginfo": siginfo("compile", built=outhash)}  # fmt: skip
                client.report_unihash(digits(number), METHOD, digits(outhash), digits(number), extra)
            for outhash in (105, 106):
                hostile = {"PN": HOSTILE, "task": HOSTILE, "owner": HOSTILE, "outhash_siginfo": f"{HOSTILE}\n{outhash}"}
                client.report_unihash(digits(5), METHOD, digits(outhash), digits(5), hostile)
        yield server


def look_up(address: str) -> None:
    with create_client(address) as client:
        client.get_unihash(METHOD, digits(2))


def test_search_compare_and_why(server: ServerProcess) -> None:
    with browsing() as context, watching(context, server.addresses[1]) as watched:
        page = watched.page
        page.wait_for_selector("#well.good")
        page.click("nav a[href='#explore']")
        page.fill("#explore-form input[name=PN]", "zl*")
        page.click("#explore-form button")
        watched.until("document.querySelectorAll('#explore-rows tbody tr').length === 4")
        assert page.locator("#explore-count").inner_text() == "4 rows"
        picture(page, "explore")
        assert watched.barriers() == []
        page.check(f"input[aria-label='compare {digits(3)} {digits(103)}']")
        page.check(f"input[aria-label='compare {digits(3)} {digits(104)}']")
        page.click("#explore-compare")
        watched.until("document.getElementById('compare-count').textContent.includes('differ')")
        assert page.locator("#compare-count").inner_text() == "1 of 10 lines differ"
        assert page.locator("#compare-lines td.only").count() == 2
        assert "libz.so.1.3" in page.locator("#compare-lines td.only").first.inner_text()
        assert "equal lines" in page.locator("#compare-lines").inner_text()
        picture(page, "compare")
        assert watched.barriers() == []
        page.check("#compare-all")
        assert page.locator("#compare-lines tbody tr").count() == 10
        page.goto(f"{server.addresses[1]}/#why/{METHOD}/{digits(2)}")
        watched.until("document.getElementById('why-findings').textContent.includes('reused as')")
        assert page.locator("#why-rows tbody tr").count() == 1
        assert digits(1)[:16] in page.locator("#why-sharers").inner_text()
        assert "Nobody asked for it since it came here" in page.locator("#why-findings").inner_text()
        aside(look_up, server.address)
        page.reload()
        watched.until("document.getElementById('why-findings').textContent.includes('last asked for on 20')")
        assert re.search(r"20\d\d-\d\d-\d\d$", page.locator("#why-rows tbody tr td:nth-child(8)").inner_text())
        picture(page, "why")
        assert watched.barriers() == []
        assert watched.overflow() == 0


def test_diverging_and_saved(server: ServerProcess) -> None:
    with browsing(viewport={"width": 390, "height": 844}) as context, watching(context, server.addresses[1]) as watched:
        page = watched.page
        page.wait_for_selector("#well.good")
        page.click("nav a[href='#diverging']")
        watched.until("document.querySelectorAll('#diverging-tasks tbody tr').length === 2")
        picture(page, "diverging-phone")
        assert watched.barriers() == []
        assert watched.overflow() == 0
        page.click(f"a[aria-label='compare the outputs of {digits(3)}']")
        watched.until("document.getElementById('compare-count').textContent.includes('differ')")
        assert watched.overflow() == 0
        page.click("nav a[href='#saved']")
        watched.until("document.getElementById('saved-count').textContent.includes('1 tasks in a year')")
        assert "zlib" in page.locator("#saved-rows").inner_text()
        assert watched.barriers() == []


def test_texts_of_clients_are_texts(server: ServerProcess) -> None:
    with browsing() as context, watching(context, server.addresses[1]) as watched:
        page = watched.page
        page.on("dialog", lambda dialog: watched.errors.append(dialog.message))
        page.wait_for_selector("#well.good")
        page.click("nav a[href='#diverging']")
        watched.until("document.querySelectorAll('#diverging-tasks tbody tr').length === 2")
        assert HOSTILE in page.locator("#diverging-tasks").inner_text()
        page.click(f"a[aria-label='compare the outputs of {digits(5)}']")
        watched.until("document.getElementById('compare-count').textContent.includes('differ')")
        assert HOSTILE in page.locator("#compare-lines").inner_text()
        page.goto(f"{server.addresses[1]}/#why/{METHOD}/{digits(5)}")
        watched.until("document.querySelectorAll('#why-rows tbody tr').length === 2")
        assert HOSTILE in page.locator("#why-rows").inner_text()
        page.goto(f"{server.addresses[1]}/#why/%3Cimg%20src=x%3E/%3Cscript%3E")
        watched.until("document.getElementById('why-findings').textContent.includes('not known here')")
        assert page.locator("main img").count() == 0

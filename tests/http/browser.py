"""A real Chromium without a window, watched: what it logs, what it asks for, and whether axe finds barriers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import pytest

try:
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import Error as PageError
    from playwright.sync_api import sync_playwright
except ImportError:
    Axe = sync_playwright = None
    PageError = Exception

LIMIT = 30.0
"""Seconds that anything may take."""
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Watched:
    """A page, and all that went wrong on it. `expected`: statuses of answers that the test wants."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.url = url
        self.errors: list[str] = []
        self.foreign: list[str] = []
        page.on("console", self._take_log)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._take_request)

    def _take_log(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def _take_request(self, request: Any) -> None:
        if urlsplit(request.url).netloc != urlsplit(self.url).netloc:
            self.foreign.append(request.url)

    def until(self, expression: str) -> None:
        """Wait until a JavaScript expression is true. Playwright's own waiting would need eval, which the page bars."""
        give_up = monotonic() + LIMIT
        while not self._holds(expression):
            assert monotonic() < give_up, f"it never became true: {expression}"
            self.page.wait_for_timeout(50)

    def _holds(self, expression: str) -> bool:
        try:
            return bool(self.page.evaluate(expression))
        except PageError as error:
            if "context was destroyed" in str(error):  # the page was left for another, or loaded again
                return False
            raise

    def barriers(self) -> list[str]:
        """What axe-core finds, a line each."""
        found = Axe().run(self.page).response["violations"]
        return [f"{one['id']}: {node['target']} {node['failureSummary']}" for one in found for node in one["nodes"]]

    def overflow(self) -> int:
        """Pixels by which the page is wider than its window."""
        width: int = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        return width


@contextmanager
def browsing(**options: Any) -> Iterator[Any]:
    """A context of a browser: `width`, `scheme` and what else Playwright takes. Skips, with the reason, without one."""
    if sync_playwright is None:
        pytest.skip("playwright is not installed (pip install '.[test]')")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            context = browser.new_context(**options)
            context.set_default_timeout(LIMIT * 1000)
            yield context
        finally:
            browser.close()


@contextmanager
def watching(context: Any, url: str) -> Iterator[Watched]:
    """A page at a URL; at the end nothing may have gone wrong on it."""
    page = context.new_page()
    watched = Watched(page, url)
    page.goto(url + "/")
    yield watched
    page.close()
    assert watched.errors == []
    assert watched.foreign == []

"""Users on the page, in a real browser."""

from __future__ import annotations

import pytest

from shardhash.client import create_client
from tests.http.browser import browsing, watching
from tests.http.conftest import http_of
from tests.http.test_page import SECRET, aside
from tests.http.test_quarantine_page import log_in
from tests.servers import IN_MEMORY, ServerProcess

pytestmark = pytest.mark.once


def may_log_in(address: str, token: str) -> list[str]:
    """The permissions of the user that a token is for."""
    with create_client(address, "builder", token) as client:
        user = client.get_user()
        assert user is not None
        return list(user["permissions"])


def test_users_are_made_changed_and_deleted() -> None:
    with (
        ServerProcess(*IN_MEMORY, binds=["ws://127.0.0.1:0,anon=@read"], environment=SECRET) as server,
        browsing() as context,
        watching(context, http_of(server.address)) as watched,
    ):
        page = watched.page
        page.wait_for_selector("#well.good")
        page.click("nav a[href='#users']")
        watched.until("document.getElementById('users-rights').textContent.includes('@user-admin')")
        log_in(watched)
        watched.until("document.getElementById('users-list').textContent.includes('admin')")
        page.fill("#users-form input[name=username]", "builder")
        page.check("#users-form input[name='@report']")
        page.click("#users-form button")
        watched.until("document.querySelector('#users-done code') !== null")
        token = page.locator("#users-done code").inner_text()
        assert watched.barriers() == []
        row = "#users-list tr:has(button[aria-label='New token of builder'])"
        assert page.locator(row).inner_text().count("never") == 2
        assert aside(may_log_in, server.address, token) == ["@read", "@report"]
        page.fill("#users-form input[name=username]", "builder")
        page.click("#users-form button")
        watched.until("document.getElementById('users-done').textContent === 'builder holds @read now'")
        page.click("button[aria-label='New token of builder']")
        watched.until("document.querySelector('#users-done code') !== null")
        assert aside(may_log_in, server.address, page.locator("#users-done code").inner_text()) == ["@read"]
        page.fill("#users-form input[name=username]", "guest")
        page.fill("#users-form input[name=days]", "7")
        page.click("#users-form button")
        guest = page.locator("#users-list tr:has(button[aria-label='New token of guest'])")
        watched.until("document.getElementById('users-list').textContent.includes('guest')")
        assert guest.inner_text().count("never") == 1, "it expires, and was not used"
        assert page.locator(row).inner_text().count("never") == 1, "it never expires, and was used"
        page.once("dialog", lambda dialog: dialog.accept())
        page.click("button[aria-label='Delete of builder']")
        watched.until("!document.getElementById('users-list').textContent.includes('builder')")

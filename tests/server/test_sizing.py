"""How many processes a server has by default: as its cores are, and one coordinator where several are noticed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shardhash.coordinator.limits import ServerLimits
from shardhash.server import sizing
from shardhash.server.cli import read_settings
from shardhash.server.settings import Settings

NO_BINDS = "-b :1 -b unix://./socket -b tls://:2 --tls-cert c"


def settings_on(cores: int, line: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(sizing, "usable_cores", lambda: cores)
    return read_settings(line.split(), {})


@pytest.mark.parametrize(
    "line",
    [
        "--memory",
        "--data d",
        f"--data d {NO_BINDS}",
        "--limit connections=20000 --limit message=1M --max-message 2M",
        "--admin-user a --admin-password p --sync interval --trust-proxy unix",
    ],
)
def test_several_where_nobody_notices(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings_on(32, line, monkeypatch)
    assert (found.coordinators, found.workers) == (11, 21)
    assert not any("one coordinator" in notice for notice in found.notices)
    assert (few := settings_on(4, line, monkeypatch)).coordinators == 1
    assert few.workers == 3


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--upstream h:1", "--upstream"),
        ("-b :1 -b ws://:2", "--coordinators"),
        ("-b wss://:2 --tls-cert c --http :2", "--coordinators"),
        ("--public", "--public"),
        ("--public --limit message=1M", "--public"),
        ("--limit user_rows=5", "user_rows"),
        ("--limit message=1M --limit peer_requests=5", "peer_requests"),
    ],
)
def test_one_where_several_would_be_noticed(line: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the log says so, but not where there are cores for one alone."""
    found = settings_on(32, line, monkeypatch)
    assert (found.coordinators, found.workers) == (1, 31)
    (notice,) = [one for one in found.notices if "one coordinator" in one]
    assert notice.startswith("one coordinator, though there are 32 cores: ")
    assert words in notice
    assert not any("one coordinator" in one for one in settings_on(4, line, monkeypatch).notices)


def test_a_wish_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings_on(32, "--public -b ws://:1 --coordinators 3 --workers 7", monkeypatch)
    assert (found.coordinators, found.workers, found.notices) == (3, 7, ())
    assert settings_on(2, "--coordinators 3", monkeypatch).workers == 1


def test_a_database_has_one_coordinator_and_no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings_on(32, "--store postgresql://h/d", monkeypatch)
    assert (found.coordinators, found.workers) == (1, 0)


def test_coordinators_share_limits_but_for_the_defaults_of_one_client() -> None:
    limits = ServerLimits()
    shared = limits.share(4)
    assert (shared.connections, shared.memory) == (limits.connections // 4, limits.memory // 4)
    assert (shared.peer_rows, shared.user_logins) == (limits.peer_rows, limits.user_logins)
    given = replace(limits, peer_rows=80, user_logins=2).share(4)
    assert (given.peer_rows, given.user_logins, given.peer_logins) == (20, 1, limits.peer_logins)

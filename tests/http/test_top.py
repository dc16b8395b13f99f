"""`shardhash top` against a real server."""

from __future__ import annotations

import subprocess

from shardhash.client import create_client
from shardhash.client.top import sparkline
from tests.http.conftest import server_with_http
from tests.http.test_page import SECRET
from tests.servers import IN_MEMORY, ServerProcess


def top(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["python", "-m", "shardhash", "top", *arguments]
    if environment:
        command = ["env", *(f"{name}={value}" for name, value in environment.items()), *command]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def test_at_a_glance() -> None:
    with server_with_http(*IN_MEMORY) as server:
        with create_client(server.address) as client:
            client.report_unihash("a" * 64, "m", "b" * 64, "c" * 64)
        for address in server.addresses:
            done = top("--once", "--address", address)
            assert done.returncode == 0, done.stderr
            assert "all is well" in done.stdout
            assert "1 mappings, 1 outhash rows" in done.stdout
            assert "lookups a second" in done.stdout
            assert "127.0.0.1" in done.stdout


def test_it_goes_on() -> None:
    with server_with_http(*IN_MEMORY) as server:
        command = ["python", "-m", "shardhash", "top", "--address", server.addresses[1], "--interval", "0.1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
            assert watching.stdout is not None
            while "not stored" not in watching.stdout.readline():
                pass
            while "not stored" not in watching.stdout.readline():
                pass
            watching.terminate()


def test_refusals_are_told_in_words() -> None:
    with ServerProcess(*IN_MEMORY, binds=["ws://127.0.0.1:0,anon=@none"], environment=SECRET) as server:
        refused = top("--once", "--address", server.address)
        assert refused.returncode == 1
        assert "@read" in refused.stderr
        wrong = top("--once", "--address", server.address, "--login", "admin", SHARDHASH_PASSWORD="wrong")
        assert "Unable to authenticate" in wrong.stderr
        done = top("--once", "--address", server.address, "--login", "admin", SHARDHASH_PASSWORD="pass word")
        assert done.returncode == 0, done.stderr
    gone = top("--once", "--address", server.address)
    assert gone.returncode == 1
    assert "cannot be reached" in gone.stderr
    assert "http://" in top("--once", "--address", "127.0.0.1:1").stderr


def test_a_sparkline_has_a_bar_a_value() -> None:
    assert sparkline([0, None, 4, 8], 10) == "▁ ▄█"
    assert sparkline([1, 2, 3], 2) == "▅█"
    assert sparkline([], 5) == ""

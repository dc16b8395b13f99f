"""SIGHUP on a real server: what it takes over, what it leaves, and what it says."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from shardhash.client import InvokeError, create_client
from shardhash.client.blocking import Client
from tests.servers import ServerProcess

DIGEST = "1" * 64


@pytest.fixture
def reloaded(
    start_server: Callable[..., ServerProcess], tmp_path: Path
) -> Callable[..., tuple[ServerProcess, Callable[[str], str]]]:
    """Starts a server with a file of settings; gives it, and a function that changes the file and tells the log."""

    def start(toml: str, *arguments: str, **options: object) -> tuple[ServerProcess, Callable[[str], str]]:
        path = tmp_path / "shardhash.toml"
        path.write_text(toml)
        server = start_server("--memory", "--workers", "1", "--config", str(path), *arguments, **options)

        def change(text: str) -> str:
            path.write_text(text)
            server.log.read()
            server.process.send_signal(signal.SIGHUP)
            return server.log.wait_for("the settings are read again", "the settings cannot be read again")

        return server, change

    return start


def report(client: Client, digest: str = DIGEST) -> None:
    assert client.report_unihash(digest, "m", digest, digest)["unihash"] == digest


def test_permissions_of_open_connections_change_at_once(reloaded: Callable) -> None:
    server, change = reloaded("")
    with create_client(server.address) as client:
        report(client)
        assert client.remove({"taskhash": DIGEST})["count"]
        log = change('anon-perms = "@read @report"')
        assert "anon-perms is now @read @report" in log
        report(client)
        with pytest.raises(InvokeError, match="Anonymous user is not allowed to access permissions\\(s\\) @db-admin"):
            client.remove({"taskhash": DIGEST})
    with create_client(server.address) as client:
        change('anon-perms = "@read @report @db-admin"')
        assert client.remove({"taskhash": DIGEST})["count"]


def test_an_address_becomes_read_only_and_back(reloaded: Callable) -> None:
    server, change = reloaded("read-only = false")
    with create_client(server.address) as client:
        assert client.get_unihash("m", DIGEST) is None
        log = change("read-only = true")
        assert "read-only is now True" in log
        client.report_unihash(DIGEST, "m", DIGEST, DIGEST)  # answered, and not stored
        assert client.get_unihash("m", DIGEST) is None
    change("read-only = false")
    with create_client(server.address) as client:
        report(client)
        assert client.get_unihash("m", DIGEST) == DIGEST


def test_rules_of_one_address_change_and_not_those_of_another(reloaded: Callable, tmp_path: Path) -> None:
    one, other = f"unix://{tmp_path}/one.sock", f"ws://127.0.0.1:{_free_port()}"
    _, change = reloaded(f'bind = ["{one}", "{other}"]', binds=[], listening=2)
    log = change(f'bind = ["{one},read-only,anon=@read", "{other}"]')
    assert "bind is now" in log
    with create_client(one) as client, create_client(other) as writer:
        report(writer)
        assert client.get_unihash("m", DIGEST) == DIGEST
        client.report_unihash("2" * 64, "m", "2" * 64, "2" * 64)
        assert client.get_unihash("m", "2" * 64) is None


def test_what_takes_a_new_start_is_said_each_time(reloaded: Callable, tmp_path: Path) -> None:
    one, other = f"unix://{tmp_path}/one.sock", f"unix://{tmp_path}/other.sock"
    _, change = reloaded(f'bind = "{one}"', binds=[], listening=1)
    for _ in range(2):
        log = change(f'bind = "{other}"\nshard-timeout = "5s"\nlog = "DEBUG"\nmax-message = "1M"')
        assert f"WARNING shardhash.server.reload: {other} is not listened on until the server is started again" in log
        assert f"{one} is still listened on until the server is started again" in log
        assert "shard-timeout changed, but stays 30s until the server is started again" in log
    with create_client(one) as client:
        assert client.ping() == {"alive": True}
    log = change(f'bind = "{one}"')
    assert "log is now INFO" in log
    assert "until the server" not in log


def test_the_log_level_changes(reloaded: Callable) -> None:
    _, change = reloaded('log = "ERROR"')
    assert "INFO shardhash.server.reload: log is now INFO" in change('log = "INFO"')


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("blind = ':1'", "blind is not a setting; did you mean bind?"),
        ("anon-perms = '@all'", "anonymous users cannot be given @all"),
        ("anon-perms = ", "this is no TOML"),
        ("read-only = true\nupstream = 'h:1'", "an upstream and read-only do not go together"),
    ],
)
def test_wrong_settings_change_nothing(toml: str, words: str, reloaded: Callable) -> None:
    server, change = reloaded("")
    log = change(toml)
    assert "stay as they were" in log
    assert words in log
    with create_client(server.address) as client:
        report(client)
        assert client.remove({"taskhash": DIGEST})["count"]


def test_a_flag_stays(reloaded: Callable) -> None:
    server, change = reloaded('anon-perms = "@read"', "--anon-perms", "@read @report")
    change('anon-perms = "@none"')
    with create_client(server.address) as client:
        report(client)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

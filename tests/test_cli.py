"""The command line, as a process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from shardhash import __version__, cli
from shardhash.client import InvokeError, create_client
from shardhash.server.option_table import TABLE
from tests.servers import IN_MEMORY, ROOT, ServerProcess

ADMIN = ("--admin-user", "admin")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shardhash", *arguments],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETRC", "/nowhere")


def test_help_names_each_command_and_each_has_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for command in cli.PROGRAMS:
        assert f"  {command} " in shown
        assert cli.main(["--version"]) == 0
        with pytest.raises(SystemExit) as exit_:
            cli.main([command, "--help"])
        assert exit_.value.code == 0
        assert f"usage: shardhash {command}" in capsys.readouterr().out


def test_help_shows_every_option_of_serve_with_its_variables(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["serve", "--help"])
    shown = " ".join(capsys.readouterr().out.split("examples:")[0].split())
    for option in (one for group in TABLE.values() for one in group):
        assert f" {option.flag}" in shown
        assert all(variable in shown for variable in option.variables)


@pytest.mark.parametrize("arguments", [(), ("dance",), ("serve", "--dance"), ("serve", "--workers", "no")])
def test_wrong_calls_end_with_2(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert "usage: shardhash" in result.stderr
    assert not result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("srve",), "there is no command 'srve'; did you mean serve?"),
        (("--bind", ":8686"), "serve is missing: shardhash serve --bind ..."),
        (("--address=x", "ping"), "client is missing: shardhash client --address ..."),
        (("ping",), "ping is a command of the client: shardhash client ping ..."),
        (("--dance",), "a command is missing before --dance"),
        (("serve", "--date", "x"), "there is no option --date; did you mean --data?"),
        (("serve", "--bnid", ":1"), "there is no option --bnid; did you mean --bind?"),
        (("top", "-p", "x"), "--password without --login: say whose it is"),
        (("backup", "--dta", "x"), "there is no option --dta; did you mean --data?"),
    ],
)
def test_what_is_wrong_is_named(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = cli.main(arguments)
    except SystemExit as error:
        status = int(str(error.code))
    assert status == 2
    assert message in capsys.readouterr().err


def test_version() -> None:
    assert run("--version").stdout == f"shardhash {__version__}\n"


def test_help_imports_little() -> None:
    """What takes a quarter of a second to import is not needed to say how the program is called."""
    code = (
        "import sys\nfrom shardhash import cli\ntry: cli.main(['serve', '--help'])\nexcept SystemExit: pass\n"
        "sys.exit(','.join({'numpy', 'aiohttp', 'uvloop', 'asyncio'} & set(sys.modules)))"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert not result.stderr.strip()


def test_addresses_from_the_environment(start_server: Callable[..., ServerProcess], tmp_path: Path) -> None:
    variables = {"HASHSERVER_BIND": f"unix://{tmp_path}/a.sock", "HASHSERVER_READ_ONLY": "1"}
    server = start_server(*IN_MEMORY, binds=[], environment=variables, listening=1)
    with create_client(f"unix://{tmp_path}/a.sock") as client:
        assert client.ping() == {"alive": True}
        with pytest.raises(ConnectionError):  # the reference does not know it on a read-only server either
            client.reset_stats()
    assert server.stop() == 0


@pytest.mark.parametrize("how", ["flag", "flag=", "file", "SHARDHASH_ADMIN_PASSWORD", "HASHSERVER_ADMIN_PASSWORD"])
def test_the_password_is_not_shown_to_others(
    how: str, start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    secret = "correct-horse"
    (tmp_path / "password").write_text(secret + "\n")
    arguments = {
        "flag": ("--admin-password", secret),
        "flag=": (f"--admin-password={secret}",),
        "file": ("--admin-password-file", str(tmp_path / "password")),
    }.get(how, ())
    variables = {how: secret} if how.endswith("PASSWORD") else {}
    server = start_server(*IN_MEMORY, *ADMIN, *arguments, environment=variables)
    with create_client(server.address, "admin", secret) as client:
        assert client.get_user() == {
            "username": "admin",
            "permissions": ["@all", "@db-admin", "@read", "@report", "@user-admin"],
        }
    processes = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
    assert len(processes) == 3
    for process in processes:
        assert secret not in " ".join(process.cmdline())
    for worker in processes[1:]:
        assert secret not in worker.environ().values()
    with pytest.raises(InvokeError, match="Unable to authenticate as admin"):
        create_client(server.address, "admin", "wrong")


def test_listeners_have_rules_of_their_own(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(*IN_MEMORY, binds=["127.0.0.1:0", "ws://127.0.0.1:0,read-only", "127.0.0.1:0,anon=@read"])
    digest, other = "1" * 64, "2" * 64
    with create_client(server.addresses[0]) as client:
        assert client.report_unihash(digest, "m", digest, digest)["unihash"] == digest
    for address in server.addresses[1:]:
        with create_client(address) as client:
            assert client.get_unihash("m", digest) == digest
            assert client.report_unihash(other, "m", other, other)["unihash"] == other
            assert client.get_unihash("m", other) is None
    with (
        create_client(server.addresses[2]) as client,
        pytest.raises(InvokeError, match="Anonymous user is not allowed"),
    ):
        client.remove({"method": "m"})


def test_a_warning_when_strangers_may_delete() -> None:
    """192.0.2.1 is nobody's address (RFC 5737), so the warning comes, and then the server ends."""
    result = run("serve", "--memory", "--workers", "1", "--bind", "192.0.2.1:0,anon=@read+@report+@db-admin")
    assert result.returncode == 1
    assert re.search(r"WARNING .*ANYONE who reaches 192\.0\.2\.1:0 may DELETE", result.stderr)
    assert "cannot listen on 192.0.2.1:0" in result.stderr


def test_cannot_listen(tmp_path: Path) -> None:
    result = run("serve", "--memory", "--workers", "1", "--bind", f"unix://{tmp_path}/missing/a.sock")
    assert result.returncode == 1
    assert "cannot listen on unix://" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", [("config",), ("completion", "bash")])
def test_a_reader_that_leaves_ends_a_command_without_a_traceback(command: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as nobody_reads:
        ended = subprocess.run(
            [sys.executable, "-m", "shardhash", *command],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
            stdout=nobody_reads,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.stderr == ""
    assert ended.returncode == 1


def test_why_says_what_to_give_instead_of_method_and_taskhash() -> None:
    with ServerProcess(*IN_MEMORY) as server:
        refused = run("client", "--address", server.address, "why", "method", "a" * 64)
    assert refused.returncode == 1
    assert "method is not a file" in refused.stderr
    assert "--method" in refused.stderr

"""``shardhash client`` against real servers, and what its input may be."""

from __future__ import annotations

import asyncio
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from shardhash import cli
from shardhash.client import create_client
from shardhash.client.cli import COMMANDS
from shardhash.client.conditions import read_conditions
from shardhash.client.progress import Progress
from tests.client.older_server import HangUpError, OlderServer
from tests.servers import IN_MEMORY, ROOT, ServerProcess

METHOD = "oe.sstatesig.OEOuthashBasic"
A, B, C, OUT = "a" * 64, "b" * 64, "c" * 64, "0" * 64
ADMIN = ("--admin-user", "admin", "--anon-perms", "@read @report @db-admin")


class Shell:
    """Calls the command line client in this process, and reads what it prints."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, address: str) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch
        self.options = ["--address", address]
        self.error = ""

    def __call__(self, *arguments: str, status: int | None = 0, stdin: bytes = b"") -> str:
        """Standard output, without the last newline."""
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        try:
            found = cli.main(["client", *self.options, *arguments])
        except SystemExit as error:
            found = int(str(error.code))
        output, self.error = self._capsys.readouterr()
        assert status in (found, None), f"{output}{self.error}"
        return output.removesuffix("\n")

    def json(self, *arguments: str, **others: Any) -> Any:
        """The answer that --json gives."""
        output = self("--json", *arguments, **others)
        assert "\n" not in output
        return json.loads(output)


@pytest.fixture
def server(start_server: Callable[..., ServerProcess]) -> ServerProcess:
    return start_server(*IN_MEMORY, *ADMIN, environment={"SHARDHASH_ADMIN_PASSWORD": "password"})


@pytest.fixture
def shell(server: ServerProcess, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    return Shell(capsys, monkeypatch, server.address)


def fill(shell: Shell) -> None:
    """Two mappings by way of the load, under their own method."""
    shell("stress", "--clients", "1", "--requests", "2", "--report")


def test_every_command_of_the_issue_is_there() -> None:
    names = (
        "get get-outhash stats remove clean-unused refresh-token set-user-perms get-user get-all-users new-user"
        " delete-user get-db-usage get-db-query-columns gc-status gc-mark gc-mark-stream gc-sweep unihash-exists ping"
        " stress find why diverging saved diff-outhash quarantine quarantines release discard undo list-users"
        " forwarding forward-refused drop-refused"
    )
    assert {command.name for command in COMMANDS} == set(names.split())


def test_hashes(shell: Shell) -> None:
    fill(shell)
    columns = shell("get-db-query-columns").split("\n")
    assert {"method", "taskhash", "unihash", "outhash"} <= set(columns)
    assert shell.json("get-db-query-columns") == columns
    assert shell("get", METHOD, A) == ""
    assert shell.json("get", METHOD, A) is None
    assert shell("get-outhash", METHOD, OUT, A) == ""
    assert shell("unihash-exists", A) == "false"
    assert shell.json("unihash-exists", A) is False
    assert shell("unihash-exists", "--quiet", A, status=1) == ""
    taskhash, outhash, unihash = stressed(0)
    row = json.loads(shell("get", "shardhash.stress", taskhash))
    assert (row["unihash"], row["outhash"], row["gc_mark"]) == (unihash, outhash, "")
    assert shell.json("get-outhash", "shardhash.stress", outhash, A)["unihash"] == unihash
    assert shell("unihash-exists", unihash) == "true"
    assert shell("unihash-exists", "--quiet", unihash) == ""


def stressed(number: int) -> list[str]:
    """The taskhash, outhash and unihash that the load reports."""
    from shardhash.client.stress import _hash

    return [_hash("shardhash", kind, number) for kind in ("taskhash", "outhash", "unihash")]


def test_a_mapping_without_a_row_is_shown(shell: Shell, server: ServerProcess) -> None:
    from shardhash.client import create_client

    with create_client(server.address) as client:
        client.report_unihash_equiv(A, METHOD, B)
    assert json.loads(shell("get", METHOD, A)) == {"method": METHOD, "taskhash": A, "unihash": B}


def test_administration(shell: Shell) -> None:
    fill(shell)
    assert shell("ping", "--count", "2").startswith("alive, ")
    assert shell("ping", "-n", "2", "-q") == ""
    assert shell.json("ping", "--count", "2").keys() == {"alive", "milliseconds"}
    assert json.loads(shell("stats", "--reset"))["requests"]["num"] > 0
    assert shell.json("stats")["requests"]["num"] < 5
    assert shell.json("get-db-usage")["unihashes_v3"] == {"rows": 2}
    assert ["unihashes_v3", "2"] in [line.split() for line in shell("get-db-usage").split("\n")]
    taskhash, outhash, unihash = stressed(0)
    assert shell("remove") == "no --where is given: nothing was removed"
    assert shell("remove", "--where", "taskhash", taskhash, "-w", "unihash", unihash) == "2 rows removed"
    assert shell.json("remove", "-w", "outhash", outhash, "--json") == {"count": 0}
    assert shell.json("clean-unused", "0") == {"count": 0}


def test_garbage_collection(shell: Shell) -> None:
    fill(shell)
    assert shell("gc-status") == "no garbage collection is in progress"
    assert shell.json("gc-status") == {"keep": 2, "remove": 0, "mark": None}
    (first, _, _), (_, _, second) = stressed(0), stressed(1)
    assert shell("gc-mark", "m1", "--where", "taskhash", first) == "1 hashes marked"
    assert shell.json("gc-status") == {"keep": 1, "remove": 1, "mark": "m1"}
    lines = f"unihash {second}\n\nmethod shardhash.stress taskhash {first}\ntaskhash {A}".encode()
    assert shell.json("gc-mark-stream", "m2", stdin=lines) == {"count": 2}
    assert "current mark:     m2\nhashes to keep:   2" in shell("gc-status")
    assert shell("gc-sweep", "m2") == "0 hashes removed"
    assert shell.json("gc-mark", "m3") == {"count": 0}
    assert "refused" not in shell.error
    shell("gc-sweep", "m2", status=1)
    assert "shardhash client: refused: " in shell.error
    assert shell.json("gc-sweep", "m3") == {"count": 2}


def test_an_empty_input_marks_nothing_and_starts_no_collection(shell: Shell) -> None:
    assert shell.json("gc-mark-stream", "m1", stdin=b"\n") == {"count": 0}
    assert shell.json("gc-status")["mark"] is None


@pytest.mark.parametrize("line", [b"unihash", b"unihash a method", b"unihash a unihash b", b"unihash \xff"])
def test_a_line_that_is_no_condition_is_skipped_and_told(line: bytes) -> None:
    told: list[str] = []
    rows = list(read_conditions([b"unihash a\n", line, b"\n", b"unihash b\n"], told.append))
    assert rows == [{"unihash": "a"}, {"unihash": "b"}]
    assert len(told) == 1
    assert "line 2 of the input" in told[0]


def test_an_odd_line_costs_no_other_its_mark(shell: Shell) -> None:
    fill(shell)
    stats = shell.json("gc-mark-stream", "m1", stdin=b"method shardhash.stress\nunihash\n")
    assert stats == {"count": 2}
    assert "skipped, and marks nothing: line 2 of the input" in shell.error


def test_users(shell: Shell) -> None:
    assert shell("get-all-users", status=1) == ""
    assert "Anonymous user is not allowed" in shell.error
    shell("get-user", status=1)
    shell.options += ["--login", "admin", "--password", "password"]
    created = shell.json("new-user", "--username", "builder", "@read", "@report")
    assert (created["username"], created["permissions"]) == ("builder", ["@read", "@report"])
    token = created["token"]
    assert shell("get-user", "-u", "builder") == "Username:    builder\nPermissions: @read @report"
    assert shell("get-user", "-u", "nobody", status=1) == ""
    assert [user["username"] for user in shell.json("get-all-users")] == ["admin", "builder"]
    assert "Username:    builder" in shell("get-all-users")
    assert shell.json("set-user-perms", "-u", "builder", "@read")["permissions"] == ["@read"]
    assert shell.json("--become", "builder", "get-user")["username"] == "builder"
    shell("--become", "builder", "get-all-users", status=1)
    fresh = shell("refresh-token", "-u", "builder").split()[-1]
    assert len(fresh) == 64
    shell.options = [*shell.options[:2], "-l", "builder", "-p", token]
    shell("get-user", status=1)
    assert "Unable to authenticate as builder" in shell.error
    shell.options[-1] = fresh
    assert shell.json("get-user")["username"] == "builder"
    assert shell.json("delete-user") == {"username": "builder"}
    shell.options = [*shell.options[:2], "-l", "admin", "-p", "password"]
    assert shell.json("get-user", "-u", "builder", status=1) is None


def test_tokens_that_end(shell: Shell) -> None:
    shell.options += ["--login", "admin", "--password", "password"]
    text = shell("new-user", "-u", "builder", "--expires", "90d", "@read")
    (token,) = re.findall(r"Token: +(\w+)", text)
    assert "Expires:     20" in text
    builder = {user["username"]: user for user in shell.json("list-users")}["builder"]
    assert builder["used"] is None
    left = datetime.fromisoformat(builder["expires"]) - datetime.now(UTC)
    assert timedelta(days=89) < left <= timedelta(days=90)
    assert shell.json("get-user", "-u", "builder") == {"username": "builder", "permissions": ["@read"]}
    assert set(shell.json("get-all-users")[1]) == {"username", "permissions"}
    admin = shell.options
    shell.options = [*admin[:2], "-l", "builder", "-p", token]
    shell("refresh-token", "--expires", "never", status=1)
    assert "builder is not allowed to access permissions(s) @user-admin" in shell.error
    fresh = shell.json("refresh-token")["token"]
    shell.options = [*admin[:2], "-l", "builder", "-p", fresh]
    shell("get-user")
    shell.options = admin
    builder = {user["username"]: user for user in shell.json("list-users")}["builder"]
    assert builder["expires"] is not None, "one's own new token does not work longer"
    assert builder["used"] is not None
    assert re.search(r"(?m)^builder  20\S+ +20\S+ +@read$", shell("list-users"))
    shell("refresh-token", "-u", "builder", "--expires", "never")
    assert re.search(r"(?m)^builder  never +never +@read$", shell("list-users"))
    ends = shell.json("refresh-token", "-u", "builder", "--expires", "1s")["token"]
    shell.options = [*admin[:2], "-l", "builder", "-p", ends]
    while "this token expired at 20" not in shell.error:
        shell("get-user", status=None)


def test_credentials_from_netrc_and_variables(
    shell: Shell, no_credentials: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_credentials.write_text("machine 127.0.0.1 login admin password password\n")
    shell("get-user", status=1)
    monkeypatch.setenv("SHARDHASH_NETRC_HOSTS", "1")
    assert shell.json("get-user")["username"] == "admin"
    monkeypatch.delenv("SHARDHASH_NETRC_HOSTS")
    no_credentials.write_text(f"machine {shell.options[-1]} login admin password password\n")
    assert shell.json("get-user")["username"] == "admin"
    no_credentials.unlink()
    monkeypatch.setenv("SHARDHASH_LOGIN", "admin")
    monkeypatch.setenv("SHARDHASH_PASSWORD", "password")
    monkeypatch.setenv("SHARDHASH_ADDRESS", shell.options.pop())
    shell.options.clear()
    monkeypatch.setenv("SHARDHASH_JSON", "1")
    assert json.loads(shell("get-user"))["username"] == "admin"


def test_load(shell: Shell) -> None:
    figures = shell.json("stress", "--clients", "3", "--requests", "4")
    assert (figures["requests"], figures["found"], figures["reports"], figures["wrong"]) == (12, 0, 0, 0)
    figures = shell.json("stress", "--clients", "3", "--requests", "4", "--report")
    assert figures["found"] + figures["reports"] == 12
    assert shell.json("stress", "--clients", "1", "--requests", "4")["found"] == 4
    assert "requests           4" in shell("stress", "--clients", "1", "--requests", "4")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "required: COMMAND"),
        (("dance",), "there is no command 'dance'; shardhash client --help names them all"),
        (("pnig",), "there is no command 'pnig'; did you mean ping?"),
        (("--adress", "127.0.0.1:1", "ping"), "there is no option --adress; did you mean --address?"),
        (("--config", "x", "ping"), "there is no option --config; shardhash client --help names them all"),
        (("ping", "--login=admin"), "--login stands before the command: shardhash client --login ... ping"),
        (("ping", "--logn", "admin"), "there is no option --logn; did you mean --login?"),
        (("get-user", "admin"), "'admin' is one argument too many; values are given by --username NAME"),
        (
            ("new-user", "--usrname", "x"),
            "client new-user: error: there is no option --usrname; did you mean --username?",
        ),
        (("clean-unused", "soon"), "'soon' is not a whole number"),
        (("--login", "admin", "ping"), "--login without a password"),
        (("--address", "nowhere", "ping"), "address 'nowhere'"),
        (("--log", "loud", "ping"), "--log: 'loud' is none of"),
    ],
)
def test_wrong_calls(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = Shell(capsys, monkeypatch, "127.0.0.1:1")
    shell(*arguments, status=2)
    assert message in shell.error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("remove", "-w", "method", "m", "-w", "taskhsh", "1"), "taskhsh is not a column; did you mean taskhash?"),
        (("remove", "-w", "pn", "zlib"), "pn is not a column; did you mean PN?"),
        (("remove", "-w", "created", "x"), "created is not a column; there are method, taskhash, unihash, gc_mark, ou"),
        (("remove", "-w", "method", "a", "-w", "method", "b"), "it names method twice"),
        (("gc-mark", "x", "--where", "unihsah", "1"), "unihsah is not a column; did you mean unihash?"),
        (("gc-mark", "x", "-w", "outhash", OUT), "outhash is a column of outhash rows, and mappings are marked"),
        (("--password", "x", "get-user"), "--password without --login: say whose it is"),
        (("new-user", "-u", "joe", "--expires", "90"), "90 has no unit: write 90d for days, or s, m or h"),
        (("refresh-token", "--expires", "90"), "90 has no unit"),
    ],
)
def test_what_would_do_something_else_is_refused(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before there is a connection: nothing listens here."""
    shell = Shell(capsys, monkeypatch, "127.0.0.1:1")
    shell(*arguments, status=2)
    assert message in shell.error


def test_a_misspelled_column_ends_a_stream_of_marks(shell: Shell) -> None:
    fill(shell)
    shell("gc-mark-stream", "m1", stdin=b"\nunihsah x\nunihash x\n", status=1)
    assert "line 2 of the input marks nothing, nor do those behind it: unihsah is not a column" in shell.error
    assert "did you mean unihash?" in shell.error
    assert shell.json("gc-status")["mark"] is None, "nothing was sent"
    shell("gc-mark-stream", "m1", stdin=b"method shardhash.stress\nouthash x\n", status=1)
    assert "line 3" not in shell.error
    assert shell.json("gc-status") == {"keep": 2, "remove": 0, "mark": "m1"}


def test_a_mark_that_nothing_has_is_told_of(shell: Shell) -> None:
    for call in (("gc-mark", "m1"), ("gc-mark", "m1", "-w", "taskhash", A), ("gc-mark-stream", "m1")):
        shell(*call, stdin=b"unihash x")
        assert "nothing matched, but m1 is the current mark now: gc-sweep m1 removes all" in shell.error
    fill(shell)
    shell("gc-mark", "m1", "-w", "method", "shardhash.stress")
    assert shell.error == ""


def test_a_refusal_says_what_to_do(shell: Shell) -> None:
    shell("list-users", status=1)
    assert "log in by --login and a password, or by ~/.netrc" in shell.error
    assert "--admin-user and --admin-password-file" in shell.error
    shell.options += ["--login", "admin", "--password", "password"]
    text = shell("new-user", "-u", "joe")
    assert "Permissions: @none" in text
    assert "joe may do nothing: set-user-perms --username joe @read @report gives rights" in shell.error
    shell("set-user-perms", "-u", "joe", "@none")
    assert shell.error == ""
    shell("new-user", "-u", "joe", "@read", status=1)
    assert "refused: Cannot create new user 'joe'; there is one of this name, perhaps: set-user-perms" in shell.error
    shell("--become", "joe", "list-users", status=1)
    assert "a user who has @user-admin can give it" in shell.error


def test_who_gets_a_new_token_is_told_that_the_password_is_gone(shell: Shell) -> None:
    shell.options += ["--login", "admin", "--password", "password"]
    shell("new-user", "-u", "joe", "@read")
    for other in (("refresh-token", "-u", "joe"), ("--become", "joe", "refresh-token")):
        shell(*other)
        assert shell.error == ""
    token = shell.json("refresh-token", "-u", "admin")["token"]
    assert "what admin logged in with no longer works: log in with this token from now on" in shell.error
    shell.options[-1] = token
    shell("refresh-token")
    assert "what admin logged in with no longer works" in shell.error


def test_no_server(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    shell = Shell(capsys, monkeypatch, f"unix://{tmp_path}/no.sock")
    shell("ping", status=1)
    assert f"shardhash client: unix://{tmp_path}/no.sock: " in shell.error


class ServerWithoutMarkStream(OlderServer):
    """One that closes the connection at gc-mark-stream, as the reference once did."""

    async def _command(self, request: dict[str, Any], heard: Any, receive: Any, answer: Any) -> None:
        if "gc-mark-stream" in request:
            raise HangUpError
        if "gc-mark" in request:
            self.marks.append(request["gc-mark"])
            await answer('{"count": 1}')
        else:
            await super()._command(request, heard, receive, answer)


async def test_marks_go_one_by_one_to_a_server_without_the_stream(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ServerWithoutMarkStream()
    async with server.listen("unix", tmp_path) as address:
        shell = Shell(capsys, monkeypatch, address)
        answer = await asyncio.to_thread(shell.json, "gc-mark-stream", "m", stdin=b"unihash a\nunihash b\n")
    assert answer == {"count": 2}
    assert server.marks == [{"mark": "m", "where": {"unihash": "a"}}, {"mark": "m", "where": {"unihash": "b"}}]


def test_progress() -> None:
    shown = io.StringIO()
    assert list(Progress(shown, "lines", loud=True).follow(range(3000))) == list(range(3000))
    assert "3,000 lines, " in shown.getvalue()
    quiet = io.StringIO()
    assert list(Progress(quiet, "lines").follow(range(3))) == [0, 1, 2]
    assert quiet.getvalue() == ""


def test_the_token_is_not_shown_to_others(server: ServerProcess) -> None:
    """The stream waits for its input, so that there is time to look."""
    arguments = ["client", "--address", server.address, "-l", "admin", "-p", "password", "gc-mark-stream", "m"]
    process = subprocess.Popen(
        [sys.executable, "-m", "shardhash", *arguments],
        env={"PYTHONPATH": str(ROOT), "NETRC": "/nowhere"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        shown = psutil.Process(process.pid)
        until = time.monotonic() + 30
        # Nothing tells of another process's command line, which is empty for a moment while it starts anew.
        while (not (line := shown.cmdline()) or "password" in line) and time.monotonic() < until:
            time.sleep(0.01)
        assert "gc-mark-stream" in line
        assert "password" not in line
        output, _ = process.communicate(b"")
        assert output == b"0 hashes marked\n"


STOCK_FORMS = """
--log warn ping -n 1 -q
-n ping --count 1 --quiet
stats --reset
remove
remove -w method nothing
clean-unused 86400
get-db-usage
get-db-query-columns
gc-status
gc-mark word -w unihash x
unihash-exists --quiet {known}
unihash-exists {unknown}
get m {unknown}
get-outhash m {unknown} {unknown}
-l admin -p password new-user -u form @read
-l admin -p password set-user-perms --username form
-l admin -p password -b admin get-user --username form
-l admin -p password get-all-users
-l admin -p password refresh-token -u form
-l admin -p password delete-user -u form
stress --clients 1 --requests 2 --report --taskhash-seed a --outhash-seed b
"""


def test_every_form_of_the_stock_tool(shell: Shell) -> None:
    """Options, short and long, in the places where bitbake-hashclient takes them; status 0 as there."""
    with create_client(shell.options[1]) as client:
        client.report_unihash(A, "m", A, A)
    for line in STOCK_FORMS.strip().splitlines():
        shell(*line.format(known=A, unknown="e" * 64).split())

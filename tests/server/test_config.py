"""Where settings come from: flags before variables before a file before defaults; and `shardhash config`."""

from __future__ import annotations

import importlib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from shardhash import cli
from shardhash.base.options import DESCRIBE, Described
from shardhash.errors import ConfigError
from shardhash.server import sizing
from shardhash.server.cli import read_configuration, read_settings, server_options
from shardhash.server.option_table import SECRETS, TABLE
from shardhash.server.settings import Configuration
from shardhash.shard.directory.generations import prepare_directory
from shardhash.shard.storage.filesystem import OsFileSystem

PASSWORD = "correct-horse"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings of the machine that runs the tests."""
    for name in os.environ:
        if name.startswith(("SHARDHASH_", "HASHSERVER_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr("shardhash.base.settings_file.DEFAULT_FILE", Path("/nowhere/shardhash.toml"))


def read(line: str = "", environment: Mapping[str, str] | None = None, toml: Path | None = None) -> Configuration:
    known = server_options("serve", "", "")
    arguments = [*line.split(), *(["--config", str(toml)] if toml else [])]
    return read_configuration(known, known.flags(arguments), environment or {})


def written(folder: Path, text: str) -> Path:
    path = folder / "shardhash.toml"
    path.write_text(text)
    return path


def told(arguments: list[str], capsys: pytest.CaptureFixture[str], status: int = 0) -> tuple[str, str]:
    """What `shardhash config` prints, on standard output and standard error."""
    try:
        found = cli.main(["config", *arguments])
    except SystemExit as exit_:
        found = int(exit_.code or 0)
    assert found == status
    shown = capsys.readouterr()
    return shown.out, shown.err


# ------------------------------------------------------------------------------------------------------- precedence


@pytest.mark.parametrize(
    ("line", "environment", "toml", "value", "source"),
    [
        ("-b :1", {"SHARDHASH_BIND": ":2", "HASHSERVER_BIND": ":3"}, 'bind = ":4"', [":1"], "--bind"),
        ("", {"SHARDHASH_BIND": ":2", "HASHSERVER_BIND": ":3"}, 'bind = ":4"', [":2"], "SHARDHASH_BIND"),
        ("", {"SHARDHASH_BIND": "", "HASHSERVER_BIND": ":3 :5"}, 'bind = ":4"', [":3", ":5"], "HASHSERVER_BIND"),
        ("", {"HASHSERVER_BIND": " "}, 'bind = [":4", "ws://:5,anon=@read"]', [":4", "ws://:5,anon=@read"], "FILE"),
        ("", {}, 'bind = ":4 :5"', [":4", ":5"], "FILE"),
        ("", {}, "", ["unix://./hashserve.sock"], "default"),
    ],
)
def test_flag_then_variables_then_file_then_default(
    line: str, environment: dict[str, str], toml: str, value: list[str], source: str, tmp_path: Path
) -> None:
    path = written(tmp_path, toml)
    found = read(line, environment, path).values["bind"]
    assert (found.value, found.source) == (value, source.replace("FILE", str(path)))


def test_every_form_of_a_value_in_a_file(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        read-only = true
        memory = false
        workers = 3
        sync-interval = 0.5
        snapshot-interval = "30m"
        snapshot-bytes = "64M"
        max-message = 1048576
        log = "warn"
        anon-perms = ["@read", "@report"]
        allow-origin = ["https://a.example.com"]
        data = "/srv/hashes"
        """,
    )
    found = read("", {}, path).settings
    assert (found.workers, found.sync_interval, found.snapshot_interval) == (3, 0.5, 1800)
    assert (found.snapshot_bytes, found.limits.message) == (64 << 20, 1 << 20)
    assert (found.log_level, found.data) == ("WARNING", Path("/srv/hashes"))
    (bind,) = found.binds
    assert (bind.read_only, bind.anon_perms) == (True, frozenset(("@read", "@report")))
    assert any("11 settings are in" in notice for notice in found.notices)
    path.write_text('anon-perms = ""')  # nothing at all, as in a variable
    assert read("", {}, path).settings.binds[0].anon_perms == frozenset()


def test_the_file_may_be_named_by_a_variable_or_be_the_usual_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, "workers = 7")
    assert read("", {"SHARDHASH_CONFIG": str(path)}).settings.workers == 7
    assert read().settings.workers != 7
    monkeypatch.setattr("shardhash.base.settings_file.DEFAULT_FILE", path)
    assert read().settings.workers == 7
    assert read("--workers 2").settings.workers == 2
    assert read("--config /dev/null --memory").settings.workers != 7


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("blind = ':8686'", ["blind is not a setting; did you mean bind?"]),
        ("read_only = true", ["read_only is not a setting; did you mean read-only?"]),
        ("HASHSERVER_ANON_PERMS = '@none'", ["ANON_PERMS is not a setting; in a file it is anon-perms"]),
        ("[serve]\nbind = ':1'", ["serve is not a setting; the settings stand at the top level"]),
        ("xyzzy = 1", ["xyzzy is not a setting; shardhash serve --help names them all"]),
        ("config = '/other'", ["config is not a setting"]),
        ("reuseport = true", ["reuseport is not a setting"]),
        ("workers = 0\nsync = 'never'\nblind = 1", ["'0' is not a whole", "sync: 'never' is none of", "blind"]),
        ("log = 'INFO'\n\n 'data' = ''\n[serve]\n", ["line 3: data: the text", "line 4: serve is not"]),
        ("workers = true", ["line 1: workers: write a text in quotes"]),
        ("read-only = 'yes'", ["read-only: write true or false"]),
        ("data = ['a', 'b']", ["data: it takes one value, not a list"]),
        ("bind = [1.5, [2]]", ["bind: write a text in quotes or a list of them"]),
        ("data = ''", ["data: the text is empty"]),
        ("sync-interval = 2026-11-23", ["sync-interval: write a text in quotes"]),
        ("bind = ", ["this is no TOML"]),
        ("bind = :8686", ["this is no TOML", "line 1, column"]),
        ("workers = 1\nworkers = 2", ["this is no TOML"]),
    ],
)
def test_what_is_wrong_in_a_file_is_said_all_at_once(toml: str, words: list[str], tmp_path: Path) -> None:
    path = written(tmp_path, toml)
    with pytest.raises(ConfigError) as told_:
        read("", {}, path)
    text = str(told_.value)
    for word in words:
        assert word in text
    assert all(line.startswith(f"{path}: ") for line in text.splitlines())


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml: the settings cannot be read: No such file"):
        read("", {}, tmp_path / "missing.toml")
    (tmp_path / "shardhash.toml").write_bytes(b"data = '\xff'")
    with pytest.raises(ConfigError, match="byte 8 is no UTF-8"):
        read("", {}, tmp_path / "shardhash.toml")


# ------------------------------------------------------------------------------------------------- shardhash config


def test_config_shows_each_setting_with_its_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, 'data = "/srv/hashes"\nsnapshot-interval = 5400')
    monkeypatch.setenv("HASHSERVER_LOG_LEVEL", "warn")
    out, _ = told(["--config", str(path), "-b", "127.0.0.1:1"], capsys)
    lines = dict(re.split(r"\s+# ", line) for line in out.splitlines())
    assert lines['bind = ["127.0.0.1:1"]'] == "--bind"
    assert lines['log = "WARNING"'] == "HASHSERVER_LOG_LEVEL"
    assert lines['data = "/srv/hashes"'] == str(path)
    assert lines['snapshot-interval = "90m"'] == str(path)
    assert lines["#read-only = false"] == "default"
    assert lines["#upstream ="] == "not set"


def test_what_config_prints_is_a_file_that_means_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = (
        "-b :1 -b ws://:2,read-only --data /d --workers 3 --sync interval --sync-interval 1.5 --snapshot-bytes 3M"
        " --anon-perms @read --allow-origin https://a.example.com --upstream wss://h.example.com/ws --keep-snapshots 9"
    )
    out, _ = told(given.split(), capsys)
    first, again = read(given), read("", {}, written(tmp_path, out))
    assert {name: value.value for name, value in first.values.items() if name != "config"} == {
        name: value.value for name, value in again.values.items() if name != "config"
    }
    uncommented = "\n".join(line.removeprefix("#") for line in out.splitlines() if "# not set" not in line)
    assert set(tomllib.loads(uncommented)) <= {one.key for group in TABLE.values() for one in group}


@pytest.mark.parametrize("arguments", [[], ["--json"]])
@pytest.mark.parametrize("where", ["SHARDHASH_ADMIN_PASSWORD", "HASHSERVER_ADMIN_PASSWORD", "flag", "file"])
def test_config_hides_secrets(
    where: str,
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = ["--admin-user", "admin", *arguments]
    if where == "flag":
        given += ["--admin-password", PASSWORD]
    elif where == "file":
        given += ["--config", str(written(tmp_path, f"admin-password = {PASSWORD!r}"))]
    else:
        monkeypatch.setenv(where, PASSWORD)
    out, err = told(given, capsys)
    assert PASSWORD not in out + err
    assert "***" in out
    assert "admin-password" in out


def test_config_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = told(["--json", "-r", "-l", "debug", "--workers", "2"], capsys)
    settings: dict[str, Any] = json.loads(out)["settings"]
    assert settings["read-only"] == {"value": True, "source": "--read-only"}
    assert settings["log"] == {"value": "DEBUG", "source": "--log"}
    assert settings["workers"] == {"value": 2, "source": "--workers"}
    assert settings["upstream"] == {"value": None, "source": "default"}
    assert settings["anon-perms"] == {"value": "@db-admin @read @report", "source": "default"}


def test_config_decides_what_was_left_open_as_the_server_does(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = told(["--json", "-d", "/srv/hashserv.db"], capsys)
    settings = json.loads(out)["settings"]
    assert settings["data"] == {"value": "/srv/hashserv.db.shardhash", "source": "default"}
    assert settings["workers"]["value"] >= 1


def test_config_says_why_there_are_so_many_processes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sizing, "usable_cores", lambda: 8)
    out, _ = told(["--json", "--memory"], capsys)
    settings = json.loads(out)["settings"]
    assert settings["coordinators"] == {"value": 3, "source": "default", "why": "a third of 8 cores"}
    assert settings["workers"] == {"value": 5, "source": "default", "why": "8 cores but those of the coordinators"}
    prepare_directory(OsFileSystem(), tmp_path, 7, lambda _: None)
    out, _ = told(["--data", str(tmp_path), "-b", "ws://127.0.0.1:1"], capsys)
    lines = dict(re.split(r"\s+# ", line) for line in out.splitlines())
    assert lines["#workers = 7"] == "default: as the data directory has"
    assert lines["#coordinators = 1"].startswith("default: with several, ws:// answers no page")
    out, _ = told(["--coordinators", "2", "--memory"], capsys)
    lines = dict(re.split(r"\s+# ", line) for line in out.splitlines())
    assert lines["coordinators = 2"] == "--coordinators"
    assert lines["#workers = 6"] == "default: 8 cores but those of the coordinators"


def test_check_says_whether_a_server_would_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, 'bind = "127.0.0.1:1"\nadmin-user = "admin"')
    out, err = told(["--check", str(path)], capsys, 1)
    assert (out, f"{path}: line 2: admin-user names an administrator without a password" in err) == ("", True)
    monkeypatch.setenv("HASHSERVER_ADMIN_PASSWORD", PASSWORD)
    out, err = told(["--check", str(path)], capsys)
    assert (out, err) == (f"{path}: fine; 2 settings of it are in force\n", "")
    path.write_text("blind = 1\nworkers = 'many'")
    _, err = told(["--check", str(path)], capsys, 1)
    assert "did you mean bind?" in err
    assert "'many' is not a whole number" in err
    _, err = told(["--check", str(tmp_path / "missing")], capsys, 1)
    assert "cannot be read" in err


def test_misspelt_variables_and_flags_are_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARDHASH_BINDS", ":1")
    _, err = told([], capsys)
    assert "SHARDHASH_BINDS is set, but nothing reads it; did you mean SHARDHASH_BIND?" in err
    _, err = told(["--anon-perm", "@none"], capsys, 2)
    assert "there is no option --anon-perm; did you mean --anon-perms?" in err


def test_variables_of_other_commands_are_known_to_the_server() -> None:
    """Whoever exports them for `shardhash client` is not warned of them by `shardhash serve`."""
    variables = set()
    for module, function, _ in cli.PROGRAMS.values():
        with pytest.raises(Described) as described:
            getattr(importlib.import_module(module), function)(DESCRIBE)
        variables |= described.value.options.variables()
    assert {"SHARDHASH_ADDRESS", "SHARDHASH_BIND", "SHARDHASH_SNAPSHOT_TIMEOUT"} <= variables
    known = server_options("serve", "", "")
    assert [
        text for text in read_settings([], dict.fromkeys(variables, "")).warnings() if "nothing reads" in text
    ] == []
    assert known.variables() <= variables


# ------------------------------------------------------------------------------------------------------- the table


def test_every_setting_has_a_variable_of_its_own() -> None:
    table = [one for group in TABLE.values() for one in group]
    assert len({one.flag for one in table}) == len(table)
    for one in table:
        own = "SHARDHASH_" + one.name.upper()
        assert own in one.variables or not one.in_file
        assert [name for name in one.variables if name.startswith("SHARDHASH_")] in ([own], [])
        assert one.help
    assert {one.key for one in SECRETS} == {one.key for one in table if one.key.endswith("password")} | {
        "store",
        "read-replica",
    }


# ------------------------------------------------------------------------- forms that people use, and what they mean

HASHSERV = "/var/lib/hashserv.db"
EMPTY = dict.fromkeys(
    (
        f"HASHSERVER_{name}"
        for name in ["UPSTREAM", "READ_ONLY", "DB_USERNAME", "DB_PASSWORD", "ADMIN_USER", "ADMIN_PASSWORD", "LOG_LEVEL"]
    ),
    "",
)
FORMS: list[tuple[str, str, dict[str, str], dict[str, Any]]] = [
    ("host and port", "-b 0.0.0.0:8686", {}, {"bind": ["0.0.0.0:8686"]}),
    ("port alone, long", "--bind :8383", {}, {"bind": [":8383"]}),
    ("flag and value in one word", "-b:8686", {}, {"bind": [":8686"]}),
    ("with an equals sign", "--bind=:8686 --log=DEBUG", {}, {"bind": [":8686"], "log": "DEBUG"}),
    ("flags that stick together", "-rb :8484", {}, {"bind": [":8484"], "read_only": True}),
    (
        "a unit",
        f"-b 0.0.0.0:8686 -d {HASHSERV} -l WARNING -r",
        {},
        {"bind": ["0.0.0.0:8686"], "database": HASHSERV, "log": "WARNING", "read_only": True},
    ),
    (
        "one that writes",
        f"--bind :8383 --log DEBUG --database {HASHSERV}",
        {},
        {"bind": [":8383"], "log": "DEBUG", "database": HASHSERV},
    ),
    (
        "one that only reads",
        f"-r --bind :8484 --log DEBUG --database {HASHSERV}",
        {},
        {"bind": [":8484"], "read_only": True},
    ),
    ("a level in small letters", "-l debug", {}, {"log": "DEBUG"}),
    ("a socket", "--bind unix://./hashserve.sock", {}, {"bind": ["unix://./hashserve.sock"]}),
    ("IPv6", "-b [::1]:8686", {}, {"bind": ["[::1]:8686"]}),
    ("a WebSocket", "-b ws://0.0.0.0:8686", {}, {"bind": ["ws://0.0.0.0:8686"]}),
    ("an upstream", "-u hashserv.yoctoproject.org:8686", {}, {"upstream": ["hashserv.yoctoproject.org:8686"]}),
    (
        "an upstream over TLS",
        "--upstream wss://hashserv.yoctoproject.org/ws",
        {},
        {"upstream": ["wss://hashserv.yoctoproject.org:443/ws"]},
    ),
    ("permissions by commas", "--anon-perms @read,@report", {}, {"anon_perms": "@read @report"}),
    ("no permissions", "--anon-perms @none", {}, {"anon_perms": "@none"}),
    ("an administrator", "--admin-user admin --admin-password pass", {}, {"admin_user": "admin"}),
    ("reuseport", "--reuseport -b :8686", {}, {"bind": [":8686"]}),
    ("reuseport by a variable", "", {"HASHSERVER_REUSEPORT": "1", "HASHSERVER_BIND": ":1"}, {"bind": [":1"]}),
    (
        "a compose file with all variables, most of them empty",
        "",
        EMPTY | {"HASHSERVER_BIND": ":8686", "HASHSERVER_DB": "/data/hashserv.db", "HASHSERVER_LOG_LEVEL": "INFO"},
        {"bind": [":8686"], "database": "/data/hashserv.db", "log": "INFO", "upstream": None, "read_only": False},
    ),
    ("read-only by a variable", "", {"HASHSERVER_READ_ONLY": "1"}, {"read_only": True}),
    ("not read-only by a variable", "", {"HASHSERVER_READ_ONLY": "0"}, {"read_only": False}),
    ("permissions by a variable", "", {"HASHSERVER_ANON_PERMS": "@read @report"}, {"anon_perms": "@read @report"}),
    ("an empty variable means none", "", {"HASHSERVER_ANON_PERMS": ""}, {"anon_perms": "@none"}),
    (
        "a flag wins over a variable",
        "-b :1 -l ERROR",
        {"HASHSERVER_BIND": ":2", "HASHSERVER_LOG_LEVEL": "DEBUG"},
        {"bind": [":1"], "log": "ERROR"},
    ),
    (
        "the new variable wins over the old one",
        "",
        {"HASHSERVER_BIND": ":2", "SHARDHASH_BIND": ":3"},
        {"bind": [":3"]},
    ),
    (
        "two addresses, a public one that only reads",
        "-b 10.0.0.1:8686 -b ws://:8484,read-only,anon=@read",
        {},
        {"bind": ["10.0.0.1:8686", "ws://:8484,read-only,anon=@read"]},
    ),
]


@pytest.mark.parametrize(
    ("line", "environment", "expected"), [form[1:] for form in FORMS], ids=[form[0] for form in FORMS]
)
def test_forms_that_people_use(line: str, environment: dict[str, str], expected: dict[str, Any]) -> None:
    found = read(line, environment)
    known = server_options("serve", "", "")
    shown = {name: known[name].plain(found.values[name].value) for name in expected}
    assert shown == expected
    assert not any("nothing reads" in text for text in found.settings.warnings())

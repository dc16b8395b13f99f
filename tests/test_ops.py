"""What an operator copies: units, container files, settings, and a wheel that holds them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardhash.edge.place import find_place
from shardhash.link.messages import EXIT_DAMAGED
from shardhash.server.cli import read_settings
from shardhash.shard.storage.layout import EDGE_SOCKET
from shardhash.wire.address import Address
from tests.servers import IN_MEMORY, ROOT, ServerProcess

OPS = ROOT / "ops"
SECURITY = ("security", "--offline=true", "--no-pager")
UNIT = OPS / "systemd" / "shardhash.service"
COMPOSE = [path for path in sorted((OPS / "container").glob("compose*.yaml")) if "postgresql" not in path.name]


def lines_of(unit: Path) -> Iterator[tuple[str, str]]:
    """(name, value) of each setting of a unit."""
    for line in unit.read_text().splitlines():
        if "=" in line and not line.startswith(("#", "[")):
            name, _, value = line.partition("=")
            yield name, value


def environment_of(compose: Path) -> dict[str, str]:
    """The variables that a compose file sets; they are quoted texts."""
    found = re.findall(r'^      ([A-Z_]+): "(.*)"$', compose.read_text(), re.MULTILINE)
    assert found, compose
    return dict(found)


# ------------------------------------------------------------------------------------------------------------ units


def analyze(*arguments: str) -> str:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    result = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """A folder with the units, whose programs and users are there on this machine."""
    for unit in (OPS / "systemd").glob("shardhash.s[eo]*"):
        text = unit.read_text().replace("/usr/local/bin/shardhash", sys.executable)
        (tmp_path / unit.name).write_text(re.sub(r"^(User|Group)=.*", r"\1=root", text, flags=re.MULTILINE))
    return tmp_path


def test_systemd_understands_every_line(units: Path) -> None:
    said = analyze("verify", str(units / "shardhash.service"), str(units / "shardhash.socket"))
    assert "shardhash" not in said


def test_systemd_understands_every_line_of_the_users_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for unit in (OPS / "systemd").glob("shardhash-edge.*"):
        (tmp_path / unit.name).write_text(unit.read_text().replace("%h/.local/bin/shardhash", sys.executable))
    said = analyze("--user", "verify", *(str(tmp_path / f"shardhash-edge.{kind}") for kind in ("service", "socket")))
    assert "shardhash" not in said


def test_the_users_units_are_of_one_folder() -> None:
    """The socket lies where `shardhash edge` looks for it, and there is no watchdog, whose connections would count."""
    service, listening = (dict(lines_of(OPS / "systemd" / f"shardhash-edge.{kind}")) for kind in ("service", "socket"))
    folder = service["ExecStart"].rpartition(" --data ")[2]
    assert listening["ListenStream"] == f"{folder}/{EDGE_SOCKET}"
    home = {"XDG_STATE_HOME": ""}
    assert str(find_place(None, None, home)) == folder.replace("%h", str(Path.home()))
    assert service["RestartPreventExitStatus"].split() == ["2", str(EXIT_DAMAGED)]
    assert service["KillMode"] == "mixed"
    assert "WatchdogSec" not in service


def test_the_unit_is_hardened(units: Path) -> None:
    if "--offline" not in analyze("--help"):
        pytest.skip("this systemd-analyze judges running units only")
    exposure = re.search(r"Overall exposure level for .*: ([0-9.]+)", analyze(*SECURITY, str(units / UNIT.name)))
    assert exposure is not None
    assert float(exposure[1]) <= 2.5  # 10 is nothing at all; it runs as root in this test, which costs a point


def test_a_damaged_directory_is_no_restart_loop() -> None:
    settings = dict(lines_of(UNIT))
    assert str(EXIT_DAMAGED) in settings["RestartPreventExitStatus"].split()
    assert settings["Type"] == "notify"
    assert settings["Restart"] == "on-failure"
    assert int(settings["LimitNOFILE"]) >= 65536
    assert "Environment" not in settings, "a variable there would win over the file of settings"
    assert settings["KillMode"] == "mixed"  # workers end in order, when the server tells them


def test_settings_to_copy_are_right_and_belong_to_the_socket() -> None:
    path = OPS / "systemd" / "shardhash.toml"
    found = read_settings(["--config", str(path)], {})
    assert found.data == Path("/var/lib/shardhash")
    assert [bind.address for bind in found.binds] == [Address("tcp", "", 8686)]
    assert [bind.anon_perms for bind in found.binds] == [frozenset(("@read", "@report"))]
    streams = [value for name, value in lines_of(OPS / "systemd" / "shardhash.socket") if name == "ListenStream"]
    assert streams == ["8686"]
    # What is commented out is right, too.
    uncommented = re.sub(r"^#(?=[a-z-]+ = )", "", path.read_text(), flags=re.MULTILINE)
    keys = set(tomllib.loads(uncommented))
    assert {"admin-user", "upstream", "http", "tls-cert"} <= keys


# ------------------------------------------------------------------------------------------------------- containers


@pytest.mark.parametrize("compose", COMPOSE, ids=lambda path: path.name)
def test_compose_files_make_the_server_that_they_promise(compose: Path) -> None:
    image = ["--config", str(OPS / "container" / "shardhash.toml")]
    found = read_settings(image, environment_of(compose))
    assert found.data == Path("/var/lib/shardhash")
    assert found.upstream is None
    assert found.admin_user is None
    assert not any("nothing reads" in text for text in found.warnings())
    rules = {bind.address.port: (bind.read_only, set(bind.anon_perms)) for bind in found.binds}
    expected = {8686: (False, {"@read", "@report"})}
    if "public" in compose.name:
        expected[8484] = (True, {"@read"})
    assert rules == expected
    text = compose.read_text()
    assert all(f':{port}"' in text for port in rules)


def test_the_compose_file_with_a_database_serves_that() -> None:
    compose = OPS / "container" / "compose-postgresql.yaml"
    variables = {
        name: value for name, value in environment_of(compose).items() if not name.startswith(("POSTGRES", "PGPASS"))
    }
    found = read_settings([], variables)
    assert (found.store, found.data, found.workers) == ("postgresql://shardhash@database/shardhash", None, 0)
    assert [(bind.address.port, set(bind.anon_perms)) for bind in found.binds] == [(8686, {"@read", "@report"})]
    assert not any("nothing reads" in text for text in found.warnings())


def test_variables_win_over_the_settings_of_the_image() -> None:
    image = ["--config", str(OPS / "container" / "shardhash.toml")]
    variables = {"HASHSERVER_BIND": ":9000", "HASHSERVER_DB": "/data/hashserv.db", "HASHSERVER_LOG_LEVEL": "DEBUG"}
    found = read_settings(image, variables)
    assert [bind.address.port for bind in found.binds] == [9000]
    assert (found.data, found.log_level) == (Path("/var/lib/shardhash"), "DEBUG")
    assert [bind.address.port for bind in read_settings(image, {}).binds] == [8686]


def test_the_image_runs_as_nobody_in_particular_and_checks_itself() -> None:
    text = (OPS / "container" / "Containerfile").read_text()
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert re.search(r"^VOLUME /var/lib/shardhash$", text, re.MULTILINE)
    assert 'CMD ["shardhash", "client", "--timeout", "5", "ping"]' in text
    for source in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        for name in source.split():
            assert (ROOT / name).exists()


# ------------------------------------------------------------------------------------------------------------ wheel


def test_the_wheel_holds_what_an_operator_needs(tmp_path: Path) -> None:
    """Built as it is for a release, from a copy, so that nothing is left in the checkout."""
    source = tmp_path / "source"
    for name in ("pyproject.toml", "README.md", "LICENSE", "shardhash", "ops"):
        here = ROOT / name
        if here.is_dir():
            shutil.copytree(here, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            source.mkdir(exist_ok=True)
            shutil.copy(here, source / name)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    result = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        files = {re.sub(r"^[^/]+\.data/data/", "", name): wheel.read(name) for name in wheel.namelist()}
    folders = ("systemd", "container", "grafana", "prometheus", "meta-shardhash")
    expected = [OPS / f"{name}.md" for name in ("runbook", "moving", "postgresql")]
    expected += [one for name in folders for one in (OPS / name).rglob("*") if one.is_file() and one.suffix != ".pyc"]
    for one in expected:
        assert files[f"share/shardhash/{one.relative_to(OPS)}"] == one.read_bytes()
    packaged = [file for file in (ROOT / "shardhash").rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    for one in packaged:
        assert str(one.relative_to(ROOT)) in files
    assert not any(name.startswith(("tests", "perf")) for name in files)


@pytest.mark.parametrize("how", ["variable", "file"])
def test_a_client_finds_the_server_of_its_environment(how: str, tmp_path: Path) -> None:
    """So that a health check needs no address."""
    binds = f"unix://{tmp_path}/a.sock,read-only :0"
    (tmp_path / "shardhash.toml").write_text(f'bind = "{binds}"\n')
    file = {"SHARDHASH_CONFIG": str(tmp_path / "shardhash.toml")}
    variables = {"HASHSERVER_BIND": binds} if how == "variable" else file
    with ServerProcess(*IN_MEMORY, binds=[], environment=variables, listening=2):
        result = shardhash("client", "--json", "ping", **variables)
    assert (result.returncode, result.stderr) == (0, "")
    assert '"alive": true' in result.stdout


def test_commands_find_the_data_of_the_file_of_settings(tmp_path: Path) -> None:
    path = tmp_path / "shardhash.toml"
    path.write_text(f'data = "{tmp_path}/data"\nbind = "127.0.0.1:0"\nworkers = 2\n')
    file = {"SHARDHASH_CONFIG": str(path)}
    with ServerProcess(binds=[], environment=file, listening=1):
        result = shardhash("snapshot", **file)
        assert (result.returncode, result.stdout) == (0, "2 snapshots are written\n")
    result = shardhash("verify", **file)
    assert result.returncode == 0, result.stderr
    path.write_text("data = ")
    result = shardhash("verify", **file)
    assert result.returncode == 2
    assert f"{path}: this is no TOML" in result.stderr


def shardhash(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-m", "shardhash", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

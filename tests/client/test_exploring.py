"""The exploring commands against a real server, with outhash_siginfo as oe-core writes it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from shardhash import cli
from shardhash.client import create_client
from tests.client.test_cli import Shell
from tests.servers import IN_MEMORY, ServerProcess

METHOD = "oe.sstatesig.OEOuthashBasic"
FILES = ("./usr/lib/libz.so.1.3", "./usr/lib/libz.so", "./usr/include/zlib.h", "./usr/share/doc/README")


def digits(number: int) -> str:
    return f"{number:064x}"


def siginfo(task: str, *, built: int) -> str:
    """What an outhash is made of: the first file's checksum depends on when it was built."""
    package = "SSTATE_PKGSPEC=sstate:zlib:core2-64-poky-linux:1.3.1:r0:core2-64:12:"
    lines = ["OEOuthashBasic", "18", package, f"task={task}"]
    lines.append("drwx" + " " * 87 + "./")
    for number, name in enumerate(FILES):
        checksum = f"{number * 7 + (built if number == 0 else 0):064x}"
        lines.append(f"-rw-                       {10000 + number} {checksum} {name}")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """zlib's do_compile as 1, its twin 2 with the same output, 3 with two outputs, and 4 whose mapping is removed."""
    with ServerProcess(*IN_MEMORY) as server:
        with create_client(server.address) as client:
            for number, outhash in ((1, 101), (2, 101), (3, 103), (3, 104), (4, 105)):
                extra = {"PN": "zlib", "PV": "1.3.1", "task": "do_compile", "owner": "builder",
                         "outhash_siginfo": siginfo("compile", built=outhash)}  # fmt: skip
                client.report_unihash(digits(number), METHOD, digits(outhash), digits(number), extra)
            client.remove({"unihash": digits(4)})
        yield server


@pytest.fixture
def shell(server: ServerProcess, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> Shell:
    return Shell(capsys, monkeypatch, server.address)


def test_find(shell: Shell) -> None:
    text = shell("find", "--pn", "zl*", "--task", "do_compile")
    assert text.endswith("5 rows")
    assert f"zlib do_compile  {digits(2)} -> {digits(1)}" in text
    assert f"{digits(4)} -> nothing" in text
    assert shell.json("find", "--taskhash", digits(3), "--limit", "1")["count"] == 2
    assert "0 rows" in shell("find", "--owner", "nobody")
    shell("find", status=1)
    assert "say what to look for" in shell.error
    shell("find", "--outhash", "abc", status=1)
    assert "8 digits at least" in shell.error
    shell("find", "--since", "yesterday", status=1)
    assert "2026-11-28" in shell.error


def test_why_a_task_is_reused(shell: Shell, server: ServerProcess) -> None:
    text = shell("why", digits(2))
    assert f"It is known, and reused as {digits(1)}." in text
    assert "1 other rows have the same unihash" in text
    assert "Nobody asked for it since it came here" in text
    with create_client(server.address) as client:
        assert client.get_unihash(METHOD, digits(2)) == digits(1)
    today = datetime.now(UTC).date().isoformat()
    assert f"It was last asked for on {today}." in shell("why", digits(2))
    assert shell.json("find", "--taskhash", digits(2))["rows"][0]["asked"] == today
    assert "by builder" in text


def test_why_a_task_is_not_reproducible(shell: Shell) -> None:
    assert "It had 2 different outhashes" in shell("why", digits(3), "--method", METHOD)


def test_why_a_removed_task_answers_nothing(shell: Shell) -> None:
    text = shell("why", digits(4))
    assert "its mapping is gone" in text
    assert "its output beside that of the newest of the same recipe and task:" in text
    assert "libz.so.1.3" in text
    assert "zlib.h" not in text


def test_why_an_unknown_task_has_near_ones(shell: Shell) -> None:
    assert "It is not known here" in shell("why", digits(77))
    text = shell("why", digits(77), "--pn", "zlib", "--task", "do_compile")
    assert "the newest of the same recipe and task:" in text
    assert digits(3) in text


def sigdata(folder: Path, number: int, cflags: str, *, packed: bool) -> str:
    """A file of BitBake's stamps."""
    path = folder / f"1.3.1-r0.do_compile.sigdata.{digits(number)}"
    value = {
        "task": "do_compile",
        "varvals": {"CFLAGS": cflags, "CC": "gcc"},
        "runtaskhashes": {"zlib:do_configure": digits(50 + number)},
        "file_checksum_values": [["zlib.patch", "same"]],
        "gendeps": {"CFLAGS": {"_set_object": ["CC"]}},
    }
    path.write_text(json.dumps(value))
    if packed:
        subprocess.run(["zstd", "-q", "--rm", str(path), "-o", str(path) + ".tmp"], check=True)
        Path(str(path) + ".tmp").rename(path)
    return str(path)


@pytest.mark.parametrize("packed", [False, True])
def test_why_by_two_sigdata_files(shell: Shell, tmp_path: Path, packed: bool) -> None:
    if packed and shutil.which("zstd") is None:
        pytest.skip("the program zstd is not there")
    one, other = sigdata(tmp_path, 2, "-O2", packed=packed), sigdata(tmp_path, 3, "-O3", packed=packed)
    text = shell("why", one, other)
    assert f"reused as {digits(1)}" in text
    assert "variable CFLAGS differs: '-O2' -> '-O3'" in text
    assert "dependency zlib:do_configure differs" in text
    assert "CC differs" not in text
    assert "zlib.patch" not in text
    broken = tmp_path / f"x.sigdata.{digits(5)}"
    broken.write_bytes(b"\x28\xb5\x2f\xfdnothing")
    shell("why", one, str(broken), status=1)
    assert str(broken) in shell.error or "zstd" in shell.error


def test_diverging(shell: Shell) -> None:
    text = shell("diverging")
    assert "1 tasks have more than one outhash" in text
    assert digits(103) in text
    assert shell.json("diverging", "--pn", "busybox")["count"] == 0


def test_saved(shell: Shell) -> None:
    assert "1  tasks reused another's output" in shell("saved")
    assert shell.json("saved", "--since", "2020-01-01")[0]["PN"] == "zlib"


def test_diff_outhash(shell: Shell) -> None:
    text = shell("diff-outhash", METHOD, digits(103), digits(104), status=1)
    changed = [line for line in text.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert len(changed) == 2
    assert all("libz.so.1.3" in line for line in changed)
    assert shell("diff-outhash", METHOD, digits(103), digits(103)) == "no line differs"
    shell("diff-outhash", METHOD, digits(103), digits(999), status=1)
    assert digits(999) in shell.error


def test_stats_go_on_with_watch(server: ServerProcess) -> None:
    command = ["python", "-m", "shardhash", "client", "--address", server.address, "stats", "--watch", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert "requests/s" in watching.stdout.readline()
        for _ in range(2):
            assert len(watching.stdout.readline().split()) == 3
        watching.terminate()


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["client", "find", "--help"])
    assert "8 digits" in capsys.readouterr().out

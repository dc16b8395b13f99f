"""Completion scripts, run by the shells they are for, as far as these are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from shardhash import cli


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a script for each shell, named like the shell."""
    folder = tmp_path_factory.mktemp("completion")
    for shell in ("bash", "zsh", "fish"):
        with pytest.MonkeyPatch.context() as patch:
            texts: list[str] = []
            patch.setattr("builtins.print", lambda text, end="", texts=texts: texts.append(text))
            assert cli.main(["completion", shell]) == 0
        (folder / shell).write_text("".join(texts))
    return folder


def run(shell: str, *arguments: str) -> str:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LC_ALL": "C.UTF-8"}
    result = subprocess.run(
        [shell, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


CASES = [
    ("shardhash se", {"serve"}),
    ("shardhash serve --sync-", {"--sync-interval"}),
    ("shardhash serve --sync ", {"always", "interval", "off"}),
    ("shardhash serve -l W", {"WARNING"}),
    ("shardhash client --ne", {"--netrc-hosts"}),
    ("shardhash client gc-s", {"gc-status", "gc-sweep"}),
    ("shardhash client --json new-user --user", {"--username"}),
    ("shardhash restore --fo", {"--force"}),
    ("shardhash config --ch", {"--check"}),
    ("shardhash completion z", {"zsh"}),
    ("shardhash serve --workers ", set()),
    ("shardhash export --da", {"--data"}),
]


@pytest.mark.parametrize(("line", "expected"), CASES, ids=[line for line, _ in CASES])
def test_bash(line: str, expected: set[str], scripts: Path) -> None:
    words = [f'"{word}"' for word in line.split(" ")]
    code = (
        f"source {scripts / 'bash'}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _shardhash;"
        ' printf "%s\\n" "${COMPREPLY[@]}"'
    )
    assert set(run("bash", "--norc", "-c", code).split()) == expected


@pytest.mark.parametrize(("line", "expected"), CASES, ids=[line for line, _ in CASES])
def test_fish(line: str, expected: set[str], scripts: Path) -> None:
    code = f"source {scripts / 'fish'}; complete -C '{line}'"
    found = {offered.split("\t")[0] for offered in run("fish", "--no-config", "-c", code).splitlines()}
    assert found == expected


@pytest.mark.parametrize(("line", "expected"), CASES, ids=[line for line, _ in CASES])
def test_zsh(line: str, expected: set[str], scripts: Path) -> None:
    """zsh's own functions want a terminal; ours is run with stand-ins that print what it offers."""
    words = [f'"{word}"' for word in line.split(" ")]
    code = f"""
        compdef() {{ : }}
        _describe() {{  # after -o it offers options only, as the real one does
            local -a offered=("${{(@P)argv[-1]}}")
            [[ $1 = -o ]] && offered=("${{(@M)offered:#-*}}")
            print -l -- $offered
        }}
        _files() {{ : }}
        _message() {{ : }}
        source {scripts / "zsh"}
        words=({" ".join(words)}) CURRENT={len(words)}
        _shardhash
    """
    offered = {entry.split(":")[0] for entry in run("zsh", "-f", "-c", code).splitlines()}
    prefix = line.rpartition(" ")[2]
    assert {word for word in offered if word.startswith(prefix)} == expected


def test_each_command_is_offered(scripts: Path) -> None:
    for shell in ("bash", "zsh", "fish"):
        text = (scripts / shell).read_text()
        for command in cli.PROGRAMS:
            assert command in text

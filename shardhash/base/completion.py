"""Scripts that have bash, zsh and fish complete the command line, made from what each command takes.

All three work alike: find the command (and the command of ``shardhash client``), then the option before the cursor says
what its value may be, else the command says which options there are.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Literal, TypeAlias

from shardhash.base.options import Options

Kind: TypeAlias = Literal["switch", "file", "text"]

_FILES = {"FILE", "DIR", "DEST", "SRC", "SOURCE", "BACKUP"}
_LONGEST = 70


@dataclass(frozen=True, slots=True)
class Flag:
    """One option: its spellings, what it is for, and what follows it. `values` are the texts it takes, if few."""

    spellings: tuple[str, ...]
    help: str
    kind: Kind
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Command:
    """A command: its flags, words that may stand behind it, and its own commands."""

    help: str
    flags: list[Flag] = field(default_factory=list)
    words: tuple[str, ...] = ()
    commands: dict[str, Command] = field(default_factory=dict)


Commands: TypeAlias = Mapping[str, Command]


def describe_command(text: str, known: Options) -> Command:
    """What a command takes, from its options."""
    return _describe(text, known.parser, known)


def _describe(text: str, parser: argparse.ArgumentParser, known: Options | None) -> Command:
    command = Command(_short(text))
    words: list[str] = []
    for action in parser._actions:  # noqa: SLF001  # argparse shows them nowhere else
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for name, inner in action.choices.items():
                command.commands[name] = _describe(inner.description or "", inner, None)
        elif action.option_strings:
            listed = known[action.dest].values if known is not None and action.dest in known else ()
            values = listed or tuple(str(choice) for choice in action.choices or ())
            shown = _short(action.help or "")
            command.flags.append(Flag(tuple(action.option_strings), shown, _kind(action), values))
        else:
            words.extend(str(choice) for choice in action.choices or ())
    return Command(command.help, command.flags, tuple(words), command.commands)


def _kind(action: argparse.Action) -> Kind:
    if action.nargs == 0:
        return "switch"
    return "file" if action.metavar in _FILES or action.type is Path else "text"


def _short(text: str) -> str:
    """The beginning of a help text, without characters that have a meaning to shells."""
    first = re.split(r"[;(\[:]|\. |, in a variable", text)[0]
    return shorten(re.sub(r"[^\w ,./@=-]", "", first), _LONGEST, placeholder="")


def _keys(commands: Commands) -> Iterator[tuple[str, Command]]:
    """Each command, and each command of a command, by what the scripts call it: ``client``, ``client get``."""
    for name, command in commands.items():
        yield name, command
        for inner, innermost in command.commands.items():
            yield f"{name} {inner}", innermost


def _inner(commands: Commands) -> str:
    """A pattern of all commands of commands."""
    return "|".join(f'"{key}"' for key, _ in _keys(commands) if " " in key)


def _values(commands: Commands) -> Iterator[tuple[str, Flag]]:
    """(pattern of ``COMMAND FLAG``, flag) for each option that takes a value."""
    for key, command in _keys(commands):
        for flag in command.flags:
            if flag.kind != "switch":
                yield "|".join(f'"{key} {spelling}"' for spelling in flag.spellings), flag


def _entries(command: Command) -> list[tuple[str, str]]:
    """(word, what it is for): what may be typed behind a command."""
    inner = [(name, one.help) for name, one in command.commands.items()]
    flags = [(spelling, flag.help) for flag in command.flags for spelling in flag.spellings]
    return [*inner, *((word, "") for word in command.words), *flags]


def bash(commands: Commands) -> str:
    """A script for bash. Where nothing fits, bash completes file names."""
    lines = [
        "# bash completion of shardhash",
        "_shardhash() {",
        "    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}",
        '    local words="" word=""',
        "    if [ \"$COMP_CWORD\" -eq 1 ]; then command=''; fi",
        '    for word in "${COMP_WORDS[@]:2:COMP_CWORD-2}"; do',
        f'        case "$command $word" in {_inner(commands)}) command="$command $word" ;; esac',
        "    done",
        '    case "$command $previous" in',
    ]
    for pattern, flag in _values(commands):
        if flag.values:
            done = f'COMPREPLY=($(compgen -W "{" ".join(flag.values)}" -- "$current"))'
        else:
            done = 'COMPREPLY=($(compgen -f -- "$current"))' if flag.kind == "file" else "COMPREPLY=()"
        lines.append(f"        {pattern}) {done}; return ;;")
    lines += ["    esac", '    case "$command" in', f"        '') words=\"{' '.join(commands)} --help --version\" ;;"]
    for key, command in _keys(commands):
        lines.append(f'        "{key}") words="{" ".join(word for word, _ in _entries(command))}" ;;')
    lines += [
        "    esac",
        '    COMPREPLY=($(compgen -W "$words" -- "$current"))',
        "}",
        "complete -o default -F _shardhash shardhash",
    ]
    return "\n".join(lines) + "\n"


def zsh(commands: Commands) -> str:
    """A script for zsh, to be found on its fpath as ``_shardhash``, or to be sourced."""
    lines = [
        "#compdef shardhash",
        "_shardhash() {",
        "    local command=${words[2]} previous=${words[CURRENT-1]} word",
        "    local -a found flags",
        '    (( CURRENT == 2 )) && command=""',
        '    for word in "${(@)words[3,CURRENT-1]}"; do',
        f'        case "$command $word" in ({_inner(commands)}) command="$command $word" ;; esac',
        "    done",
        '    case "$command $previous" in',
    ]
    for pattern, flag in _values(commands):
        if flag.values:
            done = f"found=({' '.join(flag.values)}); _describe value found"
        else:
            done = "_files" if flag.kind == "file" else f"_message '{flag.help}'"
        lines.append(f"        ({pattern}) {done}; return ;;")
    entries = [("", [*((name, one.help) for name, one in commands.items()), ("--help", ""), ("--version", "")])]
    entries += [(key, _entries(command)) for key, command in _keys(commands)]
    lines += ["    esac", '    case "$command" in']
    for key, words in entries:
        quoted = [f"'{word}:{text}'" for word, text in words]
        lines.append(f'        ("{key}")')
        lines += ["            found=(", *(f"                {one}" for one in quoted if not one.startswith("'-"))]
        lines += ["            ) flags=(", *(f"                {one}" for one in quoted if one.startswith("'-"))]
        lines.append("            ) ;;")
    lines += [
        "    esac",
        "    local none=1",
        "    (( $#found )) && _describe command found && none=0",
        "    _describe -o option flags && none=0",  # where the word begins with a dash
        "    (( none )) || return 0",
        "    _files",
        "}",
        'if [[ ${funcstack[1]} = _shardhash ]]; then _shardhash "$@"; else compdef _shardhash shardhash; fi',
    ]
    return "\n".join(lines) + "\n"


def fish(commands: Commands) -> str:
    """A script for fish."""
    lines = ["# fish completion of shardhash", "complete -c shardhash -n __fish_use_subcommand -f"]
    for name, command in commands.items():
        lines.append(f"complete -c shardhash -n __fish_use_subcommand -f -a {name} -d '{command.help}'")
    for key, command in _keys(commands):
        outer, _, inner = key.partition(" ")
        where = f"__fish_seen_subcommand_from {outer}" + (f"; and __fish_seen_subcommand_from {inner}" if inner else "")
        if command.commands:
            none = f"{where}; and not __fish_seen_subcommand_from {' '.join(command.commands)}"
            for name, innermost in command.commands.items():
                lines.append(f"complete -c shardhash -n '{none}' -f -a {name} -d '{innermost.help}'")
        if command.words:
            lines.append(f"complete -c shardhash -n '{where}' -f -a '{' '.join(command.words)}'")
        lines += [f"complete -c shardhash -n '{where}' {_fish_flag(flag)}" for flag in command.flags]
    return "\n".join(lines) + "\n"


def _fish_flag(flag: Flag) -> str:
    names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in flag.spellings)
    follows = {"switch": "", "file": " -r -F", "text": " -x"}[flag.kind]
    values = f" -a '{' '.join(flag.values)}'" if flag.values else ""
    return f"{names}{follows}{values} -d '{flag.help}'"

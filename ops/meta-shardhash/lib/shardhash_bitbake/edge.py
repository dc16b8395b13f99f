"""An edge: a server on this machine, started on demand by the program ``shardhash``, in front of the configured one.

SHARDHASH_EDGE is "1" for one beside SSTATE_DIR, or the folder of its data; "0" and nothing are none. Its upstream is
what BB_HASHSERVE names, and is sent what builds report, as it would be without an edge; or BB_HASHSERVE_UPSTREAM, where
BB_HASHSERVE is a server of this machine already (``auto``, ``unix://``), which is only asked, as it is by that.
Whatever goes wrong here is one warning, and the configured server is asked.
"""

from __future__ import annotations

import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, NamedTuple

from shardhash_bitbake.address import parse_address

PROGRAM = "shardhash"
LIMIT = 10.0
"""Seconds that the program has to print an address. A server that takes longer is there for the next build."""


TELL_AFTER = 2.0
"""Seconds after which something is said about that."""
KILL_LIMIT = 1.0
"""Seconds that it has to end; it may hang in a file system."""


Tell = Callable[[str], None]


class EdgeError(Exception):
    """There is no edge; the text says why."""


class Edge(NamedTuple):
    """What the settings of a build say about its edge."""

    where: tuple[str, ...]
    """Arguments that say where its data is."""
    upstream: str
    """The server that it asks; "" for none."""
    forward: bool = True
    """Whether it sends on what builds report."""


def find_edge(data: Any) -> Edge | None:
    """The edge that a build wants, by BitBake's variables; None for none. Raises EdgeError."""
    wanted = (data.getVar("SHARDHASH_EDGE") or "").strip()
    if wanted in ("", "0"):
        return None
    where: tuple[str, ...] = ("--data", wanted)
    if wanted == "1":
        cache = data.getVar("SSTATE_DIR")
        if not cache:
            raise EdgeError('SHARDHASH_EDGE is "1", but SSTATE_DIR is not set; name a folder for its data instead')
        where = ("--sstate", cache)
    elif not Path(wanted).is_absolute():
        raise EdgeError(f'SHARDHASH_EDGE is {wanted!r}; it is "1", "0", or the whole path of a folder')
    server = data.getVar("BB_HASHSERVE") or ""
    own = not server or server == "auto" or server.startswith("unix://")
    return Edge(where, (data.getVar("BB_HASHSERVE_UPSTREAM") or "") if own else server, not own)


def start_edge(edge: Edge, tell: Tell, username: str = "", password: str = "") -> str:
    """The address of the edge, which is started if it does not run. Raises EdgeError.

    `tell` gets a text when it takes long. The user is who logs in at its upstream. The environment has the settings of
    proxies and certificates.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        raise EdgeError(f"there is no program {PROGRAM} in PATH; install shardhash, or take SHARDHASH_EDGE out")
    command = [program, "edge", *edge.where]
    login = bool(edge.upstream and username and password)
    if edge.upstream:
        command += ["--upstream", edge.upstream] + ([] if edge.forward else ["--no-forward"])
    if login:
        command += ["--upstream-user", username, "--upstream-token-file", "/dev/stdin"]
    address = _run(command, password + "\n" if login else "", tell)
    try:
        return parse_address(address).text
    except ValueError as error:
        raise EdgeError(f"{program} edge printed what is no address: {error}") from None


def _run(command: list[str], text: str, tell: Tell) -> str:
    """The first line that a command prints."""
    try:
        # Not by subprocess.run, which would wait for the end of a process that hangs in a file system.
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="backslashreplace",
        )
    except OSError as error:
        raise EdgeError(f"{command[0]} cannot be run: {error}") from None
    try:
        try:
            out, said = process.communicate(text, timeout=min(TELL_AFTER, LIMIT))
        except subprocess.TimeoutExpired:
            tell("Waiting for the hash equivalence server of this machine to start")
            out, said = process.communicate(timeout=max(LIMIT - TELL_AFTER, 0.0))
    except subprocess.TimeoutExpired:
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(KILL_LIMIT)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        raise EdgeError(f"it did not start within {LIMIT:g} s; it may be there for the next build") from None
    lines = said.strip().splitlines()
    if process.returncode:
        raise EdgeError(lines[-1] if lines else f"{command[0]} ended with status {process.returncode}")
    return out.partition("\n")[0].strip()

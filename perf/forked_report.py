"""What one report costs: CPU, and the time until its answer is there.

    python -m perf.forked_report --bitbake ../bitbake

BitBake forks a process for each task, and a task that reports makes a client of its own there: measured is the child,
from its first call to its end. The parent has imported what BitBake's parent imports. The stock client needs a checkout
of BitBake, whose hashserv PyPI does not have.

Scripts have an interpreter of their own: measured is the whole of it, and what an empty one takes is told beside.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from perf.report import clear_progress, progress, save, setting, table
from perf.servers import environment
from tests.servers import IN_MEMORY, ROOT, ServerProcess

METHOD = "oe.sstatesig.OEOuthashBasic"
SIGINFO = "drwxr-xr-x  0  0  ./usr/bin/some-file\n" * 250
"""About 10 KB, which is usual."""


def measure(connect: Callable[[], Any], count: int, name: str) -> tuple[float, float]:
    """Medians of CPU and time of a child that reports once, in milliseconds."""
    found = [
        _report_in_child(connect, hashlib.sha256(f"{name} {number}".encode()).hexdigest()) for number in range(count)
    ]
    return median(cpu for cpu, _ in found) * 1000, median(seconds for _, seconds in found) * 1000


def _report_in_child(connect: Callable[[], Any], taskhash: str) -> tuple[float, float]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        cpu, began = time.process_time(), time.perf_counter()
        client = connect()
        answer = client.report_unihash(taskhash, METHOD, taskhash, taskhash, {"PN": "sed", "outhash_siginfo": SIGINFO})
        figures = time.process_time() - cpu, time.perf_counter() - began
        os.write(writer, repr(figures if answer["unihash"] == taskhash else None).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    cpu_text, _, seconds_text = text.strip("()").partition(", ")
    return float(cpu_text), float(seconds_text)


SCRIPT = """
import os, sys
from shardhash.client import create_client

with create_client(sys.argv[1]) as client:
    taskhash = os.urandom(32).hex()
    client.report_unihash(taskhash, "perf.script", taskhash, taskhash, {"PN": "sed"})
"""


def measure_scripts(addresses: dict[str, str], count: int) -> dict[str, tuple[float, float]]:
    """Medians of CPU and time of whole interpreters that report once, by what they are; they take turns."""
    taskhash = "0" * 64
    scripts = {"empty": [sys.executable, "-c", "pass"]}
    for kind, address in addresses.items():
        command = [sys.executable, "-m", "shardhash", "client", "--address", address]
        scripts[f"script {kind}"] = [sys.executable, "-c", SCRIPT, address]
        scripts[f"shardhash client ping {kind}"] = [*command, "ping"]
        scripts[f"shardhash client get {kind}"] = [*command, "get", METHOD, taskhash]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in scripts}
    for number in range(count):
        progress(f"scripts {number + 1}/{count}", number / count)
        for name, script in scripts.items():
            found[name].append(_run(script))
    clear_progress()
    return {
        name: (median(cpu for cpu, _ in each) * 1000, median(seconds for _, seconds in each) * 1000)
        for name, each in found.items()
    }


def _run(command: Sequence[str]) -> tuple[float, float]:
    """CPU and time of a process, in seconds."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT, env=environment())
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command[1:]} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bitbake", type=Path, help="checkout of BitBake, for its client")
    parser.add_argument("--count", type=int, default=100, help="reports of each client (default 100)")
    parser.add_argument("--scripts", type=int, default=20, help="interpreters of each kind (default 20)")
    parser.add_argument("--json", type=Path, help="where the results go")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT / "ops/meta-shardhash/lib"))
    ways: dict[str, Callable[[str], Any]] = {
        "layer": importlib.import_module("shardhash_bitbake.client").Client,
        "shardhash.client": importlib.import_module("shardhash.client").create_client,
    }
    if arguments.bitbake:
        sys.path.insert(0, str(arguments.bitbake / "lib"))
        ways["stock"] = importlib.import_module("hashserv").create_client
    figures: dict[str, Any] = setting()
    rows = []
    with ServerProcess(*IN_MEMORY, binds=["127.0.0.1:0", "ws://127.0.0.1:0"]) as server:
        for name, create in ways.items():
            for kind, address in zip(("tcp", "ws"), server.addresses, strict=True):
                cpu, seconds = measure(lambda: create(address), arguments.count, f"{name} {kind}")  # noqa: B023  # at once
                figures[f"{name}_{kind}"] = {"cpu_ms": cpu, "ms": seconds}
                rows.append([f"{name} {kind}", f"{cpu:.2f}", f"{seconds:.2f}"])
        scripts = measure_scripts(dict(zip(("tcp", "ws"), server.addresses, strict=True)), arguments.scripts)
    print(table(["client", "CPU ms", "ms"], rows))
    empty = scripts["empty"][0]
    print()
    print(
        table(
            ["interpreter", "CPU ms", "more than empty", "ms"],
            [[name, f"{cpu:.1f}", f"{cpu - empty:.1f}", f"{ms:.1f}"] for name, (cpu, ms) in scripts.items()],
        )
    )
    figures["scripts"] = {name: {"cpu_ms": cpu, "ms": ms} for name, (cpu, ms) in scripts.items()}
    if arguments.json:
        save(arguments.json, figures)


if __name__ == "__main__":
    main()

"""What one report costs a forked task: CPU of the child from its first call to its end, and the time that it waits.

    python -m perf.forked_report --bitbake ../bitbake

BitBake forks a process for each task, and a task that reports makes a client of its own there. The parent has imported
what BitBake's parent imports. The stock client needs a checkout of BitBake, whose hashserv PyPI does not have.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from perf.report import save, setting, table
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bitbake", type=Path, help="checkout of BitBake, for its client")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--json", type=Path, help="where the results go")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT / "ops/meta-shardhash/lib"))
    ways: dict[str, Callable[[str], Any]] = {"layer": importlib.import_module("shardhash_bitbake.client").Client}
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
    print(table(["client", "CPU ms", "ms"], rows))
    if arguments.json:
        save(arguments.json, figures)


if __name__ == "__main__":
    main()

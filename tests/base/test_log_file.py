"""A log of limited size, in a process of its own, whose standard error it takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.servers import ROOT

PROGRAM = """
import logging, os, sys
from pathlib import Path
from shardhash.base.log_file import LimitedLog

logging.basicConfig(level="INFO", format="%(message)s", handlers=[LimitedLog(Path(sys.argv[1]), 1000)])
for number in range(100):
    logging.info("line %d of some length, so that a file is full soon", number)
os.write(2, b"from beside\\n")
"""


def test_two_files_of_limited_size_and_standard_error_is_the_newer(tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(log)], env={"PYTHONPATH": str(ROOT)}, capture_output=True, check=True
    )
    assert (done.stdout, done.stderr) == (b"", b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1"]
    assert all(0 < path.stat().st_size <= 1000 for path in tmp_path.iterdir())
    assert log.read_text().endswith("line 99 of some length, so that a file is full soon\nfrom beside\n")

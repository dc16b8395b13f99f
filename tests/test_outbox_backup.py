"""An edge whose upstream is away, as processes: verified, backed up, lost, restored; the upstream gets every report."""

from __future__ import annotations

import time
from pathlib import Path

from shardhash.client import create_client
from tests.servers import IN_MEMORY, ServerProcess, free_port, run_shardhash

METHOD = "m"
LIMIT = 30.0


def digits(number: int) -> str:
    return f"{number:064x}"


def report(address: str, numbers: range) -> None:
    with create_client(address) as client:
        for number in numbers:
            answer = client.report_unihash(digits(number), METHOD, digits(number + 1000), digits(number + 2000))
            assert answer["unihash"] == digits(number + 2000)


def wait_until_known(address: str, numbers: range) -> None:
    until = time.monotonic() + LIMIT
    with create_client(address) as client:
        while any(client.get_unihash(METHOD, digits(number)) != digits(number + 2000) for number in numbers):
            assert time.monotonic() < until, "not all reports came"
            time.sleep(0.05)


def test_a_restored_edge_sends_what_waited(tmp_path: Path) -> None:
    data, copy, new = (str(tmp_path / name) for name in ("edge", "backup", "new"))
    port = free_port()
    upstream = ["--upstream", f"127.0.0.1:{port}", "--forward", "--workers", "1"]
    with ServerProcess("--data", data, *upstream) as edge:
        report(edge.address, range(20))
        verified = run_shardhash("verify", "--data", data)
        assert verified.returncode == 0, verified.stdout
        assert "no damage: 1 shard, 20 mappings" in verified.stdout
        assert "outbox of 1 file: 20 reports wait, 0 were refused, 0 answered otherwise\n" in verified.stdout
        assert run_shardhash("backup", "--data", data, copy).returncode == 0
        report(edge.address, range(20, 25))
        edge.kill()
    restored = run_shardhash("restore", copy, "--data", new)
    assert "20 reports wait there that no upstream took" in restored.stdout, restored
    assert "20 reports wait" in run_shardhash("verify", "--data", copy).stdout
    with ServerProcess(*IN_MEMORY, binds=[f"127.0.0.1:{port}"]) as there:
        with ServerProcess("--data", new, *upstream):
            wait_until_known(there.address, range(20))
        # The old one, over which the backup is restored: its own reports wait aside.
        over = run_shardhash("restore", copy, "--data", data, "--force")
        assert "25 such reports waited before, kept in" in over.stdout, over
        with ServerProcess("--data", data, *upstream) as edge:
            report(edge.address, range(30, 31))
            wait_until_known(there.address, range(30, 31))
        after = run_shardhash("verify", "--data", data).stdout
        assert ": 0 reports wait, 0 were refused, 0 answered otherwise\n" in after, "sending again changed nothing"

"""What a replacement of the data left goes at a start, but only once every shard has recovered."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from shardhash.client import create_client
from shardhash.shard.directory.manifest import Manifest
from tests.servers import ServerProcess

HASH = "a" * 64


def generations(data: Path) -> list[str]:
    return sorted(path.name for path in data.glob("generation-*"))


def test_leftovers_go_after_the_shards_have_recovered(
    tmp_path: Path, start_server: Callable[..., ServerProcess]
) -> None:
    data = tmp_path / "data"
    server = start_server("--data", str(data), "--workers", "1")
    with create_client(server.address) as client:
        client.report_unihash(HASH, "m", HASH, HASH)
    assert server.stop() == 0
    server = start_server("--data", str(data), "--workers", "2")  # the reshard's old generation
    assert generations(data) == ["generation-000002"]
    assert server.stop() == 0
    (data / "generation-000007" / "shard-000").mkdir(parents=True)
    (data / "generation-000007" / "shard-000" / "log-0000000001.log").write_bytes(b"what may still be needed")
    snapshot = Manifest(2, 2).folders(data)[1] / "snapshot-0000000002.snap"
    sound = snapshot.read_bytes()
    snapshot.write_bytes(sound[:-1])
    options = ["--data", str(data), "--workers", "2", "--bind", "127.0.0.1:0"]
    command = [sys.executable, "-m", "shardhash", "serve", *options]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 3
    assert "shardhash repair --data DIR" in refused.stderr
    assert generations(data) == ["generation-000002", "generation-000007"]
    snapshot.write_bytes(sound)
    server = start_server("--data", str(data), "--workers", "2")
    assert generations(data) == ["generation-000002"]
    with create_client(server.address) as client:
        assert client.get_unihash("m", HASH) == HASH

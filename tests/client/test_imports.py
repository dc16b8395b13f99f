"""What the blocking client does without: nothing that takes longer to import than a report to make."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.servers import IN_MEMORY, ROOT, ServerProcess

HEAVY = ["aiohttp", "asyncio", "dataclasses", "ipaddress", "logging", "numpy", "orjson", "pathlib", "ssl", "urllib"]
BLOCKING = """
import json, sys
from shardhash.client import create_client

answers = []
for number, address in enumerate(sys.argv[1:]):
    with create_client(address) as client:
        taskhash = f"{number:064x}"
        answers.append(client.report_unihash(taskhash, "m", taskhash, taskhash, {"PN": "sed"})["unihash"] == taskhash)
        answers.append(client.get_unihash_batch([("m", taskhash), ("m", "f" * 64)]) == [taskhash, None])
print(json.dumps([answers, [name for name in sys.modules if "." not in name]]))
"""
ASYNCHRONOUS = """
import asyncio, json, sys
from shardhash.client import create_async_client

async def main():
    async with await create_async_client(sys.argv[-1]) as client:
        return await client.ping()

print(json.dumps([asyncio.run(main()), [name for name in sys.modules if "." not in name]]))
"""


def run(program: str, addresses: list[str], home: Path) -> tuple[object, set[str]]:
    """What a fresh interpreter prints, and the modules that it has in the end."""
    result = subprocess.run(
        [sys.executable, "-c", program, *addresses],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    printed, modules = json.loads(result.stdout)
    return printed, {*modules}


def test_clients_import_little(tmp_path: Path) -> None:
    socket = tmp_path / "server.sock"
    with ServerProcess(*IN_MEMORY, binds=["127.0.0.1:0", f"unix://{socket}", "ws://127.0.0.1:0"]) as server:
        answers, modules = run(BLOCKING, server.addresses, tmp_path)
        assert answers == [True] * 6
        assert not modules & {*HEAVY}
        answer, modules = run(ASYNCHRONOUS, server.addresses, tmp_path)
        assert answer == {"alive": True}
        assert "aiohttp" not in modules
        shown = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "shardhash", "client", "--address", server.addresses[2], "ping"],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
    assert shown.stdout.startswith("alive")
    imported = {line.split("|")[-1].strip() for line in shown.stderr.splitlines()}
    assert "shardhash.client.blocking" in imported
    assert not imported & {"aiohttp", "asyncio", "numpy", "orjson", "ssl"}

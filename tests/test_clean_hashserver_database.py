"""What OE-core's clean-hashserver-database does, step by step: the sstate cache says what stays, the rest is swept.

The steps, in a shell as there: file names of the cache become lines ``unihash X``, a client marks them by a stream,
sweeps, and removes unused outhash rows. The client is each of those that people have: BitBake's own tool, where
BITBAKE_DIR names a checkout; ours; and the stock client's transport alone.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shardhash.client import create_client
from tests.moving.databases import METHOD, hash_of
from tests.servers import ROOT, ServerProcess

STEPS = """
set -euo pipefail
find "$1" -name '*.tar.zst' -printf '%f\\n' | awk -F: '{ split($NF, words, "_"); print "unihash " words[1] }' |
    $2 --address "$3" gc-mark-stream alive
$2 --address "$3" gc-status
$2 --address "$3" gc-sweep alive
$2 --address "$3" clean-unused 0
"""

TRANSPORT = '''
"""Just so much of a client that the steps need, over BitBake's own transport."""
import asyncio, json, logging, sys
from bb.asyncrpc import AsyncClient

async def main(address, command, *arguments):
    client = AsyncClient("OEHASHEQUIV", "1.1", logging.getLogger("stock"))
    host, _, port = address.rpartition(":")
    await client.connect_tcp(host, int(port))
    if command == "gc-mark-stream":
        assert await client.invoke({"gc-mark-stream": None}) == "ok"
        count = 0
        for line in sys.stdin:
            words = line.split()
            where = dict(zip(words[::2], words[1::2]))
            await client.socket.send(json.dumps({"mark": arguments[0], "where": where}))
            count += json.loads(await client.socket.recv())["count"]
        await client.socket.send("END")
        assert await client.socket.recv() == "ok"
        print(count)
    else:
        fields = {"gc-status": {}, "gc-sweep": {"mark": arguments and arguments[0]},
                  "clean-unused": {"max_age_seconds": 0}}[command]
        print(await client.invoke({command: fields}))
    await client.close()

asyncio.run(main(sys.argv[2], *sys.argv[3:]))
'''


def client_command(kind: str, folder: Path) -> str:
    match kind:
        case "bitbake-hashclient":
            if not (checkout := os.environ.get("BITBAKE_DIR")):
                pytest.skip("BITBAKE_DIR names no checkout of BitBake")
            return shlex.join([sys.executable, "-W", "ignore", f"{checkout}/bin/bitbake-hashclient"])
        case "transport":
            pytest.importorskip("bb.asyncrpc")
            (folder / "client.py").write_text(TRANSPORT)
            return shlex.join([sys.executable, str(folder / "client.py")])
        case _:
            return shlex.join([sys.executable, "-m", "shardhash", "client"])


@pytest.mark.parametrize("kind", ["transport", "bitbake-hashclient", "shardhash client"])
def test_what_the_cache_holds_stays(kind: str, tmp_path: Path, start_server: Callable[..., ServerProcess]) -> None:
    command = client_command(kind, tmp_path)
    server = start_server("--data", str(tmp_path / "data"), "--workers", "2")
    cache = tmp_path / "sstate-cache"
    with create_client(server.address) as client:
        for number in range(60):
            taskhash, unihash = hash_of("task", number), hash_of("uni", number)
            client.report_unihash(taskhash, METHOD, hash_of("out", number), unihash)
            if number % 3:  # two thirds are in the cache, each with its siginfo beside it
                folder = cache / "universal" / unihash[:2] / unihash[2:4]
                folder.mkdir(parents=True)
                name = (
                    f"sstate:recipe_{number}:core2-64-poky-linux:1.0:r0:core2-64:14:{unihash}_populate_sysroot.tar.zst"
                )
                for ending in ("", ".siginfo"):
                    (folder / (name + ending)).touch()
        client.report_unihash(hash_of("task", 99), METHOD, hash_of("out", 0), hash_of("uni", 99))  # shares uni 0
        done = subprocess.run(
            ["bash", "-c", STEPS, "bash", str(cache), command, server.address],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, done.stderr
        assert "40" in done.stdout.splitlines()[0]
        found = client.get_unihash_batch([(METHOD, hash_of("task", number)) for number in [*range(60), 99]])
        assert found == [*(hash_of("uni", number) if number % 3 else None for number in range(60)), None]
        assert client.gc_status()["mark"] is None
        usage = client.get_db_usage()
        assert (usage["unihashes_v3"]["rows"], usage["outhashes_v2"]["rows"]) == (40, 40)
        # What was swept comes back by the next report.
        assert client.report_unihash(hash_of("task", 0), METHOD, hash_of("out", 0), hash_of("new"))[
            "unihash"
        ] == hash_of("new")

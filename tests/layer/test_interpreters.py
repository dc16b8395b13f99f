"""The layer's library under every Python that build hosts may have, as far as this machine has it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.servers import ROOT, ServerProcess

VERSIONS = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14")
LIBRARY = ROOT / "ops/meta-shardhash/lib"
PROGRAM = """
import json, os, sys, warnings
warnings.simplefilter("error")
from pathlib import Path

library, version, dead, *addresses = sys.argv[1:]
sys.path.insert(0, library)
files = sorted(Path(library, "shardhash_bitbake").glob("*.py"))
for file in files:
    compile(file.read_text(encoding="utf-8"), str(file), "exec")
names = [file.stem for file in files if file.stem not in ("__init__", "register", "handler", "gathering")]
for name in names:  # the others import BitBake
    __import__("shardhash_bitbake." + name)

from shardhash_bitbake.client import Client
from shardhash_bitbake.errors import BreakerOpenError, InvokeError
from shardhash_bitbake.optimism import Optimist, Task
from shardhash_bitbake.spool import Spool

found = {"version": "%d.%d" % sys.version_info[:2], "modules": len(names)}
for kind, address in zip(("tcp", "unix", "ws", "wss"), addresses):
    method = "python" + version + kind
    known, new = "ab" * 32, "cd" * 32
    with Client(address) as client:
        reported = client.report_unihash(known, method, "ef" * 32, "12" * 32, {"PN": "zlib", "task": "compile"})
        asked = client.get_unihash_batch([(method, known), (method, new)])
        exists = client.unihash_exists_batch(["12" * 32, new])
        guesses = client.get_guesses([(method, "zlib", "compile")])
        try:
            client.report_unihash_equiv("t", method, "no unihash")
            refused = False
        except InvokeError:
            refused = True
        child = os.fork()
        if child == 0:
            os._exit(0 if client.get_unihash(method, known) == "12" * 32 else 1)
        forked = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        rounds = Optimist([Task("a", (), "", method), Task("b", [0], "", method)], {}).run(client.get_unihash_batch)
    found[kind] = [reported["unihash"], asked, exists, guesses, refused, forked, rounds]

client, errors = Client(dead), []
for _ in range(2):
    try:
        client.ping()
    except ConnectionError as error:
        errors.append(type(error) is BreakerOpenError)
found["breaker"] = errors
spool, sent = Spool(os.environ["SPOOL"], dead), []
spool.add(dict.fromkeys(("method", "taskhash", "outhash", "unihash"), known))
found["spool"] = [spool.send(sent.extend), len(sent)]
print(json.dumps(found))
"""


def find_python(version: str) -> str | None:
    """An interpreter in PATH, or among those of pyenv; one that runs."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [shutil.which(f"python{version}"), *sorted(map(str, pyenv.glob(f"versions/{version}.*/bin/python")))]
    for path in filter(None, candidates):
        if subprocess.run([path, "-c", "import ssl"], capture_output=True, check=False).returncode == 0:
            return path
    return None


@pytest.mark.parametrize("version", VERSIONS)
def test_the_library_works(version: str, shared_server: ServerProcess, dead_address: str, tmp_path: Path) -> None:
    python = find_python(version)
    if python is None:
        pytest.skip(f"there is no python{version} in PATH and none of pyenv's")
    result = subprocess.run(
        [python, "-I", "-c", PROGRAM, str(LIBRARY), version, dead_address, *shared_server.addresses],
        env={"SPOOL": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    unihash = "12" * 32
    expected = [unihash, [unihash, None], [True, False], [[[["ab" * 32, unihash]], True]], True, 0, [1, 2, True]]
    assert found.pop("modules") > 10
    assert found == {
        "version": version,
        **dict.fromkeys(("tcp", "unix", "ws"), expected),
        "breaker": [False, True],
        "spool": [1, 1],
    }

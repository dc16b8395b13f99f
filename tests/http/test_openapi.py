"""The OpenAPI document against a real server, by schemathesis.

Every operation is asked with what fits its schema and with what does not. It has to answer as the document says, refuse
what does not fit, and never fail. What fits may be refused too: whether a user exists is no matter of a schema.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shardhash.client import create_client
from tests.http.conftest import http_of
from tests.servers import IN_MEMORY, ServerProcess

pytestmark = pytest.mark.once

pytest.importorskip("schemathesis", reason="schemathesis is not installed (pip install '.[test]')")

SECRET = {"SHARDHASH_ADMIN_USER": "admin", "SHARDHASH_ADMIN_PASSWORD": "pass word"}
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,negative_data_rejection,unsupported_method,allow_header_conformance"
)
EXAMPLES = 30
"""Requests made up for each operation, besides those that cover its schema."""
LOGINS = 3
"""The same of logins: a failed one waits a second."""
LIMIT = 180.0
"""Seconds for all of them, on a machine that has much else to do; alone they take 20."""


def run(server: ServerProcess, folder: Path, *options: str) -> str:
    """What schemathesis prints; it fails if that is not that all is well."""
    url = http_of(server.address)
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/api/openapi.json", "--url", url),
        *("--checks", CHECKS, "--seed", "14", "--generation-database", "none", "--request-timeout", "30", "--no-color"),
        *options,
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=LIMIT, cwd=folder)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("rights", ["@none", "@read", "@read @report @db-admin"])
def test_what_is_asked_is_answered_as_described(rights: str, tmp_path: Path) -> None:
    """As nobody in particular: a user would replace or delete the own token at once, and wait after each refusal."""
    with ServerProcess(*IN_MEMORY, binds=[f"ws://127.0.0.1:0,anon={rights}"]) as server:
        options = ["--max-examples", str(EXAMPLES)]
        for path in ("/api/events", "/api/login"):  # one goes on for ever, the other waits after each failure
            options += ["--exclude-path", path]
        said = run(server, tmp_path, *options)
        assert "Tested: 9" in said
        with create_client(server.address) as client:
            assert client.ping()


def test_logins_are_answered_as_described(tmp_path: Path) -> None:
    with ServerProcess(*IN_MEMORY, binds=["ws://127.0.0.1:0,anon=@read"], environment=SECRET) as server:
        options = ("--include-path", "/api/login", "--max-examples", str(LOGINS), "--phases", "fuzzing")
        assert "Tested: 1" in run(server, tmp_path, *options)

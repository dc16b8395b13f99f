"""What a real server logs: as JSON, what is slow, who comes and goes."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from shardhash.client import create_client
from tests.servers import IN_MEMORY, ServerProcess


def logged(*arguments: str) -> list[str]:
    """The lines of a server that was asked a few things."""
    with ServerProcess(*IN_MEMORY, *arguments) as server, create_client(server.address) as client:
        client.ping()
        client.report_unihash("a" * 64, "m", "b" * 64, "c" * 64)
        client.remove({"method": "m"})
    return server.log.read().splitlines()


def test_json() -> None:
    events: list[dict[str, Any]] = [json.loads(line) for line in logged("--log-format", "json")]
    assert any(event.get("message", "").startswith("listening on") for event in events)
    (audit,) = [event["audit"] for event in events if "audit" in event]
    assert (audit["command"], audit["rows"]) == ("remove", 2)


def test_logfmt() -> None:
    lines = logged("--log-format", "logfmt", "--log", "DEBUG", "--slow", "0.000001")
    assert all(re.match(r"time=\S+ level=[A-Z]+ logger=\S+ ", line) for line in lines)
    assert any(" event=audit command=remove user=null peer=127.0.0.1:" in line for line in lines)
    for event in ("connected", "disconnected", "slow"):
        assert any(f" event={event} peer=127.0.0.1:" in line for line in lines), event
    assert any(re.search(r" event=slow peer=\S+ command=remove milliseconds=\d", line) for line in lines)


def test_debug_tells_who_comes_and_goes() -> None:
    text = "\n".join(logged("--log", "DEBUG"))
    assert "connected by tcp" in text
    assert "disconnected" in text


def test_what_is_slow_is_told() -> None:
    lines = [line for line in logged("--slow", "0.000001") if "slow:" in line]
    assert any("slow: remove took" in line for line in lines)
    assert not any("slow:" in line for line in logged("--slow", "100s"))


def test_a_wrong_format_is_told(tmp_path: Path) -> None:
    command = ["python", "-m", "shardhash", "serve", "--log-format", "xml", "--memory"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "json" in done.stderr

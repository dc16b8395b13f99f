"""Log formats: an event is a line, whatever a client's text holds."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

import pytest

from shardhash.base.log_format import formatter_of, goes_to_journal

HOSTILE = "peer: refused: x\n2026 ERROR forged \x1b[2J \ud800"


def record(
    message: str, level: int = logging.INFO, name: str = "shardhash.server", error: object = None
) -> logging.LogRecord:
    return logging.LogRecord(name, level, "file", 1, message, None, error)  # type: ignore[arg-type]  # as logging does


def failure() -> object:
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        return sys.exc_info()


def test_json_is_an_object_a_line() -> None:
    line = formatter_of("json", 2, {}).format(record(HOSTILE, logging.WARNING, error=failure()))
    assert "\n" not in line
    event = json.loads(line)
    assert list(event) == ["time", "level", "logger", "message", "error"]
    assert event["message"].startswith("peer: refused: x\n2026 ERROR forged")
    assert (event["level"], event["logger"]) == ("WARNING", "shardhash.server")
    assert event["time"].endswith("+00:00")
    assert "ValueError" in event["error"]


def test_json_has_the_fields_of_the_audit_trail() -> None:
    line = formatter_of("json", 2, {}).format(record('{"command":"remove","rows":3}', name="shardhash.audit"))
    assert json.loads(line)["audit"] == {"command": "remove", "rows": 3}


def test_text_has_the_time_unless_a_journal_has_it(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w") as file:
        found = os.fstat(file.fileno())
        journal = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert goes_to_journal(file.fileno(), journal)
        assert not goes_to_journal(file.fileno(), {"JOURNAL_STREAM": "1:2"})
        text = formatter_of("text", file.fileno(), {}).format(record("listening"))
        assert text.endswith(" INFO shardhash.server: listening")
        formatter = formatter_of("text", file.fileno(), journal)
    assert formatter.format(record("listening")) == "<6>shardhash.server: listening"
    assert formatter.format(record("x", logging.CRITICAL + 5)) == "<2>shardhash.server: x"
    lines = formatter.format(record(HOSTILE, logging.ERROR, error=failure())).splitlines()
    assert len(lines) > 2
    assert all(line.startswith("<3>") for line in lines)
    assert "\\n2026 ERROR forged" in lines[0]
    assert not goes_to_journal(10**6, journal)


@pytest.mark.parametrize("name", ["text", "json"])
def test_nothing_of_a_client_begins_a_line(name: str) -> None:
    assert len(formatter_of(name, 2, {}).format(record(HOSTILE)).splitlines()) == 1

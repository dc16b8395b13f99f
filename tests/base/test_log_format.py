"""Log formats: an event is a line, whatever a client's text holds."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from pathlib import Path

import pytest

from shardhash.base.log_format import SLOW, formatter_of, goes_to_journal

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


def test_logfmt_leaves_times_to_a_journal(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w") as file:
        found = os.fstat(file.fileno())
        formatter = formatter_of("logfmt", file.fileno(), {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"})
    assert formatter.format(record("x", logging.WARNING)) == "<4>level=WARNING logger=shardhash.server message=x"


def logfmt(*records: logging.LogRecord) -> list[str]:
    return [formatter_of("logfmt", 2, {}).format(one).partition(" ")[2] for one in records]


def test_logfmt_is_keys_and_values() -> None:
    plain, odd, audit = logfmt(
        record("stopping"),
        record('a "b" = \\ c', logging.WARNING),
        record('{"command":"remove","where":{"method":"m"},"user":null,"rows":3}', name="shardhash.audit"),
    )
    assert plain == "level=INFO logger=shardhash.server message=stopping"
    assert odd == r'level=WARNING logger=shardhash.server message="a \"b\" = \\ c"'
    assert audit == (
        r'level=INFO logger=shardhash.audit event=audit command=remove where="{\"method\":\"m\"}" user=null rows=3'
    )
    line = formatter_of("logfmt", 2, {}).format(record(HOSTILE, error=failure()))
    assert re.match(r"time=\d{4}-\d\d-\d\dT\S+\+00:00 level=INFO ", line)
    assert len(line.splitlines()) == 1
    assert 'error="Traceback' in line


def test_what_happens_to_clients_has_keys_that_no_client_makes_up() -> None:
    peer = "127.0.0.1:1"
    records = [
        logging.LogRecord("shardhash.c", logging.INFO, "file", 1, template, values, None)
        for template, values in (
            ("%s: closed: %s", (peer, "%s: slow: x")),
            (SLOW, (peer, "remove", "", 12.34)),
            ("shard 1 says: %s", (f"{peer}: closed: x",)),
        )
    ]
    closed, slow, other = [json.loads(formatter_of("json", 2, {}).format(one)) for one in records]
    assert (closed["event"], closed["peer"]) == ("closed", peer)
    assert (slow["event"], slow["command"], slow["milliseconds"]) == ("slow", "remove", 12.3)
    assert "event" not in other
    assert "event=slow peer=127.0.0.1:1 command=remove milliseconds=12.3 message=" in logfmt(records[1])[0]


@pytest.mark.parametrize("name", ["text", "logfmt", "json"])
def test_nothing_of_a_client_begins_a_line(name: str) -> None:
    assert len(formatter_of(name, 2, {}).format(record(HOSTILE)).splitlines()) == 1

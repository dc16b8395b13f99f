"""Reports that could not be sent, kept in a file until the server is back.

A report a line, as JSON, in a file for each server beside BitBake's own cache. Tasks append to it side by side; one
process at a time sends what is there. A report may be sent twice, which does no harm, or be lost when the machine
crashes or the file is full: it only costs a later build what this one would have saved it.

A server may close the connection at one report. Those that it may have been are sent behind all others from then on,
each by itself, and given up after some tries, so that they hold up nobody for ever.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Callable

LIMIT = 16 * 1024 * 1024
"""Bytes that a spool may take."""
SIGINFO_LIMIT = 64 * 1024
"""Letters of a siginfo that is kept with its report."""

TOGETHER = 100
"""Reports that are sent in one go."""
MOST_TRIES = 5
"""How often a report is sent to a server that closes the connection at it."""
_TRIES = "tries"
"""What a line has beside the report's columns: how often that was."""

Report = Mapping[str, Any]


class Spool:
    """The unsent reports for one server."""

    def __init__(self, directory: str | os.PathLike[str], address: str, limit: int = LIMIT) -> None:
        name = hashlib.sha256(address.encode()).hexdigest()[:16]
        self.path = Path(directory) / f"shardhash-unsent-{name}.jsonl"
        self._sending = self.path.with_suffix(".sending")
        self._limit = limit

    def add(self, report: Report) -> bool:
        """Keep a report; False if the file is full or cannot be written."""
        if len(str(report.get("outhash_siginfo", ""))) > SIGINFO_LIMIT:
            report = {key: value for key, value in report.items() if key != "outhash_siginfo"}
        line = json.dumps(report).encode() + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked() as file:
                # A line that a crash cut off is ended first.
                size = file.seek(0, os.SEEK_END)
                if size + len(line) > self._limit:
                    return False
                file.write(line if size == 0 or self._ends_a_line(file, size) else b"\n" + line)
        except OSError:
            return False
        return True

    def send(self, send: Callable[[Sequence[Report]], object]) -> int:
        """Hand all kept reports to `send`, and forget them; their number.

        If `send` raises they stay, and the exception goes on. Nothing happens while another process sends.
        """
        if not (self.path.exists() or self._sending.exists()):
            return 0
        lock_path = self.path.with_suffix(".lock")
        with lock_path.open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return 0
            # What an interrupted sender left comes first, then what was added since.
            return self._send_file(send) + (self._send_file(send) if self._take() else 0)

    def drop(self) -> None:
        """Forget all kept reports."""
        for path in (self.path, self._sending):
            path.unlink(missing_ok=True)

    def _take(self) -> bool:
        """Put the file aside for sending; those who add begin a new one."""
        if not self.path.exists():
            return False
        with self._locked():
            self.path.replace(self._sending)
        return True

    def _send_file(self, send: Callable[[Sequence[Report]], object]) -> int:
        if not self._sending.exists():
            return 0
        reports = sorted(_parse(self._sending.read_bytes()), key=_tries)
        fresh = [report for report in reports if not _tries(report)]
        parts = [fresh[at : at + TOGETHER] for at in range(0, len(fresh), TOGETHER)]
        parts += [[suspect] for suspect in reports[len(fresh) :]]
        sent = 0
        for some in parts:
            try:
                send([{name: value for name, value in report.items() if name != _TRIES} for report in some])
            except ConnectionError as error:
                left = reports[sent:]
                if isinstance(error.__cause__ or error, ConnectionResetError):
                    again = [{**report, _TRIES: _tries(report) + 1} for report in some]
                    left = left[len(some) :] + [report for report in again if _tries(report) < MOST_TRIES]
                self._rewrite(left)
                raise
            sent += len(some)
        self._sending.unlink()
        return sent

    def _rewrite(self, reports: Sequence[Report]) -> None:
        """What is left to be sent."""
        new = self._sending.with_suffix(".rest")
        new.write_bytes(b"".join(json.dumps(report).encode() + b"\n" for report in reports))
        new.replace(self._sending)

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        """The file, locked, and still the one of its name."""
        while True:
            with self.path.open("a+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                try:
                    current = self.path.stat().st_ino
                except FileNotFoundError:
                    continue
                if current == os.fstat(file.fileno()).st_ino:
                    yield file
                    return

    @staticmethod
    def _ends_a_line(file: BinaryIO, size: int) -> bool:
        file.seek(size - 1)
        return file.read(1) == b"\n"


def _tries(report: Report) -> int:
    return int(report.get(_TRIES, 0))


def _parse(data: bytes) -> Iterator[Report]:
    """The reports in a file; what a crash cut off is passed over."""
    for line in data.split(b"\n"):
        try:
            report = json.loads(line)
        except ValueError:
            continue
        if isinstance(report, dict) and {"method", "taskhash", "outhash", "unihash"} <= {*report}:
            yield report

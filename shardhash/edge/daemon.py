"""A process that outlives the one that began it: a session of its own, nothing open that was open there."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path


def begin_daemon(run: Callable[[], int], log_file: Path) -> tuple[int, int]:
    """Start a process that runs this and ends with the status that it returns.

    Returns the process's number, and a descriptor from which can be read what it writes to standard output; it may be
    closed at any time. Standard error goes to the file. Call it where there are no threads. Raises OSError.
    """
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return _fork(run, log)
    finally:
        os.close(log)


def _fork(run: Callable[[], int], log: int) -> tuple[int, int]:
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        os.close(writer)
        return process, reader
    status = 1
    try:
        _detach(writer, log)
        status = run()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0
    except BaseException:  # noqa: BLE001  # it must not go on as the process that began it
        traceback.print_exc()
    finally:
        logging.shutdown()
        os._exit(status)


def _detach(writer: int, log: int) -> None:
    """Leave the session, the descriptors and what a service manager told the process that began this one."""
    from shardhash.server.service_manager import VARIABLES  # takes a while, which finding a server need not

    os.setsid()
    os.umask(0o077)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, target in ((nothing, 0), (writer, 1), (log, 2)):
        os.dup2(descriptor, target)
    for descriptor in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if descriptor > 2:
            with contextlib.suppress(OSError):  # that of the folder itself is closed already
                os.close(descriptor)
    for name in VARIABLES:
        os.environ.pop(name, None)

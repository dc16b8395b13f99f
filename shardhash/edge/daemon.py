"""A process that outlives the one that began it: a session of its own, nothing open that was open there."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from shardhash.server.service_manager import VARIABLES


def begin_daemon(run: Callable[[], int], log_file: Path) -> tuple[int, int]:
    """Start a process that runs this and ends with the status that it returns.

    Returns the process's number, and a descriptor from which can be read what it writes to standard output; it may be
    closed at any time. Standard error goes to the file. Call it where there are no threads.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        os.close(writer)
        return process, reader
    status = 1
    try:
        _detach(writer, log_file)
        status = run()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0
    except BaseException:  # noqa: BLE001  # it must not go on as the process that began it
        traceback.print_exc()
    finally:
        logging.shutdown()
        os._exit(status)


def _detach(writer: int, log_file: Path) -> None:
    """Leave the session, the descriptors and what a service manager told the process that began this one."""
    os.setsid()
    os.umask(0o077)
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for descriptor, target in ((nothing, 0), (writer, 1), (log, 2)):
        os.dup2(descriptor, target)
    for descriptor in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if descriptor > 2:
            with contextlib.suppress(OSError):  # that of the folder itself is closed already
                os.close(descriptor)
    for name in VARIABLES:
        os.environ.pop(name, None)

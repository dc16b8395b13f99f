"""Inside a server's processes: notes each callback that held the event loop, by the processor time that it took.

`perf.holds` has every Python process of a server import this. uvloop's callbacks cannot be watched, so asyncio's own
loop runs instead. Processor time of the thread, and not the time that went by: the machine may be busy with others.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import sys
import threading
import time
from asyncio import events
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

FOLDER = "PERF_HOLDS"
"""The variable that names the folder for what is noted, a file for each process."""
WHERE = "PERF_HOLDS_WHERE"
"""A variable that has it tell where such a callback was, too, which disturbs it."""
LEAST = 0.001
"""Seconds of a callback that is noted."""
WARM = 2.0
"""Seconds between two looks at all memory."""
_RUN = "_run"


def install() -> None:
    """Watch the event loops of this process, if the variable is set."""
    folder = os.environ.get(FOLDER)
    if not folder:
        return
    import uvloop

    uvloop.run = asyncio.run  # type: ignore[assignment]  # whose handles can be watched
    handle: Any = events.Handle
    run = getattr(handle, _RUN)

    def watched(self: Any) -> None:
        callback = self._callback  # forgotten by who cancels itself
        _collected.clear()
        _generations.clear()
        before = _usage()
        began = time.thread_time()
        try:
            run(self)
        finally:
            took = time.thread_time() - began
            if took >= LEAST:
                what = f"{_name(callback)}{_of_collector()}{_of_kernel(before)}{where.most()}"
                with Path(folder, str(os.getpid())).open("a", encoding="utf-8") as file:
                    file.write(f"{time.monotonic()} {took} {what}\n")
            where.seen.clear()

    threading.Thread(target=_keep_warm, daemon=True).start()
    where = _Where(threading.get_ident())
    if os.environ.get(WHERE):
        threading.Thread(target=where.look, daemon=True).start()
    setattr(handle, _RUN, watched)
    gc.callbacks.append(_watch_collector)


def _keep_warm() -> None:
    """Read all memory of this process again and again.

    A virtual machine's host may take back pages that were idle for seconds: the next look at each then costs 0.1 ms of
    what the guest counts as processor time, 35 ms for 20,000 keys, which no program can cut into slices.
    """
    with Path("/proc/self/mem").open("rb", buffering=0) as memory:
        buffer = bytearray(1 << 20)
        while True:
            for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
                place, rights, *_ = line.split()
                start, end = (int(number, 16) for number in place.split("-"))
                if rights.startswith("r"):
                    with suppress(OSError, OverflowError):  # it went meanwhile, or is the kernel's
                        for at in range(start, end, len(buffer)):
                            os.preadv(memory.fileno(), [memoryview(buffer)[: end - at]], at)
            time.sleep(WARM)


class _Where:
    """Looks again and again at where the event loop's thread is."""

    def __init__(self, thread: int) -> None:
        self.seen: Counter[str] = Counter()
        """Places of the present callback."""
        self._thread = thread

    def look(self) -> None:
        while True:
            time.sleep(LEAST)
            frame = sys._current_frames().get(self._thread)  # noqa: SLF001  # its documentation is public
            names: list[str] = []
            while frame is not None and len(names) < 6:
                names.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
                frame = frame.f_back
            self.seen["<".join(names)] += 1

    def most(self) -> str:
        """The place where it was most often."""
        return "".join(f" [{place} x{count}]" for place, count in self.seen.copy().most_common(2))


_collected: list[float] = []
"""Times at which the garbage collector began and ended in the present callback."""
_generations: list[int] = []
"""What it collected, twice each."""


def _watch_collector(_phase: str, info: dict[str, int]) -> None:
    _collected.append(time.thread_time())
    _generations.append(info["generation"])


def _of_collector() -> str:
    took = sum(_collected[1::2]) - sum(_collected[: len(_collected) // 2 * 2 : 2])
    ages = ", ".join(map(str, _generations[::2]))
    return f" (garbage collector {took * 1e3:.1f} ms, of generation {ages})" if took >= LEAST else ""


def _usage() -> tuple[float, int]:
    """Seconds of the thread in the kernel, and pages that it got."""
    usage = resource.getrusage(resource.RUSAGE_THREAD)
    return usage.ru_stime, usage.ru_minflt


def _of_kernel(before: tuple[float, int]) -> str:
    seconds, pages = (now - then for now, then in zip(_usage(), before, strict=True))
    return f" (kernel {seconds * 1e3:.1f} ms, {pages:.0f} new pages)" if seconds >= LEAST else ""


def _name(callback: Any) -> str:
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        coroutine: Any = owner.get_coro()
        return str(getattr(coroutine, "__qualname__", None) or coroutine).split(" at ")[0]
    return str(getattr(callback, "__qualname__", callback)).replace("\n", " ")[:100]

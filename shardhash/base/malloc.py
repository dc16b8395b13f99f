"""The heap: buffers of a few megabytes that come and go each tick stay with the process for a while.

glibc gives them back to the kernel at once, and takes them again page by page, each of them a fault and 4 KiB of zeros:
for batches of 9000 lookups that was half of the coordinator's processor time and a third of a worker's. Here they go
back every `PAUSE` seconds. Nothing of this happens without glibc.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc

PAUSE = 10.0
"""Seconds for which freed memory may stay."""
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""Numbers of mallopt(3)."""
_MIB = 1 << 20
_GC_THRESHOLD = (700, 2, 3_000)
"""Objects between collections of young ones; and how many of these between those of older ones, and of those between
those of all."""


def collect_little() -> None:
    """Have Python's collector look at few objects at one time.

    This is for processes that make next to no cycles: a collection is a pause for all they serve, 3 ms for 10,000 rows.
    """
    gc.set_threshold(*_GC_THRESHOLD)


def keep_buffers() -> None:
    """Have this process keep freed buffers of up to 32 MiB each, 256 MiB in all."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 32 * _MIB)
        mallopt(_TRIM_THRESHOLD, 256 * _MIB)
        mallopt(_TOP_PAD, 16 * _MIB)


async def give_back(*, cycles: bool = True) -> None:
    """Return free memory to the kernel at intervals, until cancelled; 50 us for each MiB, in a thread.

    That is not quite beside the event loop: glibc holds its arena's lock meanwhile, for which the loop waits as soon as
    it takes or frees something large there, such as a buffer. Python's small objects lie elsewhere.

    `cycles`: free first what young cycles hold, such as the buffers of connections that came and went, which a process
    that has nothing to do any more would keep. It looks at all that is young, a copy of a million keys for 20 ms.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    loop = asyncio.get_running_loop()
    while True:  # without it, too: a worker ends when one of its tasks does
        await asyncio.sleep(PAUSE)
        if cycles:
            gc.collect(1)
        if trim is not None:
            await loop.run_in_executor(None, trim, 0)

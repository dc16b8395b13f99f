"""Huge pages: what a large table lies in is moved to pages of 2 MiB, where lookups take three quarters of the time.

A lookup among millions of mappings reads half a dozen places anywhere in a gigabyte. With pages of 4 KiB the processor
remembers the addresses of next to none of these, and walks the kernel's tables for each. Python's objects and dicts lie
in anonymous memory, which the kernel gives out in such pages; MADV_COLLAPSE (Linux 6.1) copies 2 MiB of them into a
huge one.

- Small processes are left alone: only mappings of `LARGE` bytes and more count.
- Memory hardly grows: only what is in use all but for a tenth is collapsed. It is given back as ever.
- It goes on beside the event loop, in a thread, `STEP` bytes at a time, with rests between them: a sixth of a
  processor, for 10 to 20 seconds a GiB. What touches the 2 MiB that are being copied waits for them, 2 to 4 ms.
- What comes later (a table that grew) is looked for every `PAUSE` seconds.

Nothing happens where the system says ``never`` (/sys/kernel/mm/transparent_hugepage/enabled, prctl(2)), where the
kernel cannot do it or has no huge page left, and without Linux.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import mmap
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

LARGE = 32 << 20
"""Bytes of a mapping from which on it is worth it."""
STEP = 4 << 20
"""Bytes at a time: 4 to 8 ms of a thread."""
REST = 5
"""How many times as long as a step took the next one waits."""
PAUSE = 600.0
"""Seconds between two looks. What is huge already takes some 20 ms a GiB, what is not 2 to 3 s."""
DENSE = 0.9
"""Part of 2 MiB that must be in use."""
_MOST = 2 << 20
"""Bytes of a huge page at most. Those of kernels with larger pages (32 or 512 MiB) would take too long to copy."""
_SETTINGS = Path("/sys/kernel/mm/transparent_hugepage")
_MADV_COLLAPSE = 25
_ENTRY = 8
"""Bytes for each page in /proc/self/pagemap, as the machine orders them; the highest bit: it is in memory."""
_HIGHEST_BIT = bytes(byte >> 7 for byte in range(256))
_NONE_LEFT = frozenset({errno.ENOMEM, errno.EBUSY})
"""What the kernel says when it has no huge page, or the control group has no room for one."""


async def use_huge_pages() -> None:
    """Move what is large to huge pages, now and at intervals, until cancelled."""
    while True:
        size = huge_page_size()
        # Without a right to see its own pages, or to start a thread, a process has its pages as they are. So it has
        # where the kernel's text is not understood: a worker ends when one of its tasks does.
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            for start, end in _steps(size) if size else ():
                began = perf_counter()
                if not await asyncio.to_thread(collapse, start, end, size):
                    break
                await asyncio.sleep(REST * (perf_counter() - began))
        await asyncio.sleep(PAUSE)


def huge_page_size(settings: Path = _SETTINGS) -> int:
    """Bytes of a huge page; 0 if there are none, they are not wanted, or they are too large."""
    try:
        chosen = (settings / "enabled").read_text(encoding="ascii")
        size = int((settings / "hpage_pmd_size").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
    return size if "[never]" not in chosen and size <= _MOST else 0


def large_mappings(maps: str) -> Iterator[tuple[int, int]]:
    """Start and end of the large anonymous mappings in a text like /proc/self/maps (proc(5)), but for the heap's."""
    for line in filter(None, maps.split("\n")):  # the kernel escapes this in names, and nothing else
        addresses, rights, _, _, inode, *name = line.split(maxsplit=5)
        if rights != "rw-p" or inode != "0" or (name and not name[0].startswith("[anon")):
            continue
        start, end = (int(address, 16) for address in addresses.split("-"))
        if end - start >= LARGE:
            yield start, end


def collapse(start: int, end: int, size: int) -> bool:
    """Move what is dense between two addresses, multiples of `size`, to huge pages; False when there are none left.

    Memory that went meanwhile is passed by.
    """
    madvise = getattr(ctypes.CDLL(None, use_errno=True), "madvise", None)
    if madvise is None:
        return False
    for first, last in _dense(_in_use(start, end), size // mmap.PAGESIZE):
        place, length = start + first * size, (last - first) * size
        failed = madvise(ctypes.c_void_p(place), ctypes.c_size_t(length), _MADV_COLLAPSE)
        if failed and ctypes.get_errno() in _NONE_LEFT:
            return False
    return True


def _steps(size: int) -> Iterator[tuple[int, int]]:
    """What is to be looked at, a step at a time, in whole huge pages."""
    for start, end in list(large_mappings(os.fsdecode(Path("/proc/self/maps").read_bytes()))):
        first, last = -(-start // size) * size, end // size * size
        for place in range(first, last, STEP):
            yield place, min(place + STEP, last)


def _in_use(start: int, end: int) -> bytes:
    """A byte 1 for each page between two addresses that is in memory, else 0 (the kernel's pagemap.rst).

    mincore(2) says the same, but is not among the calls that systemd lets services make (@system-service).
    """
    with Path("/proc/self/pagemap").open("rb", buffering=0) as file:
        file.seek(start // mmap.PAGESIZE * _ENTRY)
        entries = file.read((end - start) // mmap.PAGESIZE * _ENTRY)
    return entries[_ENTRY - 1 if sys.byteorder == "little" else 0 :: _ENTRY].translate(_HIGHEST_BIT)


def _dense(in_use: bytes, pages: int) -> Iterator[tuple[int, int]]:
    """Runs of huge pages, first and last + 1, of which all but a tenth of the small `pages` of each is in use."""
    first = None
    count = len(in_use) // pages
    for number in range(count + 1):
        if number < count and in_use.count(1, number * pages, (number + 1) * pages) >= DENSE * pages:
            first = number if first is None else first
        elif first is not None:
            yield first, number
            first = None

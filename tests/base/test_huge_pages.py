"""Huge pages: what is moved to them, by texts as the kernel writes them, by the kernel, and in a real worker."""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from perf.filling import METHOD, fill, taskhashes, unihashes
from shardhash.base import huge_pages
from shardhash.base.huge_pages import collapse, huge_page_size, large_mappings
from shardhash.client import create_client
from tests.servers import ServerProcess

HUGE = 2 << 20
LIMIT = 60.0
MAPS = """\
55e0a0000000-55e0a8000000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0002000000 rw-p 00000000 00:00 0 
7f0010000000-7f0014000000 rw-p 00000000 00:00 0                          [anon:glibc: malloc]
7f0020000000-7f0021fff000 rw-p 00000000 00:00 0 
7f0030000000-7f0034000000 r--p 00000000 00:00 0 
7f0040000000-7f0044000000 rw-s 00000000 00:01 4096                       /dev/zero (deleted)
7f0050000000-7f0054000000 rw-p 00001000 fe:00 12345                      /usr/lib/a library.so
7ffe00000000-7ffe04000000 rw-p 00000000 00:00 0                          [stack]
"""  # noqa: W291  # as the kernel writes them


def _settings(folder: Path, enabled: str, size: str) -> Path:
    (folder / "enabled").write_text(enabled, encoding="ascii")
    (folder / "hpage_pmd_size").write_text(size, encoding="ascii")
    return folder


@pytest.mark.parametrize(
    ("enabled", "size", "due"),
    [
        ("always [madvise] never\n", "2097152\n", HUGE),
        ("[always] madvise never\n", "2097152\n", HUGE),
        ("always madvise [never]\n", "2097152\n", 0),
        ("[always] madvise never\n", "536870912\n", 0),
        ("[always] madvise never\n", "\n", 0),
    ],
)
def test_the_administrator_decides(tmp_path: Path, enabled: str, size: str, due: int) -> None:
    assert huge_page_size(_settings(tmp_path, enabled, size)) == due


def test_a_kernel_without_them_has_none(tmp_path: Path) -> None:
    assert huge_page_size(tmp_path) == 0


def test_large_anonymous_memory_alone_is_looked_at() -> None:
    assert list(large_mappings(MAPS)) == [(0x7F0000000000, 0x7F0002000000), (0x7F0010000000, 0x7F0014000000)]


def test_names_of_files_may_have_any_characters() -> None:
    odd = "7f0060000000-7f0064000000 r--p 00000000 fe:00 12346                      /a\x0cb\u2028c\x85d\re.so\n"
    assert list(large_mappings(odd + MAPS)) == list(large_mappings(MAPS))


async def test_a_text_that_is_not_understood_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker ends when one of its tasks does."""
    looked = asyncio.Event()

    def steps(_size: int) -> Iterator[tuple[int, int]]:
        looked.set()
        raise ValueError("not enough values to unpack")

    monkeypatch.setattr(huge_pages, "huge_page_size", lambda: HUGE)
    monkeypatch.setattr(huge_pages, "_steps", steps)
    task = asyncio.create_task(huge_pages.use_huge_pages())
    await looked.wait()
    await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])


def huge(pid: int | str = "self") -> int:
    """Bytes of a process that lie in huge pages."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages:")) * 1024


@contextmanager
def memory(size: int) -> Iterator[tuple[mmap.mmap, int, int]]:
    """Anonymous memory in small pages, and the first and last address of whole huge pages in it."""
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as some:
        some.madvise(mmap.MADV_NOHUGEPAGE)
        some.write(bytes(range(256)) * (size // 256))
        some.madvise(mmap.MADV_HUGEPAGE)
        view = ctypes.c_char.from_buffer(some)
        address = ctypes.addressof(view)
        del view
        yield some, -(-address // HUGE) * HUGE, (address + size) // HUGE * HUGE


@pytest.fixture
def _possible() -> None:
    """Skip where this kernel moves nothing."""
    if huge_page_size() != HUGE:
        pytest.skip("this system has or wants no huge pages of 2 MiB")
    with memory(3 * HUGE) as (_, start, end):
        before = huge()
        collapse(start, end, HUGE)
        if huge() == before:
            pytest.skip("this kernel cannot move memory to huge pages, or has none left")


@pytest.mark.usefixtures("_possible")
def test_memory_in_use_is_moved_and_stays_what_it_was() -> None:
    with memory(8 * HUGE) as (some, start, end):
        before = huge()
        assert collapse(start, end, HUGE)
        assert huge() - before >= end - start - HUGE  # the kernel may pass by a page that something else holds
        assert some[:] == bytes(range(256)) * (8 * HUGE // 256)
        before = huge()
        some.madvise(mmap.MADV_DONTNEED)
        assert before - huge() >= end - start - HUGE  # given back


@pytest.mark.usefixtures("_possible")
def test_memory_of_which_much_is_free_is_left() -> None:
    with memory(4 * HUGE) as (some, start, end):
        for place in range(0, len(some), 5 * mmap.PAGESIZE):
            some.madvise(mmap.MADV_DONTNEED, place, mmap.PAGESIZE)
        before = huge()
        assert collapse(start, end, HUGE)
        assert huge() == before


def test_memory_that_went_meanwhile_is_passed_by() -> None:
    with memory(2 * HUGE) as (_, start, end):
        pass
    assert collapse(start, end, HUGE)


@pytest.mark.usefixtures("_possible")
def test_a_worker_moves_a_large_table(tmp_path: Path) -> None:
    fill(tmp_path / "data", 1, 400_000)
    with ServerProcess("--data", str(tmp_path / "data"), "--workers", "1") as server:
        (worker,) = server.children("shardhash.shard.worker.process")
        deadline = time.monotonic() + LIMIT
        while huge(worker.pid) < 8 * HUGE:
            assert time.monotonic() < deadline, "the worker has moved nothing to huge pages"
            time.sleep(0.05)  # the kernel tells nobody
        with create_client(server.address) as client:
            numbers = np.arange(0, 400_000, 400, dtype=np.uint64)
            asked = [(METHOD, taskhash.tobytes().hex()) for taskhash in taskhashes(numbers)]
            due = [unihash.tobytes().hex() for unihash in unihashes(numbers, reported=False)]
            assert client.get_unihash_batch(asked) == due

"""The writer over real and faulty files: what a full disk refuses and what not, and who waits for the disk."""

from __future__ import annotations

import asyncio
import errno
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from shardhash.errors import StorageError
from shardhash.link import operations as op
from shardhash.shard.storage import siginfo
from shardhash.shard.storage.filesystem import FileSystem, OsFileSystem, WritableFile
from shardhash.shard.storage.layout import list_shard
from shardhash.shard.storage.recovery import Shard, begin_shard, open_shard
from shardhash.shard.storage.siginfo import SiginfoFiles
from shardhash.shard.worker.refusals import AGAIN, QUIET, Refusals
from shardhash.shard.worker.service import Service
from shardhash.shard.worker.writer import Writer
from tests.shard.faulty import FaultyFileSystem

LINK = object()
FOLDER = Path("/shard")


@asynccontextmanager
async def serving(shard: Shard) -> AsyncIterator[Service]:
    writer = Writer(shard, wait_for_sync=True)
    writing = asyncio.create_task(writer.run())
    yield Service(shard, writer)
    writer.stop()
    await writing


def report(number: int, text: str | None = None) -> Any:
    place = ("report", number, number, "m", f"{number:064x}", f"{number + 1000:064x}")
    return (*place, f"{number:064x}", None, None, None, None, None, text)


async def do(service: Service, *steps: Any) -> list[Any]:
    answers = service.reports.round(LINK, op.Round(list(steps)))
    return answers if isinstance(answers, list) else await answers


def opened(fs: FileSystem, folder: Path = FOLDER, segment_size: int = 1 << 20) -> Shard:
    if not fs.exists(folder):
        begin_shard(fs, folder)
    return open_shard(fs, folder, segment_size=segment_size)


@pytest.mark.parametrize("only", ["create", "write", "fsync", "fsync_dir"])
async def test_a_text_for_which_there_is_no_room_refuses_its_own_report_alone(only: str) -> None:
    fs = FaultyFileSystem()
    shard = opened(fs)
    async with serving(shard) as service:
        fs.fail(0, errno.ENOSPC, only=only)
        answers = await do(service, report(1), report(2, "text 2"), report(3))
        assert (answers[0], answers[2]) == (f"{1:064x}", f"{3:064x}")
        assert answers[1]["refused"][0] == "storage"
        assert "siginfo file cannot be" in answers[1]["refused"][1]
        assert await do(service, report(2, "text 2"), report(4, "text 4")) == [f"{2:064x}", f"{4:064x}"]
    shard.close()
    table = open_shard(fs, FOLDER).table
    assert table.counts()["rows"] == 4
    for number in (2, 4):
        (row,) = table.rows("m", bytes.fromhex(f"{number:064x}"))
        assert shard.get_siginfo(row.siginfo) == f"text {number}"


class Full(OsFileSystem):
    """A real file system whose disk is full: names can be made, bytes not written."""

    def create(self, path: Path) -> WritableFile:
        return _FullFile(super().create(path))


class _FullFile:
    def __init__(self, file: WritableFile) -> None:
        self.truncate, self.fsync, self.close = file.truncate, file.fsync, file.close

    def write(self, data: bytes, at: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_refused_text_keeps_no_descriptor(tmp_path: Path) -> None:
    files = SiginfoFiles(Full(), tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        with pytest.raises(StorageError, match="No space left"):
            files.put("text")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


class Watched(OsFileSystem):
    """A real file system that knows which threads waited for the disk."""

    def __init__(self) -> None:
        self.waited: set[int] = set()

    def create(self, path: Path) -> WritableFile:
        return _WatchedFile(super().create(path), self)

    def modify(self, path: Path) -> WritableFile:
        return _WatchedFile(super().modify(path), self)

    def fsync_dir(self, path: Path) -> None:
        self.waited.add(threading.get_ident())
        super().fsync_dir(path)


class _WatchedFile:
    def __init__(self, file: WritableFile, fs: Watched) -> None:
        self.write, self.truncate, self.close, self._fsync, self._fs = (
            file.write,
            file.truncate,
            file.close,
            file.fsync,
            fs,
        )

    def fsync(self) -> None:
        self._fs.waited.add(threading.get_ident())
        self._fsync()


async def test_the_event_loop_never_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts in new files, new segments and snapshots included."""
    monkeypatch.setattr(siginfo, "FILE_SIZE", 200)
    fs, folder = Watched(), tmp_path / "shard"
    shard = opened(fs, folder, segment_size=1000)
    fs.waited.clear()
    async with serving(shard) as service:
        for number in range(30):
            await do(service, report(2 * number), report(2 * number + 1, f"a text {number}" * 10))
            if number % 10 == 9:
                await service.snapshot(op.Snapshot())
    assert fs.waited
    assert threading.get_ident() not in fs.waited
    listing = list_shard(fs, folder)
    assert listing.segments[-1] > 10
    assert listing.siginfos[-1] > 3
    shard.close()
    assert open_shard(fs, folder).table.digest() == shard.table.digest()


async def test_a_snapshot_on_a_full_disk_is_refused_at_once_and_reports_go_on() -> None:
    fs = FaultyFileSystem()
    shard = opened(fs)
    async with serving(shard) as service:
        await do(service, report(1))
        fs.fail(0, errno.ENOSPC, only="create")
        with pytest.raises(StorageError, match="segment of the report log cannot be begun"):
            await service.snapshot(op.Snapshot())
        assert await do(service, report(2)) == [f"{2:064x}"]
        await service.snapshot(op.Snapshot())
    assert list_shard(fs, FOLDER).snapshots == [2]


def test_a_full_disk_is_told_once_then_each_minute_and_when_it_heals(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    seconds = 0.0
    refusals = Refusals(lambda: seconds)
    refusals.went_well()
    for _ in range(1000):
        refusals.refused(StorageError("the log cannot be written"))
        refusals.went_well()  # a small record still finds room
        seconds += AGAIN / 900
    refusals.refused(StorageError("still"), 10)
    seconds += QUIET
    refusals.went_well()
    refusals.went_well()
    refusals.refused(StorageError("anew"))
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "ERROR",
            "the log cannot be written; lookups go on, and reports are refused until the disk takes writes again",
        ),
        ("ERROR", "the disk still refuses writes, 901 changes so far: the log cannot be written"),
        ("INFO", "the disk takes writes again; it refused 1010 changes"),
        ("ERROR", "anew; lookups go on, and reports are refused until the disk takes writes again"),
    ]


async def test_a_large_group_lets_others_run_while_it_is_decided_and_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice that is over at once stops after each change, and after each record."""
    monkeypatch.setattr("shardhash.shard.worker.writer.SLICE", 0.0)
    monkeypatch.setattr("shardhash.shard.worker.report_operations.STEPS_AT_ONCE", 10)
    fs = FaultyFileSystem()
    shard = opened(fs)
    async with serving(shard) as service:
        stored: list[int] = []
        decided = 0
        do_step = service.reports._do_step

        def counted(*arguments: Any) -> Any:
            nonlocal decided
            decided += 1
            return do_step(*arguments)

        monkeypatch.setattr(service.reports, "_do_step", counted)
        answers = service.reports.round(LINK, op.Round([report(number) for number in range(95)]))
        assert not isinstance(answers, list)
        done = asyncio.ensure_future(answers)
        seen = [decided]
        while not done.done():
            await asyncio.sleep(0)
            seen.append(decided)
            stored.append(shard.table.row_count)
        assert max(after - before for before, after in pairwise(seen)) == 10
        assert max(after - before for before, after in pairwise(stored)) == 1
        assert await done == [f"{number:064x}" for number in range(95)]
        await asyncio.sleep(0)  # the locks are released
        assert await do(service, *[report(number) for number in range(95)]) == await done
    shard.close()


async def test_a_step_that_fails_leaves_the_others_of_a_large_round_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardhash.shard.worker.report_operations.STEPS_AT_ONCE", 10)
    shard = opened(FaultyFileSystem())
    async with serving(shard) as service:
        do_step = service.reports._do_step

        def failing(transaction: Any, packed: Any, kind: str, number: int, *rest: Any) -> Any:
            if number == 37:
                raise RuntimeError("a bug")
            return do_step(transaction, packed, kind, number, *rest)

        monkeypatch.setattr(service.reports, "_do_step", failing)
        answers = await do(service, *[report(number) for number in range(95)])
        assert [number for number, answer in enumerate(answers) if isinstance(answer, dict)] == [37]
        assert shard.table.row_count == 94
    shard.close()


async def test_a_group_has_no_more_changes_than_are_appended_in_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardhash.shard.worker.writer.MOST_CHANGES", 10)
    shard = opened(FaultyFileSystem())
    appended: list[int] = []
    append = shard.append

    def counted(records: Any) -> None:
        appended.append(len(records))
        append(records)

    monkeypatch.setattr(shard, "append", counted)
    async with serving(shard) as service:
        made = [service.reports.map(op.Map("m", f"{number:064x}", "ab" * 32)) for number in range(95)]
        assert set(await asyncio.gather(*made)) == {"ab" * 32}
    assert appended == [*[10] * 9, 5]
    shard.close()

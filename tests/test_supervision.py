"""Processes of a server: workers that are killed come back, and none outlives its coordinator."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from shardhash.client import AsyncClient, create_async_client, create_client
from shardhash.errors import ConfigError
from shardhash.server.start import _first_start
from shardhash.server.supervisor import log_lines
from shardhash.server.worker_processes import LONGEST_LINE, WorkerProcess
from shardhash.shard.directory.lock import is_locked, lock_directory
from tests.servers import IN_MEMORY, ServerProcess

pytestmark = pytest.mark.once

METHOD = "m"
LIMIT = 30.0


def workers_of(server: ServerProcess) -> list[psutil.Process]:
    """The worker processes, in order of shards."""
    children = server.children("--shard")
    return sorted(children, key=lambda child: child.cmdline()[child.cmdline().index("--shard") + 1])


def wait_until_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=LIMIT)
    assert not alive


async def test_a_killed_worker_comes_back_under_load_and_no_answer_is_wrong(server: ServerProcess) -> None:
    """What it held is lost, in memory; a lookup then finds nothing, never something else."""
    mappings = {secrets.token_hex(32): secrets.token_hex(32) for _ in range(500)}
    clients = [await create_async_client(address) for address in server.addresses for _ in range(3)]
    for taskhash, unihash in mappings.items():
        await clients[0].report_unihash_equiv(taskhash, METHOD, unihash)
    done = asyncio.Event()

    async def look_up(client: AsyncClient) -> int:
        rounds = 0
        while not done.is_set():
            found = await client.get_unihash_batch((METHOD, taskhash) for taskhash in mappings)
            assert all(one in (None, due) for one, due in zip(found, mappings.values(), strict=True))
            rounds += 1
        return rounds

    async def report(client: AsyncClient) -> int:
        rounds = 0
        while not done.is_set():
            taskhash, outhash = secrets.token_hex(32), secrets.token_hex(32)
            answer = await client.report_unihash(taskhash, METHOD, outhash, taskhash)
            assert answer["unihash"] == taskhash
            rounds += 1
        return rounds

    tasks = [asyncio.create_task(look_up(c)) for c in clients[:6]]
    tasks += [asyncio.create_task(report(c)) for c in clients[6:]]
    for shard in (0, 1, 0):
        victim = workers_of(server)[shard]
        victim.kill()
        wait_until_gone([victim])
        # Answered only once the shard is there again; lookups may be answered from memory.
        await clients[0].get_db_usage()
        assert len(workers_of(server)) == 2
    done.set()
    assert all(rounds > 0 for rounds in await asyncio.gather(*tasks))
    for client in clients:
        await client.close()


def test_workers_that_are_killed_leave_nothing_open(server: ServerProcess) -> None:
    coordinator, open_files = psutil.Process(server.process.pid), []
    with create_client(server.address) as client:
        for _ in range(4):
            open_files.append(coordinator.num_fds())
            workers_of(server)[0].kill()
            until = time.monotonic() + LIMIT
            while client.get_unihash(METHOD, "00" * 32) is not None or len(workers_of(server)) < 2:
                assert time.monotonic() < until
    assert open_files == [open_files[0]] * 4


async def test_lookups_of_a_stopped_worker_wait_and_are_answered(server: ServerProcess) -> None:
    """A worker that stands still for a while costs time, not answers."""
    taskhash = "00" * 32
    async with await create_async_client(server.addresses[2]) as client:
        await client.report_unihash_equiv(taskhash, METHOD, "ab" * 32)
        first = workers_of(server)[0]
        first.suspend()
        lookup = asyncio.create_task(client.get_unihash(METHOD, taskhash))
        other = await create_async_client(server.addresses[0])
        assert await other.get_unihash(METHOD, "ff" * 32) is None
        assert not lookup.done()
        first.resume()
        assert await lookup == "ab" * 32
        await other.close()


async def test_a_worker_that_stands_still_for_too_long_is_replaced(
    start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    """Within the limit that the settings give, however short that is."""
    server = start_server("--data", str(tmp_path / "data"), "--workers", "2", "--shard-timeout", "2s")
    async with await create_async_client(server.address) as client, asyncio.timeout(LIMIT / 2):
        await client.report_unihash_equiv("00" * 32, METHOD, "ab" * 32)
        first = workers_of(server)[0]
        first.suspend()
        assert await client.get_unihash(METHOD, "00" * 32) == "ab" * 32
        assert workers_of(server)[0].pid != first.pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_stops_everything_in_order(server: ServerProcess, number: signal.Signals) -> None:
    workers = workers_of(server)
    assert len(workers) == 2
    path = Path(server.addresses[1].removeprefix("unix://"))
    assert path.is_socket()
    assert server.stop(number) == 0
    assert not path.exists()
    wait_until_gone(workers)


def test_no_worker_outlives_a_killed_coordinator(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(*IN_MEMORY)
    workers = workers_of(server)
    assert len(workers) == 2
    server.kill()
    wait_until_gone(workers)


def test_a_second_server_does_not_take_a_live_unix_socket(
    start_server: Callable[..., ServerProcess], server: ServerProcess
) -> None:
    with pytest.raises(AssertionError, match="status 1"):
        start_server(*IN_MEMORY, binds=[server.addresses[1]])
    assert Path(server.addresses[1].removeprefix("unix://")).is_socket()


def test_a_stale_unix_socket_is_replaced(start_server: Callable[..., ServerProcess], tmp_path: Path) -> None:
    bind = f"unix://{tmp_path}/stale.sock"
    start_server(*IN_MEMORY, binds=[bind]).kill()
    assert (tmp_path / "stale.sock").is_socket()
    start_server(*IN_MEMORY, binds=[bind])


async def test_a_unix_path_may_be_longer_than_the_kernel_takes(
    start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    server = start_server(*IN_MEMORY, binds=[f"unix://{folder}/{'s' * 120}"])
    async with await create_async_client(server.address) as client:
        assert await client.ping() == {"alive": True}


def test_a_port_that_is_taken_is_said(start_server: Callable[..., ServerProcess], server: ServerProcess) -> None:
    with pytest.raises(AssertionError, match=rf"(?s)status 1 .*cannot listen on {server.addresses[0]}: "):
        start_server(*IN_MEMORY, binds=[server.addresses[0]])


async def test_a_request_under_way_is_finished_when_the_server_stops(server: ServerProcess) -> None:
    async with await create_async_client(server.addresses[2]) as client:
        worker = workers_of(server)[0]
        worker.suspend()
        lookup = asyncio.create_task(client.get_unihash(METHOD, "00" * 32))
        await asyncio.sleep(0)
        await client_has_asked(server)
        os.kill(server.process.pid, signal.SIGTERM)
        worker.resume()
        assert await lookup is None
    assert await asyncio.to_thread(server.stop) == 0


async def client_has_asked(server: ServerProcess) -> None:
    """Until the coordinator has nothing left to read: it sleeps in its event loop."""
    deadline = time.monotonic() + LIMIT
    coordinator = psutil.Process(server.process.pid)
    quiet = 0
    while quiet < 20 and time.monotonic() < deadline:
        await asyncio.sleep(0.005)
        quiet = quiet + 1 if coordinator.status() == psutil.STATUS_SLEEPING else 0


def test_a_worker_that_outlives_its_server_keeps_the_next_one_waiting(
    tmp_path: Path, start_server: Callable[..., ServerProcess]
) -> None:
    """Two processes that write one log would ruin it."""
    data = tmp_path / "data"
    arguments = ("--data", str(data), "--workers", "1")
    server = start_server(*arguments)
    with create_client(server.address) as client:
        client.report_unihash("a" * 64, "m", "b" * 64, "a" * 64)
    (worker,) = psutil.Process(server.process.pid).children()
    worker.suspend()
    server.kill()
    try:
        with pytest.raises(ConfigError, match="workers of a server that is gone"), lock_directory(data, 0.1):
            raise AssertionError
        assert not is_locked(data)
    finally:
        worker.resume()
    successor = start_server(*arguments)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE  # it ended first
    with create_client(successor.address) as client:
        assert client.get_unihash("m", "a" * 64) == "a" * 64


def test_a_hangup_does_not_end_a_server(server: ServerProcess) -> None:
    server.process.send_signal(signal.SIGHUP)
    with create_client(server.address) as client:
        assert client.ping() == {"alive": True}
        server.process.send_signal(signal.SIGHUP)
        assert client.ping() == {"alive": True}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
@pytest.mark.parametrize("stage", ["workers are there", "they serve"])
def test_a_signal_during_the_start_ends_it_in_order(tmp_path: Path, number: signal.Signals, stage: str) -> None:
    """Without a traceback, and without workers that stay."""
    command = [sys.executable, "-m", "shardhash", "serve", "--data", str(tmp_path / "data"), "--workers", "2"]
    with subprocess.Popen(
        [*command, "--bind", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        server, workers = psutil.Process(process.pid), list[psutil.Process]()
        deadline = time.monotonic() + LIMIT
        while len(workers) < 2 and time.monotonic() < deadline:
            workers = server.children()
        if stage == "they serve":
            next(line for line in process.stderr if "replayed segment" in line)
        process.send_signal(number)
        said = process.stderr.read()
        assert process.wait(LIMIT) == 0
    assert "Traceback" not in said
    wait_until_gone(workers)


@pytest.mark.parametrize("output", ["/dev/full", "closed"])
def test_an_output_that_nobody_reads_does_not_end_a_start(tmp_path: Path, output: str) -> None:
    path = tmp_path / "server.sock"
    redirect = ">&-" if output == "closed" else f">{output}"
    arguments = f"--memory --workers 1 --coordinators 2 --bind unix://{path}"
    command = f"exec {sys.executable} -m shardhash serve {arguments} {redirect}"
    with subprocess.Popen(["sh", "-c", command], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if "listening on" in line)
        with create_client(f"unix://{path}") as client:
            assert client.ping() == {"alive": True}
        process.terminate()
        said = process.stderr.read()
        assert process.wait(LIMIT) == 0, said


def test_a_long_tmpdir_is_no_hindrance(start_server: Callable[..., ServerProcess], tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 150)
    folder.mkdir()
    server = start_server(*IN_MEMORY, environment={"TMPDIR": str(folder)})
    with create_client(server.address) as client:
        assert client.get_unihash(METHOD, "00" * 32) is None


def test_where_no_process_can_be_started_the_start_says_so() -> None:
    def start(_shard: int) -> WorkerProcess:
        raise OSError(28, "No space left on device")

    with pytest.raises(ConfigError, match=r"worker process 1 cannot be started: .*No space left on device.*TMPDIR"):
        _first_start(start, 1)


async def test_a_worker_that_talks_too_much_is_still_watched(caplog: pytest.LogCaptureFixture) -> None:
    """What it says is thrown away; its keeper goes on."""
    lines = asyncio.StreamReader(LONGEST_LINE)
    with caplog.at_level("INFO"):
        watching = asyncio.create_task(log_lines(0, lines))
        lines.feed_data(b"x" * (LONGEST_LINE + 1))
        await asyncio.sleep(0)
        lines.feed_data(b'\n{"level": "INFO", "text": "well"}\n5\n')
        lines.feed_eof()
        await watching
    assert "said a line of more than" in caplog.text
    assert "shard 0: well" in caplog.text
    assert "shard 0 says: 5" in caplog.text


def test_a_worker_that_somebody_killed_is_not_told_as_killed_by_the_server() -> None:
    with ServerProcess(*IN_MEMORY) as server:
        victim = workers_of(server)[0]
        victim.kill()
        wait_until_gone([victim])
        with create_client(server.address) as client:
            client.get_db_usage()  # asks every worker: the next one is there
    assert "was killed by SIGKILL" in server.log.read()

"""The worker process: one shard behind a unix socket that the server bound, with a WebSocket for each coordinator.

The coordinator passes the listening socket by number and holds the other end of the worker's standard input: when
that closes the coordinator is gone, however it died, and the worker goes too. The socket takes connections from the
start but is served only once the shard has recovered; a line of JSON on standard output says how that goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import select
import signal
import socket
import sys
from collections.abc import Awaitable, Coroutine
from functools import partial
from typing import Any

import orjson
import uvloop
from aiohttp import WSMsgType, web

from shardhash.base.huge_pages import use_huge_pages
from shardhash.base.malloc import collect_little, give_back, keep_buffers
from shardhash.base.parent import end_with_parent
from shardhash.base.tasks import BackgroundTasks
from shardhash.base.timestamps import DAY
from shardhash.base.turns import Slice, Turns
from shardhash.base.wakeup import Wakeup
from shardhash.errors import DamageError, InternalError, ServerFaultError, ShardhashError, StorageError, SyncError
from shardhash.link import messages
from shardhash.link.operations import OPERATIONS, Snapshot
from shardhash.link.worker_options import WorkerOptions, WorkerPlace, parse_options
from shardhash.shard.storage.filesystem import OsFileSystem
from shardhash.shard.storage.layout import shard_folder
from shardhash.shard.storage.memory import MemoryShard
from shardhash.shard.storage.recovery import EMPTY_SEGMENT, AnyShard, now, open_shard
from shardhash.shard.worker.service import Service
from shardhash.shard.worker.writer import Writer, describe_bug

SWITCH_INTERVAL = 0.0005
"""Seconds for which another thread, which reads a snapshot back, may keep the event loop from running."""
TICK = 1.0
"""Seconds between looks at whether a snapshot is due."""
LONGEST_TEXT = 100_000
"""Characters of a line in the log; six bytes each at most."""
log = logging.getLogger(__name__)
RETRY_PAUSE = 60.0
"""Seconds before a snapshot that failed is tried again."""


class Link:
    """The worker's side of one link: answers go out a tick at a time."""

    def __init__(self, socket_: web.WebSocketResponse, service: Service, follower: int = 0) -> None:
        """`follower`: the number of the coordinator, 0 for the server's own."""
        self._socket = socket_
        self._service = service
        self._follower = follower
        self._holder: object = follower or self
        self._answers: list[Any] = []
        self._texts = messages.Texts()
        self._wakeup = Wakeup()
        self._operations = BackgroundTasks()

    async def serve(self) -> None:
        """Carry out what the coordinator asks until the link drops. Raises an ExceptionGroup if a side of it fails."""
        if self._follower:
            self._service.followers.join(self._follower)
        try:
            async with asyncio.TaskGroup() as tasks:  # whatever ends the sender ends the link
                sender = tasks.create_task(self._send())
                await self._receive()
                sender.cancel()
        finally:
            if not self._follower:
                self._service.drop_link(self)
            await self._operations.close()
            if self._follower:
                self._service.followers.left(self._follower)

    async def _receive(self) -> None:
        piece = Slice(Turns())
        async for message in self._socket:
            if message.type is not WSMsgType.BINARY:
                break
            if piece.used:  # many messages may be here already
                await piece.renew()
            kind = message.data[:1]
            if kind == messages.LOOKUP:
                await self._answer_lookup(*messages.decode_lookup(message.data))
            elif kind == messages.TEXT:
                self._texts.add(message.data)
            else:
                for number, operation, *arguments in messages.decode_json(message.data, self._texts):
                    if piece.used:
                        await piece.renew()
                    self._begin(number, operation, arguments)

    async def _answer_lookup(self, number: int, frame: memoryview) -> None:
        try:
            if self._service.is_long(frame):
                answer = await self._service.lookup_in_parts(frame, messages.lookup_head(number))
            else:
                answer = self._service.lookup(frame, messages.lookup_head(number))
        except Exception as bug:  # noqa: BLE001  # told to the coordinator and to the log
            self._refuse(number, "a lookup", bug)
        else:
            await self._socket.send_bytes(answer)

    def _begin(self, number: int, operation: str, arguments: list[Any]) -> None:
        try:
            result = self._service.begin(self._holder, OPERATIONS[operation], arguments)
        except Exception as error:  # noqa: BLE001  # told to the coordinator and to the log
            self._refuse(number, operation, error)
            return
        if isinstance(result, asyncio.Future):
            result.add_done_callback(partial(self._finish, number, operation))
        elif isinstance(result, Awaitable):
            self._operations.start(self._wait_for(number, operation, result), f"operation {operation}")
        else:
            self._answer([number, OPERATIONS[operation].encode_result(result)])

    async def _wait_for(self, number: int, operation: str, result: Awaitable[Any]) -> None:
        try:
            self._answer([number, OPERATIONS[operation].encode_result(await result)])
        except Exception as error:  # noqa: BLE001  # told to the coordinator and to the log
            self._refuse(number, operation, error)

    def _finish(self, number: int, operation: str, future: asyncio.Future[Any]) -> None:
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self._answer([number, OPERATIONS[operation].encode_result(future.result())])
        else:
            self._refuse(number, operation, error)

    def _refuse(self, number: int, operation: str, error: BaseException) -> None:
        """An operation failed: a matter of this request, not of the shard.

        Ending instead would bring the same request back, to end the next worker.
        """
        if isinstance(error, DamageError | OSError):
            say("ERROR", str(error))
            error = StorageError(str(error))
        elif not isinstance(error, ServerFaultError):
            error = InternalError(describe_bug(operation, error))
        self._answer([number, None, *messages.refusal_of(error)])

    def _answer(self, item: list[Any]) -> None:
        if item[0] != messages.NO_ANSWER:
            self._answers.append(item)
            self._wakeup.wake()

    async def _send(self) -> None:
        while True:
            await self._wakeup.wait()
            answers, self._answers = self._answers, []
            for message in messages.encode_messages(answers, self._refuse_long, messages.FULL_ANSWERS):
                await self._socket.send_bytes(message)
                if message[:1] == messages.TEXT or len(message) > messages.FULL_ANSWERS // 2:  # one of many
                    await asyncio.sleep(0)

    def _refuse_long(self, item: list[Any]) -> None:
        """Refuse a request whose answer does not fit into a message."""
        say("ERROR", "an answer is too long for the link; its request is refused")
        self._answer([item[0], None, "internal", "the answer is too long for the link; ask for less at once"])


def say(level: str, text: str) -> None:
    """Tell the coordinator, which logs it. Ends the process when there is none any more."""
    try:
        sys.stdout.buffer.write(orjson.dumps({"level": level, "text": text[:LONGEST_TEXT]}) + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        os._exit(0)  # what was acknowledged is durable, and the interpreter would only complain about its output


class _TellHandler(logging.Handler):
    """Log records, tracebacks included, for the coordinator's log."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.levelname, self.format(record))


def end_with_server() -> None:
    """End when the server's process does, at any moment: recovery reads no standard input."""
    end_with_parent(signal.SIGTERM)
    if input_has_ended():  # it had ended before that
        os._exit(0)


def input_has_ended() -> bool:
    """Whether nobody holds the other end of standard input, a pipe, any more."""
    poll = select.poll()
    poll.register(sys.stdin.fileno(), 0)  # nothing but a hang-up, which is always told
    return any(events & select.POLLHUP for _, events in poll.poll(0))


async def run(place: WorkerPlace, options: WorkerOptions, shard: AnyShard) -> None:
    """Serve the shard until the coordinator is gone."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), _input_ended, stop)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    writer = Writer(shard, wait_for_sync=options.sync == "always")
    service = Service(shard, writer)
    writing = asyncio.create_task(writer.run())
    background = [asyncio.create_task(work) for work in _background(options, shard, writer, service)]
    # Nothing is worth waiting for then: the coordinator has answered its clients, or it is dead.
    runner = web.AppRunner(_application(service), handle_signals=False, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.SockSite(runner, socket.socket(fileno=place.listen_fd)).start()
    waiting = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait([waiting, writing, *background], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {waiting}:
            task.result()  # an exception here is final: recovery will tell what is on disk
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await runner.cleanup()
    writer.stop()
    await writing


def _background(
    options: WorkerOptions, shard: AnyShard, writer: Writer, service: Service
) -> list[Coroutine[Any, Any, None]]:
    """What goes on beside all requests, until cancelled; nothing of it delays the rest."""
    return [
        _keep_up(options, shard, writer),
        _note(service),
        _write_snapshots(options, shard, service),
        give_back(cycles=False),  # a worker makes next to none
        use_huge_pages(),
    ]


async def _keep_up(options: WorkerOptions, shard: AnyShard, writer: Writer) -> None:
    """Sync, and begin a log that was refused."""
    while True:
        await asyncio.sleep(min(options.sync_interval, TICK))
        if options.sync == "interval":
            writer.sync_soon()
        if not shard.has_log:
            await _begin_log(shard, writer)


async def _note(service: Service) -> None:
    """Note what is asked for, which takes long where that is much."""
    while True:
        await asyncio.sleep(TICK)
        await service.asking.note_sometimes()


async def _write_snapshots(options: WorkerOptions, shard: AnyShard, service: Service) -> None:
    """Write snapshots when they are due, until cancelled."""
    loop = asyncio.get_running_loop()
    due = loop.time() + options.snapshot_interval
    while True:
        await asyncio.sleep(TICK)
        days_due = shard.durable and not service.asking.days_written and now() - shard.snapshot_time > DAY
        if shard.log_bytes >= options.snapshot_bytes or (
            loop.time() >= due and (shard.log_bytes > EMPTY_SEGMENT or days_due)
        ):
            due = loop.time() + options.snapshot_interval
            try:
                await service.snapshot(Snapshot())
            except SyncError:
                raise
            except StorageError as error:
                say("ERROR", f"{error}; the log goes on, and another snapshot is tried later")
                await asyncio.sleep(RETRY_PAUSE)
            except Exception:
                log.exception("internal error in a snapshot; this is a bug. The log goes on, another is tried later")
                await asyncio.sleep(RETRY_PAUSE)


async def _begin_log(shard: AnyShard, writer: Writer) -> None:
    """Try again what a full or read-only disk refused at the start."""
    try:
        await writer.alone(shard.make_ready)
    except StorageError as error:
        writer.refusals.refused(error, 0)
    else:
        writer.refusals.healed()


def _application(service: Service) -> web.Application:
    async def link(request: web.Request) -> web.WebSocketResponse:
        socket_ = web.WebSocketResponse(compress=False, max_msg_size=messages.MAX_MESSAGE)
        await socket_.prepare(request)
        try:
            await Link(socket_, service, int(request.query.get("follower", 0))).serve()
        except* ConnectionError:
            pass  # the coordinator dropped it; what waits is asked again over the next link
        except* Exception:
            log.exception("internal error on the link; this is a bug")
        await socket_.close()
        return socket_

    application = web.Application()
    application.router.add_get("/link", link)
    return application


def _input_ended(stop: asyncio.Event) -> None:
    with contextlib.suppress(BlockingIOError):
        if not os.read(sys.stdin.fileno(), 4096):
            stop.set()
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())


def _open(place: WorkerPlace, options: WorkerOptions) -> AnyShard:
    if options.data is None:
        return MemoryShard()
    return open_shard(
        OsFileSystem(),
        shard_folder(options.data, options.generation, place.shard),
        keep_snapshots=options.keep_snapshots,
        progress=lambda text: say("INFO", text),
    )


def main(arguments: list[str] | None = None) -> int:
    """Run a worker; its exit status."""
    place, options = parse_options(arguments)
    end_with_server()
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[_TellHandler()])
    gc.disable()  # while it recovers: there are no cycles in what it builds, and millions of objects to walk
    try:
        shard = _open(place, options)
    except ShardhashError as error:
        say("ERROR", str(error))
        return messages.EXIT_DAMAGED
    try:
        keep_buffers()  # not before: recovery frees much that is not needed again
        gc.freeze()
        collect_little()
        gc.enable()
        sys.setswitchinterval(SWITCH_INTERVAL)
        uvloop.run(run(place, options, shard))
        shard.close()
    except SyncError as error:
        say("ERROR", f"{error}; the worker ends, and what is on the disk decides")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

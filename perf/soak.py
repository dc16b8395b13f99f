"""A soak: everything that happens to a server in months, at one time, against a plain model.

    python -m perf.soak                      two minutes
    python -m perf.soak --minutes 300        a night
    python -m perf.soak --seed 7             other dice; what runs beside what differs each time

Builders report, look up and check; rows are removed; collections mark and sweep; snapshots and backups are written;
workers are killed; clients come, go and break off. Every answer is held against the model (perf/soak_model.py). A wrong
one ends the soak with the story of its task, and status 1. So does what has grown: memory, descriptors, threads and
disk must end at the level of the first minute. At the end the server stops in order, every file is verified, and
another server must know the same.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import psutil

from perf.servers import ROOT, Server, environment, shardhash
from perf.soak_levels import Level, Levels
from perf.soak_model import Answer, Group, Task, World, WrongAnswerError
from shardhash.client import AsyncClient, InvokeError, create_async_client

TASKS = 3000
"""Tasks that are kept; with more, builders wait for a collection."""
REPORTERS, LOOKERS = 3, 4
LONGEST = 90.0
"""Seconds after which something that is not answered has failed."""
_T = TypeVar("_T")
OPTIONS = ("--keep-snapshots", "1")


class Soak:
    """One server, and all who act on it."""

    def __init__(self, server: Server, data: Path, world: World) -> None:
        self.server = server
        self.data = data
        self.world = world
        self.done: Counter[str] = Counter()
        """What was done, by name."""
        self.over = False
        self._changing = 0
        self._calm = asyncio.Condition()
        self._gate = asyncio.Lock()
        self.levels = Levels(server, data)

    # ------------------------------------------------------------------------------------------------- who acts

    async def run(self, seconds: float) -> None:
        """All of it for so long. Raises WrongAnswerError."""
        began = time.monotonic()
        actors = [
            *(self._again("report", self.report, 0.02) for _ in range(REPORTERS)),
            *(self._again("look up", self._look_up, 0.005) for _ in range(LOOKERS)),
            self._again("look for", self._look_for, 0.02),
            self._again("read rows", self._read_rows, 0.02),
            self._again("remove", self._remove, 0.3),
            self._again("collect", self._collect, 2.0),
            self._alone("snapshot", self._snapshot, 4.0),
            self._alone("back up", self._back_up, 15.0),
            self._alone("kill a worker", self._kill, 15.0),
            self._alone("break off", self._break_off, 0.1),
            self._alone("look at levels", self.levels.look, 1.0),
        ]
        try:
            async with asyncio.TaskGroup() as tasks:
                for actor in actors:
                    tasks.create_task(actor)
                while time.monotonic() - began < seconds:
                    await asyncio.sleep(min(10.0, seconds))
                    print(f"{time.monotonic() - began:6.0f} s: {self._progress()}", flush=True)
                self.over = True
        except* WrongAnswerError as found:
            raise found.exceptions[0] from None

    def _progress(self) -> str:
        done = ", ".join(f"{name} {count:,}" for name, count in sorted(self.done.items()))
        return f"{self.world.answers:,} answers right; {done}; {self.levels.last}"

    async def _again(self, name: str, work: Callable[[AsyncClient], Awaitable[None]], pause: float) -> None:
        """Do something with a client of its own until the soak is over."""
        kind = self.world.dice.choice(("tcp", "ws"))
        async with await create_async_client(self.server.addresses[kind], timeout=LONGEST) as client:
            while not self.over:
                await work(client)
                self.done[name] += 1
                await asyncio.sleep(pause * self.world.dice.random() * 2)

    async def _alone(self, name: str, work: Callable[[], Awaitable[None]], pause: float) -> None:
        while not self.over:
            await asyncio.sleep(min(pause, 1.0) if not self.done[name] else pause)
            if not self.over:
                await work()
                self.done[name] += 1

    @contextlib.asynccontextmanager
    async def _change(self) -> AsyncIterator[None]:
        """Reports and removals; none is under way while a collection begins."""
        async with self._gate:
            self._changing += 1
        try:
            yield
        finally:
            async with self._calm:
                self._changing -= 1
                self._calm.notify_all()

    # -------------------------------------------------------------------------------------------------- builders

    async def report(self, client: AsyncClient) -> None:
        """Report new tasks, tasks that are known, and tasks whose rows were removed, of several outhashes."""
        world = self.world
        if sum(len(group.tasks) for group in world.groups) > TASKS:
            await asyncio.sleep(0.2)
            return
        async with self._change():
            groups = [*world.take(4), *(world.begin_group() for _ in range(world.dice.randrange(1, 12)))]
            tasks = []
            for group in groups:
                some = [world.new_task(group) for _ in range(world.dice.randrange(3))]
                if group.tasks and world.dice.random() < 0.3:
                    some.append(world.dice.choice(group.tasks))
                tasks += some
            due = [self._expect(task) for task in tasks]
            rows = [task.row(world.method) for task in tasks]
            answers = await self._in_time("a report", client.report_unihash_batch(rows)) if rows else []
            for task, unihash, answer in zip(tasks, due, answers, strict=True):
                if answer != unihash:
                    raise world.fail(task, f"its report was answered {answer}, and should be {unihash}")
                world.note(task, "reported", unihash)
                world.answers += 1
            world.leave(groups)

    def _expect(self, task: Task) -> str:
        """Begin a report; what it must be answered. Those of one outhash are carried out in order."""
        group = task.group
        if any(len(other.may) > 1 and other is not task for other in group.tasks):
            unihash = next(unihash for other in group.tasks for unihash in other.may if unihash is not None)
        else:
            unihash = group.decides(task) if len(task.may) == 1 else next(one for one in task.may if one)
        self.world.note(task, "report sent", *dict.fromkeys((*task.may, unihash)))
        if task not in group.tasks:
            group.tasks.append(task)
        return unihash

    async def _look_up(self, client: AsyncClient) -> None:
        world = self.world
        tasks = world.tasks(world.dice.choice((1, 10, 10, 100)))
        before = [(task.changes, task.may) for task in tasks]
        asked = [(world.method, task.taskhash) for task in tasks] + [(world.method, secrets.token_hex(32))]
        *found, unknown = await self._in_time("a lookup", client.get_unihash_batch(asked))
        for task, seen, answer in zip(tasks, before, found, strict=True):
            world.check(task, seen, answer, "a lookup")
        if unknown is not None:
            raise WrongAnswerError(f"a taskhash that nobody reported has the unihash {unknown}")

    async def _look_for(self, client: AsyncClient) -> None:
        """Existence: some task of the group has the unihash."""
        world = self.world
        tasks = [task for task in world.tasks(20) if len(task.may) == 1 and task.unihash is not None]
        seen = [task.changes for task in tasks]
        found = await self._in_time("exists", client.unihash_exists_batch([task.unihash or "" for task in tasks]))
        for task, changes, there in zip(tasks, seen, found, strict=True):
            world.answers += 1
            if not there and task.changes == changes:
                raise world.fail(task, "its unihash is said not to exist")

    async def _read_rows(self, client: AsyncClient) -> None:
        world = self.world
        for task in world.tasks(3):
            seen, may = task.changes, task.may
            question = client.get_taskhash(world.method, task.taskhash, all_properties=True)
            row = await self._in_time("a row", question)
            found: Answer = None if row is None else row["unihash"]
            world.check(task, (seen, may), found, "the row")
            if row is not None and (row["outhash_siginfo"], row["PN"]) != (task.siginfo, task.group.recipe):
                raise world.fail(task, f"its row is {str(row)[:300]}")

    # -------------------------------------------------------------------------------------------- administrators

    async def _remove(self, client: AsyncClient) -> None:
        world = self.world
        async with self._change():
            groups = world.take(2)
            for group in groups:
                if not group.tasks:
                    continue
                task = world.dice.choice(group.tasks)
                kills = self.done["kill a worker"]
                world.note(task, "removal sent", task.unihash, None)
                answer = await self._in_time("a removal", client.remove({"taskhash": task.taskhash}))
                if answer["count"] != 2 and kills == self.done["kill a worker"]:
                    raise world.fail(task, f"its removal was answered {answer}, and took a mapping and a row")
                world.note(task, "removed", None)
                world.drop(task)
            world.leave(groups)

    async def _collect(self, client: AsyncClient) -> None:
        """Mark all groups but some, beside reports and lookups; sweep; remove the rows without a mapping."""
        world, mark = self.world, f"mark-{secrets.token_hex(4)}"
        async with self._gate:
            async with self._calm:
                await self._calm.wait_for(lambda: not self._changing)
            keep, doomed = self._choose()
            await self._in_time("gc-mark", client.gc_mark(mark, {"unihash": secrets.token_hex(32)}))
        tasks = [task for group in doomed for task in group.tasks]
        for task in tasks:
            world.note(task, f"not marked with {mark}", task.unihash, None)
        kills = self.done["kill a worker"]
        marks = [{"unihash": unihash} for unihash in keep]
        await self._in_time("gc-mark-stream", client.gc_mark_stream(mark, marks))
        swept = (await self._in_time("gc-sweep", client.gc_sweep(mark)))["count"]
        cleaned = (await self._in_time("clean-unused", client.clean_unused(0)))["count"]
        if max(swept, cleaned) > len(tasks) or (min(swept, cleaned) < len(tasks) and self._nobody_died(kills)):
            raise WrongAnswerError(f"{len(tasks)} tasks had no mark; {swept} were swept, {cleaned} rows went")
        for task in tasks:
            world.note(task, f"swept, {mark}", None)
            world.drop(task)
        world.leave(doomed)

    def _nobody_died(self, kills: int) -> bool:
        return kills == self.done["kill a worker"]

    def _choose(self) -> tuple[list[str], list[Group]]:
        """The unihashes to mark, and the groups to sweep, which are taken."""
        keep: list[str] = []
        doomed = []
        for group in self.world.groups:
            if self.world.dice.random() < 0.5:
                group.taken = True
                doomed.append(group)
            else:
                keep += {task.unihash for task in group.tasks if task.unihash is not None}
        return keep, doomed

    # -------------------------------------------------------------------------------------------------- accidents

    async def _snapshot(self) -> None:
        await self._run("snapshot", "--data", str(self.data))

    async def _back_up(self) -> None:
        folder = self.data.parent / "backup"
        await self._run("backup", "--data", str(self.data), str(folder))
        await self._run("verify", "--data", str(folder))

    async def _run(self, *arguments: str) -> None:
        """Run a command, which must succeed; one that met a worker's death is run again."""
        said = ""
        for _ in range(5):
            kills = self.done["kill a worker"]
            status, said = await command(*arguments)
            if status == 0:
                return
            if kills == self.done["kill a worker"]:
                break
            await asyncio.sleep(2.0)
        raise WrongAnswerError(f"shardhash {' '.join(arguments)} failed: {said[-2000:]}")

    async def _kill(self) -> None:
        """The worker that has lived longest: one that dies again and again is started later and later."""
        workers = self.levels.processes()[1:]
        if workers:
            self.done["kill a worker"] += 1  # before and after: what runs beside it knows
            with contextlib.suppress(psutil.NoSuchProcess):
                min(workers, key=psutil.Process.create_time).send_signal(signal.SIGKILL)
            await asyncio.sleep(1.5)

    async def _break_off(self) -> None:
        """Clients that leave in the midst of anything."""
        host, _, port = self.server.addresses["tcp"].rpartition(":")
        hello = b"OEHASHEQUIV 1.1\n\n"
        lines = b"soak %s\n" % secrets.token_hex(32).encode() * 2000
        row = b'{"report": {"method": "broken", "taskhash": "%s", "outhash": "' % secrets.token_hex(32).encode()
        for text in (b"", hello[:9], hello, hello + row, hello + b'{"get-stream": null}\n' + lines, b"\x16\x03\x01"):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(text)
            if self.world.dice.random() < 0.5:
                await asyncio.sleep(0.01)
            writer.transport.abort()
        async with await create_async_client(self.server.addresses["ws"], timeout=LONGEST) as client:
            await client.ping()

    async def _in_time(self, what: str, answer: Awaitable[_T]) -> _T:
        try:
            async with asyncio.timeout(LONGEST):
                return await answer
        except (TimeoutError, OSError, InvokeError) as error:
            raise WrongAnswerError(f"{what} got no answer: {type(error).__name__} {error}") from None


@dataclass
class Verdict:
    """How a soak went."""

    answers: int
    done: Counter[str] = field(default_factory=Counter)
    level: Level | None = None


async def command(*arguments: str) -> tuple[int, str]:
    """Run a command of shardhash: its status, and what it said."""
    line = [sys.executable, "-m", "shardhash", *arguments]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*line, cwd=ROOT, env=environment(), stdout=pipe, stderr=pipe)
    said = b"".join(await process.communicate()).decode()
    assert process.returncode is not None
    return process.returncode, said


async def check_all(server: Server, world: World) -> int:
    """Ask a server for every task; how many were asked for. Raises WrongAnswerError."""
    tasks = [*(task for group in world.groups for task in group.tasks), *world.gone]
    async with await create_async_client(server.addresses["ws"], timeout=LONGEST) as client:
        found = await client.get_unihash_batch([(world.method, task.taskhash) for task in tasks])
    for task, answer in zip(tasks, found, strict=True):
        world.check(task, (task.changes, task.may), answer, "the last lookup")
    return len(tasks)


async def soak(seconds: float, workers: int, seed: int, folder: Path) -> Verdict:
    """Raises WrongAnswerError."""
    data, world = folder / "data", World(seed)
    with shardhash(workers, data=data, arguments=OPTIONS) as server:
        run = Soak(server, data, world)
        await run.run(seconds)
        await check_all(server, world)
        level = await run.levels.check()
    status, said = await command("verify", "--data", str(data))
    if status:
        raise WrongAnswerError(f"the data directory does not verify: {said[-2000:]}")
    with shardhash(workers + 1, data=data) as server:  # all of it is split anew, too
        await check_all(server, world)
    return Verdict(world.answers, run.done, level)


def main() -> int:
    """Soak a server; 1 when something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0, help="how long (default 2)")
    parser.add_argument("--workers", type=int, default=2, help="workers of the server (default 2)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the dice (default 1)")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="shardhash-soak-") as folder:
        try:
            verdict = asyncio.run(soak(60 * options.minutes, options.workers, options.seed, Path(folder)))
        except WrongAnswerError as error:
            print(f"WRONG, with --seed {options.seed}: {error}", file=sys.stderr)
            return 1
    print(f"{verdict.answers:,} answers were right. At the end: {verdict.level}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

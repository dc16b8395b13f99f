"""What the layer saves a real BitBake: ``bitbake -g world`` with its own handler and with the layer's, in turn.

    python -m perf.bitbake --bitbake ../bitbake --core ../openembedded-core --work /srv/bitbake --user builder

The server under test runs in memory. It is seeded with what a build asks, where a share of the tasks has another
unihash than its hash; a proxy delays every byte. Each run starts without BitBake's own cache of unihashes, and without
a table of guesses unless its name says so. The digests of all state that the computation of hashes leaves are compared.
BitBake refuses to run as root: `--user` names who runs it, and owns the work directory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from perf.report import save, setting
from perf.servers import ROOT
from shardhash.client import create_client
from tests.layer.builds import METHOD
from tests.layer.function_server import FunctionServer
from tests.proxy import Proxy
from tests.servers import IN_MEMORY, ServerProcess

STOCK, LAYER = "OEEquivHash", "OEEquivHashShardhash"
CHANGED = "zlib-native quilt-native m4-native pkgconfig-native flex-native glib-2.0 openssl ncurses expat python3"
"""Recipes that count as changed."""
LOCAL_CONF = """\
MACHINE = "qemux86-64"
DISTRO = "nodistro"
BB_SIGNATURE_HANDLER = "${WATCH_HANDLER}"
CONNECTIVITY_CHECK_URIS = ""
BB_NO_NETWORK = "1"
LICENSE_FLAGS_ACCEPTED = "commercial"
BB_DISKMON_DIRS = ""
BB_SERVER_TIMEOUT = "0"
BB_HASHCONFIG_IGNORE_VARS:append = " BB_HASHSERVE SHARDHASH_GUESSES WATCH_OUT WATCH_CHANGED"
"""
PASSED = "BB_HASHSERVE SHARDHASH_GUESSES WATCH_OUT WATCH_CHANGED WATCH_HANDLER"


class Builder:
    """A build directory, in which BitBake runs with one handler or the other."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._work: Path = arguments.work.resolve()
        self._build = self._work / "build"
        self._out = self._work / "out.jsonl"
        self._set_up()

    def _set_up(self) -> None:
        layers = [self._arguments.core / "meta"]
        for name, source in (("watch", ROOT / "perf/watch"), ("meta-shardhash", ROOT / "ops/meta-shardhash")):
            target = self._work / name
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            layers.append(target)
        conf = self._build / "conf"
        conf.mkdir(parents=True, exist_ok=True)
        (conf / "local.conf").write_text(LOCAL_CONF, encoding="ascii")
        names = " ".join(str(layer.resolve()) for layer in layers)
        (conf / "bblayers.conf").write_text(
            f'BBPATH = "${{TOPDIR}}"\nBBFILES ?= ""\nBBLAYERS = "{names}"\n', encoding="utf-8"
        )
        self._out.write_bytes(b"")
        if self._arguments.user:
            subprocess.run(["chown", "-R", f"{self._arguments.user}:", str(self._work)], check=True)

    def run(self, handler: str, address: str, *, guesses: str = "", changed: str = "") -> dict[str, Any]:
        """One ``bitbake -g``; what the watch layer saw."""
        for path in [*self._build.glob("**/bb_unihashes.dat*"), self._build / "tmp/stamps"]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        self._out.write_bytes(b"")
        bitbake = self._arguments.bitbake.resolve() / "bin"
        environment = {
            "PATH": f"{bitbake}:/usr/local/bin:/usr/bin:/bin",
            "LC_ALL": "en_US.UTF-8",
            "BBPATH": str(self._build),
            "BB_ENV_PASSTHROUGH_ADDITIONS": PASSED,
            "BB_HASHSERVE": address,
            "SHARDHASH_GUESSES": guesses,
            "WATCH_OUT": str(self._out),
            "WATCH_CHANGED": changed,
            "WATCH_HANDLER": handler,
        }
        command = ["env", "-i", *(f"{name}={value}" for name, value in environment.items())]
        user = ["setpriv", f"--reuid={self._arguments.user}", "--clear-groups"] if self._arguments.user else []
        result = subprocess.run(
            [*user, *command, str(bitbake / "bitbake"), "-g", self._arguments.target],
            cwd=self._build,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            check=False,
        )
        lines = self._out.read_text(encoding="ascii").splitlines()
        if result.returncode or len(lines) != 1:
            sys.exit(f"bitbake ended with status {result.returncode}:\n{result.stdout}")
        found: dict[str, Any] = json.loads(lines[0])
        found["warnings"] = sum(line.startswith("WARNING: ") and "Hash" in line for line in result.stdout.splitlines())
        return found

    def path(self, name: str) -> str:
        """The path of a file in the work directory, which is gone."""
        path = self._work / name
        path.unlink(missing_ok=True)
        return str(path)


def answers_of(builder: Builder, percent: int, changed: str = "") -> dict[str, str]:
    """All taskhashes that a build asks for, with their unihashes, of which a share differs."""
    answers: dict[str, str] = {}

    def answer(_method: str, taskhash: str) -> str:
        differs = int(taskhash[:8], 16) % 100 < percent
        answers[taskhash] = taskhash[32:] + taskhash[:32] if differs else taskhash
        return answers[taskhash]

    with FunctionServer(answer, native=False) as server:
        builder.run(STOCK, server.address, changed=changed)
    return answers


@contextmanager
def seeded(answers: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """A server that knows these; its addresses, ws and tcp."""
    with ServerProcess(*IN_MEMORY, binds=["ws://127.0.0.1:0", "127.0.0.1:0"]) as server:
        with create_client(server.addresses[1]) as client:
            for taskhash, unihash in answers.items():
                client.report_unihash_equiv(taskhash, METHOD, unihash)
        yield dict(zip(("ws", "tcp"), server.addresses, strict=True))


def report_names(address: str, entries: Mapping[str, tuple[str, str]]) -> None:
    """Report what a build had, ``MULTICONFIG:RECIPE:TASK`` to (taskhash, unihash), with the names."""
    reports = []
    for name, (taskhash, unihash) in entries.items():
        _, recipe, task = name.split(":")
        named = {"PN": recipe, "task": task.removeprefix("do_")}
        hashes = {"taskhash": taskhash, "outhash": taskhash[::-1], "unihash": unihash}
        reports.append({"method": METHOD, **hashes, **named})
    with create_client(address) as client:
        client.report_unihash_batch(reports)


@contextmanager
def delayed(address: str, milliseconds: float) -> Iterator[str]:
    """The address of a proxy over which a question and its answer take so long; the address itself for 0."""
    if not milliseconds:
        yield address
        return
    scheme, _, target = address.rpartition("/")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    proxy = Proxy(target, milliseconds / 2000)
    asyncio.run_coroutine_threadsafe(proxy.__aenter__(), loop).result()
    try:
        yield f"{scheme}/127.0.0.1:{proxy.port}" if scheme else f"127.0.0.1:{proxy.port}"
    finally:
        asyncio.run_coroutine_threadsafe(proxy.__aexit__(None, None, None), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class Measurements:
    """The runs so far, which are saved under `path`."""

    def __init__(self, builder: Builder, rounds: int, path: Path | None) -> None:
        self._builder = builder
        self._rounds = rounds
        self._path = path
        self._setting = setting()
        self.runs: list[dict[str, Any]] = []

    def compare(self, name: str, answers: Mapping[str, str], milliseconds: float, changed: str = "") -> None:
        """Both handlers in turn, without a table; all state must be equal."""
        with seeded(answers) as addresses, ExitStack() as stack:
            stock = stack.enter_context(delayed(addresses["tcp"], milliseconds))
            layer = stack.enter_context(delayed(addresses["ws"], milliseconds))
            for _ in range(self._rounds):
                first = self.add(name, milliseconds, self._builder.run(STOCK, stock, changed=changed))
                second = self.add(name, milliseconds, self._builder.run(LAYER, layer, changed=changed))
                assert first["state"] == second["state"], (first, second)

    def with_table(self, name: str, before: Mapping[str, str], answers: Mapping[str, str], changed: str) -> None:
        """The layer with the table of an earlier build, over 20 ms."""
        guesses = self._builder.path("guesses.json")
        with seeded(before) as addresses:
            self._builder.run(LAYER, addresses["ws"], guesses=guesses)
        with seeded(answers) as addresses, delayed(addresses["ws"], 20) as layer:
            stock = self.add(name, 0, self._builder.run(STOCK, addresses["tcp"], changed=changed))
            found = self.add(name, 20, self._builder.run(LAYER, layer, guesses=guesses, changed=changed))
            assert stock["state"] == found["state"], (stock, found)

    def with_guesses(self, base: Mapping[str, str], answers: Mapping[str, str]) -> None:
        """The layer with a server that knows the names of what builds elsewhere reported, over 20 ms."""
        tables = []
        for known, changed in ((base, ""), (answers, CHANGED)):
            path = self._builder.path("guesses.json")
            with seeded(known) as addresses:
                self._builder.run(LAYER, addresses["ws"], guesses=path, changed=changed)
            tables.append(json.loads(Path(path).read_bytes()))
        base_table = self._builder.path("base.json")
        for name, tables_there, table, changed in (
            ("fresh, the same", tables[:1], "", ""),
            ("fresh, 10 built elsewhere", tables, "", CHANGED),
            ("table, 10 built elsewhere", tables, base_table, CHANGED),
        ):
            if table:
                Path(table).write_text(json.dumps(tables[0]), encoding="ascii")
            with seeded(answers) as addresses, delayed(addresses["ws"], 20) as layer:
                for entries in tables_there:
                    report_names(addresses["tcp"], entries)
                stock = self.add(name, 0, self._builder.run(STOCK, addresses["tcp"], changed=changed))
                found = self.add(name, 20, self._builder.run(LAYER, layer, guesses=table, changed=changed))
                assert stock["state"] == found["state"], (stock, found)

    def down(self) -> None:
        """Nothing listens."""
        states = [
            self.add("server down", 0, self._builder.run(handler, "127.0.0.1:1"))["state"]
            for handler in (STOCK, LAYER) * self._rounds
        ]
        assert all(state == states[0] for state in states)

    def add(self, name: str, milliseconds: float, run: dict[str, Any]) -> dict[str, Any]:
        run.update(name=name, round_trip_ms=milliseconds)
        self.runs.append(run)
        if self._path:  # after each run, because all of them take an hour
            save(self._path, {**self._setting, "runs": self.runs})
        print(
            f"{name:32} {milliseconds:4.0f} ms {run['handler']:21} {run['batches']:4} batches "
            f"{run['questions']:6} questions {run['wait']:7.3f} s waiting "
            f"{run['cpu']:6.2f} s CPU {run['seconds']:6.2f} s",
            flush=True,
        )
        return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bitbake", type=Path, required=True, help="checkout of BitBake")
    parser.add_argument("--core", type=Path, required=True, help="checkout of openembedded-core")
    parser.add_argument(
        "--work", type=Path, required=True, help="directory for the build; it keeps BitBake's parse cache"
    )
    parser.add_argument("--user", help="who runs BitBake, if this is root")
    parser.add_argument("--target", default="world")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--guesses-only", action="store_true", help="only the runs with guesses of the server")
    parser.add_argument("--json", type=Path, help="where the results go")
    arguments = parser.parse_args()
    builder = Builder(arguments)
    measurements = Measurements(builder, arguments.rounds, arguments.json)
    print("parsing, which takes minutes the first time", flush=True)
    if arguments.guesses_only:
        base = answers_of(builder, 10)
        measurements.with_guesses(base, base | answers_of(builder, 10, CHANGED))
        measurements.compare("1 % differ", answers_of(builder, 1), 20)
        return
    answers: dict[str, str] = {}
    for percent, milliseconds in ((1, (0, 20, 100)), (0, (20,)), (3, (20,)), (10, (20,))):
        answers = answers_of(builder, percent)
        for round_trip in milliseconds:
            measurements.compare(f"{percent} % differ", answers, round_trip)
    measurements.with_table("the same again", answers, answers, "")
    measurements.with_table("10 changed, new to all", answers, answers, CHANGED)
    elsewhere = answers | answers_of(builder, 10, CHANGED)
    measurements.with_table("10 changed, built elsewhere", answers, elsewhere, CHANGED)
    measurements.with_guesses(answers, elsewhere)
    measurements.down()


if __name__ == "__main__":
    main()

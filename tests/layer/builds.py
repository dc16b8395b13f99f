"""Builds for the signature handlers: random graphs of tasks, and BitBake's loop over them.

The handlers are BitBake's own classes, with stand-ins for hashserv and openembedded-core's library, which PyPI lacks.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import random
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

METHOD = "oe.sstatesig.OEOuthashBasic"
STANDINS = Path(__file__).parent / "standins"

Answer = Callable[[str, str], "str | None"]


def load(name: str) -> Any:
    """A module that needs the stand-ins, or one of them."""
    if str(STANDINS) not in sys.path:
        sys.path.insert(0, str(STANDINS))
    return importlib.import_module(name)


def digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@dataclass
class Build:
    """What BitBake knows when it begins to compute hashes. Keys are task ids: ``mc:m1:/meta/a.bb:do_package``."""

    depends: dict[str, set[str]]
    recipes: dict[str, str]
    """File to recipe name."""
    basehash: dict[str, str]
    setscene: set[str] = field(default_factory=set)
    checksums: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    forced: dict[tuple[str, str], str] = field(default_factory=dict)
    """(file, task) to the taint that a forced run left."""
    nostamp: set[str] = field(default_factory=set)
    extramethod: dict[str, str] = field(default_factory=dict)
    unitaskhashes: dict[str, tuple[str, str]] = field(default_factory=dict)
    variables: dict[str, Any] = field(default_factory=dict)

    def data(self, **variables: Any) -> Any:
        values = {"SSTATE_HASHEQUIV_METHOD": METHOD, "BB_HASHSERVE": "localhost:1", **self.variables, **variables}
        return SimpleNamespace(getVar=values.get)

    def datacaches(self) -> dict[str, Any]:
        caches: dict[str, Any] = {}
        for tid in self.depends:
            mc, mcfn, task = split(tid)
            cache = caches.setdefault(
                mc, SimpleNamespace(basetaskhash={}, pkg_fn={}, file_checksums={}, task_deps={}, stamp={})
            )
            cache.basetaskhash[tid] = self.basehash[tid]
            cache.pkg_fn[mcfn] = self.recipes[mcfn]
            cache.stamp[mcfn] = "/stamps/" + mcfn
            files = cache.file_checksums.setdefault(mcfn, {})
            if tid in self.checksums:
                files[task] = self.checksums[tid]
            flags = cache.task_deps.setdefault(mcfn, {})
            if tid in self.nostamp:
                flags.setdefault("nostamp", {})[task] = "1"
        return caches


def split(tid: str) -> tuple[str, str, str]:
    """Multiconfig, file and task."""
    mcfn, _, task = tid.rpartition(":")
    return (mcfn.split(":")[1] if mcfn.startswith("mc:") else ""), mcfn, task


class FileChecksums:
    """Stands in for BitBake's cache of the checksums of files, which are given here."""

    def get_checksums(self, files: list[tuple[str, str]], recipe: str, excluded: object) -> list[tuple[str, str]]:
        return list(files)

    def save_extras(self) -> None:
        """Nothing is saved."""

    def save_merge(self) -> None:
        """Nothing is saved."""


class RunQueueData:
    """BitBake's object of this name, as far as signature handlers see it, and its loop."""

    def __init__(self, build: Build, handler: str, **variables: Any) -> None:
        siggen_module = load("bb.siggen")
        load("oe.sstatesig")
        load("shardhash_bitbake.handler")
        self.build = build
        self.siggen = getattr(siggen_module, "SignatureGenerator" + handler)(build.data(**variables))
        self.siggen.checksum_cache = FileChecksums()
        self.siggen.read_taint = lambda mcfn, task, stamp: build.forced.get((mcfn, task))
        self.siggen.extramethod = dict(build.extramethod)
        self.siggen.unitaskhashes = dict(build.unitaskhashes)
        self.siggen.taints = {tid: f"nostamp:{uuid.UUID(int=at)}" for at, tid in enumerate(sorted(build.nostamp))}
        self.dataCaches = build.datacaches()
        self.runtaskentries = {tid: SimpleNamespace(depends=needed) for tid, needed in build.depends.items()}

    def prepare(self) -> dict[str, Any]:
        """Compute all hashes wave by wave; the state of the handler and what the runqueue took from it."""
        self.siggen.set_setscene_tasks(self.build.setscene)
        entries, done, left = self.runtaskentries, set[str](), set(self.runtaskentries)
        while left:
            ready = {tid for tid in left if entries[tid].depends <= done}
            for tid in sorted(ready):  # the order decides which recipes are unlocked
                entries[tid].taskhash_deps = self.siggen.prep_taskhash(tid, entries[tid].depends, self.dataCaches)
                entries[tid].hash = self.siggen.get_taskhash(tid, entries[tid].depends, self.dataCaches)
            for tid, unihash in self.siggen.get_unihashes(ready).items():
                entries[tid].unihash = unihash
            done |= ready
            left -= ready
        self.siggen.writeout_file_checksum_cache()
        return self.state()

    def rehash(self, unihashes: dict[str, str]) -> dict[str, Any]:
        """Some unihashes changed while tasks ran: compute the hashes of all that depends on them again."""
        entries = self.runtaskentries
        left: set[str] = set()
        for tid, unihash in unihashes.items():
            entries[tid].unihash = unihash
            self.siggen.set_unihash(tid, unihash)
        changed = set(unihashes)
        while more := {tid for tid in entries if tid not in left and entries[tid].depends & (changed | left)}:
            left |= more
        while left:
            ready = sorted(tid for tid in left if not entries[tid].depends & left)
            for tid in ready:
                entries[tid].hash = self.siggen.get_taskhash(tid, entries[tid].depends, self.dataCaches)
            for tid, unihash in self.siggen.get_unihashes(dict.fromkeys(ready).keys()).items():
                entries[tid].unihash = unihash
            left -= {*ready}
        return self.state()

    def state(self) -> dict[str, Any]:
        names = (
            "basehash taskhash unihash unitaskhashes runtaskdeps file_checksum_values taints tidtopn setscenetasks "
            "lockedhashes lockedpnmap mismatches unlockedrecipes"
        )
        kept = {name: getattr(self.siggen, name) for name in names.split()}
        kept["runtaskdeps"] = {tid: sorted(needed) for tid, needed in self.siggen.runtaskdeps.items()}
        kept["entries"] = {tid: vars(entry) for tid, entry in self.runtaskentries.items()}
        return copy.deepcopy(kept)


def random_build(chance: random.Random) -> Build:
    """Some recipes in one or two configurations, tasks that depend on earlier ones, and everything else that counts."""
    files, recipes = [], {}
    for number in range(chance.randint(1, 5)):
        mc = chance.choice(["", "", "mc:m1:"])
        files.append(f"{mc}/meta/r{number}.bb")
        recipes[files[-1]] = f"r{chance.randint(0, number)}" if mc else f"r{number}"
    tids = [f"{file}:do_{task}" for file in files for task in "abcdef" if chance.random() < 0.7]
    chance.shuffle(tids)

    def few(share: float) -> set[str]:
        return {tid for tid in tids if chance.random() < share}

    return Build(
        depends={tid: {other for other in tids[:at] if chance.random() < 0.3} for at, tid in enumerate(tids)},
        recipes=recipes,
        basehash={tid: digest("base", tid) for tid in tids},
        setscene=chance.choice([set(), few(0.5), set(tids)]),
        checksums={
            tid: [
                (chance.choice(["/a/./", "/b/", "/z/./sub/"]) + name, chance.choice(["", digest(tid, name)]))
                for name in chance.sample("uvwxyz", 3)
            ]
            for tid in few(0.3)
        },
        forced={split(tid)[1:]: digest("taint", tid) for tid in few(0.1)},
        nostamp=few(0.1),
        extramethod=dict.fromkeys(few(0.1), "/1.2"),
        variables={
            "DROPPED": {(a, b) for a in recipes.values() for b in recipes.values() if a != b and chance.random() < 0.1}
        },
    )


def random_answers(chance: random.Random) -> Answer:
    """A server that knows some taskhashes, some of them under another unihash; it always says the same."""
    seed, unknown, own = chance.randint(0, 1 << 30), chance.choice([0.0, 0.2, 0.9]), chance.choice([0.0, 0.7, 1.0])

    def answer(method: str, taskhash: str) -> str | None:
        fixed = random.Random(f"{seed} {method} {taskhash}")
        if fixed.random() < unknown:
            return None
        return taskhash if fixed.random() < own else digest("other", taskhash)

    return answer

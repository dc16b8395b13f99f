"""From BitBake's tasks to those of `optimism`: what each hash is made of, as SignatureGenerator.get_taskhash takes it.

This knows BitBake's formula, which BitBake is free to change: then the hashes computed here are not those that it asks
for, and its own loop asks as ever. Attributes of the signature handler that are not there count as empty.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import bb.runqueue
import bb.siggen

from shardhash_bitbake.optimism import Task

_NOSTAMP = "nostamp:"


def order_by_dependency(depends: Mapping[str, AbstractSet[str]]) -> list[str] | None:
    """The task ids, dependencies first; None if some depend on each other, or on what is not there."""
    waiting = {tid: len(needed) for tid, needed in depends.items()}
    dependents: dict[str, list[str]] = {}
    for tid, needed in depends.items():
        for other in needed:
            dependents.setdefault(other, []).append(tid)
    ready = deque(tid for tid, count in waiting.items() if not count)
    order: list[str] = []
    while ready:
        tid = ready.popleft()
        order.append(tid)
        for dependent in dependents.get(tid, ()):
            waiting[dependent] -= 1
            if not waiting[dependent]:
                ready.append(dependent)
    return order if len(order) == len(waiting) else None


class Gatherer:
    """Makes Tasks of task ids that were prepared by `siggen.prep_taskhash`, called in order of dependency."""

    def __init__(self, siggen: Any, datacaches: Any, previous: Mapping[str, tuple[str, str]]) -> None:
        self._siggen = siggen
        self._datacaches = datacaches
        self._previous = previous
        self._places: dict[str, int] = {}
        self._unihashmap = getattr(siggen, "unihashmap", {})
        self._lockedsigs = getattr(siggen, "lockedsigs", {})
        self._lockedhashes = getattr(siggen, "lockedhashes", {})
        self._unlocked = set(getattr(siggen, "unlockedrecipes", ()))

    def gather_constant(self, tid: str, unihash: str) -> Task:
        """The next task, whose unihash is known and stays."""
        self._places[tid] = len(self._places)
        return Task("", (), "", None, locked=unihash)

    def gather(self, tid: str, depends: Iterable[str]) -> Task:
        """The next task; `depends` is what the runqueue says it depends on."""
        siggen = self._siggen
        mc, _, taskname, _ = bb.runqueue.split_tid_mcfn(tid)
        recipe = siggen.tidtopn[tid]
        key = f"{mc}:{recipe}:{taskname}"
        asks = not siggen.setscenetasks or tid in siggen.setscenetasks
        cached = siggen.unitaskhashes.get(key)
        dependencies = [self._places[dependency] for _, dependency in sorted(siggen.runtaskdeps[tid])]
        self._places[tid] = len(self._places)
        return Task(
            siggen.basehash[tid],
            dependencies,
            self._checksums(tid) + self._taint(tid),
            siggen._get_method(tid) if asks else None,  # noqa: SLF001  # the handler is a subclass
            self._lock(tid, mc, recipe, taskname, depends),
            () if cached is None else (cached,),
            self._unihashmap.get((recipe, taskname)),
            self._previous.get(key),
        )

    def _checksums(self, tid: str) -> str:
        parts: list[str] = []
        for name, checksum in sorted(self._siggen.file_checksum_values[tid], key=bb.siggen.clean_checksum_file_path):
            if checksum:
                if "/./" in name:
                    parts.append("./" + name.split("/./")[1])
                parts.append(checksum)
        return "".join(parts)

    def _taint(self, tid: str) -> str:
        taint: str = self._siggen.taints.get(tid, "")
        return taint.removeprefix(_NOSTAMP)

    def _lock(self, tid: str, mc: str, recipe: str, taskname: str, depends: Iterable[str]) -> str | None:
        """The hash that a task is locked to. A recipe is unlocked if one that it depends on is."""
        if tid in self._lockedhashes:
            return str(self._lockedhashes[tid]) if self._lockedhashes[tid] else None
        if not self._lockedsigs:
            return None
        if recipe not in self._unlocked:
            names = [self._recipe_of(other) for other in depends if bb.runqueue.mc_from_tid(other) == mc]
            if any(unlocked in name for name in names for unlocked in self._unlocked):
                self._unlocked.add(recipe)
        if recipe in self._unlocked or taskname not in self._lockedsigs.get(recipe, ()):
            return None
        return str(self._lockedsigs[recipe][taskname][0])

    def _recipe_of(self, tid: str) -> str:
        mc, _, _, mcfn = bb.runqueue.split_tid_mcfn(tid)
        return str(self._datacaches[mc].pkg_fn[mcfn])


def gather_dependents(
    siggen: Any, datacaches: Any, order: Iterable[str], previous: Mapping[str, tuple[str, str]], changed: Iterable[str]
) -> list[Task] | None:
    """Tasks whose hashes BitBake computes again because it did so for those `changed`, and what they depend on.

    `order` has all tasks of the build, dependencies first. None if nothing else depends on them, or if the unihash of
    another dependency is not known.
    """
    affected = set(changed)
    count = len(affected)
    for tid in order:
        if not affected.isdisjoint([dependency for _, dependency in siggen.runtaskdeps[tid]]):
            affected.add(tid)
    if len(affected) == count:
        return None
    gatherer = Gatherer(siggen, datacaches, previous)
    tasks: list[Task] = []
    needed = {dependency for tid in affected for _, dependency in siggen.runtaskdeps[tid]} - affected
    for tid in needed:
        unihash = siggen.get_cached_unihash(tid)
        if unihash is None:
            return None
        tasks.append(gatherer.gather_constant(tid, unihash))
    return [*tasks, *(gatherer.gather(tid, ()) for tid in order if tid in affected)]

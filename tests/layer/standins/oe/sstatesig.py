"""Stands in for openembedded-core's signature handler: locked hashes, unlocked recipes, a map of unihashes.

It has the names that others read, and behaves as they expect: a locked task's dependents see the hash that it is locked
to, while its own is asked for once; a recipe is unlocked if one that it depends on is.
"""

from __future__ import annotations

from typing import Any

import bb.runqueue
import bb.siggen

LOCKED_BY = "SIGGEN_LOCKEDSIGS"


class SignatureGeneratorOEBasicHashMixIn:
    taskhash: dict[str, str]

    def init_rundepcheck(self, data: Any) -> None:
        self.lockedsigs: dict[str, dict[str, list[str]]] = data.getVar("LOCKED") or {}
        self.unlockedrecipes: dict[str, str] = dict.fromkeys(data.getVar("UNLOCKED") or (), "")
        self.unihashmap: dict[tuple[str, str], tuple[str, str]] = data.getVar("MAPPED") or {}
        self.dropped: set[tuple[str, str]] = data.getVar("DROPPED") or set()
        self.lockedhashes: dict[str, Any] = {}
        self.lockedpnmap: dict[str, str] = {}
        self.mismatches: set[str] = set()
        self._inside = False

    def rundep_check(self, fn: str, recipename: str, task: str, dep: str, depname: str, dataCaches: Any) -> bool:
        return (recipename, depname) not in self.dropped

    def get_taskhash(self, tid: str, deps: Any, dataCaches: Any) -> Any:
        decided = self.lockedhashes.get(tid)
        if decided:
            return decided
        taskhash = super().get_taskhash(tid, deps, dataCaches)  # type: ignore[misc]
        if decided is None:
            self.lockedhashes[tid] = self._decide(tid, deps, dataCaches, taskhash)
        return self.lockedhashes[tid] or taskhash

    def _decide(self, tid: str, deps: Any, datacaches: Any, taskhash: str) -> Any:
        mc, _, task, fn = bb.runqueue.split_tid_mcfn(tid)
        recipe = self.lockedpnmap[fn] = datacaches[mc].pkg_fn[fn]
        for dep in deps:
            depmc, _, _, depfn = bb.runqueue.split_tid_mcfn(dep)
            name = datacaches[depmc].pkg_fn[depfn]
            if (
                depmc == mc
                and recipe not in self.unlockedrecipes
                and any(part in name for part in self.unlockedrecipes)
            ):
                self.unlockedrecipes[recipe] = ""
        if recipe in self.unlockedrecipes or task not in self.lockedsigs.get(recipe, ()):
            return False
        locked = self.lockedsigs[recipe][task][0]
        self.lockedhashes[tid] = locked
        self._inside = True
        unihash = self.get_unihash(tid)  # type: ignore[attr-defined]
        self._inside = False
        if locked not in (taskhash, unihash):
            self.mismatches.add(tid)
        return locked

    def get_cached_unihash(self, tid: str) -> Any:
        if self.lockedhashes.get(tid) and not self._inside:
            return self.lockedhashes[tid]
        _, _, task, fn = bb.runqueue.split_tid_mcfn(tid)
        taskhash, unihash = self.unihashmap.get((self.lockedpnmap[fn], task), (None, None))
        if taskhash == self.taskhash[tid]:
            return unihash
        return super().get_cached_unihash(tid)  # type: ignore[misc]


class SignatureGeneratorOEEquivHash(
    SignatureGeneratorOEBasicHashMixIn, bb.siggen.SignatureGeneratorUniHashMixIn, bb.siggen.SignatureGeneratorBasicHash
):
    name = "OEEquivHash"

    def init_rundepcheck(self, data: Any) -> None:
        super().init_rundepcheck(data)
        self.server = data.getVar("BB_HASHSERVE")
        self.method = data.getVar("SSTATE_HASHEQUIV_METHOD")
        self.username = data.getVar("BB_HASHSERVE_USERNAME")
        self.password = data.getVar("BB_HASHSERVE_PASSWORD")


bb.siggen.SignatureGeneratorOEEquivHash = SignatureGeneratorOEEquivHash

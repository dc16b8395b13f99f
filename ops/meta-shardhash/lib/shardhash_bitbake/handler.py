"""The signature handler OEEquivHashShardhash: OEEquivHash with a client of its own, which asks before BitBake does.

BitBake's RunQueueData.prepare calls, in this order::

    set_setscene_tasks               here the prefetch runs, over all tasks of the build
    prep_taskhash, get_taskhash      for each task; the first was done in the prefetch, and its result is handed over
    get_unihashes                    wave by wave; finds its answers in what the prefetch learned
    writeout_file_checksum_cache     here all of that is forgotten, so no answer is older than the build

While tasks run, a report may change a unihash; then BitBake computes the hashes of all that depends on it again, in
waves: get_taskhash for each, then get_unihashes. The first wave that has to ask begins another prefetch, for these
tasks only, whose answers are good for a few seconds.

get_taskhash and all that decides stay BitBake's own. If anything in the prefetch fails, the loop asks as ever.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import bb
import bb.runqueue
import bb.siggen

from shardhash_bitbake.advice import find_advice
from shardhash_bitbake.ahead import Ahead
from shardhash_bitbake.breaker import Breaker
from shardhash_bitbake.client import TIMEOUT, Client
from shardhash_bitbake.dial import tls_context
from shardhash_bitbake.edge import Edge, EdgeError, find_edge, start_edge
from shardhash_bitbake.errors import InvokeError
from shardhash_bitbake.gathering import Gatherer, gather_dependents, order_by_dependency
from shardhash_bitbake.guesses import Guesses
from shardhash_bitbake.optimism import Answers, Guessed, Optimist, Task
from shardhash_bitbake.spool import Spool
from shardhash_bitbake.view import View

try:
    import oe.sstatesig
except ImportError as error:
    bb.fatal(
        "meta-shardhash builds on openembedded-core's library, which is not there yet "
        f"({error}). Name meta-shardhash behind openembedded-core's meta in BBLAYERS (conf/bblayers.conf)."
    )

FRESH = 5.0
"""Seconds for which answers of a running build are good."""

Name = tuple[str, str, str]
"""Method, PN and task."""

_log = logging.getLogger("BitBake.SigGen.HashEquiv")


class ShardhashMixIn(bb.siggen.SignatureGeneratorUniHashMixIn):  # type: ignore[misc]  # BitBake has no types
    """Stands between openembedded-core's mixin and BitBake's, whose questions it answers."""

    server: Any
    username: Any
    password: Any

    def __init__(self, data: Any) -> None:
        self._answers: Answers = {}
        self._prepared: dict[str, Any] = {}
        self._order: list[str] = []
        """All tasks of a build, dependencies first, once its tasks run."""
        self._next_order: list[str] = []
        self._build_datacaches: Any = None
        self._previous: Mapping[str, tuple[str, str]] = {}
        self._answered = 0.0
        self._breaker = Breaker()
        self._optimistic = data.getVar("SHARDHASH_OPTIMISTIC") != "0"
        self._timeout = _seconds(data.getVar("SHARDHASH_TIMEOUT"))
        self._cache_directory = data.getVar("PERSISTENT_DIR") or data.getVar("CACHE") or ""
        self._guesses = Guesses(data.getVar("SHARDHASH_GUESSES"))
        self._advice = find_advice(data)
        self._began = 0.0
        super().__init__(data)
        self._edge = self._find_edge(data)
        self._configured = (self.server, self.username, self.password)
        self._warm_tls()

    def _find_edge(self, data: Any) -> Edge | None:
        try:
            return find_edge(data)
        except EdgeError as error:
            self._advice.append(str(error))
            return None

    def _warm_tls(self) -> None:
        """Read the certificates here, once, and not in each task."""
        if self.server.startswith("wss:"):
            with self._client_env():
                try:
                    tls_context()
                except OSError as error:
                    bb.warn(f"the certificates for {self.server} cannot be read: {error}")

    def _use_edge(self) -> None:
        """Have an edge run, and ask it, as nobody in particular, instead of the configured server.

        Tasks learn its address with all else (get_taskdata), and never start one.
        """
        if self._edge is None:
            return
        server, username, password = self._configured
        try:
            with self._client_env():
                chosen = (start_edge(self._edge, bb.note, username or "", password or ""), None, None)
        except EdgeError as error:
            bb.warn(f"There is no hash equivalence server on this machine (SHARDHASH_EDGE): {error}. {server} is used")
            chosen = self._configured
        if chosen == (self.server, self.username, self.password):
            return
        if (client := getattr(self, "_client", None)) is not None:
            client.close()
            del self._client
        self._breaker.worked()  # what is known of the other server says nothing
        self.server, self.username, self.password = chosen
        _log.debug("The hash equivalence server is %s", self.server)

    # -- clients ---------------------------------------------------------------------------------------------------

    @contextmanager
    def client(self) -> Iterator[View]:
        """The client, in an environment with BitBake's settings of proxies and certificates."""
        with self._client_env():
            if getattr(self, "_client", None) is None:
                self._client = self._make_view()
            yield self._client

    client_pool = client

    def _make_view(self) -> View:
        credentials = self.get_hashserv_creds()
        try:
            client = Client(self.server, timeout=self._timeout, breaker=self._breaker, **credentials)
        except ValueError as error:
            bb.fatal(f"BB_HASHSERVE: {error}")
            raise  # never reached
        return View(client, self._answers, Spool(self._cache_directory or os.curdir, self.server), self._warn_once)

    def _warn_once(self, text: str) -> None:
        """Warn, once a build, over all its tasks."""
        if self._breaker.should_warn():
            bb.warn(
                f"Hash Equivalence Server: {text}. The build goes on without it, and may run tasks that it could have "
                "reused; what it could report is kept for later"
            )
        else:
            _log.debug("Hash Equivalence Server: %s", text)

    # -- BitBake's steps ---------------------------------------------------------------------------------------------

    def set_setscene_tasks(self, setscene_tasks: Any) -> None:
        """The loop over all hashes is about to begin."""
        super().set_setscene_tasks(setscene_tasks)
        self._forget()
        self._order, self._next_order = [], []
        self._breaker.forget_warning()
        self._use_edge()
        while self._advice:
            bb.warn(self._advice.pop())
        self._began = time.monotonic()
        runqueue = _find_runqueue()
        with self.client() as client:
            client.send_kept_reports()
        if self._optimistic and runqueue is not None:
            try:
                self._prefetch(runqueue.runtaskentries, runqueue.dataCaches)
            except Exception:  # noqa: BLE001  # whatever BitBake changed under us, its own loop still works
                _log.debug("The prefetch of unihashes failed; BitBake asks for them itself", exc_info=True)
        with self.client() as client:
            client.left = 0

    def prep_taskhash(self, tid: str, deps: Any, dataCaches: Any) -> Any:  # noqa: N803  # BitBake's name
        """What the prefetch prepared already, once."""
        if tid in self._prepared:
            return self._prepared.pop(tid)
        return super().prep_taskhash(tid, deps, dataCaches)

    def writeout_file_checksum_cache(self) -> None:
        """The loop has ended."""
        super().writeout_file_checksum_cache()
        with self.client() as client:
            _log.debug(
                "All hashes are there after %.2f s; %d questions were left to BitBake's own loop; %d calls of the "
                "server so far, %d questions, %.2f s of waiting",
                time.monotonic() - self._began,
                client.left,
                client.figures.calls,
                client.figures.questions,
                client.figures.seconds,
            )
        self._forget()
        self._keep_guesses()
        self._order = self._next_order

    def get_unihashes(self, tids: Iterable[str]) -> Any:
        """The unihash of each task. In a running build, what will be asked for next is asked for here."""
        tids = list(tids)
        if self._order:
            if time.monotonic() - self._answered > FRESH:
                self._answers.clear()
            try:
                self._look_ahead(tids)
            except Exception:  # noqa: BLE001  # as above
                _log.debug("Looking ahead failed; BitBake asks by itself", exc_info=True)
                self._order = []
        return super().get_unihashes(tids)

    def report_unihash(self, path: str, task: str, d: Any) -> Any:
        """Report what a task made; with its name, from which others guess, if SHARDHASH_REPORT_NAMES says so."""
        named = d.getVar("SHARDHASH_REPORT_NAMES") == "1"
        with self.client() as client:
            client.names = {"PN": d.getVar("PN"), "task": task} if named else {}
        return super().report_unihash(path, task, d)

    def save_unitaskhashes(self) -> None:
        """The build has ended: keep its unihashes as guesses, and send what its tasks could not."""
        super().save_unitaskhashes()
        self._keep_guesses()
        with self.client() as client:
            sent = client.send_kept_reports()
        if sent:
            bb.note(f"{sent} reports that had been kept for the Hash Equivalence Server were sent")

    def reset(self, data: Any) -> None:
        """BitBake starts over with another configuration."""
        self._forget()
        super().reset(data)

    def _forget(self) -> None:
        self._answers.clear()
        self._prepared.clear()

    def _keep_guesses(self) -> None:
        self._guesses.merge(self.unitaskhashes)

    # -- the prefetch ------------------------------------------------------------------------------------------------

    def _prefetch(self, entries: Any, datacaches: Any) -> None:
        """Ask for the unihashes of all tasks in a few batches."""
        self._previous = self._guesses.load()
        # Without a table all tasks will have to be guessed, which need not wait until their hashes are there.
        names = [] if self._previous else self._names(entries, datacaches)
        with self.client() as client:
            ahead = Ahead(lambda: self._begin(client, names))
            try:
                tasks = self._gather(entries, datacaches)
            finally:
                ahead.wait()
        if tasks is None:
            return
        gathered = time.monotonic()
        optimist = Optimist(tasks, self._answers)
        with self.client() as client:
            try:
                guessed = ahead.finish()

                def guess(places: list[int]) -> Sequence[Guessed]:
                    asked = [self._name_of(self._next_order[place]) for place in places]
                    if names:
                        return [guessed.get(name, ((), False)) for name in asked]
                    found = self._guess(client, asked)
                    return [found.get(name, ((), False)) for name in asked]

                outcome = optimist.run(client.get_from_server, guess=guess)
            except ConnectionError as error:
                self._warn_once(str(error))
                return
            except InvokeError as error:
                _log.debug("The server refused the prefetch: %s", error)
                return
        _log.debug(
            "Prefetched %d unihashes of %d tasks in %d round trips, %.2f s after %.2f s of preparation%s",
            outcome.questions,
            len(tasks),
            outcome.rounds,
            time.monotonic() - gathered,
            gathered - self._began,
            "" if outcome.complete else "; a limit ended it",
        )

    def _begin(self, client: View, names: Sequence[Name]) -> dict[Name, Guessed]:
        try:
            return dict(zip(names, client.begin(names)))
        except InvokeError as error:
            _log.debug("The server refused to guess: %s", error)
            return {}

    def _guess(self, client: View, names: Sequence[Name]) -> dict[Name, Guessed]:
        try:
            return dict(zip(names, client.get_guesses(names)))
        except InvokeError as error:
            _log.debug("The server refused to guess: %s", error)
            return {}

    def _name_of(self, tid: str) -> Name:
        """Method, PN and task, as reports have them."""
        return self._get_method(tid), self.tidtopn[tid], tid.rpartition(":")[2].removeprefix("do_")

    def _names(self, tids: Iterable[str], datacaches: Any) -> list[Name]:
        """The same of all tasks that BitBake asks for, which are not prepared yet."""
        names: dict[Name, None] = {}
        for tid in tids:
            if not self.setscenetasks or tid in self.setscenetasks:
                mc, _, task, mcfn = bb.runqueue.split_tid_mcfn(tid)
                names[self._get_method(tid), datacaches[mc].pkg_fn[mcfn], task.removeprefix("do_")] = None
        return list(names)

    def _look_ahead(self, tids: list[str]) -> None:
        """Ask for the unihashes of all tasks that depend on these, if BitBake has to ask for one of these."""
        questions = [
            (self._get_method(tid), self.taskhash[tid]) for tid in tids if self.get_cached_unihash(tid) is None
        ]
        if all(question in self._answers for question in questions):
            return
        tasks = gather_dependents(self, self._build_datacaches, self._order, self._previous, tids)
        if tasks is None:
            return
        began = self._answered = time.monotonic()
        with self.client() as client:
            try:
                outcome = Optimist(tasks, self._answers).run(client.get_from_server)
            except (ConnectionError, InvokeError) as error:
                _log.debug("Looking ahead failed: %s", error)
                return
        _log.debug(
            "Prefetched %d unihashes of %d tasks, whose dependencies changed, in %d round trips and %.2f s",
            outcome.questions,
            len(tasks),
            outcome.rounds,
            time.monotonic() - began,
        )

    def _gather(self, entries: Any, datacaches: Any) -> list[Task] | None:
        """Prepare all tasks, dependencies first, and keep the results for the loop; None if there is no such order."""
        order = order_by_dependency({tid: entry.depends for tid, entry in entries.items()})
        if order is None:
            return None
        gatherer = Gatherer(self, datacaches, self._previous)
        prepared: dict[str, Any] = {}
        tasks: list[Task] = []
        # prep_taskhash insists that dependencies have hashes, and does not look at them.
        added = [tid for tid in order if tid not in self.taskhash]
        self.taskhash.update(dict.fromkeys(added, ""))
        try:
            for tid in order:
                prepared[tid] = super().prep_taskhash(tid, entries[tid].depends, datacaches)
                tasks.append(gatherer.gather(tid, entries[tid].depends))
        finally:
            for tid in added:
                del self.taskhash[tid]
            # Also when it fails half way: what was prepared must not be prepared twice.
            self._prepared.update(prepared)
        self._next_order, self._build_datacaches = order, datacaches
        return tasks


class SignatureGeneratorOEEquivHashShardhash(
    oe.sstatesig.SignatureGeneratorOEEquivHash,  # type: ignore[misc]  # nor has openembedded-core
    ShardhashMixIn,
):
    """OEEquivHash, asked for by BB_SIGNATURE_HANDLER = "OEEquivHashShardhash"."""

    name = "OEEquivHashShardhash"


# BitBake finds handlers among the names of this module.
bb.siggen.SignatureGeneratorOEEquivHashShardhash = SignatureGeneratorOEEquivHashShardhash


def _find_runqueue() -> Any:
    """The RunQueueData whose method called set_setscene_tasks; None if it was another."""
    frame = sys._getframe(2)  # noqa: SLF001  # there is no other way to it without a patch
    owner = frame.f_locals.get("self")
    return owner if hasattr(owner, "runtaskentries") and hasattr(owner, "dataCaches") else None


def _seconds(text: str | None) -> float:
    try:
        seconds = float(text or TIMEOUT)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 3600:
        bb.fatal(f"SHARDHASH_TIMEOUT is {text!r}; it is a number of seconds, such as 5")
    return seconds

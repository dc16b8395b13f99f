"""Times BitBake's computation of hashes, counts its batches, and digests all state that it leaves.

It wraps methods of BitBake's signature handlers, the stock one and the layer's alike. Taints of nostamp tasks become
the same in each run, or no two runs would agree. WATCH_OUT names the file to which each run adds a line of JSON;
WATCH_CHANGED names recipes that count as changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bb.runqueue
import bb.siggen

_STATE = [
    *("basehash", "taskhash", "unihash", "unitaskhashes", "runtaskdeps", "file_checksum_values", "taints", "tidtopn"),
    *("setscenetasks", "lockedhashes", "lockedpnmap", "lockedhashfn", "unihashmap", "lockedsigs", "extramethod"),
    *("mismatch_number", "mismatch_msgs"),
]
_handler = bb.siggen.SignatureGeneratorBasic
_mixin = bb.siggen.SignatureGeneratorUniHashMixIn
_began, _prepare, _ended, _client = (
    _handler.set_setscene_tasks,
    _handler.prep_taskhash,
    _handler.writeout_file_checksum_cache,
    _mixin.client,
)
_run: dict[str, Any] = {}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _begin(self: Any, setscene_tasks: Any) -> Any:
    _run.update(began=time.monotonic(), cpu=time.process_time(), batches=0, questions=0, wait=0.0)
    return _began(self, setscene_tasks)


def _prepare_without_chance(self: Any, tid: str, deps: Any, datacaches: Any) -> Any:
    mc, _, task, mcfn = bb.runqueue.split_tid_mcfn(tid)
    if task in datacaches[mc].task_deps[mcfn].get("nostamp", {}):
        self.taints[tid] = "nostamp:" + _digest(tid)
    result = _prepare(self, tid, deps, datacaches)
    if task == "do_configure" and datacaches[mc].pkg_fn[mcfn] in os.environ.get("WATCH_CHANGED", "").split():
        self.basehash[tid] = _digest("changed " + self.basehash[tid])
    return result


class _Timed:
    """A client of hashserv whose batches are counted."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def get_unihash_batch(self, args: Any) -> Any:
        questions = list(args)
        began = time.monotonic()
        try:
            return self._client.get_unihash_batch(questions)
        finally:
            _run["batches"] += 1
            _run["questions"] += len(questions)
            _run["wait"] += time.monotonic() - began

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


@contextlib.contextmanager
def _timed_client(self: Any) -> Iterator[Any]:
    with _client(self) as client:
        yield _Timed(client)


def _end(self: Any) -> None:
    seconds, cpu = time.monotonic() - _run["began"], time.process_time() - _run["cpu"]
    _ended(self)
    figures = getattr(getattr(self, "_client", None), "figures", None)
    if figures is not None:  # the layer's own client
        _run.update(batches=figures.calls, questions=figures.questions, wait=figures.seconds)
    line = {
        "handler": self.name,
        "seconds": seconds,
        "cpu": cpu,
        "tasks": len(self.taskhash),
        "state": {name: _digest(_text(getattr(self, name)))[:16] for name in _STATE},
        **{name: _run[name] for name in ("batches", "questions", "wait")},
        "left": getattr(getattr(self, "_client", None), "left", 0) if figures is not None else None,
    }
    with Path(os.environ["WATCH_OUT"]).open("a", encoding="ascii") as out:
        out.write(json.dumps(line) + "\n")


def _text(value: Any) -> str:
    """The same text for the same content, whatever the order of dictionaries and sets."""
    if isinstance(value, dict):
        return repr(sorted((repr(key), _text(item)) for key, item in value.items()))
    return repr(sorted(map(repr, value)) if isinstance(value, (set, list)) else value)


_handler.set_setscene_tasks = _begin
_handler.prep_taskhash = _prepare_without_chance
_handler.writeout_file_checksum_cache = _end
_mixin.client = _timed_client

"""What the builders ask: the waves of a recorded build, or the same lookups in batches; and what is to be answered.

The unihash of a taskhash follows from the taskhash, so that every process knows what to expect without being told, and
a server that was filled by one run is good for the next.
"""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np

DIGEST_SIZE = 32
TRACES = Path(__file__).parent / "traces"


class WrongAnswerError(Exception):
    """A server answered something else than what was stored."""


@dataclass(frozen=True, slots=True)
class Step:
    """Lookups of one method that are asked together; the next step waits for their answers."""

    method: str
    taskhashes: bytes
    """32 bytes each."""
    unihashes: bytes
    """The answers due: 32 bytes each, zero where unknown."""
    known: bytes | None
    """A byte 0 or 1 for each; None when all are known."""

    def __len__(self) -> int:
        return len(self.taskhashes) // DIGEST_SIZE


@dataclass(frozen=True, slots=True)
class Workload:
    """The lookups of a builder: `shape` waves as the trace has them, or block: batches of `block` lookups.

    `lookups` takes only the first of the trace, or goes beyond it by invented ones; 0 means all of it. `known` is the
    percentage of taskhashes that the server has been told of.
    """

    trace: Path = TRACES / "world.jsonl.gz"
    shape: str = "waves"
    block: int = 9000
    lookups: int = 0
    known: int = 100

    def steps(self, builder: int | None = None) -> list[Step]:
        """What a builder asks, in its own order within each step, as real builds do; None: in the trace's order."""
        groups = self._blocks() if self.shape == "block" else self._waves()
        if builder is not None:
            # Different orders also show an answer that went to the wrong builder.
            dice = random.Random(builder)
            groups = [(method, _shuffled(taskhashes, dice)) for method, taskhashes in groups]
        return [self._step(method, taskhashes) for method, taskhashes in groups]

    def mappings(self) -> dict[tuple[str, bytes], bytes]:
        """What the server is to know: (method, taskhash) to unihash, as digests."""
        return {
            (step.method, taskhash): self._unihash(taskhash)
            for step in self.steps()
            for taskhash in digests(step.taskhashes)
            if self._is_known(taskhash)
        }

    def _waves(self) -> list[tuple[str, bytes]]:
        left = self.lookups or sum(len(hashes) for _, hashes in _read(self.trace))
        groups = []
        for method, taskhashes in _read(self.trace):
            if part := taskhashes[: left * DIGEST_SIZE]:
                groups.append((method, part))
                left -= len(part) // DIGEST_SIZE
        return groups

    def _blocks(self) -> list[tuple[str, bytes]]:
        waves = _read(self.trace)
        method = waves[0][0]  # a build has one method everywhere
        joined = b"".join(taskhashes for _, taskhashes in waves)
        wanted = self.lookups * DIGEST_SIZE or len(joined)
        invented = range(max(0, wanted - len(joined)) // DIGEST_SIZE)
        joined = joined[:wanted] + b"".join(sha256(b"taskhash %d" % number).digest() for number in invented)
        size = self.block * DIGEST_SIZE
        return [(method, joined[start : start + size]) for start in range(0, len(joined), size)]

    def _step(self, method: str, taskhashes: bytes) -> Step:
        zero = bytes(DIGEST_SIZE)
        each = digests(taskhashes)
        known = bytes(map(self._is_known, each))
        unihashes = [self._unihash(taskhash) if there else zero for taskhash, there in zip(each, known, strict=True)]
        return Step(method, taskhashes, b"".join(unihashes), known if 0 in known else None)

    def _is_known(self, taskhash: bytes) -> bool:
        return int(taskhash[1]) * 100 < self.known * 256

    @staticmethod
    def _unihash(taskhash: bytes) -> bytes:
        """A third of the tasks were the first with their output, and lent it their hash."""
        return taskhash if taskhash[0] % 3 == 0 else sha256(b"unihash " + taskhash).digest()


@cache
def _read(trace: Path) -> list[tuple[str, bytes]]:
    """(method, taskhashes) of each wave; its file is JSON Lines, compressed by gzip."""
    with gzip.open(trace, "rt", encoding="utf-8") as lines:
        waves = [json.loads(line) for line in lines]
    return [(wave["method"], bytes.fromhex("".join(wave["taskhashes"]))) for wave in waves]


def _shuffled(taskhashes: bytes, dice: random.Random) -> bytes:
    order = list(range(len(taskhashes) // DIGEST_SIZE))
    dice.shuffle(order)
    return np.frombuffer(taskhashes, f"V{DIGEST_SIZE}")[order].tobytes()


def digests(joined: bytes) -> list[bytes]:
    """The digests that lie end to end."""
    return [joined[start : start + DIGEST_SIZE] for start in range(0, len(joined), DIGEST_SIZE)]

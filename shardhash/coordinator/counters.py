"""Counters: what the sessions of a server did since its start, for those who watch it.

Unlike `Stats`, which answers get-stats and can be reset by a client, these only grow. No text of a client becomes a
key: commands are known ones, and results, reasons and limits are words of ours. Nothing here is counted one by one for
the hashes of a batch: an answer of any size costs a few calls.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Sequence
from operator import ne
from time import time

from shardhash.base.figures import SECONDS, SIZES, Histogram
from shardhash.errors import InternalError, StorageError, UnavailableError
from shardhash.wire.batch import Found
from shardhash.wire.hashes import DIGEST_SIZE
from shardhash.wire.rows import Report

OK = "ok"
REFUSED = "refused"
"""The client asked for what it may not or cannot have."""
FAILED = "failed"
"""What the client did not cause: a disk, a worker, a bug."""


NUMBERS = (
    *("stream_lines", "hits", "misses", "exists_hits", "exists_misses"),
    *("reports_stored", "equivalences", "auth_failures"),
)
"""Counters that are one number."""
NEXT_BUILD = 600.0
"""Seconds without a question of a host, after which its next connection begins another build."""
MOST_BUILDS = 50
"""Builds that are remembered, the last ones."""


class Build:
    """What one host did in one go: near enough to a build. Times are seconds since 1970 UTC.

    `last` is when it was last seen to have asked something (`Counters.look_at_builds`).
    """

    __slots__ = ("began", "equivalences", "hits", "host", "last", "misses", "reports", "seen")

    def __init__(self, host: str = "") -> None:
        self.host = host
        self.began = self.last = time()
        self.hits = 0
        self.misses = 0
        self.reports = 0
        self.equivalences = 0
        """Reports that were given the unihash of another task: what need not be done again."""
        self.seen = 0
        """What it had asked when it was last looked at."""


class Counters:
    """All counts of a server. Used in its event loop alone."""

    def __init__(self) -> None:
        self.builds: deque[Build] = deque(maxlen=MOST_BUILDS)
        """The last builds, oldest first."""
        self.connections: Counter[str] = Counter()
        """Open connections by transport."""
        self.requests: Counter[tuple[str, str]] = Counter()
        """(command, result) of messages; the lines of a stream are in `stream_lines`."""
        self.seconds: dict[str, Histogram] = {}
        """By command, what its messages took from their arrival to their answer; of streams, each block of lines."""
        self.batch_sizes = Histogram(SIZES)
        """Hashes or reports of a message, or of a block of stream lines."""
        self.stream_lines = 0
        self.hits = 0
        self.misses = 0
        self.exists_hits = 0
        self.exists_misses = 0
        self.reports_stored = 0
        self.reports_dropped: Counter[str] = Counter()
        """By reason, reports that were answered, or not, and not stored."""
        self.equivalences = 0
        """Reports that were given the unihash of another task: what a build need not do again."""
        self.limits_hit: Counter[str] = Counter()
        self.auth_failures = 0

    def become(self, parts: Sequence[Counters]) -> None:
        """Count what these counted, and nothing else."""
        total = Counters()
        for part in parts:
            for name in ("connections", "requests", "reports_dropped", "limits_hit"):
                getattr(total, name).update(getattr(part, name))
            for command, histogram in part.seconds.items():
                total.seconds.setdefault(command, Histogram(SECONDS)).take(histogram)
            total.batch_sizes.take(part.batch_sizes)
            for name in NUMBERS:
                setattr(total, name, getattr(total, name) + getattr(part, name))
        total.builds.extend(sorted((build for part in parts for build in part.builds), key=lambda build: build.began))
        self.__dict__.update(total.__dict__)

    def answered(self, command: str, result: str, seconds: float) -> None:
        """A message was answered."""
        self.requests[command, result] += 1
        self._time(command, seconds)

    def answered_lines(self, stream: str, count: int, seconds: float) -> None:
        """A block of stream lines was answered. Written out: waves come as tens of thousands of blocks."""
        self.stream_lines += count
        sizes = self.batch_sizes
        sizes.counts[bisect_left(SIZES, count)] += 1
        sizes.total += count
        try:
            histogram = self.seconds[stream]
        except KeyError:
            histogram = self.seconds[stream] = Histogram(SECONDS)
        histogram.counts[bisect_left(SECONDS, seconds)] += 1
        histogram.total += seconds

    def _time(self, command: str, seconds: float) -> None:
        histogram = self.seconds.get(command)
        if histogram is None:
            histogram = self.seconds[command] = Histogram(SECONDS)
        histogram.add(seconds)

    def build_of(self, host: str) -> Build:
        """The build that a new connection of a host belongs to."""
        for build in reversed(self.builds):
            if build.host == host and time() - build.last < NEXT_BUILD:
                return build
        self.builds.append(Build(host))
        return self.builds[-1]

    def look_at_builds(self) -> None:
        """Note which builds asked something since the last call: every few seconds, and not at each answer."""
        now = time()
        for build in self.builds:
            asked = build.hits + build.misses + build.reports
            if asked != build.seen:
                build.seen, build.last = asked, now

    def looked_up(self, found: Found, build: Build) -> Found:
        """Count the answers to lookups of a build; the same."""
        known = len(found.digests) // DIGEST_SIZE
        if found.known is not None:
            unknown = found.known.count(0)
            known -= unknown
            self.misses += unknown
            build.misses += unknown
        self.hits += known
        build.hits += known
        return found

    def looked_for(self, status: bytes) -> bytes:
        """Count the answers to existence checks; the same."""
        unknown = status.count(0)
        self.exists_misses += unknown
        self.exists_hits += len(status) - unknown
        return status

    def stored(self, reports: Sequence[Report], unihashes: Sequence[bytes], build: Build) -> None:
        """Reports of a build were stored; the unihashes in force."""
        equivalences = sum(map(ne, [report.unihash for report in reports], map(bytes.hex, unihashes)))
        self.reports_stored += len(reports)
        self.equivalences += equivalences
        build.reports += len(reports)
        build.equivalences += equivalences

    def stored_one(self, report: Report, unihash: bytes, build: Build) -> None:
        """The same of one report; 1 us less."""
        self.reports_stored += 1
        build.reports += 1
        if unihash.hex() != report.unihash:
            self.equivalences += 1
            build.equivalences += 1

    def dropped(self, count: int, error: Exception) -> None:
        """Reports were not stored for this error."""
        self.reports_dropped[reason_of(error)] += count


def reason_of(error: Exception) -> str:
    """A word for why a request failed."""
    match error:
        case StorageError():
            return "disk"
        case UnavailableError():
            return "shard"
        case InternalError():
            return "bug"
        case _:
            return "other"

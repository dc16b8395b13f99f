"""Metrics: a server's counters and the figures of its shards, as Prometheus and OpenMetrics read them.

Names begin with ``shardhash_``, those of processes with ``process_`` as exporters have them, labelled by which process
it is. No label holds a client's text. Figures are read when they are asked for; nothing is kept for Prometheus.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from shardhash import __version__
from shardhash.base.figures import SECONDS, Histogram, ProcessFigures, ShardFigures, read_process
from shardhash.coordinator.counters import Counters
from shardhash.http.checks import Disk
from shardhash.stores.interface import ForwardingHealth, Health, ShardHealth, UpstreamHealth


@dataclass(frozen=True, slots=True)
class Seen:
    """What a scrape shows. `sizes`: whether the one who asks may know how many mappings and rows there are."""

    counters: Counters
    health: Health
    disk: Disk | None
    sizes: bool
    processes: Sequence[tuple[str, ProcessFigures]] = ()
    """Other coordinators."""


class _Scrape(Collector):
    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def collect(self) -> Iterable[Metric]:
        seen = self._seen
        yield InfoMetricFamily("shardhash_build", "The version that runs.", {"version": __version__})
        yield from _of_requests(seen.counters)
        yield from _of_hashes(seen.counters)
        yield from _of_shards(seen.health.shards, sizes=seen.sizes)
        if seen.disk is not None and not seen.disk.why:
            yield _gauge("shardhash_disk_free_bytes", "Free in the file system of the data directory.", seen.disk.free)
            yield _gauge("shardhash_disk_size_bytes", "Size of that file system.", seen.disk.total)
        if seen.health.lease is not None:
            yield _gauge(
                "shardhash_lease",
                "Whether changes of other servers are followed, so that lookups may be answered from memory.",
                float(seen.health.lease),
            )
        if seen.health.upstream is not None:
            yield from _of_upstream(seen.health.upstream)
        yield from _of_processes(seen.health.shards, seen.processes)


def encode_metrics(seen: Seen, accept: str) -> tuple[bytes, str]:
    """The text of a scrape in the format that an Accept header asks for, and its Content-Type."""
    encode, content_type = choose_encoder(accept)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Scrape(seen))
    return encode(registry), content_type


def _of_requests(counters: Counters) -> Iterator[Metric]:
    connections = GaugeMetricFamily("shardhash_connections", "Open connections.", labels=["transport"])
    for transport in ("tcp", "tls", "unix", "ws", "wss"):
        connections.add_metric([transport], counters.connections[transport])
    yield connections
    yield _gauge("shardhash_tasks", "Tasks of the coordinator's event loop.", len(asyncio.all_tasks()))
    requests = CounterMetricFamily("shardhash_requests", "Messages that were answered.", labels=["command", "result"])
    for labels, count in sorted(counters.requests.items()):
        requests.add_metric(labels, count)
    yield requests
    seconds = HistogramMetricFamily(
        "shardhash_request_seconds",
        "From the arrival of a message, or of a block of stream lines, to its answer.",
        labels=["command"],
    )
    for command, histogram in sorted(counters.seconds.items()):
        _add(seconds, [command], histogram)
    yield seconds
    sizes = HistogramMetricFamily(
        "shardhash_batch_size", "Hashes or reports of a message or of a block of stream lines."
    )
    _add(sizes, [], counters.batch_sizes)
    yield sizes
    yield _counter("shardhash_stream_lines", "Stream lines that were answered.", counters.stream_lines)
    yield _counter("shardhash_auth_failures", "Logins that were refused.", counters.auth_failures)
    yield _by_label(
        "shardhash_limits_hit",
        "How often a limit closed, refused or slowed down somebody.",
        "limit",
        counters.limits_hit,
    )


def _of_hashes(counters: Counters) -> Iterator[Metric]:
    hits = {"hit": counters.hits, "miss": counters.misses}
    yield _by_label("shardhash_lookups", "Taskhashes that were looked up.", "result", hits)
    hits = {"hit": counters.exists_hits, "miss": counters.exists_misses}
    yield _by_label("shardhash_exists", "Unihashes whose existence was asked for.", "result", hits)
    results = {"stored": counters.reports_stored, "dropped": counters.reports_dropped.total()}
    yield _by_label("shardhash_reports", "Reports that came in.", "result", results)
    yield _by_label("shardhash_reports_dropped", "Reports not stored.", "reason", counters.reports_dropped)
    yield _counter(
        "shardhash_equivalences", "Reports that were given the unihash of another task.", counters.equivalences
    )


def _of_shards(shards: Iterable[ShardHealth], *, sizes: bool) -> Iterator[Metric]:
    up = GaugeMetricFamily("shardhash_up", "Whether the shard answers.", labels=["shard"])
    restarts = CounterMetricFamily(
        "shardhash_worker_restarts", "How often its worker was started again.", labels=["shard"]
    )
    there: list[tuple[str, ShardFigures]] = []
    for shard in shards:
        label = str(shard.shard)
        up.add_metric([label], float(shard.figures is not None))
        restarts.add_metric([label], shard.restarts)
        if shard.figures is not None:
            there.append((label, shard.figures))
    yield up
    yield restarts
    now = time.time()
    if sizes:
        yield _of_each("shardhash_mappings", "Mappings of the shard.", there, lambda of: of.mappings)
        yield _of_each("shardhash_rows", "Outhash rows of the shard.", there, lambda of: of.rows)
    yield _of_each("shardhash_memory_bytes", "Resident memory of its worker.", there, lambda of: of.process.memory)
    yield _of_each("shardhash_log_bytes", "Log since its last snapshot.", there, lambda of: of.log_bytes)
    syncs = HistogramMetricFamily(
        "shardhash_log_fsync_duration_seconds", "What an fsync of its log took.", labels=["shard"]
    )
    for label, figures in there:
        _add(syncs, [label], Histogram(SECONDS, figures.syncs, figures.sync_seconds))
    yield syncs
    saved = [(label, figures) for label, figures in there if figures.snapshot_time]
    yield _of_each(
        "shardhash_snapshot_age_seconds",
        "Age of its newest snapshot; absent before the first.",
        saved,
        lambda of: max(0.0, now - of.snapshot_time),
    )
    yield _of_each(
        "shardhash_snapshot_duration_seconds",
        "What its last snapshot took; absent before the first of this process.",
        [(label, figures) for label, figures in saved if figures.snapshot_seconds],
        lambda of: of.snapshot_seconds,
    )


def _of_upstream(upstream: UpstreamHealth) -> Iterator[Metric]:
    yield _gauge("shardhash_upstream_up", "Whether the upstream is asked at present.", float(not upstream.down))
    questions = CounterMetricFamily("shardhash_upstream", "Questions to the upstream.", labels=["op", "result"])
    for labels, count in sorted(upstream.questions.items()):
        questions.add_metric(labels, count)
    yield questions
    seconds = HistogramMetricFamily("shardhash_upstream_seconds", "What the upstream took to answer.")
    _add(seconds, [], upstream.seconds)
    yield seconds
    yield _gauge("shardhash_backfill_queue", "Its answers that wait to be stored here.", upstream.backfill)
    if upstream.forwarding is not None:
        yield from _of_forwarding(upstream.forwarding)


def _of_forwarding(forwarding: ForwardingHealth) -> Iterator[Metric]:
    yield _gauge("shardhash_outbox_reports", "Reports that wait to be sent on to the upstream.", forwarding.waiting)
    yield _gauge("shardhash_outbox_bytes", "Bytes of them, and of refused ones.", forwarding.size)
    yield _gauge("shardhash_outbox_limit_bytes", "Most bytes that may wait (--outbox-size).", forwarding.limit)
    age = max(0.0, time.time() - forwarding.oldest) if forwarding.oldest else 0.0
    yield _gauge("shardhash_outbox_age_seconds", "For how long the oldest has waited, 0 when none waits.", age)
    yield _by_label("shardhash_forwarded", "Reports by what became of sending them on.", "result", forwarding.results)
    yield _gauge("shardhash_forward_refused", "Reports that the upstream refused, kept apart.", forwarding.refused)
    yield _counter(
        "shardhash_forward_conflicts",
        "Reports that the upstream gave another unihash than this server.",
        forwarding.conflicts,
    )


def _of_processes(
    shards: Iterable[ShardHealth], coordinators: Iterable[tuple[str, ProcessFigures]]
) -> Iterator[Metric]:
    processes = [("coordinator", read_process()), *coordinators]
    processes += [(f"worker-{shard.shard}", shard.figures.process) for shard in shards if shard.figures is not None]
    cpu = CounterMetricFamily("process_cpu_seconds", "User and system processor time.", labels=["process"])
    for name, process in processes:
        cpu.add_metric([name], process.cpu_seconds)
    yield cpu
    yield _of_process("process_resident_memory_bytes", "Resident memory.", processes, "memory")
    yield _of_process("process_open_fds", "Open file descriptors.", processes, "descriptors")
    yield _of_process("process_max_fds", "Most file descriptors.", processes, "most_descriptors")
    yield _of_process("process_start_time_seconds", "Start, seconds since 1970 UTC.", processes, "started")


def _of_process(name: str, text: str, processes: Iterable[tuple[str, ProcessFigures]], field: str) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["process"])
    for label, process in processes:
        family.add_metric([label], getattr(process, field))
    return family


def _of_each(
    name: str, text: str, shards: Iterable[tuple[str, ShardFigures]], value: Callable[[ShardFigures], float]
) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["shard"])
    for label, figures in shards:
        family.add_metric([label], value(figures))
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value)


def _by_label(name: str, text: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family


def _add(family: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    counts = accumulate(histogram.counts)
    bounds = [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]
    family.add_metric(labels, list(zip(bounds, counts, strict=True)), histogram.total)

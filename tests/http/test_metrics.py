"""/metrics of real servers: the formats by the parsers of prometheus_client, the counts by what was asked."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_prometheus

from shardhash.client import create_client
from tests.http.conftest import basic, get, http_of, server_with_http
from tests.servers import IN_MEMORY, ServerProcess

METHOD = "m.secret-method"
NAMES = frozenset(
    [
        "build_info",
        "connections",
        "requests_total",
        "request_seconds_bucket",
        "lookups_total",
        "exists_total",
        "stream_lines_total",
        "batch_size_bucket",
        "reports_total",
        "equivalences_total",
        "reports_dropped_total",
        "limits_hit_total",
        "auth_failures_total",
        "mappings",
        "rows",
        "memory_bytes",
        "log_bytes",
        "log_fsync_duration_seconds_bucket",
        "snapshot_age_seconds",
        "snapshot_duration_seconds",
        "worker_restarts_total",
        "up",
        "disk_free_bytes",
    ]
)


def digits(number: int) -> str:
    return f"{number:064x}"


def samples(text: str) -> dict[str, float]:
    """Every sample by its name and labels, as they are written."""
    found = {}
    for family in parse_prometheus(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def scrape(server: ServerProcess) -> dict[str, float]:
    page = get(server.addresses[1] + "/metrics")
    assert page.status == 200, page.text
    return samples(page.text)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A durable one after some traffic: 3 reports, one of them equivalent; 5 lookups, 3 known; a snapshot."""
    data = tmp_path_factory.mktemp("data") / "data"
    with server_with_http("--data", str(data), "--workers", "2") as server:
        with create_client(server.address) as client:
            for number, outhash in ((1, 10), (2, 10), (3, 30)):
                client.report_unihash(digits(number), METHOD, digits(outhash), digits(number), {"PN": "secret-recipe"})
            client.get_unihash_batch([(METHOD, digits(number)) for number in range(1, 6)])
            client.unihash_exists(digits(1))
        subprocess.run(
            ["python", "-m", "shardhash", "snapshot", "--data", str(data)], check=True, capture_output=True, timeout=60
        )
        yield server


def test_every_name_is_there(server: ServerProcess) -> None:
    names = {sample.name for family in parse_prometheus(get(server.addresses[1] + "/metrics").text)
             for sample in family.samples}  # fmt: skip
    # A counter by label is there once there was something to count.
    late = {"shardhash_reports_dropped_total", "shardhash_limits_hit_total"}
    assert {f"shardhash_{name}" for name in NAMES} - names <= late
    assert {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"} <= names


def test_it_counts_what_was_asked(server: ServerProcess) -> None:
    found = scrape(server)
    assert found["shardhash_lookups_total{result=hit}"] == 3
    assert found["shardhash_lookups_total{result=miss}"] == 2
    assert found["shardhash_exists_total{result=hit}"] == 1
    assert found["shardhash_reports_total{result=stored}"] == 3
    assert found["shardhash_equivalences_total"] == 1
    assert found["shardhash_requests_total{command=report,result=ok}"] == 3
    assert found["shardhash_request_seconds_count{command=report}"] == 3
    assert sum(value for name, value in found.items() if name.startswith("shardhash_mappings{")) == 3
    assert sum(value for name, value in found.items() if name.startswith("shardhash_rows{")) == 3
    for shard in ("0", "1"):
        assert found[f"shardhash_up{{shard={shard}}}"] == 1
        assert found[f"shardhash_memory_bytes{{shard={shard}}}"] > 1_000_000
        assert 0 <= found[f"shardhash_snapshot_age_seconds{{shard={shard}}}"] < 600
        assert found[f"shardhash_snapshot_duration_seconds{{shard={shard}}}"] > 0
    syncs = [value for name, value in found.items() if name.startswith("shardhash_log_fsync_duration_seconds_count")]
    assert sum(syncs) >= 3
    assert found["shardhash_disk_free_bytes"] > 0
    assert found["process_open_fds{process=worker-0}"] > 3
    assert found["process_start_time_seconds{process=coordinator}"] > 1_700_000_000


def test_connections_are_those_that_are_open(server: ServerProcess) -> None:
    before = scrape(server)["shardhash_connections{transport=ws}"]
    with create_client(server.address) as client:
        client.ping()
        assert scrape(server)["shardhash_connections{transport=ws}"] == before + 1


def test_both_formats_of_both_addresses(server: ServerProcess) -> None:
    for url in (http_of(server.addresses[0]), server.addresses[1]):
        plain = get(url + "/metrics")
        assert plain.headers["Content-Type"].startswith("text/plain")
        accept = "application/openmetrics-text; version=1.0.0"
        page = get(url + "/metrics", Accept=accept)
        assert page.headers["Content-Type"].startswith("application/openmetrics-text")
        families = {family.name for family in parse_openmetrics(page.text)}  # type: ignore[no-untyped-call]
        assert {"shardhash_lookups", "shardhash_build", "shardhash_batch_size"} <= families


def test_no_text_of_a_client_is_shown(server: ServerProcess) -> None:
    assert "secret" not in get(server.addresses[1] + "/metrics").text


def test_buckets_are_cumulative_and_end_at_the_count(server: ServerProcess) -> None:
    found = scrape(server)
    bounds = [value for name, value in found.items() if re.match(r"shardhash_batch_size_bucket\{", name)]
    assert bounds == sorted(bounds)
    assert bounds[-1] == found["shardhash_batch_size_count"]


def test_promtool_finds_nothing_wrong(server: ServerProcess) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not there (Debian: prometheus)")
    text = get(server.addresses[1] + "/metrics").text
    checked = subprocess.run(
        ["promtool", "check", "metrics"], check=False, input=text, capture_output=True, text=True, timeout=60
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_sizes_are_for_those_who_may_ask_for_them(tmp_path: Path) -> None:
    secret = {"SHARDHASH_ADMIN_USER": "admin", "SHARDHASH_ADMIN_PASSWORD": "pass word"}
    binds = ["ws://127.0.0.1:0,anon=@read", "ws://127.0.0.1:0,anon=@none"]
    with ServerProcess(*IN_MEMORY, binds=binds, environment=secret) as server:
        reader, closed = map(http_of, server.addresses)
        assert "shardhash_mappings" not in get(reader + "/metrics").text
        assert "shardhash_lookups_total" in get(reader + "/metrics").text
        refused = get(closed + "/metrics")
        assert refused.status == 401
        assert "@read" in refused.text
        assert refused.headers["WWW-Authenticate"].startswith("Basic")
        assert "shardhash_mappings" in get(closed + "/metrics", Authorization=basic("admin", "pass word")).text
        wrong = get(closed + "/metrics", Authorization=basic("admin", "wrong"))
        assert (wrong.status, wrong.text) == (401, "Unable to authenticate as admin\n")
        assert get(closed + "/metrics", Authorization="Bearer x").status == 401
        assert samples(get(reader + "/metrics").text)["shardhash_auth_failures_total"] == 1


def test_what_is_not_stored_is_counted_with_its_reason() -> None:
    binds = ["127.0.0.1:0,anon=@read", "ws://127.0.0.1:0,read-only"]
    with ServerProcess(*IN_MEMORY, binds=binds) as server:
        for address in server.addresses:
            with create_client(address) as client:
                client.report_unihash(digits(1), METHOD, digits(2), digits(3))
        found = samples(get(http_of(server.addresses[1]) + "/metrics").text)
        assert found["shardhash_reports_dropped_total{reason=permission}"] == 1
        assert found["shardhash_reports_dropped_total{reason=read-only}"] == 1
        assert found["shardhash_reports_total{result=stored}"] == 0


def test_the_upstream_is_counted() -> None:
    with ServerProcess(*IN_MEMORY) as upstream:
        with create_client(upstream.address) as client:
            client.report_unihash(digits(1), METHOD, digits(2), digits(3))
        with server_with_http(*IN_MEMORY, "--upstream", upstream.address) as server:
            with create_client(server.address) as client:
                assert client.get_unihash(METHOD, digits(1)) == digits(3)
            found = scrape(server)
            assert found["shardhash_upstream_total{op=lookup,result=answered}"] >= 1
            assert found["shardhash_upstream_up"] == 1
            assert found["shardhash_backfill_queue"] >= 0
            upstream.stop()
            with create_client(server.address) as client:
                assert client.get_unihash(METHOD, digits(9)) is None
            assert scrape(server)["shardhash_upstream_up"] == 0
            ready = get(server.addresses[1] + "/readyz?verbose")
            assert ready.status == 200
            assert "[!] upstream: down" in ready.text

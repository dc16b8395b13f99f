"""The page of a run of everything: figure, target, measured; and the plots beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from perf.reporters import BATCH
from perf.shapes import BLOCK


class Line(NamedTuple):
    """A line of the table. `met` is None where there is no target."""

    figure: str
    target: str
    measured: str
    met: bool | None


def page(figures: dict[str, Any], plots: dict[str, str]) -> str:
    """The page in Markdown; `plots` are file names by title."""
    machine, options = figures["machine"], figures["options"]
    parts = [
        f"# Measured {figures['date']}",
        f"`{figures['command']}` took {figures['took_seconds'] / 60:.1f} minutes at commit {figures['commit']}.",
        (
            f"- Machine: {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
            f"Linux {machine['kernel']}, load before {machine['load_before']:.2f}\n"
            f"- Versions: {', '.join(f'{name} {version}' for name, version in figures['versions'].items())}\n"
            f"- {options['builders']} builders in {options['processes']} client processes on the same machine, "
            f"{options['workers']} workers, a data directory synced always; medians of {options['rounds']} rounds "
            "after one that does not count; every answer was checked\n"
            f"- Other programs took up to {figures['others']:.0%} of the machine's CPU during a measurement"
        ),
    ]
    if options["quick"]:
        parts.append("**A quick trial with few lookups: its figures mean nothing and show only that all works.**")
    rows = [f"| {' | '.join(row)} |" for row in cells(figures)]
    parts.append("\n".join(["| figure | target | measured | |", "|---|---|---|---|", *rows]))
    parts += [f"## {title}\n\n![{title}]({name})" for title, name in plots.items()]
    parts += ["## Peers in figures", *_peers(figures), "## Scale in figures", *_scale(figures)]
    return "\n\n".join(parts) + "\n"


def cells(figures: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """The table of figure, target, measured, and a verdict; a trial has none."""
    words = {None: "", True: "met", False: "MISSED"}
    trial = figures["options"]["quick"]
    return [(*line[:3], words[None if trial else line.met]) for line in lines(figures)]


def lines(figures: dict[str, Any]) -> Iterator[Line]:
    """The lines of the table, in the order of the targets."""
    yield from _block_lines(figures)
    yield from _wave_lines(figures)
    yield from _stock_lines(figures["small"])
    for mode, target in (("always", 25_000), ("interval", 60_000), ("off", None)):
        for name, title in (("batched", f"reports in batches of {BATCH}"), ("alone", "reports one by one")):
            rate = figures["reports"][mode][name]["lookups_per_second"]
            text = f"at least {target:,}/s" if target else ""
            yield Line(f"{title}, sync {mode}", text, f"{rate:,.0f}/s", rate >= target if target else None)
    lookups, exists = (figures["small"][name]["lookups_per_second"] for name in ("lookups", "exists"))
    yield Line("existence checks beside lookups", "at least 0.5", f"{exists / lookups:.2f}", exists >= lookups / 2)
    yield from _scale_lines(figures["scale"])
    for kind in ("memory", "data"):
        yield _most(f"start-up, --{kind}", figures["startup"][kind]["seconds"], 0.6, "s")


def _block_lines(figures: dict[str, Any]) -> Iterator[Line]:
    whole, parts = (figures[name]["contenders"] for name in ("block9000", "block1000"))
    ours = whole["shardhash native"]
    # Stated for 360,000 lookups also where a trial asked for fewer.
    yield _most("360,000 lookups, batches of 9000", ours["seconds"] * BLOCK / ours["lookups"], 0.15, "s", 3)
    spent = ours["cpu_seconds"]["coordinator"] / ours["lookups"] * 1e6
    yield _most("coordinator's CPU a lookup", spent, 0.2, "µs", 3)
    for name, target in (("redis mget", 3), ("reference stream", 50)):
        if peer := whole.get(name):
            times = peer["seconds"] / ours["seconds"]
            yield Line(f"times as fast as {name}", f"at least {target}", f"{times:.1f}", times >= target)
    ours = parts["shardhash native"]
    yield _most("360,000 lookups, batches of 1000", ours["seconds"] * BLOCK / ours["lookups"], 0.25, "s", 3)


def _wave_lines(figures: dict[str, Any]) -> Iterator[Line]:
    ours, alone = figures["waves"]["contenders"]["shardhash native"], figures["small"]["alone"]
    builders = figures["options"]["builders"]
    yield _most(f"waves of a build, {builders} builders", ours["seconds"], 0.8, "s", 3)
    yield _most("a wave of them, p50", ours["step_ms"]["p50"], 4, "ms")
    yield _most("a wave of them, p99", ours["step_ms"]["p99"], 25, "ms")
    yield _most("one builder alone, a wave of 10, p50", alone["step_ms"]["p50"], 0.6, "ms")


def _stock_lines(small: dict[str, Any]) -> Iterator[Line]:
    names = {
        "stream": ("raw TCP, blocks of lines", 0.6),
        "stock-tcp": ("stock client, TCP", 1.5),
        "stock-ws": ("stock client, WebSocket", 3.5),
    }
    for kind, found in small["stock"].items():
        name, target = names[kind]
        yield _most(f"server's CPU for 360,000 lookups, {name}", found["server_cpu_seconds"], target, "s")


def _scale_lines(found: dict[str, Any]) -> Iterator[Line]:
    largest = found["mappings"][-1]
    count, gigabytes = largest["mappings"], largest["rss_mib"]["workers"] * 2**20 / 1e9
    full = count == 10_000_000
    yield Line(
        f"{count:,} mappings without rows, RSS of all workers",
        "at most 2.2 GB" if full else "",
        f"{gigabytes:.2f} GB, PSS {largest['pss_mib']['workers'] * 2**20 / 1e9:.2f} GB",
        gigabytes <= 2.2 if full else None,
    )
    weighed = found["reports"]
    each = weighed["rss_mib"]["workers"] * 2**20 / weighed["reports"]
    yield Line(
        f"{weighed['reports']:,} full reports, RSS of all workers",
        "at most 550 bytes each",
        f"{each:.0f} bytes each, PSS {weighed['worker_bytes_each']:.0f}",
        each <= 550,
    )
    for axis in ("mappings", "connections"):
        cpu, time = _growth(found[axis])
        span = f"{found[axis][0][axis]:,} to {found[axis][-1][axis]:,} {axis}"
        yield Line(
            f"a lookup from {span}, over its cost with the fewest",
            "at most +25 %",
            f"server's CPU {cpu:+.0%}, time {time:+.0%} at the worst",
            max(cpu, time) <= 0.25,
        )
    idle = found["idle"]
    memory = idle["ws_mib"] * 2**20 / 1e6
    yield _most(f"{idle['connections']} idle connections, coordinator", memory, 40, "MB", 1)


def _growth(curve: list[dict[str, Any]]) -> tuple[float, float]:
    """By what part a lookup costs more at the worst than at the curve's begin: the server's CPU, and time."""
    blocks = [entry["block"] for entry in curve]
    cpu = [(sum(each["cpu_seconds"].values()) - each["cpu_seconds"]["client"]) / each["lookups"] for each in blocks]
    time = [each["seconds"] / each["lookups"] for each in blocks]
    return max(cpu) / cpu[0] - 1, max(time) / time[0] - 1


def _most(figure: str, measured: float, target: float, unit: str, digits: int = 2) -> Line:
    return Line(figure, f"at most {target:g} {unit}", f"{measured:.{digits}f} {unit}", measured <= target)


def _peers(figures: dict[str, Any]) -> Iterator[str]:
    for name, title in (("block9000", "batches of 9000"), ("block1000", "batches of 1000"), ("waves", "waves")):
        rows = [f"| {title} | time | lookups/s | p50 | p99 | server's CPU | clients' CPU |", "|---|" + "---:|" * 6]
        for contender, found in figures[name]["contenders"].items():
            cpu = found["cpu_seconds"]
            rows.append(
                f"| {contender} | {found['seconds']:.3f} s | {found['lookups_per_second']:,.0f} "
                f"| {found['step_ms']['p50']:.2f} ms | {found['step_ms']['p99']:.2f} ms "
                f"| {sum(cpu.values()) - cpu['client']:.3f} s | {cpu['client']:.3f} s |"
            )
        yield "\n".join(rows)


def _scale(figures: dict[str, Any]) -> Iterator[str]:
    for axis in ("mappings", "connections"):
        head = [f"| {axis} | lookups/s | wave p50 | wave p99 | coordinator | workers |", "|---:|" + "---:|" * 5]
        rows = [
            f"| {found[axis]:,} | {found['block']['lookups_per_second']:,.0f} "
            f"| {found['waves']['step_ms']['p50']:.2f} ms | {found['waves']['step_ms']['p99']:.2f} ms "
            f"| {found['rss_mib']['coordinator']:.0f} MiB | {found['rss_mib']['workers']:.0f} MiB |"
            for found in figures["scale"][axis]
        ]
        yield "\n".join(head + rows)

"""Plots of a run of everything, as PNG: each says one thing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")  # before pyplot, for there may be no display

from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

_OURS, _TEXT, _STREAM, _REDIS, _REFERENCE = "#0b5fa5", "#5aa0d6", "#2a9d8f", "#c8553d", "#8d6a9f"
_COLOURS = {
    "shardhash native": _OURS,
    "shardhash native-text": _TEXT,
    "shardhash stream": _STREAM,
    "redis mget": _REDIS,
    "reference stream": _REFERENCE,
}
_STYLE = {
    "figure.dpi": 110,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
}


def draw(figures: dict[str, Any], folder: Path, name: str) -> dict[str, str]:
    """Write all plots as NAME-*.png; file names by title."""
    plots = {
        "Side by side": ("peers", _peers),
        "How long a wave takes": ("waves", _waves),
        "Throughput against batch size": ("batches", _batches),
        "Scale": ("scale", _scale),
    }
    files = {}
    with plt.rc_context(_STYLE):
        for title, (suffix, plot) in plots.items():
            files[title] = f"{name}-{suffix}.png"
            figure = plot(figures)
            figure.savefig(folder / files[title], bbox_inches="tight")
            plt.close(figure)
    return files


def _peers(figures: dict[str, Any]) -> Any:
    """Lookups a second, a panel for each shape."""
    shapes = {"block9000": "batches of 9000", "block1000": "batches of 1000", "waves": "waves of a build"}
    figure, panels = plt.subplots(1, len(shapes), figsize=(11, 2.6), sharey=True, layout="constrained")
    for panel, (shape, title) in zip(panels, shapes.items(), strict=True):
        found = figures[shape]["contenders"]
        names = list(found)[::-1]
        rates = [found[name]["lookups_per_second"] for name in names]
        bars = panel.barh(names, rates, color=[_COLOURS.get(name, _REFERENCE) for name in names])
        panel.bar_label(bars, labels=[_short(rate) for rate in rates], padding=3)
        panel.set(title=title, xlabel="lookups/s", xlim=(0, max(rates) * 1.2))
        panel.xaxis.set_major_locator(plt.MaxNLocator(4))
        panel.xaxis.set_major_formatter(_counts())
        panel.grid(visible=False, axis="y")
    return figure


def _waves(figures: dict[str, Any]) -> Any:
    """The part of the waves that took longer, which shows the rare slow ones."""
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    for name, found in figures["waves"]["contenders"].items():
        points = [(time, 100 - float(part)) for part, time in found["distribution_ms"].items() if float(part) < 100]
        times, parts = zip(*points, strict=True)
        axes.plot(times, parts, label=name, color=_COLOURS.get(name, _REFERENCE), marker=".", linewidth=1.8)
    axes.set(
        xscale="log", yscale="log", ylim=(0.1, 100), xlabel="time of a wave, ms", ylabel="waves that take longer, %"
    )
    axes.set_title(f"{figures['options']['builders']} builders replay a build")
    axes.axhline(1, color="grey", linewidth=0.8, linestyle="--")
    axes.annotate("p99", (1, 1), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="grey")
    _decades(axes.xaxis)
    _decades(axes.yaxis)
    axes.legend(loc="lower left")
    return figure


def _batches(figures: dict[str, Any]) -> Any:
    sizes = {int(size): found["lookups_per_second"] for size, found in figures["small"]["sizes"].items()}
    figure, axes = plt.subplots(figsize=(8, 3.8), layout="constrained")
    axes.plot(list(sizes), list(sizes.values()), color=_OURS, marker="o", linewidth=1.8)
    for size, rate in sizes.items():
        axes.annotate(_short(rate), (size, rate), xytext=(0, 7), textcoords="offset points", ha="center")
    axes.set(xscale="log", yscale="log", xlabel="lookups in a batch", ylabel="lookups/s")
    axes.set_ylim(min(sizes.values()) / 2, max(sizes.values()) * 2)
    axes.set_title(f"native client, {figures['options']['builders']} connections")
    axes.xaxis.set_major_formatter(_counts())
    axes.yaxis.set_major_formatter(_counts())
    return figure


def _scale(figures: dict[str, Any]) -> Any:
    """Three rows of figures over two axes."""
    figure, panels = plt.subplots(3, 2, figsize=(10, 8), sharex="col", layout="constrained")
    for column, axis in zip(panels.T, ("mappings", "connections"), strict=True):
        curve = figures["scale"][axis]
        counts = [entry[axis] for entry in curve]
        rates = [entry["block"]["lookups_per_second"] for entry in curve]
        column[0].plot(counts, rates, color=_OURS, marker="o")
        column[0].set(ylim=(0, max(rates) * 1.15))
        column[0].yaxis.set_major_formatter(_counts())
        for part, colour in (("p50", _TEXT), ("p99", _REDIS)):
            times = [entry["waves"]["step_ms"][part] for entry in curve]
            column[1].plot(counts, times, color=colour, marker="o", label=part)
        column[1].set(yscale="log")
        _decades(column[1].yaxis)
        for role, colour in (("workers", _OURS), ("coordinator", _STREAM)):
            column[2].plot(counts, [entry["rss_mib"][role] for entry in curve], color=colour, marker="o", label=role)
        column[2].set(yscale="log" if axis == "mappings" else "linear", xscale="log", xlabel=axis)
        if axis == "mappings":
            _decades(column[2].yaxis)
        else:
            column[2].set_ylim(bottom=0)
        column[2].set_xticks(counts, list(map(_short, counts)))
        column[2].xaxis.set_minor_locator(NullLocator())
    for panel, label in zip(panels[:, 0], ("lookups/s, batches", "time of a wave, ms", "memory, MiB"), strict=True):
        panel.set_ylabel(label)
    for panel, title in zip(panels[0], ("mappings grow", "connections grow"), strict=True):
        panel.set_title(title)
    panels[1, 1].legend()
    panels[2, 0].legend()
    return figure


def _decades(axis: Any) -> None:
    """Plain numbers on a logarithmic axis: 1, 2, 5, 10."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _counts() -> FuncFormatter:
    return FuncFormatter(lambda value, _: _short(value))


def _short(value: float) -> str:
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"

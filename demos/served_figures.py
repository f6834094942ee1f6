"""Figures of the shared server demo: how long requests took, and when."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from demos.served_runs import END, RANK, ServedRun

COLOURS = {"local": "tab:gray", "server": "tab:blue", "server, killed": "tab:red"}


def write_figures(runs: Mapping[str, ServedRun], ready: float | None, out: Path) -> list[tuple[Path, str]]:
    """Write the figures and return their paths and captions.

    Args:
        runs: by the names of ``COLOURS``.
        ready: when the killed server's successor was ready, in seconds of that run.
        out: folder for them.
    """
    files = [out / "latencies.png", out / "timeline.png"]
    _latencies(runs, files[0])
    _timeline(runs["server, killed"], ready, files[1])
    captions = (
        "Time from asking for an evaluation to having it, all requests of all ranks",
        "Requests of the ranks in the run whose server was killed: the whole run, and the moment of the kill",
    )
    return list(zip(files, captions, strict=True))


def _latencies(runs: Mapping[str, ServedRun], file: Path) -> None:
    """Histograms over logarithmic bins above, the part of the requests that took longer below."""
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(7, 6), sharex=True, layout="constrained")
    milliseconds = {name: 1e3 * run.latencies for name, run in runs.items()}
    together = np.hstack(list(milliseconds.values()))
    bins = np.geomspace(0.9 * together.min(), 1.1 * together.max(), 60)
    for name, values in milliseconds.items():
        colour, median = COLOURS[name], float(np.median(values))
        label = f"{name}: median {median:.2f} ms, p99 {np.percentile(values, 99):.2f} ms"
        upper.hist(values, bins, histtype="step", color=colour, label=label, linewidth=1.5)
        ordered = np.sort(values)
        lower.step(ordered, 1.0 - np.arange(len(ordered)) / len(ordered), where="post", color=colour)
        slow = values[runs[name].interrupted]
        if slow.size:
            upper.plot(
                slow, np.zeros(slow.size), "v", color=colour, clip_on=False, label="the requests that were interrupted"
            )
    upper.set(xscale="log", ylabel="requests")
    upper.legend()
    lower.set(yscale="log", xlabel="latency / ms", ylabel="fraction that took longer")
    lower.xaxis.set_major_formatter("{x:g}")
    lower.grid(alpha=0.3)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def _timeline(run: ServedRun, ready: float | None, file: Path) -> None:
    assert run.killed is not None
    figure, axes = plt.subplots(2, 1, figsize=(10, 6), layout="constrained")
    recovered = 1e3 * (float(run.requests[run.interrupted, END].max()) - run.killed)
    margin = max(0.6 * recovered, 5.0)
    views = ((0.0, 1.0, 0.0, float(run.requests[:, END].max())), (run.killed, 1e3, -margin, recovered + margin))
    ranks = int(run.requests[:, RANK].max()) + 1
    for ax, (origin, scale, begin, end) in zip(axes, views, strict=True):
        _bars(ax, run, origin, scale)
        _mark(ax, scale * (run.killed - origin), "tab:red", "server killed")
        if ready is not None:
            _mark(ax, scale * (ready - origin), "tab:green", "successor ready")
        ax.set(xlim=(begin, end), ylim=(ranks - 0.5, -0.5), yticks=range(ranks), ylabel="rank")
    axes[0].set(title="the whole run", xlabel="time / s")
    axes[1].set(title=f"the interruption: {1e3 * run.interruption:.0f} ms", xlabel="time since the kill / ms")
    axes[0].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.savefig(file, dpi=120)
    plt.close(figure)


def _bars(ax: Any, run: ServedRun, origin: float, scale: float) -> None:
    for mask, colour, label in (
        (~run.interrupted, "tab:blue", "request"),
        (run.interrupted, "tab:orange", "interrupted request"),
    ):
        rank, begin, end = run.requests[mask][:, : END + 1].T
        width, left = scale * (end - begin), scale * (begin - origin)
        ax.barh(rank, width, 0.6, left, color=colour, edgecolor=colour, label=label, linewidth=0.6)


def _mark(ax: Any, time: float, colour: str, label: str) -> None:
    ax.axvline(time, color=colour, linestyle="--", linewidth=1.2, label=label)

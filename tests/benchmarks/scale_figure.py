"""The figure of the scale plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def draw(path: Path, checked: list[dict[str, Any]], planned: list[dict[str, Any]]) -> None:
    """The model against measurement, and what it predicts."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.0, 4.2), layout="constrained")
    _draw_check(left, checked)
    _draw_plan(right, [row for row in planned if row["dim"] == "2D"])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _draw_check(axes: Any, checked: list[dict[str, Any]]) -> None:
    for name, marker in (("p50", "o"), ("p99", "^")):
        for ranks, colour in ((1, "C0"), (2, "C1"), (4, "C2")):
            rows = [row for row in checked if row["ranks"] == ranks]
            x, y = ([1e3 * row[kind][name] for row in rows] for kind in ("measured", "predicted"))
            axes.loglog(x, y, marker, color=colour, mfc="none", label=f"{ranks} rank{'s' * (ranks > 1)}, {name}")
    ends = axes.get_xlim()
    axes.plot(ends, ends, "k-", lw=0.6, zorder=0)
    axes.set(
        xlabel="measured latency (ms)", ylabel="predicted latency (ms)", title="One node, 64 to 20,000 points a rank"
    )
    axes.legend(fontsize="small")


def _draw_plan(axes: Any, planned: list[dict[str, Any]]) -> None:
    for colour, points in enumerate(sorted({row["points"] for row in planned})):
        for place, style in (("on the node", "-o"), ("in a pool", "--s")):
            rows = [row for row in planned if row["points"] == points and row["place"] == place]
            ranks, share = [row["ranks"] for row in rows], [100 * row["closure_share"] for row in rows]
            axes.semilogx(ranks, share, style, color=f"C{colour}", label=f"{points:,} points a rank, GPUs {place}")
    axes.set(xlabel="ranks, ten to a GPU", ylabel="waiting for the closure (% of an iteration)", ylim=(0, None))
    axes.set_title("Predicted, with assumed GPUs")
    axes.legend(fontsize="small")

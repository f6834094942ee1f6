"""The result of a case in numbers, as a table, and on one page."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.table import Table

from coupling.files import write_atomically
from coupling.report import write_report
from solver_adapters.case.building import Parts
from solver_adapters.case.running import Result
from solver_adapters.fenicsx_rve import PeriodicRVE

_STEP_COLUMNS = ("load", "time", "iterations", "cutbacks")


def size(parts: Parts) -> dict[str, Any]:
    """What a case amounts to (collective)."""
    V = parts.u.function_space
    found: dict[str, Any] = {
        "kinematics": parts.file.case.macro.kinematics,
        "ranks": V.mesh.comm.size,
        "cells": V.mesh.topology.index_map(V.mesh.topology.dim).size_global,
        "unknowns": V.dofmap.index_map.size_global * V.dofmap.index_map_bs,
        "closure": parts.file.case.closure.mode,
    }
    inner = getattr(parts.fine_closure, "inner", parts.fine_closure)
    if isinstance(inner, PeriodicRVE):
        found |= {"rve": inner.description, "rve_unknowns": inner.problem.n}
    return found


def summary(result: Result) -> dict[str, Any]:
    """All numbers of a run (collective)."""
    parts = result.problem.parts
    comm = parts.u.function_space.mesh.comm
    return {
        "file": str(parts.file.path),
        "completed": result.error is None,
        "ended": None if result.error is None else "interrupted" if result.interrupted else str(result.error),
        **size(parts),
        "points": comm.allreduce(result.problem.flux.points.n),
        "steps": [asdict(record) for record in result.records],
        "final": result.rows[-1],
        "seconds": result.seconds,
        "ledger": result.ledger.as_dict(),
        "versions": {name: _version(name) for name in ("twoscale", "fenics-dolfinx", "petsc4py", "mpi4py", "numpy")},
        "case": parts.file.case.model_dump(mode="json", by_alias=True, exclude_unset=True),
    }


def table(values: dict[str, Any]) -> Table:
    """The summary in short."""
    shown = Table(show_header=False, title=Path(values["file"]).name)
    counts = values["ledger"]["counts"]
    seconds = values["ledger"]["seconds"]
    rows = {
        "load factor reached": f"{values['final']['load']:g}" + ("" if values["completed"] else f", {values['ended']}"),
        "macro unknowns, points": f"{values['unknowns']:,}, {values['points']:,} on {values['ranks']} rank(s)",
        "steps, Newton iterations": f"{len(values['steps'])}, {counts.get('macro/iterations', 0)}",
        "cut-backs": f"{counts.get('macro/cutbacks', 0)}",
        "point evaluations": f"{counts.get('closure/points', 0):,}",
        "  RVE solves": f"{counts.get('rve/points', 0):,}",
        "wall time": f"{values['seconds']:.3f} s, closure {seconds.get('closure', 0.0):.3f} s",
    }
    for name, value in rows.items():
        shown.add_row(name, value)
    shown.add_section()
    for name, number in values["final"].items():
        if name not in _STEP_COLUMNS:
            shown.add_row(name, f"{number:.8g}")
    return shown


def write_page(values: dict[str, Any], rows: list[dict[str, float]], folder: Path) -> None:
    """report.html: the table, and curves of everything in the history where matplotlib is installed."""
    figures = []
    if _curves(rows, folder / "history.png"):
        figures.append((folder / "history.png", "Values of the probes and resultants over the load factor"))
    text = "An FE² case run by twoscale. Fields for Paraview and all numbers are in the same folder."
    write_report(folder / "report.html", Path(values["file"]).stem, text, table(values), figures)


def write_summary(values: dict[str, Any], folder: Path) -> None:
    """summary.json."""
    write_atomically(folder / "summary.json", json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def _curves(rows: list[dict[str, float]], file: Path) -> bool:
    """Draw the columns of a history over the load factor, one axis for each quantity; whether there is a picture."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    quantities: dict[str, list[str]] = {}
    for column in (name for name in rows[0] if name not in _STEP_COLUMNS):
        quantity = column[:-2] if column[-2:] in ("_x", "_y", "_z") else column
        quantities.setdefault(quantity, []).append(column)
    if not quantities:
        return False
    columns = min(3, len(quantities))
    lines = math.ceil(len(quantities) / columns)
    figure = Figure(figsize=(4.5 * columns, 3.5 * lines), layout="constrained")
    for axes, (quantity, names) in zip(
        figure.subplots(lines, columns, squeeze=False).flat, quantities.items(), strict=False
    ):
        for name in names:
            axes.plot([row["load"] for row in rows], [row[name] for row in rows], "o-", markersize=4, label=name)
        axes.set(xlabel="load factor", ylabel=quantity.replace("_", " "))
        if len(names) > 1:
            axes.legend()
    for axes in figure.axes[len(quantities) :]:
        axes.remove()
    figure.savefig(file, dpi=120)
    return True


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

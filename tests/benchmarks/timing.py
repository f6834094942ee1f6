"""Timing for benchmarks: interleaved repetitions, medians, tables, goals and a JSON file."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from coupling.files import write_atomically


def interleaved(tasks: Mapping[str, Callable[[], Any]], *, repeats: int, calls: int = 1) -> dict[str, float]:
    """Median seconds per call of each task, all tasks taking turns ``repeats`` times after one call to warm up."""
    for task in tasks.values():
        task()
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            start = time.perf_counter()
            for _ in range(calls):
                task()
            seconds[name].append((time.perf_counter() - start) / calls)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def show(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table."""
    table = Table(*map(escape, columns), title=title)
    for row in rows:
        table.add_row(*map(escape, row))
    Console(width=120).print(table)


def with_goals(
    reached: Mapping[str, float],
    *,
    at_most: Mapping[str, float] | None = None,
    at_least: Mapping[str, float] | None = None,
) -> dict[str, dict[str, Any]]:
    """Each goal with what was reached of that name and whether it is met."""
    goals: dict[str, dict[str, Any]] = {}
    for name, goal in (at_most or {}).items():
        goals[name] = {"goal": goal, "sense": "≤", "reached": reached[name], "met": reached[name] <= goal}
    for name, goal in (at_least or {}).items():
        goals[name] = {"goal": goal, "sense": "≥", "reached": reached[name], "met": reached[name] >= goal}
    return goals


def show_goals(title: str, goals: Mapping[str, Mapping[str, Any]]) -> None:
    """Print what :func:`with_goals` returned."""
    rows = [
        [name, f"{g['reached']:.3g}", f"{g['sense']} {g['goal']:g}", "met" if g["met"] else "MISSED"]
        for name, g in goals.items()
    ]
    show(f"{title}: goals", ["", "measured", "goal", ""], rows)


def write_json(path: Path | None, result: Mapping[str, Any]) -> None:
    """Write a benchmark's result with the machine it ran on, where a path is given."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = {"processor": platform.processor() or platform.machine(), "python": platform.python_version()}
    write_atomically(path, json.dumps({"machine": machine, **result}, indent=2) + "\n")

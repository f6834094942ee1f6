"""Runs of Cook's membrane with an RVE that differ in closure, macro start and linear solver; what each cost."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any, Literal

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np

from coupling import Closure
from coupling.guess import Predictor
from demos.cook import Membrane
from demos.cook_runs import Case, Run, run
from solver_adapters.petsc_options import options_database
from solver_adapters.petsc_snes import warm_start
from tests.benchmarks.timing import show

RTOL = 1e-9
SNES_STARTS = ("tangent", "projection")
MEASURES = {
    "micro iterations": "micro Newton",
    "macro iterations": "macro Newton",
    "linear solves": "linear",
    "Krylov iterations": "Krylov",
    "seconds": "time",
}
"""What is compared, with the heads of the table's columns."""


@dataclass(frozen=True)
class Variant:
    """One way to the same answer.

    Args:
        closure: makes the closure; every run has a fresh one, so that none profits from the factors of another.
        start: of the macro iteration: a name of load_steps, one of :data:`SNES_STARTS`, or what makes a predictor.
        linear: PETSc options of the macro problem's linear solver, in place of LU.
        kind: what it needs; the best of those without learning is the baseline of the ratios.
    """

    closure: Callable[[], Closure]
    start: str | Callable[[], Predictor] = "linear"
    linear: Mapping[str, Any] = field(default_factory=dict)
    kind: Literal["unlearned", "learned", "hostile"] = "unlearned"


@dataclass(frozen=True)
class Size:
    """How large the macro problem is, and how often it is run."""

    steps: int = 8
    cells: tuple[int, int] = (6, 3)
    repeats: int = 3


@dataclass
class Linear:
    """Linear solves of the macro problem and their iterations."""

    solves: int = 0
    iterations: int = 0

    def watch(self, ksp: PETSc.KSP) -> None:
        """Count what a KSP does from now on."""
        ksp.setPreSolve(lambda *_: None)  # both stood for the problem's own timing
        ksp.setPostSolve(lambda solver, *_: self._enter(solver))

    def _enter(self, ksp: PETSc.KSP) -> None:
        self.solves += 1
        self.iterations += ksp.getIterationNumber()


def single_run(variant: Variant, case: Case, size: Size) -> tuple[Run, Linear]:
    """The membrane from rest to its full load."""
    linear, start = Linear(), variant.start

    def watch(membrane: Membrane) -> None:
        snes = membrane.problem.snes
        linear.watch(snes.ksp)
        if start in SNES_STARTS:
            load = partial(_factor, membrane)
            warm_start(snes, start, parameter=load, ledger=membrane.problem.ledger)

    predictor = start() if callable(start) else "previous" if start in SNES_STARTS else start
    with warnings.catch_warnings(), options_database("cook_", variant.linear):
        warnings.simplefilter("ignore", RuntimeWarning)  # of surrogates that raise
        options: dict[str, Any] = {"steps": size.steps, "cells": size.cells, "rtol": RTOL}
        return run(MPI.COMM_SELF, variant.closure(), case, predictor=predictor, watch=watch, **options), linear


def _factor(membrane: Membrane) -> float:
    return float(membrane.traction.value[1]) / membrane.full_load


def measure(variants: Mapping[str, Variant], case: Case, size: Size) -> dict[str, dict[str, Any]]:
    """Costs and errors of all variants, which take turns; the first one is what the others are compared with."""
    runs: dict[str, list[tuple[Run, Linear]]] = {name: [] for name in variants}
    for _ in range(size.repeats):
        for name, variant in variants.items():
            runs[name].append(single_run(variant, case, size))
    first = next(iter(runs.values()))
    costs = {name: _cost(of, first, variants[name]) for name, of in runs.items()}
    return _with_ratios(costs)


def _cost(of: list[tuple[Run, Linear]], first: list[tuple[Run, Linear]], variant: Variant) -> dict[str, Any]:
    (last, linear), exact = of[-1], first[-1][0]
    counts = last.ledger.counts
    return {
        "kind": variant.kind,
        "seconds": median(r.seconds for r, _ in of),
        "speed-up": median(c.seconds / r.seconds for (c, _), (r, _) in zip(first, of, strict=True)),
        "tip error": float(np.linalg.norm(last.tip - exact.tip) / np.linalg.norm(exact.tip)),
        "sweeps per step": counts.get("macro/exact sweeps", 0) / counts["macro/steps"],
        "macro iterations": counts["macro/iterations"],
        "micro iterations": counts.get("rve/newton iterations", 0) + counts.get("rve/corrections", 0),
        "linear solves": linear.solves,
        "Krylov iterations": linear.iterations if variant.linear else None,
        "factorisations": counts["rve/factorisations"],
        "tangents": counts.get("rve/tangents", counts.get("rve/points", 0)),
        "counts": counts,
    }


def _with_ratios(costs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The costs with the ratio of each measure to the least without learning."""
    unlearned = [cost for cost in costs.values() if cost["kind"] == "unlearned"]
    found = {m: [cost[m] for cost in unlearned if cost[m] is not None] for m in MEASURES}
    best = {m: min(values) for m, values in found.items() if values}
    return {
        name: cost | {"ratios": {m: cost[m] / best[m] for m in best if cost[m] is not None}}
        for name, cost in costs.items()
    }


def show_costs(title: str, costs: Mapping[str, Mapping[str, Any]]) -> None:
    """Print each measure with its ratio to the best without learning, and how far the answers are apart."""

    def cell(cost: Mapping[str, Any], name: str) -> str:
        if cost[name] is None:
            return ""
        value = f"{cost[name]:.2f} s" if name == "seconds" else f"{cost[name]:,}"
        return f"{value} ({cost['ratios'][name]:.2f})"

    rows = [
        [f"{name} *" if cost["kind"] == "learned" else name]
        + [cell(cost, m) for m in MEASURES]
        + [f"{cost['tip error']:.0e}"]
        for name, cost in costs.items()
    ]
    show(f"{title} (each ratio to the least without learning; * learned)", ["", *MEASURES.values(), "tip error"], rows)

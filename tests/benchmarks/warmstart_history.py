"""RVEs with history: a square with plastic RVEs that is pulled and let go, classically and in the exact mode.

The exact mode with an elastic law for a surrogate, and with surrogates that mean no good. No surrogate here knows of
plasticity; what is measured is how much the sweeps take.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from coupling import Closure
from coupling.closed_forms import LinearElastic, lame
from solver_adapters.fenicsx_rve import PeriodicRVE
from tests.benchmarks.timing import show, show_goals, with_goals
from tests.hostile_surrogates import HOSTILE
from tests.pulled_square import exact, pulled, rve

GOALS = {"time of the worst surrogate over classical": 1.15, "largest difference of solutions": 1e-8}
ELASTIC = LinearElastic(*lame(90.0, 0.3))


def plastic_rve() -> PeriodicRVE:
    """A cell of 480 unknowns, as accurate as the macroscopic residual permits."""
    cell: PeriodicRVE = rve(tolerance=1e-6, size=0.15)
    return cell


def surrogates() -> dict[str, Callable[[PeriodicRVE], Closure]]:
    """What makes the surrogate of each variant for a fine scale."""
    hostile = {f"hostile: {name}": lambda fine, make=make: make(fine.spec) for name, make in HOSTILE.items()}
    return {"elastic": lambda fine: ELASTIC, **hostile}


def compare_with_history(cells: int, steps: int, repeats: int) -> dict[str, Any]:
    """All variants, which take turns: measured, printed, returned for JSON."""
    variants = surrogates()
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ("classical", *variants)}
    for _ in range(repeats):
        for name, of in runs.items():
            of.append(_run(variants.get(name), cells, steps))
    first = runs["classical"]
    costs = {name: _cost(of, first) for name, of in runs.items()}
    _show(f"{2 * cells**2} plastic RVEs, {steps} load steps, one core", costs)
    ours = [cost for name, cost in costs.items() if name != "classical"]
    reached = (max(cost["over classical"] for cost in ours), max(cost["difference"] for cost in ours))
    goals = with_goals(dict(zip(GOALS, reached, strict=True)), at_most=GOALS)
    show_goals(f"{2 * cells**2} plastic RVEs", goals)
    return {"variants": costs, "goals": goals}


def _run(surrogate: Callable[[PeriodicRVE], Closure] | None, cells: int, steps: int) -> dict[str, Any]:
    fine = plastic_rve()
    closure = fine if surrogate is None else exact(fine, surrogate(fine))
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of surrogates that raise
        problem, _, _ = pulled(closure, steps=steps, cells=cells)
    seconds = time.perf_counter() - start
    counts, solution = dict(fine.ledger.counts), problem.solution.copy()
    evaluations = problem.ledger.counts.get("macro/exact sweeps", problem.ledger.counts["closure/calls"])
    problem.close()
    return {"seconds": seconds, "evaluations per step": evaluations / steps, "counts": counts, "solution": solution}


def _cost(of: list[dict[str, Any]], first: list[dict[str, Any]]) -> dict[str, Any]:
    last, classical = of[-1], first[-1]["solution"]
    return {
        "seconds": median(run["seconds"] for run in of),
        "over classical": median(run["seconds"] / c["seconds"] for run, c in zip(of, first, strict=True)),
        "evaluations per step": last["evaluations per step"],
        "factorisations": last["counts"]["rve/factorisations"],
        "difference": float(np.abs(last["solution"] - classical).max() / np.abs(classical).max()),
        "counts": last["counts"],
    }


def _show(title: str, costs: dict[str, dict[str, Any]]) -> None:
    measures = ["seconds", "over classical", "evaluations per step", "factorisations", "difference"]
    rows = [[name, *(f"{cost[m]:.3g}" for m in measures)] for name, cost in costs.items()]
    show(title, ["", *measures], rows)

"""RVEs with history: a square with plastic RVEs that is pulled and let go, classically and in the exact mode.

The exact mode with an elastic law for a surrogate, and with surrogates that mean no good. No surrogate here knows of
plasticity; what is measured is how much the sweeps take: in load steps of which the exact mode converges in all, and in
large ones, in which models lead nowhere where the path turns, and the classical solve takes over.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product, starmap
from statistics import median
from typing import Any

import numpy as np
from rich.progress import track

from coupling import Closure
from coupling.closed_forms import LinearElastic, lame
from solver_adapters.fenicsx_rve import PeriodicRVE
from tests.benchmarks.timing import show, show_goals, with_goals
from tests.hostile_surrogates import HOSTILE
from tests.pulled_square import exact, pulled, rve

GOALS = {"time of the worst surrogate over classical": 1.15, "largest difference of solutions": 1e-8}
ELASTIC = LinearElastic(*lame(90.0, 0.3))


@dataclass(frozen=True)
class Square:
    """Cells along a side, two points each; load steps, and how far it is pulled (its yield strain is 3e-3)."""

    cells: int
    steps: int
    amount: float = 6e-3

    @property
    def points(self) -> int:
        """Quadrature points."""
        return 2 * self.cells**2

    def __str__(self) -> str:
        return f"{self.points} points, {self.steps} steps to {self.amount:g}"


SMALL_STEPS = [Square(2, 16), Square(3, 16), Square(13, 16)]
LARGE_STEPS = [
    *starmap(Square, product((2, 3), (3, 4, 5, 6, 8), (6e-3, 12e-3, 24e-3, 30e-3, 36e-3))),
    *starmap(Square, product((6,), (4, 6), (6e-3, 24e-3, 36e-3))),
]


def plastic_rve() -> PeriodicRVE:
    """A cell of 480 unknowns, as accurate as the macroscopic residual permits."""
    cell: PeriodicRVE = rve(tolerance=1e-6, size=0.15)
    return cell


def surrogates() -> dict[str, Callable[[PeriodicRVE], Closure]]:
    """What makes the surrogate of each variant for a fine scale."""
    hostile = {f"hostile: {name}": lambda fine, make=make: make(fine.spec) for name, make in HOSTILE.items()}
    return {"elastic": lambda fine: ELASTIC, **hostile}


def compare_with_history(square: Square, repeats: int) -> dict[str, Any]:
    """All variants on one square, which take turns: measured, printed, returned for JSON."""
    costs = _costs(square, repeats)
    measures = ["seconds", "over classical", "evaluations per step", "factorisations", "difference"]
    rows = [[name, *(f"{cost[m]:.3g}" for m in measures)] for name, cost in costs.items()]
    show(f"{square}, plastic RVEs, one core", ["", *measures], rows)
    return {"variants": costs, "goals": _goals(str(square), [costs])}


def compare_large_steps(squares: Sequence[Square], repeats: int) -> dict[str, Any]:
    """All variants on each of the squares: measured, printed as times over the classical one, returned for JSON."""
    costs = {str(square): _costs(square, repeats) for square in track(squares, "Large steps", transient=True)}
    rows = [
        [name, f"{of['classical']['seconds']:.2f}", *(f"{cost['over classical']:.2f}" for cost in _ours(of))]
        for name, of in costs.items()
    ]
    show(
        "Time over classical, plastic RVEs, one core",
        ["", "classical, s", *(name.removeprefix("hostile: ") for name in surrogates())],
        rows,
    )
    return {"squares": costs, "goals": _goals("Large plastic steps", list(costs.values()))}


def _costs(square: Square, repeats: int) -> dict[str, dict[str, Any]]:
    variants = surrogates()
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ("classical", *variants)}
    for _ in range(repeats):
        for name, of in runs.items():
            of.append(_run(variants.get(name), square))
    return {name: _cost(of, runs["classical"]) for name, of in runs.items()}


def _ours(costs: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [cost for name, cost in costs.items() if name != "classical"]


def _goals(title: str, costs: Sequence[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    ours = [cost for of in costs for cost in _ours(of)]
    reached = (max(cost["over classical"] for cost in ours), max(cost["difference"] for cost in ours))
    goals = with_goals(dict(zip(GOALS, reached, strict=True)), at_most=GOALS)
    show_goals(title, goals)
    return goals


def _run(surrogate: Callable[[PeriodicRVE], Closure] | None, square: Square) -> dict[str, Any]:
    fine = plastic_rve()
    closure = fine if surrogate is None else exact(fine, surrogate(fine))
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of surrogates that raise
        problem, _, _ = pulled(closure, steps=square.steps, cells=square.cells, amount=square.amount)
    seconds = time.perf_counter() - start
    counts, solution = dict(fine.ledger.counts), problem.solution.copy()
    evaluations = problem.ledger.counts.get("macro/exact sweeps", problem.ledger.counts["closure/calls"])
    problem.close()
    return {
        "seconds": seconds,
        "evaluations per step": evaluations / square.steps,
        "counts": counts,
        "solution": solution,
    }


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

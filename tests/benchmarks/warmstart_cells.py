"""Cold starts of the RVEs of the first demo, from zero and from predicted fields, to a tolerance of 1e-12.

Stretches are drawn from the inner 80 % of the range that was sampled, and from all of it.
"""

from __future__ import annotations

from typing import Any

from mpi4py import MPI

import numpy as np
from numpy.typing import NDArray

from demos.cook_runs import MATERIALS, Case, create_rve
from solver_adapters.fenicsx_rve import PeriodicRVE
from surrogates import FieldPredictor, sample, stretch_design
from tests.benchmarks.timing import show, show_goals, with_goals
from tests.cold_starts import cold_starts, drawn

GOALS = {"most iterations where a zero start needs 4": 2.0, "predicted starts that fail where zero starts fail": 0.0}
MANY = 4


def compare_cold_starts(name: str, case: Case, samples: int, starts: int) -> dict[str, Any]:
    """Iterations and failures of ``starts`` cold starts: counted, printed, returned for JSON."""
    teacher = create_rve(case, for_training=True)
    design = stretch_design(case.lower, case.upper, samples, seed=0)
    predictor = FieldPredictor.of(sample(teacher, design, comm=MPI.COMM_SELF, fields=teacher.fluctuations))
    result: dict[str, Any] = {"samples": samples, "error": predictor.error}
    for part, inner in (("inner 80 % of the range", 0.8), ("whole range", 1.0)):
        gradients = drawn(case.lower, case.upper, starts, seed=5, inner=inner)
        (zero, failed, exact), (ours, ours_failed, fluxes) = (
            cold_starts(PeriodicRVE(case.cell(size=case.size), MATERIALS, predictor=p), gradients)
            for p in (None, predictor)
        )
        reached = {
            "most iterations where a zero start needs 4": float(ours[(zero == 4) & ~failed].max(initial=0)),
            "predicted starts that fail where zero starts fail": float((ours_failed & failed).sum()),
        }
        means = f"mean {zero.mean():.2f} → {ours.mean():.2f}"
        _show(f"{name} RVE, {starts} starts in the {part}: {means}", zero, failed, ours)
        met = with_goals(reached, at_most=GOALS)
        show_goals(f"{name} RVE, {part}", met)
        result[part] = {
            "mean iterations from zero": float(zero.mean()),
            "mean iterations from predicted fields": float(ours.mean()),
            "zero starts that fail": int(failed.sum()),
            "predicted starts that fail alone": int((ours_failed & ~failed).sum()),
            "largest difference of fluxes": float(np.abs(fluxes - exact).max()),
            "goals": met,
        }
    return result


def _show(title: str, zero: NDArray[np.int_], failed: NDArray[np.bool_], ours: NDArray[np.int_]) -> None:
    """Print how many of the points that need so many iterations from zero need so many from predicted fields."""
    groups = {str(n): (zero == n) & ~failed for n in np.unique(zero[~failed])} | {"fails": failed}
    counted = {label: np.bincount(np.minimum(ours[where], MANY), minlength=MANY + 1) for label, where in groups.items()}
    rows = [[label, str(counts.sum()), *map(str, counts[1:])] for label, counts in counted.items()]
    show(title, ["from zero", "points", *(f"predicted: {n}" for n in range(1, MANY)), f"{MANY} or more"], rows)

"""Starts of a nonlinear solve without RVEs, all to the same final tolerance: what each costs in iterations and time.

A hyperelastic bar, twisted and compressed in equal steps, for two materials, with GMRES inside Newton's method.
Compared are starts from the last solution, extrapolation, the last tangent, projection onto and interpolation of the
last solutions' modes, dynamic modes where PyDMD is installed, PETSc's own guesses for the linear solves, alone and on
top, and a network trained on runs with three other materials; POD interpolation that knows these same runs is the
control.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from mpi4py import MPI

import numpy as np

from coupling.contract import Array
from coupling.guess import Predictor
from coupling.predictors.pod import PODPredictor
from demos.demo_warm_start_snes import Bar
from solver_adapters.petsc_options import options_database
from solver_adapters.petsc_snes import warm_start
from surrogates.state_network import Run, train_state_network
from tests.benchmarks.timing import show

EARLIER, NEW = (0.20, 0.30, 0.40), (0.25, 0.35)
SOLVER = {"ksp_type": "gmres", "ksp_gmres_restart": 200, "pc_type": "ilu", "ksp_rtol": 1e-8}
MODIFIED = {"snes_lag_jacobian": 3, "snes_lag_jacobian_persists": True, "snes_max_it": 100}
SAME = 1e-6
"""Largest difference of a solution from that of the plain run, relative to the largest displacement."""


@dataclass
class Cost:
    """What the solves of one variant took."""

    newton: int = 0
    linear: int = 0
    seconds: float = np.inf


@dataclass(frozen=True)
class Variant:
    """A way to start: a predictor, made anew for each material, with one parameter or two, and a linear guess.

    Args:
        predictor: name, or what makes one.
        ksp_guess: value of ``-ksp_guess_type``, None for none.
        learned: whether it was trained beforehand.
        modified: Newton's method with one Jacobian for three iterations. PETSc forgets what its linear guesses know
            when the matrix changes, so that they can only help here.
    """

    predictor: str | Callable[[], Predictor]
    ksp_guess: str | None = None
    learned: bool = False
    modified: bool = False


def sweep(variant: Variant, loads: Array, nu: float, cells: int) -> tuple[Cost, Array]:
    """Load the bar of one material from rest."""
    options = SOLVER | ({} if variant.ksp_guess is None else {"ksp_guess_type": variant.ksp_guess})
    options |= MODIFIED if variant.modified else {}
    with options_database("bar_", options):
        bar = Bar(MPI.COMM_SELF, cells)
    bar.set(loads[0], nu)
    given = variant.predictor
    two = not isinstance(given, str)
    predictor = given if isinstance(given, str) else given()
    warm_start(bar.snes, predictor, parameter=lambda: (bar.load, bar.nu) if two else bar.load)
    cost, solutions = Cost(seconds=0.0), []
    for load in loads:
        bar.set(load, nu)
        start = time.perf_counter()
        bar.snes.solve(None, bar.x.x.petsc_vec)
        cost.seconds += time.perf_counter() - start
        assert bar.snes.getConvergedReason() > 0
        cost.newton += bar.snes.getIterationNumber()
        cost.linear += bar.snes.getLinearSolveIterations()
        solutions.append(bar.x.x.array.copy())
    return cost, np.array(solutions)


def informed(runs: list[Run]) -> PODPredictor:
    """POD interpolation that knows the runs from which the network learns."""
    pod = PODPredictor(window=200)
    for run in runs:
        for x, y in zip(run.known, run.found, strict=True):
            pod.observe(x[None], y[None])
    return pod


def variants(runs: list[Run]) -> tuple[dict[str, Variant], float]:
    """All that are compared, and the seconds it took to train."""
    start = time.perf_counter()
    network = train_state_network(runs, rank=12, hidden=(12, 12), validation=0.1, max_iterations=150)
    seconds = time.perf_counter() - start
    found = {"last solution": Variant("none")}
    found |= {name: Variant(name) for name in ("linear", "quadratic", "tangent", "projection", "pod")}
    if importlib.util.find_spec("pydmd"):
        found |= {name: Variant(name) for name in ("dmd", "edmd")}
    found["pod, earlier runs"] = Variant(lambda: informed(runs))
    for guess in ("fischer", "pod"):
        found[f"last solution, -ksp_guess_type {guess}"] = Variant("none", guess)
        found[f"quadratic, -ksp_guess_type {guess}"] = Variant("quadratic", guess)
    found["modified Newton, last solution"] = Variant("none", modified=True)
    found["modified Newton, quadratic"] = Variant("quadratic", modified=True)
    for guess in ("fischer", "pod"):
        found[f"modified Newton, -ksp_guess_type {guess}"] = Variant("none", guess, modified=True)
        found[f"modified Newton, quadratic, {guess}"] = Variant("quadratic", guess, modified=True)
    found["network"] = Variant(lambda: network, learned=True)
    return found, seconds


def measure(cells: int, steps: int, repeats: int) -> tuple[dict[str, Cost], dict[str, Variant], float]:
    """Costs of all variants, taking turns; seconds are the least of the repeats."""
    loads = np.arange(steps + 1) / steps
    plain = Variant("none")
    runs = [Run(np.column_stack((loads, np.full(len(loads), nu))), sweep(plain, loads, nu, cells)[1]) for nu in EARLIER]
    compared, training = variants(runs)
    costs = {name: Cost() for name in compared}
    reference = {nu: sweep(plain, loads, nu, cells)[1] for nu in NEW}
    for _ in range(repeats):
        for name, variant in compared.items():
            parts = [sweep(variant, loads, nu, cells) for nu in NEW]
            for (_, found), expected in zip(parts, reference.values(), strict=True):
                assert np.abs(found - expected).max() < SAME * np.abs(expected).max(), f"{name} changed the answer"
            newton, linear = sum(c.newton for c, _ in parts), sum(c.linear for c, _ in parts)
            costs[name] = Cost(newton, linear, min(costs[name].seconds, sum(c.seconds for c, _ in parts)))
    return costs, compared, training


def ratios(costs: dict[str, Cost], compared: dict[str, Variant]) -> dict[str, dict[str, float]]:
    """Each cost, divided by the least of those that need no training."""
    best = {
        measure: min(asdict(cost)[measure] for name, cost in costs.items() if not compared[name].learned)
        for measure in asdict(Cost())
    }
    return {name: {m: v / best[m] for m, v in asdict(cost).items()} for name, cost in costs.items()}


def show_predictors(
    costs: dict[str, Cost], relative: dict[str, dict[str, float]], solves: int, training: float
) -> None:
    """Print the table."""
    rows = [
        [
            name,
            *(f"{c} ({relative[name][m]:.2f})" for m, c in (("newton", cost.newton), ("linear", cost.linear))),
            f"{cost.seconds:.2f} s ({relative[name]['seconds']:.2f})",
        ]
        for name, cost in costs.items()
    ]
    show(
        f"A bar: {solves} solves to the same tolerance (ratio to the best without training); "
        f"the network was trained in {training:.1f} s",
        ["start", "Newton iterations", "linear iterations", "time"],
        rows,
    )


def compare_predictors(cells: int, steps: int, repeats: int) -> dict[str, Any]:
    """Measure, print, and return the result for JSON."""
    costs, compared, training = measure(cells, steps, repeats)
    relative = ratios(costs, compared)
    show_predictors(costs, relative, len(NEW) * steps, training)
    result = {name: asdict(cost) | {"ratios": relative[name]} for name, cost in costs.items()}
    return {"training seconds": training, "variants": result}

"""Starts of the classical two-scale run: extrapolations, bases, PETSc's linear guesses, and learned ones.

The learned macro start and its control know runs of the same membrane whose matrix has another modulus λ. They were
made by the exact mode, which costs least.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from coupling import Closure
from coupling.contract import Array
from coupling.guess import Guess, Predictor
from coupling.predictors import create_predictor
from demos.cook_runs import MATERIALS, Case
from solver_adapters.rve.energies import NeoHookean
from surrogates.state_network import Run, train_state_network
from tests.benchmarks.warmstart_predictors import informed
from tests.benchmarks.warmstart_runs import Size, Variant, single_run

EARLIER, NEW = (1.0, 1.5, 3.0), 2.0
"""Moduli λ of the matrix: in the earlier runs, and in the one that is compared."""

GMRES = {
    "ksp_type": "gmres",
    "ksp_gmres_restart": 200,
    "pc_type": "ilu",
    "pc_factor_mat_solver_type": "petsc",
    "ksp_rtol": 1e-8,
}


@dataclass
class Recorder:
    """A predictor that has no guesses and keeps what it is taught."""

    known: list[Array] = field(default_factory=list)
    found: list[Array] = field(default_factory=list)

    def predict(self, known: Array) -> Guess:
        """None."""
        return Guess.none(1, 0)

    def observe(self, known: Array, found: Array) -> None:
        """Keep it."""
        self.known.append(known[0].copy())
        self.found.append(found[0].copy())


@dataclass(frozen=True)
class AtModulus:
    """A predictor of (load, λ), asked at one λ."""

    predictor: Predictor
    modulus: float

    def predict(self, known: Array) -> Guess:
        """The guess at the load ``known`` (1, 1)."""
        return self.predictor.predict(self._with_modulus(known))

    def observe(self, known: Array, found: Array) -> None:
        """Hand on."""
        self.predictor.observe(self._with_modulus(known), found)

    def _with_modulus(self, known: Array) -> Array:
        return np.hstack((known, np.full((len(known), 1), self.modulus)))


def earlier_runs(exact: Callable[[float], Closure], case: Case, size: Size) -> list[Run]:
    """The converged states of the runs with other matrices, whose exact closures are ``exact(λ)``."""
    runs = []
    for modulus in EARLIER:
        states = Recorder()
        single_run(Variant(lambda modulus=modulus: exact(modulus), lambda states=states: states), case, size)  # type: ignore[misc]
        runs.append(Run(np.column_stack((states.known, np.full(len(states.known), modulus))), np.array(states.found)))
    return runs


def materials_with(modulus: float) -> dict[int, NeoHookean]:
    """Those of the demos with another λ of the matrix."""
    return {**MATERIALS, 1: NeoHookean(1.0, modulus)}  # type: ignore[dict-item]


def start_variants(classical: Callable[[], Closure], runs: list[Run]) -> tuple[dict[str, Variant], float]:
    """The classical run with each start, and the seconds it took to train."""
    begin = time.perf_counter()
    network = train_state_network(runs, rank=8, hidden=(12, 12), max_iterations=150)
    seconds = time.perf_counter() - begin
    variants = {f"start: {name}": Variant(classical, name) for name in ("previous", "quadratic")}
    variants |= {f"start: {name}": Variant(classical, name) for name in ("tangent", "projection")}
    fitted = ["pod", *(("dmd", "edmd") if importlib.util.find_spec("pydmd") else ())]
    variants |= {f"start: {name}": Variant(classical, lambda name=name: create_predictor(name)) for name in fitted}  # type: ignore[misc]
    variants["start: pod, earlier runs"] = Variant(classical, lambda: AtModulus(informed(runs), NEW))
    variants["start: network"] = Variant(classical, lambda: AtModulus(network, NEW), kind="learned")
    variants["gmres"] = Variant(classical, linear=GMRES)
    for guess in ("fischer", "pod"):
        variants[f"gmres, -ksp_guess_type {guess}"] = Variant(classical, linear=GMRES | {"ksp_guess_type": guess})
    return variants, seconds

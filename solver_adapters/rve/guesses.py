"""Guessed fluctuations: where the iterations of an RVE may start instead of at the usual predictor.

A guess is carried along with the point: w₀ + ŵ(g) − ŵ(g₀), with ŵ the predictor and w₀ the equilibrium at g₀, so that
only the change of the field has to be predicted.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from coupling.contract import Array, usable
from coupling.guess import Predictor, better_start
from coupling.ledger import Ledger
from solver_adapters.rve.cell_problem import CellProblem
from solver_adapters.rve.memory import Memory

Norm = Callable[[Array], float]

_FAR = 1e-3  # relative change of the gradient from which on a guess may beat the sensitivity


class FluctuationGuesses:
    """Starts of n points, guessed or usual, decided by the true residual of each.

    Ledger: counts ``rve/guesses used``, ``rve/guesses refused``.
    """

    def __init__(self, problem: CellProblem, predictor: Predictor, ledger: Ledger) -> None:
        self.problem, self.predictor, self.ledger = problem, predictor, ledger
        self._residual = np.empty(problem.n)

    def starts(self, gradient: Array, memory: Memory) -> tuple[Array, NDArray[np.bool_]]:
        """Fluctuations (n, N) to start from at gradients (n, k), and where they are guesses."""
        start = memory.carried(gradient)
        used = np.zeros(len(gradient), dtype=bool)
        step = np.linalg.norm(gradient - memory.gradient, axis=1)
        far = np.flatnonzero(step > _FAR * np.linalg.norm(gradient, axis=1))
        if not far.size:
            return start, used
        there, here = (self.predictor.predict(np.ascontiguousarray(g[far])) for g in (gradient, memory.gradient))
        guesses = memory.fluctuation[far] + there.values - here.values
        for i, guess, told in zip(far, guesses, usable(there.status) & usable(here.status), strict=True):
            if told:
                start[i], used[i] = better_start(guess, start[i], self._norm_at(gradient[i]), self.ledger, "rve")
        return start, used

    def _norm_at(self, gradient: Array) -> Norm:
        def norm(fluctuation: Array) -> float:
            self.problem.residual(gradient, fluctuation, self._residual)
            size = float(np.linalg.norm(self._residual))
            return size if np.isfinite(size) and self.problem.is_admissible(gradient, fluctuation) else np.inf

        return norm

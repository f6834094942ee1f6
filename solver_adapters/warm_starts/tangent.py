"""The tangent (Euler) predictor, with the last factorisation."""

from __future__ import annotations

from typing import Any

import numpy as np

from coupling.contract import Array, Status
from coupling.guess import Guess
from solver_adapters.warm_starts.borrowed import Borrowed
from solver_adapters.warm_starts.vectors import owned


class TangentPredictor:
    """y = y₀ − J⁻¹ F(y₀; x): from the standard start y₀ along the tangent to the path of solutions.

    With y₀ the last solution, F(y₀; x + Δx) = ∂F/∂x Δx + O(Δx²), so that this is the tangent predictor J dy = −∂F/∂x Δx
    without anybody having to supply ∂F/∂x. J and its factorisation are those of the last Newton iteration of the solve
    before: nothing is assembled or factorised, the cost is one residual and one solve with ``snes.ksp``. With a
    Jacobian assembled anew it would be nothing but the first Newton iteration.

    Args:
        snes: the solver, inside whose solves it is asked.
    """

    def __init__(self, snes: Borrowed) -> None:
        self._snes = snes
        self._ready = False
        self._work: Any = None

    def predict(self, known: Array) -> Guess:
        """The predicted state; none before the first Newton iteration, or where the linear solve fails (collective)."""
        snes = self._snes()
        self._ready = self._ready or (snes.getConvergedReason() > 0 and snes.getIterationNumber() > 0)
        if not self._ready:
            return Guess.none(1, 0)
        x = snes.getSolution()
        r, d = self._work = self._work or (x.duplicate(), x.duplicate())
        snes.computeFunction(x, r)
        d.set(0.0)
        snes.ksp.solve(r, d)
        if snes.ksp.getConvergedReason() < 0:
            return Guess.none(1, 0)
        return Guess((owned(x) - owned(d))[None], np.array([Status.OK], dtype=np.int8))

    def observe(self, known: Array, found: Array) -> None:
        """Nothing to learn: the Jacobian is the solver's."""

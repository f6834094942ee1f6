"""Where a path turns: points whose predictor is that of materials that flow on, but which unload.

The sensitivity of the last equilibrium holds as long as what has yielded goes on to yield. Where the path turns, that
of the state of rest is the better one; it is exact where all unloads elastically.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coupling.contract import Array
from solver_adapters.rve.cell_problem import CellProblem
from solver_adapters.rve.memory import Memory


def turn(problem: CellProblem, gradient: Array, memory: Memory, at_rest: Array, where: NDArray[np.intp]) -> None:
    """Let S at points ``where`` (c,) be that of the state of rest (N, k), where w₀ + S (g − g₀) is then nearer balance.

    The true residual decides, at gradients (n, k); ``memory`` is changed in place.
    """
    residual = np.empty(problem.n)

    def imbalance(i: int, sensitivity: Array) -> float:
        w = memory.fluctuation[i] + sensitivity @ (gradient[i] - memory.gradient[i])
        problem.residual(gradient[i], w, residual, memory.history[i])
        return float(np.linalg.norm(residual))

    for i in where:
        if imbalance(i, at_rest) < imbalance(i, memory.sensitivity[i]):
            memory.sensitivity[i] = at_rest

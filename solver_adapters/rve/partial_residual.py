"""A lower bound of a residual from a few cells of the RVE.

    ‖r‖ ≥ ‖r_D‖,   D: unknowns all of whose cells are among those few

Entries of r in D are what the whole RVE would make of them, so that the bound holds whatever the state. It is useful
where residuals concentrate: those of starts are largest where materials meet.
"""

from __future__ import annotations

import numpy as np

from coupling.contract import Array
from solver_adapters.rve.cell_problem import CellProblem
from solver_adapters.rve.point_history import NO_HISTORY

_SHARE = 1 / 32  # of the nodes
_STEP = 1e-3


class PartialResidual:
    """The residual at the nodes where it is largest without fluctuations, a thirtieth of all.

    Args:
        problem: the RVE problem, without a border, which would make each entry depend on all cells.
    """

    def __init__(self, problem: CellProblem) -> None:
        dofmap = problem.w.function_space.dofmap
        sizes = np.linalg.norm(_without_fluctuations(problem).reshape(-1, dofmap.bs), axis=1)
        largest = np.argsort(sizes)[-max(1, int(_SHARE * len(sizes))) :]
        cells = np.isin(dofmap.list, largest).any(axis=1)
        whole = ~np.isin(np.arange(len(sizes)), dofmap.list[~cells])
        self._problem, self._out = problem, np.empty(problem.n)
        self._unknowns = np.flatnonzero(np.repeat(whole, dofmap.bs))
        self._form = problem.guarded_residual_on(np.flatnonzero(cells))

    def norm(self, gradient: Array, fluctuation: Array, history: Array = NO_HISTORY) -> float:
        """‖r_D‖ at g (k,), w (N,) and h₀ (h,); not finite where, in one of the cells, det F is not positive."""
        self._problem.residual(gradient, fluctuation, self._out, history, self._form)
        return float(np.linalg.norm(self._out[self._unknowns]))


def _without_fluctuations(problem: CellProblem) -> Array:
    """Root of the sum of squares (N,) of r(g, 0) over gradients near the reference state."""
    reference, squares, r = np.array(problem.spec.reference), np.zeros(problem.n), np.empty(problem.n)
    for direction in np.eye(problem.spec.k):
        problem.residual(reference + _STEP * direction, np.zeros(problem.n), r, problem.history.virgin)
        squares += r**2
    return np.sqrt(squares)

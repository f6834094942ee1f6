"""Factors of the stiffness of an RVE at a few states, shared by all points: what a modified Newton method needs.

Near a state g_j the factor M_j ≈ K(g_j) turns the iteration w ← w − M_j⁻¹ r(g, w) into a contraction whose rate ρ grows
about linearly with the distance |g − g_j|. The states are chosen so that no point is further from one than the rate
that is aimed at permits, with a slope ρ/|g − g_j| that is measured in the iterations themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coupling.contract import Array
from coupling.ledger import Ledger
from solver_adapters.rve.cell_problem import CellProblem
from solver_adapters.rve.factor import SymmetricFactor
from solver_adapters.rve.point_history import NO_HISTORY

_RATE = 0.1
_MOST = 256
_MEMORY = 2**30  # bytes that all factors may take
_LONG_IDLE = 3


@dataclass(frozen=True)
class _Border:
    """Constraints of a border eliminated from solutions: x ↦ x − X (NᵀX − Z)⁻¹ Nᵀx with X = M⁻¹N."""

    columns: Array
    solved: Array
    schur: Array

    def eliminate(self, rows: Array) -> Array:
        return np.asarray(rows - np.linalg.solve(self.schur, self.columns.T @ rows.T).T @ self.solved.T)


class SharedFactors:
    """The factors M_j, at first that of the reference state alone.

    A factor takes the memory of one sparse Cholesky factor (1 MB for an RVE of 1,000 unknowns in 2D, 10 MB for 10,000;
    20 MB for 4,000 in 3D); there are at most 256 of them, and no more than 1 GiB holds.

    Args:
        problem: the RVE problem, whose matrix is overwritten when a factor is added.
        reference: gradient (k,) of the reference state, where w = 0.
        ledger: counts ``rve/factorisations``, ``rve/LU factorisations``.
    """

    def __init__(self, problem: CellProblem, reference: Array, ledger: Ledger) -> None:
        self.problem, self.ledger = problem, ledger
        self._factors: list[SymmetricFactor] = []
        self._borders: list[_Border | None] = []
        self._states: Array = np.empty((0, problem.spec.k))
        self._idle: list[int] = []
        self._by_age: list[int] = []
        self._slope = 0.0
        self._add(reference, np.zeros(problem.n), problem.history.virgin)
        self._most = max(2, min(_MOST, _MEMORY // self._factors[0].memory))

    def __len__(self) -> int:
        return len(self._factors)

    def cover(self, gradient: Array, fluctuation: Array) -> NDArray[np.intp]:
        """Index (n,) of the factor for each point with gradient (n, k) and fluctuation (n, N), near enough for all.

        Where the stiffness of a point cannot be factorised, the factors of others have to serve it.
        """
        nearest, distance = self._nearest(gradient)
        while len(self) < self._most and self._slope * distance.max(initial=0.0) > _RATE and not self.problem.constant:
            furthest = int(distance.argmax())
            try:
                self._add(gradient[furthest], fluctuation[furthest])
            except ArithmeticError:
                distance[furthest] = 0.0
                continue
            closer = np.linalg.norm(gradient - self._states[-1], axis=1)
            nearest = np.where(closer < distance, len(self) - 1, nearest)
            distance = np.minimum(closer, distance)
        return nearest

    def assigned(self, gradient: Array) -> NDArray[np.intp]:
        """The nearest factors as :meth:`nearest`; those that are not among them in several calls may be replaced."""
        which = self.nearest(gradient)
        self._idle = [0 if j in which else idle + 1 for j, idle in enumerate(self._idle)]
        return which

    def renewed(self, gradient: Array) -> int:
        """Index of a new factor, of the stiffness that was just assembled at g (k,).

        It takes the place of one that has been idle if there is such. Where there may be no more of them and all are
        in use, it takes that of the oldest one. The one of the reference state stays.

        Raises:
            ArithmeticError: the stiffness there cannot be factorised.
        """
        idlest = max(self._by_age[1:], key=self._idle.__getitem__, default=0)
        replaced = idlest > 0 and (len(self) == self._most or self._idle[idlest] >= _LONG_IDLE)
        index = idlest if replaced else len(self)
        self._put(index, gradient)
        return index

    def nearest(self, gradient: Array) -> NDArray[np.intp]:
        """Index (n,) of the factor nearest to each point with gradient (n, k)."""
        return self._nearest(gradient)[0]

    def learn(self, gradient: Array, which: NDArray[np.intp], rate: Array) -> None:
        """Enter the rates (n,) of contraction that points at gradients (n, k) had with the factors ``which`` (n,)."""
        distance = np.linalg.norm(gradient - self._states[which], axis=1)
        told = (distance > 0.0) & (rate > _RATE / 10) & np.isfinite(rate)
        if told.any():
            self._slope = max(self._slope, float(np.quantile(rate[told] / distance[told], 0.8)))

    def solve(self, which: NDArray[np.intp], right: Array) -> Array:
        """M⁻¹ of the factors ``which`` (n,) applied to the rows of ``right`` (n, N)."""
        solution = np.empty_like(right)
        for j in np.unique(which):
            rows = which == j
            solution[rows] = self._solve(j, right[rows])
        return solution

    def _solve(self, j: int, right: Array) -> Array:
        rows, border = self._factors[j].solve_rows(right), self._borders[j]
        return rows if border is None else border.eliminate(rows)

    def _nearest(self, gradient: Array) -> tuple[NDArray[np.intp], Array]:
        distance = np.linalg.norm(gradient[:, None] - self._states, axis=2)
        return distance.argmin(axis=1), distance.min(axis=1)

    def _add(self, gradient: Array, fluctuation: Array, history: Array = NO_HISTORY) -> None:
        self.problem.linearise(gradient, fluctuation, history)
        self._put(len(self), gradient)

    def _put(self, j: int, gradient: Array) -> None:
        """Make factor j, or the next one, that of the stiffness at g (k,); one that fails becomes the first one."""
        if j == len(self):
            factor = SymmetricFactor(self.problem.K, 1)
            self._factorise(factor)
            self._factors.append(factor)
            self._borders.append(self._eliminated(factor))
            self._states = np.vstack([self._states, gradient])
            self._idle.append(0)
            self._by_age.append(j)
            return
        first = self._factors[0], self._borders[0]
        factor = SymmetricFactor(self.problem.K, 1) if self._factors[j] is first[0] else self._factors[j]
        self._states[j], self._idle[j] = np.inf, 0
        self._by_age.append(self._by_age.pop(self._by_age.index(j)))
        self._factors[j], self._borders[j] = first
        self._factorise(factor)
        self._factors[j], self._borders[j], self._states[j] = factor, self._eliminated(factor), gradient

    def _factorise(self, factor: SymmetricFactor) -> None:
        self.ledger.count("rve/factorisations")
        if not factor.factorise():
            self.ledger.count("rve/LU factorisations")
        if not np.isfinite(factor.solve_rows(np.ones((1, self.problem.n)))).all():
            raise ArithmeticError("the RVE's stiffness matrix is not finite")  # LU does not always say so

    def _eliminated(self, factor: SymmetricFactor) -> _Border | None:
        border = self.problem.border
        if border is None:
            return None
        solved = factor.solve_rows(border.columns.T).T
        return _Border(border.columns, solved, border.columns.T @ solved - border.corner)

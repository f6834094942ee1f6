"""Projection onto the modes of the last solutions."""

from __future__ import annotations

from typing import Any

from petsc4py import PETSc

import numpy as np

from coupling.contract import Array, Status
from coupling.guess import Guess
from coupling.predictors.snapshots import Snapshots
from solver_adapters.warm_starts.borrowed import Borrowed
from solver_adapters.warm_starts.vectors import owned, set_owned


class ProjectionPredictor:
    """y = y₀ + U a with ‖F(y₀ + U a)‖ least: from the standard start y₀ within the modes U of the last solutions.

    Gauss–Newton with the Jacobian J of the last Newton iteration of the solve before,

        (JU)ᵀ(JU) δa = −(JU)ᵀ F(y₀ + U a)

    as long as the residual falls. It costs r products with J, and one residual for each iteration; nothing is
    assembled, factorised or solved but r equations, and it needs no parameter. K. Carlberg, C. Bou-Mosleh, C. Farhat,
    Int. J. Numer. Meth. Engng 86 (2011) 155–181 (least-squares Petrov–Galerkin projection).

    Args:
        snes: the solver, inside whose solves it is asked.
        comm: its communicator.
        rank: largest number r of modes.
        window: number of last solutions to learn from.
        iterations: most Gauss–Newton iterations.
    """

    def __init__(self, snes: Borrowed, *, comm: Any, rank: int = 8, window: int = 24, iterations: int = 4) -> None:
        self.rank, self.iterations = rank, iterations
        self._snes, self._comm = snes, comm
        self._snapshots = Snapshots(window, comm)
        self._work: Any = None

    def predict(self, known: Array) -> Guess:
        """The projected state; none before two solutions are known (collective)."""
        snes = self._snes()
        if len(self._snapshots) < 2 or snes.getConvergedReason() <= 0:
            return Guess.none(1, 0)
        x, J = snes.getSolution(), snes.getJacobian()[0]
        y, f = self._work = self._work or (x.duplicate(), x.duplicate())
        U = self._snapshots.directions(self._snapshots.coordinates(self.rank))
        JU = np.stack([_product(J, direction, y, f) for direction in U.T], axis=1)
        inverse = np.linalg.pinv(self._comm.allreduce(JU.T @ JU), rcond=1e-12, hermitian=True)
        best, lowest, state = owned(x), np.inf, owned(x)
        for _ in range(self.iterations + 1):
            set_owned(y, state)
            snes.computeFunction(y, f)
            norm = f.norm()
            if not norm < lowest:
                break
            best, lowest = state, norm
            state = state - U @ (inverse @ self._comm.allreduce(JU.T @ owned(f)))
        return Guess(best[None], np.array([Status.OK], dtype=np.int8))

    def observe(self, known: Array, found: Array) -> None:
        """Learn the solution ``found`` (1, N)."""
        self._snapshots.add(known[0], found[0])


def _product(J: PETSc.Mat, direction: Array, y: PETSc.Vec, f: PETSc.Vec) -> Array:
    set_owned(y, direction)
    J.mult(y, f)
    return owned(f)

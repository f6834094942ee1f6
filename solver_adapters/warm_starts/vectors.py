"""Owned entries of PETSc vectors, and residual norms of trial states."""

from __future__ import annotations

from typing import Any

from petsc4py import PETSc

import numpy as np

from coupling.contract import Array
from coupling.guess import Bounds
from solver_adapters.warm_starts.trials import Evaluate


def owned(x: PETSc.Vec) -> Array:
    """A copy of the entries (N,) that this rank owns, those of nested vectors one after the other."""
    if x.getType() == PETSc.Vec.Type.NEST:
        return np.concatenate([owned(part) for part in x.getNestSubVecs()])
    return np.array(x.array_r, dtype=np.float64)


def set_owned(x: PETSc.Vec, values: Array) -> None:
    """Write the entries (N,) that this rank owns, and bring those of others to its ghosts (collective)."""
    if x.getType() == PETSc.Vec.Type.NEST:
        offset = 0
        for part in x.getNestSubVecs():
            set_owned(part, values[offset : offset + part.getLocalSize()])
            offset += part.getLocalSize()
        x.stateIncrease()
        return
    x.array_w[:] = values
    with x.localForm() as local:
        ghosted = bool(local)
    if ghosted:
        x.ghostUpdate(addv=PETSc.InsertMode.INSERT, mode=PETSc.ScatterMode.FORWARD)


class TrialResidual:
    """‖F(y) − b‖ of trial states y of a SNES inside a solve, on vectors of its own.

    A residual function that raises on one rank makes the norm NaN on all; it must then have left no collective
    operation half done on the others, as in any solve.

    Args:
        like: a vector of the layout of the solution.
        comm: the solver's communicator.

    Attributes:
        bounds: of the states since they were last cleared.
    """

    def __init__(self, like: PETSc.Vec, comm: Any) -> None:
        self._like, self._comm = like, comm
        self._vectors: tuple[PETSc.Vec, PETSc.Vec] | None = None
        self.bounds: list[Bounds] = []

    def of(self, values: Array, evaluate: Evaluate) -> Bounds:
        """At least and at most how large it is, which is also appended to ``bounds`` (collective)."""
        y, r = self._vectors = self._vectors or (self._like.duplicate(), self._like.duplicate())
        set_owned(y, values)
        error, failed = 0.0, False
        try:
            error = evaluate(y, r)
        except Exception:  # inadmissible for the user's function, in whichever way it says so
            failed = True
        if self._comm.allreduce(failed):
            self._vectors = None  # PETSc leaves them locked
            self.bounds.append((float("nan"), float("nan")))
        else:
            norm = float(r.norm())
            self.bounds.append((norm - error, norm + error))
        return self.bounds[-1]

    def destroy(self) -> None:
        """Free the vectors (collective)."""
        for vector in self._vectors or ():
            vector.destroy()
        self._vectors = None

"""Residuals with swept fluxes where a solve at two levels may start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np

from coupling.contract import Array
from coupling.ledger import Ledger
from solver_adapters.closure_points import ClosurePoints
from solver_adapters.level import EVALUATE, Level
from solver_adapters.macro.evaluation import measure_magnitudes
from solver_adapters.warm_starts.vectors import owned

_ERROR = 1e-3  # of the residual that models make at the first state is that of sweeps
_ROUGH = 0.1  # of a residual is too large an error
_FINER = 1e-2  # of it is that of the sweep that follows


@dataclass(frozen=True)
class Start:
    """Residual at a state.

    Args:
        values: the entries of the state that this rank owns.
        norm: ‖r‖, not finite where a point fails.
        error: bound of what is wrong with it.
        in_full: whether closures were evaluated in full, as sweeps failed or could not be scaled.
    """

    values: Array
    norm: float
    error: float
    in_full: bool

    @property
    def least(self) -> float:
        """Lower bound of the residual."""
        return max(self.norm - self.error, 0.0)


class SweptStarts:
    """Residuals r(x) with the fluxes of exact sweeps, at states from which a solve may start.

    The states of one comparison are swept from the committed ones, each as if there were no other, with errors of a
    thousandth of what the plain models make of the residual at the first of them, the standard start, and finer where
    that is too much of a residual. Tolerances of sweeps are relative to the magnitudes of fluxes, which are made such
    that errors as large as they, independent of each other, change the residual by ``scale``, whatever the user's code
    makes of the fluxes. A state whose sweep fails at a point of any rank is not admissible; but at the standard start,
    and where sweeps cannot be scaled, all points are then evaluated in full, as in a classical run.

    Ledger, on rank 0: counts ``macro/start sweeps``.

    Args:
        residual: sets its second argument to r at the first, closures asked at that level; what it raises it raises on
            all ranks or on none.
        fluxes: all fluxes that it evaluates.
        comm: their communicator.
        ledger: where counts are entered.

    Attributes:
        scale: residual that the tolerances of sweeps are relative to; zero where they cannot be scaled.
        whole: residual that all of the fluxes, with random signs, would make.
    """

    def __init__(
        self,
        residual: Callable[[PETSc.Vec, PETSc.Vec, Level], None],
        fluxes: Sequence[ClosurePoints],
        comm: MPI.Comm,
        ledger: Ledger,
    ) -> None:
        self._residual, self._fluxes, self._comm, self._ledger = residual, fluxes, comm, ledger
        self._tried: list[Start | None] = []
        self._error = self.scale = self.whole = 0.0

    def begin(self) -> None:
        """Begin another comparison."""
        self._tried.clear()

    def evaluate(self, x: PETSc.Vec, r: PETSc.Vec) -> float:
        """Set r to the residual at x with swept fluxes; a bound of the error of its norm (collective)."""
        first = not self._tried
        self._tried.append(None)  # on all ranks, whatever happens
        self.forget()
        if first:
            self._measure_scale(x, r)
        norm = self._swept(x, r)
        while self._error > _ROUGH * norm > 0.0:
            self._error = _FINER * norm
            norm = self._swept(x, r)
        in_full = not np.isfinite(norm) and (first or self.scale == 0.0)
        if in_full:
            norm = self.norm(x, r, EVALUATE)
        self._tried[-1] = start = Start(owned(x), norm, 0.0 if in_full else self._error, in_full)
        return start.error

    def chosen(self, x: PETSc.Vec, r: PETSc.Vec) -> Start:
        """The start that has been chosen, as :meth:`recalled`, evaluated where it has not been (collective)."""
        start = self.recalled(x)
        if start is None:
            self.evaluate(x, r)
            start = self.recalled(x)
        assert start is not None
        return start

    def recalled(self, x: PETSc.Vec) -> Start | None:
        """What is known of the start x that has been chosen; ends the comparison (collective).

        Fluxes keep what they know from the evaluation of a guess, or of any state in full, where that was the last one;
        models are judged by their increments, and a sweep at the standard start is none.
        """
        if not self._tried:
            return None
        i = self._index(x)
        start = None if i is None else self._tried[i]
        if start is None or i != len(self._tried) - 1 or not (i > 0 or start.in_full):
            self.forget()
        self.begin()
        return start

    def norm(self, x: PETSc.Vec, r: PETSc.Vec, level: Level) -> float:
        """Set r to the residual at x, closures asked at that level; its norm (collective)."""
        self._residual(x, r, level)
        return float(r.norm())

    def rescale(self, scale: float) -> None:
        """Let tolerances of sweeps be relative to another scale."""
        for flux in self._fluxes:
            flux.magnitude *= scale / self.scale
        self.scale = scale

    def forget(self) -> None:
        """Let the fluxes know no more than the committed states."""
        for flux in self._fluxes:
            flux.discard()

    def _swept(self, x: PETSc.Vec, r: PETSc.Vec) -> float:
        if self.scale == 0.0:
            return float("nan")
        if self._comm.rank == 0:
            self._ledger.count("macro/start sweeps")
        return self.norm(x, r, Level(tolerance=self._error / self.scale, trial=True))

    def _measure_scale(self, x: PETSc.Vec, r: PETSc.Vec) -> None:
        modelled = self.norm(x, r, Level(learned=False))
        self.whole = self._weight_of_fluxes(x, r) if np.isfinite(modelled) else 0.0
        self.scale, self._error = self.whole, _ERROR * modelled
        if modelled > 0.0 and self.whole > 0.0:
            self.rescale(modelled)
        else:
            self.scale = 0.0

    def _weight_of_fluxes(self, x: PETSc.Vec, r: PETSc.Vec) -> float:
        """Norm by which random changes of all fluxes, of their own magnitude, change the residual."""
        measure_magnitudes(self._fluxes, self._comm)
        changed, random = r.duplicate(), np.random.default_rng(self._comm.rank)
        for flux in self._fluxes:
            change = random.normal(size=flux.response.flux.shape)
            change *= flux.magnitude / np.linalg.norm(change, axis=1, keepdims=True)
            flux.shift(change)
        self.norm(x, changed, Level(learned=False))
        changed.axpy(-1.0, r)
        self.forget()
        return float(changed.norm())

    def _index(self, x: PETSc.Vec) -> int | None:
        """Which of the states x is, on all ranks."""
        values = owned(x)
        same = [start is not None and np.array_equal(start.values, values) for start in self._tried]
        everywhere = np.logical_and.reduce(self._comm.allgather(same)) if same else []
        return next((i for i, equal in enumerate(everywhere) if equal), None)

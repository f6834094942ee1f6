"""Guessed fluctuations: where the iterations of an RVE may start instead of at the usual predictor.

A guess is carried along with the point: w₀ + ŵ(g) − ŵ(g₀), with ŵ the predictor and w₀ the equilibrium at g₀, so that
only the change of the field has to be predicted. Where materials have history, ŵ is asked at (g, f) and (g₀, f) with
the features f of the history that the increment starts with, its averages over each material.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coupling.anchors import product
from coupling.contract import Array, usable
from coupling.errors import ContractError
from coupling.guess import DifferentiablePredictor, Predictor
from coupling.ledger import Ledger
from solver_adapters.rve.cell_problem import CellProblem
from solver_adapters.rve.memory import Memory
from solver_adapters.rve.partial_residual import PartialResidual

_FAR = 1e-3  # relative change of the gradient from which on a guess may beat the sensitivity
_SHARE_OF_ERRORS = 0.1  # in what is of third order in the step where predicted sensitivities are right


@dataclass(frozen=True)
class Starts:
    """Where the iterations of n points start.

    Args:
        fluctuation: (n, N), w.
        guessed: (n,), where that is a guess.
        residual: (n, N), r(g, w), NaN in rows where it has not been needed yet.
    """

    fluctuation: Array
    guessed: NDArray[np.bool_]
    residual: Array

    @classmethod
    def usual(cls, gradient: Array, memory: Memory) -> Starts:
        """The predictor w₀ + S (g − g₀) at all points."""
        start = memory.carried(gradient)
        return cls(start, np.zeros(len(gradient), dtype=bool), np.full(start.shape, np.nan))


class FluctuationGuesses:
    """Starts of n points, guessed or usual, decided by the true residual of each.

    Ledger: counts ``rve/guesses used``, ``rve/guesses refused``, ``rve/predictor faults`` (calls that raised or
    answered in another shape).
    """

    def __init__(self, problem: CellProblem, predictor: Predictor, ledger: Ledger) -> None:
        self.problem, self.predictor, self.ledger = problem, predictor, ledger
        self._residual = problem.guarded_residual
        self._bound = PartialResidual(problem) if problem.border is None else None

    def starts(self, gradient: Array, memory: Memory) -> Starts:
        """Where to start at gradients (n, k), by the rule of :mod:`coupling.guess`."""
        starts = Starts.usual(gradient, memory)
        step = np.linalg.norm(gradient - memory.gradient, axis=1)
        far = np.flatnonzero(step > _FAR * np.linalg.norm(gradient, axis=1))
        if not far.size:
            return starts
        history = memory.history[far]
        changes = self._changes(self._known(gradient[far], history), self._known(memory.gradient[far], history))
        if changes is None:
            return starts
        told = np.isfinite(changes).all(axis=1)
        self._choose(starts, gradient, memory.history, far[told], (memory.fluctuation[far] + changes)[told])
        return starts

    @np.errstate(divide="ignore", invalid="ignore")  # at a guess that changes nothing
    def sensitivities(self, gradient: Array, start: Array, memory: Memory, *, ask: bool = True) -> tuple[Array, Array]:
        """Sensitivities S (n, N, k) at starts w that are guesses, and estimates (n,) of their relative errors.

        S is the predictor's or, where that explains the step from the last equilibrium worse or there is none, the one
        there corrected by the secant, S₀ + (w − w₀ − S₀ s) sᵀ/|s|². The latter errs by about |w − w₀ − S₀ s|, relative
        to w − w₀. The predictor's is judged by what the mean of S₀ and S leaves of w − w₀, twice that, which is of
        third order in the step where both are right: a tenth of it counts as error, unless that of w relative to the
        step is larger (:class:`solver_adapters.rve.modified_newton.Start`). All this says nothing of other directions,
        see :class:`solver_adapters.rve.sweep.Sweep`; ``ask=False`` leaves the predictor's alone.
        """
        step, change = gradient - memory.gradient, start - memory.fluctuation
        carried = product(memory.sensitivity, step)
        left, size = change - carried, np.linalg.norm(change, axis=1)
        error = np.linalg.norm(left, axis=1) / size
        told = self._told(self._known(gradient, memory.history)) if ask else None
        worse = np.ones(len(gradient), dtype=bool)
        S = np.empty_like(memory.sensitivity) if told is None else told
        if told is not None:
            told_error = np.linalg.norm(2.0 * left - product(told, step) + carried, axis=1) / size
            worse = ~(np.isfinite(told).all(axis=(1, 2)) & (told_error < error))
            error = np.where(worse, error, _SHARE_OF_ERRORS * told_error)
        along = step[worse] / (step[worse] ** 2).sum(axis=1)[:, None]
        S[worse] = memory.sensitivity[worse] + left[worse][:, :, None] * along[:, None, :]
        return S, error

    def _choose(self, starts: Starts, gradient: Array, history: Array, where: NDArray[np.intp], guess: Array) -> None:
        """Let guesses (c, N) at the points ``where`` (c,) take the place of the usual starts that they beat."""
        at_guess = np.empty_like(guess)
        for i, w, r in zip(where, guess, at_guess, strict=True):
            self.problem.residual(gradient[i], w, r, history[i], self._residual)
        norms = np.linalg.norm(at_guess, axis=1)
        for j in np.flatnonzero(np.isfinite(norms)):
            i = where[j]
            usual = gradient[i], starts.fluctuation[i], history[i]
            starts.guessed[i] = self._beats(norms[j], *usual, out=starts.residual[i])
        used = starts.guessed[where]
        starts.fluctuation[where[used]], starts.residual[where[used]] = guess[used], at_guess[used]
        self.ledger.count("rve/guesses used", int(used.sum()))
        self.ledger.count("rve/guesses refused", int((~used).sum()))

    def _beats(self, norm: float, gradient: Array, fluctuation: Array, history: Array, *, out: Array) -> bool:
        """Whether a residual is lower than that of the usual start, which is found in full where a bound leaves doubt.

        It is left in ``out`` then, and is no number where that start is not admissible.
        """
        if self._bound is not None and not norm >= self._bound.norm(gradient, fluctuation, history):
            return True
        self.problem.residual(gradient, fluctuation, out, history, self._residual)
        return not norm >= np.linalg.norm(out)

    def _known(self, gradient: Array, history: Array) -> Array:
        """What a predictor is told (n, k + f): gradients, and features of the history."""
        return np.ascontiguousarray(np.hstack([gradient, self.problem.history.averages(history)]))

    def _changes(self, now: Array, before: Array) -> Array | None:
        """Changes (n, N) of the predicted fields, NaN where none is predicted; None where the predictor fails."""
        n = len(now)
        try:
            guesses = [self.predictor.predict(known) for known in (now, before)]
            told = usable(guesses[0].status) & usable(guesses[1].status)
            if not told.any():
                return None
            for guess in guesses:
                _check_shape("predicted fluctuations", guess.values, (n, self.problem.n))
            changes = np.where(told[:, None], guesses[0].values - guesses[1].values, np.nan)
            return self.problem.permitted(changes[:, :, None])[:, :, 0]
        except Exception as error:  # whatever goes wrong in a predictor, the usual start remains
            self._fault(error)
            return None

    def _told(self, known: Array) -> Array | None:
        """The predictor's sensitivities to gradients, a copy; None where it has none or fails."""
        if not isinstance(self.predictor, DifferentiablePredictor):
            return None
        try:
            told = self.predictor.sensitivity(known)
            _check_shape("predicted sensitivities", told, (len(known), self.problem.n, known.shape[1]))
            return np.array(self.problem.permitted(told[:, :, : self.problem.spec.k]), dtype=float)
        except Exception as error:  # see _changes
            self._fault(error)
            return None

    def _fault(self, error: Exception) -> None:
        self.ledger.count("rve/predictor faults")
        name = type(self.predictor).__name__
        warnings.warn(f"{name} failed: {type(error).__name__}: {error}", RuntimeWarning, stacklevel=5)


def _check_shape(what: str, values: Array, shape: tuple[int, ...]) -> None:
    if values.shape != shape:
        raise ContractError(f"{what} must have shape {shape}, got {values.shape}")

"""Guessed fluctuations: where the iterations of an RVE may start instead of at the usual predictor.

A guess is carried along with the point: w₀ + ŵ(g) − ŵ(g₀), with ŵ the predictor and w₀ the equilibrium at g₀, so that
only the change of the field has to be predicted.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from coupling.anchors import product
from coupling.contract import Array, usable
from coupling.errors import ContractError
from coupling.guess import DifferentiablePredictor, Predictor, better_start
from coupling.ledger import Ledger
from solver_adapters.rve.cell_problem import CellProblem
from solver_adapters.rve.memory import Memory

Norm = Callable[[Array], float]

_FAR = 1e-3  # relative change of the gradient from which on a guess may beat the sensitivity


class FluctuationGuesses:
    """Starts of n points, guessed or usual, decided by the true residual of each.

    Ledger: counts ``rve/guesses used``, ``rve/guesses refused``, ``rve/predictor faults`` (calls that raised or
    answered in another shape).
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
        if far.size and (changes := self._changes(memory.gradient[far], gradient[far])) is not None:
            for i, change in zip(far, changes, strict=True):
                if np.isfinite(change).all():
                    guess = memory.fluctuation[i] + change
                    start[i], used[i] = better_start(guess, start[i], self._norm_at(gradient[i]), self.ledger, "rve")
        return start, used

    def sensitivities(self, gradient: Array, start: Array, memory: Memory) -> tuple[Array, Array]:
        """Sensitivities S (n, N, k) at starts w that are guesses, and estimates (n,) of their relative errors.

        S is the predictor's or, where that explains the step from the last equilibrium worse or there is none, the one
        there corrected by the secant, S₀ + (w − w₀ − S₀ s) sᵀ/|s|². Their error is judged by what the mean of S₀ and S
        leaves of w − w₀, which is of third order in the step where both are right: twice that, relative to w − w₀.
        """
        step, change = gradient - memory.gradient, start - memory.fluctuation
        left = change - product(memory.sensitivity, step)
        size, square = np.linalg.norm(change, axis=1), (step**2).sum(axis=1)
        S = memory.sensitivity + left[:, :, None] * (step / square[:, None])[:, None, :]
        error = np.linalg.norm(left, axis=1) / size
        told = self._told(gradient)
        if told is not None:
            told_error = np.linalg.norm(2.0 * left - product(told - memory.sensitivity, step), axis=1) / size
            better = np.isfinite(told).all(axis=(1, 2)) & (told_error < error)
            S[better], error[better] = told[better], told_error[better]
        return S, error

    def _changes(self, here: Array, there: Array) -> Array | None:
        """Changes (n, N) of the predicted fields, NaN where none is predicted; None where the predictor fails."""
        n = len(here)
        try:
            guesses = [self.predictor.predict(np.ascontiguousarray(g)) for g in (there, here)]
            told = usable(guesses[0].status) & usable(guesses[1].status)
            if not told.any():
                return None
            for guess in guesses:
                _check_shape("predicted fluctuations", guess.values, (n, self.problem.n))
            return np.where(told[:, None], guesses[0].values - guesses[1].values, np.nan)
        except Exception as error:  # whatever goes wrong in a predictor, the usual start remains
            self._fault(error)
            return None

    def _told(self, gradient: Array) -> Array | None:
        """The predictor's sensitivities, None where it has none or fails."""
        if not isinstance(self.predictor, DifferentiablePredictor):
            return None
        try:
            told = self.predictor.sensitivity(gradient)
            _check_shape("predicted sensitivities", told, (len(gradient), self.problem.n, gradient.shape[1]))
            return told
        except Exception as error:  # see _changes
            self._fault(error)
            return None

    def _fault(self, error: Exception) -> None:
        self.ledger.count("rve/predictor faults")
        name = type(self.predictor).__name__
        warnings.warn(f"{name} failed: {type(error).__name__}: {error}", RuntimeWarning, stacklevel=5)

    def _norm_at(self, gradient: Array) -> Norm:
        def norm(fluctuation: Array) -> float:
            self.problem.residual(gradient, fluctuation, self._residual)
            size = float(np.linalg.norm(self._residual))
            return size if np.isfinite(size) and self.problem.is_admissible(gradient, fluctuation) else np.inf

        return norm


def _check_shape(what: str, values: Array, shape: tuple[int, ...]) -> None:
    if values.shape != shape:
        raise ContractError(f"{what} must have shape {shape}, got {values.shape}")

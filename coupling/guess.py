"""Guessed solutions: what is known ↦ a predicted state vector, and the guard that lets no guess do harm.

A *predictor* maps what is known of n problems, rows x of f numbers, to the state vectors y of N numbers that are
expected to solve them:

* at the fine scale x is the macroscopic gradient of a point and y the fluctuation field of its RVE;
* at the macroscale n = 1, x is the load factor or time and y holds the unknowns that this rank owns.

A guess only ever stands where an iteration starts. The *guard* (:func:`better_start`) decides between the guess and
the standard start by the true residual, so that the worst guess costs two residual evaluations. A standard start that
is not admissible counts as one with an infinite residual: any admissible guess is better.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np

from coupling.contract import Array, Status, StatusArray
from coupling.ledger import Ledger

Bounds: TypeAlias = tuple[float, float]
"""At least and at most how large a residual norm is; both the norm itself where that is known exactly."""


@dataclass(frozen=True)
class Guess:
    """Predicted state vectors of n problems.

    Args:
        values: (n, N).
        status: (n,) int8 of :class:`coupling.contract.Status`; rows that are not usable hold no guess.
    """

    values: Array
    status: StatusArray

    @classmethod
    def none(cls, n: int, size: int) -> Guess:
        """No guess for any of n problems."""
        return cls(np.full((n, size), np.nan), np.full(n, Status.FAILED, dtype=np.int8))


@runtime_checkable
class Predictor(Protocol):
    """A source of guesses.

    Where the unknowns of one problem are spread over ranks, both methods are collective over the communicator that the
    predictor was given, and all ranks get the same status.
    """

    def predict(self, known: Array) -> Guess:
        """Guesses for the rows x of ``known`` (n, f); a predictor that cannot say anything yet answers Guess.none."""
        ...

    def observe(self, known: Array, found: Array) -> None:
        """Learn that the rows of ``known`` (n, f) have the solutions ``found`` (n, N)."""
        ...


@runtime_checkable
class DifferentiablePredictor(Predictor, Protocol):
    """A predictor that also knows how its guesses change."""

    def sensitivity(self, known: Array) -> Array:
        """∂y/∂x (n, N, f) at the rows of ``known`` (n, f)."""
        ...


def better_start(
    guess: Array, standard: Array, residual: Callable[[Array], Bounds], ledger: Ledger, name: str
) -> tuple[Array, bool]:
    """The guess (N,) where it is admissible and its residual is lower than at the standard start, else that start.

    ``residual`` bounds ‖r(y)‖ on the scale in which the iteration measures its convergence: the guess is used where
    ‖r‖ is at most less there than it is at least at the standard start, so that errors of residuals never decide for
    it. NaN or infinity say that y is not admissible (not finite, det F ≤ 0 at a quadrature point): such a guess is
    refused, and such a standard start counts as an infinite residual, so that any admissible guess is used. Where the
    unknowns are spread over ranks ``residual`` is collective and equal on all of them, and so is this function.

    Ledger: counts ``NAME/guesses used``, ``NAME/guesses refused``.

    Returns:
        The start and whether it is the guess.
    """
    least, _ = residual(standard)
    _, most = residual(guess)  # last, because a guess that is used is evaluated again where the iteration starts
    if np.isfinite(most) and not most >= least:
        ledger.count(f"{name}/guesses used")
        return guess, True
    ledger.count(f"{name}/guesses refused")
    return standard, False

"""A predictor that can do no harm: asked, checked, compared by residual, and taught, on all ranks alike."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from coupling.contract import Array, usable
from coupling.errors import ContractError
from coupling.guess import Bounds, Guess, Predictor, better_start
from coupling.ledger import Ledger


class GuardedPredictor:
    """Starts for a sequence of solves of one problem, from a predictor behind the guard of :mod:`coupling.guess`.

    All methods are collective over ``comm`` and all ranks take the same branch. A guess is refused everywhere where on
    any rank the predictor raises, or answers in another shape, with an unusable status or with numbers that are not
    finite; otherwise the residual decides. A predictor that raises when it is taught on any rank knows different things
    on different ranks from then on: it is not asked again.

    Ledger, on rank 0: counts of :func:`coupling.guess.better_start`, ``NAME/guesses missing`` (the predictor had none),
    ``NAME/predictor faults`` (it raised or answered wrongly).

    Args:
        predictor: the source of guesses.
        comm: communicator over which the unknowns are spread, None for one process.
        ledger: where the outcomes are entered.
        name: the prefix of their names.
    """

    def __init__(self, predictor: Predictor, *, comm: Any, ledger: Ledger, name: str) -> None:
        self.predictor = predictor
        self._comm, self._name = comm, name
        self._ledger = ledger if comm is None or comm.rank == 0 else Ledger()
        self._broken = False

    def start(self, known: Array, standard: Array, residual: Callable[[Array], Bounds]) -> tuple[Array, bool]:
        """Where the solve at x = ``known`` (f,) starts, and whether that is the guess (collective).

        ``standard`` (N,) is this rank's part of the standard start and ``residual`` as in
        :func:`coupling.guess.better_start`.
        """
        guess = None if self._broken else self._predicted(known, standard)
        if guess is None:
            return standard, False
        return better_start(guess, standard, residual, self._ledger, self._name)

    def learn(self, known: Array, found: Array) -> None:
        """Teach the predictor that the solution at x = ``known`` (f,) is ``found`` (N,) on this rank (collective)."""
        if self._broken:
            return
        error = None
        try:
            self.predictor.observe(np.atleast_2d(known), np.atleast_2d(found))
        except Exception as caught:  # whatever goes wrong in a predictor, the standard start remains
            error = caught
        self._broken = self._any(error is not None)
        if self._broken:
            self._fault("could not learn, it is not asked again", error)

    def _predicted(self, known: Array, standard: Array) -> Array | None:
        """This rank's part of the guess (N,), None on all ranks where it cannot be used on one."""
        guess, error = None, None
        try:
            guess = self.predictor.predict(np.atleast_2d(known))
            missing = not usable(guess.status).all()
            error = None if missing else _flaw(guess, standard)
        except Exception as caught:  # see learn
            error, missing = caught, True
        faults, lacking = self._sums(error is not None, missing)
        if faults:
            self._fault("gave no usable guess", error)
        elif lacking:
            self._ledger.count(f"{self._name}/guesses missing")
        return None if faults or lacking or guess is None else guess.values[0]

    def _any(self, here: bool) -> bool:
        return bool(self._sums(here)[0])

    def _sums(self, *flags: bool) -> Array:
        local = np.array(flags, dtype=np.float64)
        total: Array = local if self._comm is None else self._comm.allreduce(local)
        return total

    def _fault(self, what: str, error: Exception | None) -> None:
        self._ledger.count(f"{self._name}/predictor faults")
        if error is not None:
            warnings.warn(
                f"{type(self.predictor).__name__} {what}: {type(error).__name__}: {error}", RuntimeWarning, stacklevel=4
            )


def _flaw(guess: Guess, standard: Array) -> Exception | None:
    """What makes a guess unusable whatever its residual."""
    values = guess.values
    if values.shape != (1, standard.size):
        return ContractError(f"its values must have shape {(1, standard.size)}, got {values.shape}")
    if not np.isfinite(values).all():
        return ContractError(f"{np.count_nonzero(~np.isfinite(values))} of its values are not finite")
    return None

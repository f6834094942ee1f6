"""Polynomial extrapolation."""

from __future__ import annotations

import numpy as np

from coupling.contract import Array, Status
from coupling.errors import ContractError
from coupling.guess import Guess


class PolynomialPredictor:
    """y(x) = Σ ℓᵢ(x) yᵢ, the Lagrange polynomial through the last states yᵢ at distinct parameters xᵢ.

    Degree 0 is the previous state, degree 1 the secant predictor. The *tangent* (Euler) predictor, y_n + (dy/dx) Δx
    with J dy/dx = −∂F/∂x, agrees with the secant to O(Δx²) and costs a linear solve; with an old factorisation it is
    :class:`solver_adapters.warm_starts.tangent.TangentPredictor`.

    Args:
        degree: of the polynomial; less while fewer states are known.
    """

    def __init__(self, degree: int) -> None:
        if degree < 0:
            raise ContractError(f"degree must be 0 or more, got {degree}")
        self.degree = degree
        self._states: list[tuple[float, Array]] = []

    def predict(self, known: Array) -> Guess:
        """The polynomial at x = ``known`` (1, 1)."""
        if not self._states:
            return Guess.none(1, 0)
        x = _parameter(known)
        at = [a for a, _ in self._states]
        weights = [np.prod([(x - b) / (a - b) for b in at if b != a]) for a in at]
        total = sum(w * y for w, (_, y) in zip(weights, self._states, strict=True))
        return Guess(np.atleast_2d(total), np.array([Status.OK], dtype=np.int8))

    def observe(self, known: Array, found: Array) -> None:
        """Pass through the state ``found`` (1, N) at x = ``known`` (1, 1), and no more through one at the same x."""
        x = _parameter(known)
        others = [(a, y) for a, y in self._states if a != x]
        self._states = [*others, (x, found[0].copy())][-self.degree - 1 :]


def _parameter(known: Array) -> float:
    if known.shape != (1, 1):
        raise ContractError(
            f"a polynomial extrapolates over one parameter, known must have shape (1, 1), got {known.shape}: "
            "for several parameters use PODPredictor"
        )
    return float(known[0, 0])

"""Levenberg–Marquardt iteration for small nonlinear least-squares problems."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from coupling.contract import Array


class LeastSquares(Protocol):
    """min ‖r(θ)‖²."""

    def cost(self, theta: Array) -> float:
        """‖r‖²."""
        ...

    def normal_equations(self, theta: Array) -> tuple[Array, Array]:
        """JᵀJ, of which the upper triangle is used, and Jᵀr."""
        ...


def levenberg_marquardt(problem: LeastSquares, theta: Array, *, damping: float = 1e-2) -> Iterator[tuple[Array, float]]:
    """Iterates θ of decreasing cost ‖r(θ)‖², without end until no step lowers the cost any more.

        (JᵀJ + λ 1) δ = −Jᵀr

    with λ changed by the ratio of actual to predicted decrease (Nielsen 1999, Damping parameter in Marquardt's
    method, eq. 2.5; Madsen, Nielsen, Tingleff 2004, Methods for non-linear least squares problems, algorithm 3.16).

    Args:
        problem: r through its cost and normal equations.
        theta: start (P,); not modified.
        damping: λ at the start.

    Yields:
        θ and its cost after every accepted step.
    """
    cost, growth = problem.cost(theta), 2.0
    while True:
        gram, gradient = problem.normal_equations(theta)
        while True:
            step = _step(gram, gradient, damping)
            trial = np.inf if step is None else problem.cost(theta + step)
            if step is not None and trial < cost:
                break
            damping, growth = damping * growth, 2.0 * growth
            if damping > 1e10:
                return
        predicted = float(step @ (damping * step - gradient))
        damping *= max(1.0 / 3.0, 1.0 - (2.0 * (cost - trial) / predicted - 1.0) ** 3)
        damping, growth = max(damping, 1e-15), 2.0
        theta, cost = theta + step, trial
        yield theta, cost


def _step(gram: Array, gradient: Array, damping: float) -> Array | None:
    """δ, or None where the damped matrix is not positive definite to rounding."""
    damped = gram.copy(order="F")
    damped[np.diag_indices_from(damped)] += damping
    try:
        factor = cho_factor(damped, lower=False, overwrite_a=True, check_finite=False)
    except LinAlgError:
        return None
    return -np.asarray(cho_solve(factor, gradient, check_finite=False))

"""Closures that fail or err in a known way, to try out what must cope with that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coupling.contract import Array, Closure, Response, Status, mark_unusable, usable
from coupling.errors import ContractError


class FailingClosure:
    """A closure that does not converge where it is told to, and is the inner one elsewhere.

    Args:
        inner: any closure.
        fails: mask (n,) of the points that fail, of the gradients (n, k).
    """

    def __init__(self, inner: Closure, fails: Callable[[Array], NDArray[np.bool_]]) -> None:
        self.inner, self.fails, self.spec = inner, fails, inner.spec

    def initial_state(self, n: int) -> Array | None:
        """The inner closure's."""
        return self.inner.initial_state(n)

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """The inner response, NOT_CONVERGED and NaN where ``fails(gradient)``."""
        return mark_unusable(self.inner.evaluate(gradient, state, dt, hint), self.fails(gradient), Status.NOT_CONVERGED)


class ClosedFormSurrogate:
    """A surrogate of known error: the inner closure with flux, tangent and energy times (1 + error).

    Its uncertainty is the error it makes, |error| ‖flux‖ with the inner flux; gradients outside the box are
    OUTSIDE_RANGE but answered.

    Args:
        inner: any closure.
        error: relative error of the flux.
        lower: lower corner of the box of gradients, k values.
        upper: upper corner.
    """

    def __init__(self, inner: Closure, error: float, lower: ArrayLike, upper: ArrayLike) -> None:
        self.inner, self.error, self.spec = inner, error, inner.spec
        self.lower, self.upper = np.asarray(lower, dtype=float), np.asarray(upper, dtype=float)
        for name, corner in (("lower", self.lower), ("upper", self.upper)):
            if corner.shape != (self.spec.k,):
                raise ContractError(f"{name} must have {self.spec.k} values, one per component, got {corner.shape}")

    def initial_state(self, n: int) -> Array | None:
        """The inner closure's."""
        return self.inner.initial_state(n)

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """The inner response with its error and its uncertainty."""
        exact = self.inner.evaluate(gradient, state, dt, hint)
        inside = ((gradient >= self.lower) & (gradient <= self.upper)).all(axis=1)
        scale = 1.0 + self.error
        return replace(
            exact,
            flux=scale * exact.flux,
            tangent=scale * exact.tangent,
            status=np.where(usable(exact.status) & ~inside, np.int8(Status.OUTSIDE_RANGE), exact.status),
            uncertainty=abs(self.error) * np.linalg.norm(exact.flux, axis=1),
            energy=None if exact.energy is None else scale * exact.energy,
        )

"""What the checks are made on: a closure, points and states to evaluate it at, and how answers are compared."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from coupling.contract import Array, Closure, Response, usable
from coupling.errors import ContractError

Outcome: TypeAlias = tuple[bool, float | None, str]
"""Passed, figure and explanation of a :class:`Result`."""


DOES_NOT_APPLY = "does not apply: "


@dataclass(frozen=True)
class Result:
    """Outcome of one check.

    Args:
        name: what was checked.
        passed: whether the closure keeps this part of the contract (True also where it does not apply).
        figure: the largest error found, relative where a tolerance applies, or None where nothing is measured.
        explanation: what was found, and what to do where it failed.
    """

    name: str
    passed: bool
    figure: float | None
    explanation: str

    @property
    def applies(self) -> bool:
        """Whether the closure has what is checked."""
        return not self.explanation.startswith(DOES_NOT_APPLY)


class Subject:
    """A closure under test.

    Args:
        closure: the closure.
        gradients: (n, k), n ≥ 2, or None to draw ``samples`` of them.
        samples: how many gradients are drawn.
        amplitude: they are drawn uniformly within ± amplitude of the reference.
        seed: of all random numbers.
        dt: length of the increments.
        tolerance: relative error up to which two answers are the same; closures that iterate answer to their tolerance.
        tangent_tolerance: relative error up to which the tangent is the derivative of the flux.
    """

    def __init__(
        self,
        closure: Closure,
        *,
        gradients: Array | None,
        samples: int,
        amplitude: float,
        seed: int,
        dt: float,
        tolerance: float,
        tangent_tolerance: float,
    ) -> None:
        self.closure, self.spec, self.dt = closure, closure.spec, dt
        self.tolerance, self.tangent_tolerance = tolerance, tangent_tolerance
        self.rng = np.random.default_rng(seed)
        self.reference = np.array(self.spec.reference, dtype=np.float64)
        if gradients is None:
            gradients = self.reference + amplitude * self.rng.uniform(-1.0, 1.0, (samples, self.spec.k))
        self.gradients = np.array(gradients, dtype=np.float64, order="C")
        if self.gradients.ndim != 2 or self.gradients.shape[1] != self.spec.k or len(self.gradients) < 2:
            raise ContractError(
                f"gradients must have shape (n, {self.spec.k}) with n of 2 or more, got {self.gradients.shape}"
            )
        self.n = len(self.gradients)
        self.size = float(np.abs(self.gradients - self.reference).max()) or amplitude

    def evaluate(
        self, gradient: Array, state: Array | None, *, dt: float | None = None, hint: Array | None = None
    ) -> Response:
        """The closure's answer to copies of the arguments."""
        return self.closure.evaluate(
            np.array(gradient), copied(state), self.dt if dt is None else dt, hint=copied(hint)
        )

    @cached_property
    def states(self) -> Array | None:
        """States (n, s) after an increment half-way to the gradients, so that a history has something to remember."""
        initial = self.closure.initial_state(self.n)
        if initial is None:
            return None
        half = self.evaluate(self.reference + 0.5 * (self.gradients - self.reference), initial)
        assert half.state is not None
        return np.where(usable(half.status)[:, None], half.state, initial)

    @cached_property
    def answer(self) -> Response:
        """The closure's answer at the gradients and states."""
        return self.evaluate(self.gradients, self.states)

    def rows(self, index: NDArray[np.intp] | slice) -> tuple[Array, Array | None]:
        """Gradients and states of some of the points."""
        return self.gradients[index], None if self.states is None else self.states[index]

    def difference(self, one: Response, other: Response, rows: NDArray[np.bool_] | None = None) -> float:
        """Largest relative difference of flux, tangent and history at the points ``rows``.

        Rows of a state are opaque: histories are the same where the same increment leads on to the same flux. None
        stands for all usable points, and then ∞ is returned where these are not the same in both responses.
        """
        good = usable(one.status) if rows is None else rows
        if rows is None and not np.array_equal(good, usable(other.status)):
            return float("inf")
        pairs = [(one.flux, other.flux, self.size), (one.tangent, other.tangent, 1.0)]
        scale = self.tangent_scale(one)
        errors = [_largest(a[good] - b[good]) / (scale * size) for a, b, size in pairs]
        if self.spec.history and one.state is not None and other.state is not None:
            ours, theirs = (
                self._flux_later(response.state[good]) for response in (one, other) if response.state is not None
            )
            errors.append(_largest(ours - theirs) / (scale * self.size))
        return max(errors)

    def _flux_later(self, state: Array) -> Array:
        """Fluxes (n, m) at the end of one more increment, the same from all states (n, s); 0 at points that fail."""
        beyond = self.reference + 1.5 * (self.gradients[0] - self.reference)
        response = self.evaluate(np.tile(beyond, (len(state), 1)), state)
        return np.where(usable(response.status)[:, None], response.flux, 0.0)

    def tangent_scale(self, response: Response) -> float:
        """Largest tangent entry of a response: the scale of its tangents, and times ``size`` of its fluxes."""
        return _largest(response.tangent[usable(response.status)]) or 1.0


def _largest(values: Array) -> float:
    """Largest |value|, ∞ where one is NaN."""
    if not values.size:
        return 0.0
    worst = float(np.abs(values).max())
    return float("inf") if np.isnan(worst) else worst


def copied(array: Array | None) -> Array | None:
    """A copy, or None."""
    return None if array is None else array.copy()


def within(tolerance: float, error: float, fault: str) -> Outcome:
    """The outcome of an error measured against a tolerance."""
    passed = error <= tolerance
    return passed, error, f"within {tolerance:.0e}" if passed else f"{fault} (tolerance {tolerance:.0e})"

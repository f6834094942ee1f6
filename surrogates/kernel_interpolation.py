"""Interpolation of scattered samples by a kernel, with its derivative.

    f(x) = Σᵢ cᵢ φ(|ξ − ξᵢ|) + Σ_{|α| ≤ 3} b_α ξ^α,   φ(r) = −r⁵,   ξ = (x − x₀)/s

passes through all samples; the polynomial makes the coefficients unique, which are orthogonal to it: Σᵢ cᵢ ξᵢ^α = 0
(polyharmonic splines; Wendland 2005, Scattered Data Approximation, ch. 8). It needs no training beyond one linear
solve, which is done in a second for 2,000 samples, and adapts to where they vary, unlike one polynomial for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import linalg

from coupling.contract import Array
from coupling.errors import ModelError
from surrogates.polynomial_energy import Monomials

_DEGREE = 3


@dataclass(frozen=True)
class Interpolant:
    """The function f: ℝᶠ → ℝ^q of this module's docstring.

    Args:
        centres: (n, f), ξᵢ.
        coefficients: (n, q), c.
        polynomial: (M, q), b.
        reference: (f,), x₀.
        scale: (f,), s.
    """

    centres: Array
    coefficients: Array
    polynomial: Array
    reference: Array
    scale: Array

    @classmethod
    def through(cls, x: Array, y: Array, *, reference: Array) -> Interpolant:
        """The interpolant of the samples y (n, q) at distinct x (n, f).

        Raises:
            ModelError: samples are too few, not finite or repeated.
        """
        space = Monomials.up_to(_DEGREE, x.shape[1])
        least = len(space.exponents)
        if len(x) <= least or len(y) != len(x) or not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise ModelError(
                f"interpolation needs more than {least} samples, all finite and one value for each, got {len(x)} and "
                f"{len(y)}: sample more, and drop what failed"
            )
        scale = np.abs(x - reference).max(axis=0)
        centres = (x - reference) / scale
        P = space.evaluate(centres)
        system = np.block([[-(_squares(centres, centres) ** 2.5), P], [P.T, np.zeros((least, least))]])
        try:
            solution = linalg.solve(system, np.vstack([y, np.zeros((least, y.shape[1]))]), assume_a="sym")
        except linalg.LinAlgError as error:
            raise ModelError("the samples cannot be told apart: drop repeated ones") from error
        return cls(centres, solution[: len(x)], solution[len(x) :], np.array(reference), scale)

    def __call__(self, x: Array) -> Array:
        """Values f (n, q) at x (n, f)."""
        return self._value(self._near(x))

    def derivative(self, x: Array) -> Array:
        """∂f/∂x (n, q, f) at x (n, f)."""
        return self._slope(self._near(x))

    def both(self, x: Array) -> tuple[Array, Array]:
        """Value and derivative, for little more than one of them."""
        near = self._near(x)
        return self._value(near), self._slope(near)

    def _near(self, x: Array) -> _Near:
        xi = (x - self.reference) / self.scale
        squares = _squares(xi, self.centres)
        cubes = np.sqrt(squares)
        cubes *= squares
        return _Near(xi, squares, cubes, self._space.evaluate(xi))

    def _value(self, near: _Near) -> Array:
        return np.asarray(near.monomials @ self.polynomial - (near.cubes * near.squares) @ self.coefficients)

    def _slope(self, near: _Near) -> Array:
        """From ∂φ/∂ξ = −5 r³ (ξ − ξᵢ), one product for all of Σᵢ cᵢ r³ and Σᵢ cᵢ ξᵢ r³."""
        moments, polynomials = self._slopes
        n, f, q = len(near.xi), len(self.scale), self.coefficients.shape[1]
        sums = (near.cubes @ moments).reshape(n, 1 + f, q)
        slopes = np.empty((f, n, q))
        for v in range(f):
            np.matmul(near.monomials, polynomials[v], out=slopes[v])
            slopes[v] += 5.0 * (sums[:, 1 + v] - near.xi[:, [v]] * sums[:, 0])
            slopes[v] /= self.scale[v]
        return slopes.transpose(1, 2, 0)

    @cached_property
    def _slopes(self) -> tuple[Array, list[Array]]:
        """Coefficients and their products with the centres' components, side by side; derivatives of the polynomial."""
        f = len(self.scale)
        moments = [self.coefficients, *(self.coefficients * self.centres[:, [v]] for v in range(f))]
        return np.hstack(moments), [self._space.derivative(v).T @ self.polynomial for v in range(f)]

    @cached_property
    def _space(self) -> Monomials:
        return Monomials.up_to(_DEGREE, len(self.scale))


@dataclass(frozen=True)
class _Near:
    """What values and derivatives at ξ (n, f) have in common: r² and r³ (n, m) to the centres, ξ^α (n, M)."""

    xi: Array
    squares: Array
    cubes: Array
    monomials: Array


def _squares(a: Array, b: Array) -> Array:
    """Squared distances (n, m) of points (n, f) and (m, f), by one product of augmented rows."""
    left = np.column_stack([-2.0 * a, (a * a).sum(axis=1), np.ones(len(a))])
    right = np.column_stack([b, np.ones(len(b)), (b * b).sum(axis=1)])
    squares = left @ right.T
    return np.asarray(np.maximum(squares, 0.0, out=squares))

"""Interpolation of scattered samples by a kernel, with its derivative.

    f(x) = Σᵢ cᵢ φ(|ξ − ξᵢ|) + Σ_{|α| ≤ 3} b_α ξ^α,   φ(r) = −r⁵,   ξ = A (x − x₀)

passes through all samples; the polynomial makes the coefficients unique, which are orthogonal to it: Σᵢ cᵢ ξᵢ^α = 0
(polyharmonic splines; Wendland 2005, Scattered Data Approximation, ch. 8). It needs no training beyond one linear
solve, which is done in a second for 2,000 samples, and adapts to where they vary, unlike one polynomial for all.

Distances are relative to the range of each component, A = A₀ diagonal, or adapted: long in directions in which the
slopes vary, and short where f is nearly linear,

    AᵀA = A₀ᵀ Cᵖ A₀,   C ∝ Σᵢ (∇f(ξᵢ) − ḡ)(∇f(ξᵢ) − ḡ)ᵀ,   ḡ the mean of ∇f(ξᵢ)

with the slopes of a first interpolant that has A₀. C is the outer product of gradients of Radhakrishnan et al. 2024
(Science 383, 1461–1467) less their mean, which a polynomial needs no samples for; p = ½ compares with metrics of mean
second derivatives (anisotropic meshes; Loseille & Alauzet 2011, SIAM J. Numer. Anal. 49, 38–60). Of p = 0, ½ and 1
that is taken which errs least at samples left out, all at once in closed form (Rippa 1999, Adv. Comput. Math. 11,
193–210); p = 0 where the few samples that tell this leave the polynomial undetermined. Adapted distances cost nothing
where f is evaluated, but coefficients grow, and with them rounding errors: sixfold, to 1e-10, for the fluxes of the
first demo's void.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from math import comb

import numpy as np
from scipy import linalg

from coupling.contract import Array
from coupling.errors import ModelError
from surrogates.polynomial_energy import Monomials
from surrogates.potential import check_weights

_DEGREE = 3
_POWERS = (0.0, 0.5, 1.0)
_SHORTEST = 0.1  # scale of an axis relative to the longest
_FEW = 500  # samples that tell the axes, or twice as many as the polynomial has terms


@dataclass(frozen=True)
class Interpolant:
    """The function f: ℝᶠ → ℝ^q of this module's docstring.

    Args:
        centres: (n, f), ξᵢ.
        coefficients: (n, q), c.
        polynomial: (M, q), b.
        reference: (f,), x₀.
        axes: (f, f), A.
    """

    centres: Array
    coefficients: Array
    polynomial: Array
    reference: Array
    axes: Array

    @classmethod
    def through(cls, x: Array, y: Array, *, reference: Array, adapted: bool = False) -> Interpolant:
        """The interpolant of the samples y (n, q) at distinct x (n, f), with adapted distances where asked for.

        Raises:
            ModelError: samples are too few, not finite or repeated, or a component is constant or follows from others.
        """
        least = comb(_DEGREE + x.shape[1], _DEGREE)
        if len(x) <= least or len(y) != len(x) or not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise ModelError(
                f"interpolation needs more than {least} samples, all finite and one value for each, got {len(x)} and "
                f"{len(y)}: sample more, and drop what failed"
            )
        ranges = np.abs(x - reference).max(axis=0)
        scale = np.where(ranges > 0.0, ranges, 1.0)
        if len(np.unique(x, axis=0)) < len(x):
            raise ModelError("the samples cannot be told apart: drop repeated ones")
        if not _determines(x, reference, scale):
            raise ModelError(
                "the samples leave the cubic polynomial undetermined: vary all components and features, and leave out "
                "those that are constant or follow from others"
            )
        axes = np.diag(1.0 / scale)
        few = np.random.default_rng(0).permutation(len(x))[: max(_FEW, 2 * least)]
        if adapted and _determines(x[few], reference, scale):
            rough = cls._along(axes, x[few], y[few], reference)
            possible = _axes(rough.derivative(x[few]), scale)
            axes = min(possible, key=lambda A: _left_out_error((x[few] - reference) @ A.T, y[few]))
        return cls._along(axes, x, y, reference)

    @classmethod
    def _along(cls, axes: Array, x: Array, y: Array, reference: Array) -> Interpolant:
        """The interpolant with these axes."""
        centres = (x - reference) @ axes.T
        system = _system(centres)
        wanted = np.zeros((len(system), y.shape[1]))
        wanted[: len(y)] = y
        try:
            solution = linalg.solve(system, wanted, assume_a="sym")
        except linalg.LinAlgError as error:
            raise ModelError("the samples cannot be told apart: drop repeated ones") from error
        coefficients, polynomial = (np.ascontiguousarray(part) for part in np.split(solution, [len(x)]))
        return cls(centres, coefficients, polynomial, np.array(reference), axes)

    @property
    def outputs(self) -> int:
        """Number of values, q."""
        return self.polynomial.shape[1]

    @property
    def weights(self) -> dict[str, Array]:
        """All its numbers, by the names of the arguments."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_weights(cls, weights: Mapping[str, Array]) -> Interpolant:
        """The interpolant of :attr:`weights`.

        Raises:
            ModelError: arrays are missing or do not belong together, or numbers are not finite.
        """
        centres, values = (weights.get(name, np.empty((0, 0))) for name in ("centres", "polynomial"))
        (n, f), (_, q) = ((*a.shape, 0, 0)[:2] for a in (centres, values))
        check_weights(
            weights,
            {
                "centres": (n, f),
                "coefficients": (n, q),
                "polynomial": (comb(_DEGREE + f, f), q),
                "reference": (f,),
                "axes": (f, f),
            },
        )
        return cls(**weights)

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
        xi = (x - self.reference) @ self.axes.T
        squares = _squares(xi, self.centres)
        cubes = np.sqrt(squares)
        cubes *= squares
        return _Near(xi, squares, cubes, self._space.evaluate(xi))

    def _value(self, near: _Near) -> Array:
        return np.asarray(near.monomials @ self.polynomial - (near.cubes * near.squares) @ self.coefficients)

    def _slope(self, near: _Near) -> Array:
        """From ∂φ/∂x = −5 r³ Aᵀ(ξ − ξᵢ), one product for all of Σᵢ cᵢ r³ and Σᵢ cᵢ Aᵀξᵢ r³."""
        moments, polynomials = self._slopes
        n, f, q = len(near.xi), len(self.axes), self.coefficients.shape[1]
        sums, here = (near.cubes @ moments).reshape(n, 1 + f, q), near.xi @ self.axes
        slopes = np.empty((f, n, q))
        for v in range(f):
            np.matmul(near.monomials, polynomials[v], out=slopes[v])
            slopes[v] += 5.0 * (sums[:, 1 + v] - here[:, [v]] * sums[:, 0])
        return slopes.transpose(1, 2, 0)

    @cached_property
    def _slopes(self) -> tuple[Array, Array]:
        """Coefficients and their products with the components of Aᵀξᵢ, side by side; ∂/∂x of the polynomial."""
        f, centres = len(self.axes), self.centres @ self.axes
        moments = [self.coefficients, *(self.coefficients * centres[:, [v]] for v in range(f))]
        along = np.stack([self._space.derivative(v).T @ self.polynomial for v in range(f)])
        return np.hstack(moments), np.asarray(np.tensordot(self.axes, along, axes=(0, 0)), dtype=np.float64)

    @cached_property
    def _space(self) -> Monomials:
        return Monomials.up_to(_DEGREE, len(self.axes))


@dataclass(frozen=True)
class _Near:
    """What values and derivatives at ξ (n, f) have in common: r² and r³ (n, m) to the centres, ξ^α (n, M)."""

    xi: Array
    squares: Array
    cubes: Array
    monomials: Array


def _determines(x: Array, reference: Array, scale: Array) -> bool:
    """Whether samples at x (n, f) determine the polynomial."""
    P = Monomials.up_to(_DEGREE, x.shape[1]).evaluate((x - reference) / scale)
    return bool(np.linalg.matrix_rank(P) == P.shape[1])


def _axes(slopes: Array, scale: Array) -> list[Array]:
    """A for each power p, from slopes (n, q, f) at samples whose components have the ranges ``scale`` (f,)."""
    deviations = (slopes - slopes.mean(axis=0)) * scale
    sizes, directions = np.linalg.eigh(np.tensordot(deviations, deviations, axes=([0, 1], [0, 1])))
    relative = np.maximum(sizes, 0.0) / (sizes[-1] or 1.0)
    return [np.maximum(relative ** (p / 2), _SHORTEST)[:, None] * directions.T / scale for p in _POWERS]


def _left_out_error(centres: Array, y: Array) -> float:
    """Median of the errors at each sample of the interpolant of all others."""
    n = len(y)
    inverse = linalg.inv(_system(centres))[:n, :n]
    return float(np.median(np.linalg.norm(inverse @ y, axis=1) / np.abs(np.diag(inverse))))


def _system(centres: Array) -> Array:
    """The matrix of the conditions on c and b."""
    P = Monomials.up_to(_DEGREE, centres.shape[1]).evaluate(centres)
    corner = np.zeros((P.shape[1], P.shape[1]))
    return np.block([[-(_squares(centres, centres) ** 2.5), P], [P.T, corner]])


def _squares(a: Array, b: Array) -> Array:
    """Squared distances (n, m) of points (n, f) and (m, f), by one product of augmented rows."""
    left = np.column_stack([-2.0 * a, (a * a).sum(axis=1), np.ones(len(a))])
    right = np.column_stack([b, np.ones(len(b)), (b * b).sum(axis=1)])
    squares = left @ right.T
    return np.asarray(np.maximum(squares, 0.0, out=squares))

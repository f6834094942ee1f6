"""Polynomial fluxes fitted to scattered fluxes, to be extrapolated a little.

    q(g) = Σ_{|α| ≤ d} c_α x^α,   or q = ∂Φ/∂g with such a Φ where the closure's tangent is symmetric

The degree d is the one that extrapolates best, from the three quarters of the samples that are nearest to the reference
state to the quarter that is farthest away. The normal equations of a degree are a leading block of those of all higher
ones, so that trying all of them costs as much as fitting the highest once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import comb, nan

import numpy as np
from scipy import linalg, sparse

from coupling.contract import Array, ClosureSpec
from surrogates.box import Box
from surrogates.model_card import HoldOutErrors, ModelCard
from surrogates.polynomial_energy import Monomials
from surrogates.polynomial_flux import PolynomialFlux, derivatives, flux_of_potential

_HIGHEST, _MOST_TERMS = 9, 250
_NEARER = 0.75
_REACH = 4.0  # half width of the range, relative to that of the samples: a step as long as all before stays inside
_NARROW = 1e-9
_EQUATIONS = 1.5  # for each coefficient
_RIDGE = 1e-15  # relative to the trace of the scaled normal equations
_USEFUL = 0.05


def fit_to_extrapolate(spec: ClosureSpec, gradient: Array, flux: Array) -> PolynomialFlux | None:
    """The polynomial flux of this module's docstring.

    Its range is four times as wide as the samples. The errors on its card are those of the extrapolation by which the
    degree was chosen, of fluxes only.

    Args:
        spec: of the closure.
        gradient: (n, k).
        flux: (n, m).

    Returns:
        The polynomial; None where samples are too few, or no degree extrapolates to 5 %.
    """
    if len(gradient) < 4:
        return None
    box, basis = _range_of(gradient), _basis(spec.k, spec.symmetric)
    scale = 1.0 / box.half_width if spec.symmetric else np.abs(flux).max(axis=0)
    scale = np.where(scale > 0.0, scale, 1.0)
    x = (gradient - box.centre) / box.half_width
    rows = basis.rows(x)
    targets = (flux / scale).reshape(*rows.shape[:2], -1)
    distance = np.linalg.norm((gradient - np.array(spec.reference)) / box.half_width, axis=1)
    near, far = np.split(np.argsort(distance, kind="stable"), [round(_NEARER * len(distance))])
    nearer, farther = (_Equations.of(rows[part], targets[part]) for part in (near, far))
    tried = [(nearer.error_at(farther, size), size, d) for d, size in basis.sizes if nearer.determine(size)]
    error, size, degree = min(tried, default=(nan, 0, 0))
    c = (nearer + farther).solution(size) if error <= _USEFUL else None
    if c is None:
        return None
    errors = HoldOutErrors(None, None, error, nan, nan, nan, error * float(np.abs(flux).max()), len(far))
    card = ModelCard(spec, box, errors, "", {}, {"method": "least squares", "samples": len(gradient)})
    if not spec.symmetric:
        return PolynomialFlux({"coefficients": np.ascontiguousarray((c * scale).T)}, degree, card)
    potential = np.zeros(rows.shape[2])
    potential[:size] = c[:, 0]
    coefficients = flux_of_potential(potential, degree - 1, basis.first, box.half_width)
    return PolynomialFlux({"coefficients": coefficients}, degree - 1, card)


def _range_of(gradient: Array) -> Box:
    lower, upper = gradient.min(axis=0), gradient.max(axis=0)
    centre = (lower + upper) / 2
    half = _REACH * np.maximum((upper - lower) / 2, _NARROW * (1.0 + np.abs(centre)))
    return Box.of(centre - half, centre + half)


@dataclass(frozen=True)
class _Basis:
    """Monomials m of k variables, of which a flux is made, or their gradients where it has a potential."""

    monomials: Monomials
    first: list[sparse.csr_array]
    sizes: list[tuple[int, int]]
    symmetric: bool

    def rows(self, x: Array) -> Array:
        """What multiplies the coefficients at x (n, k): (n, 1, M), or (n, k, M) for those of a potential."""
        m = self.monomials.evaluate(x)
        return np.stack([(D @ m.T).T for D in self.first], axis=1) if self.symmetric else m[:, None]


@lru_cache(maxsize=8)
def _basis(k: int, symmetric: bool) -> _Basis:
    sizes = [(d, comb(d + k, k)) for d in range(1 + symmetric, _HIGHEST + 1)]
    sizes = [(d, size) for d, size in sizes if size <= _MOST_TERMS] or sizes[:1]
    monomials = Monomials.up_to(sizes[-1][0], k)
    return _Basis(monomials, derivatives(monomials, k), sizes, symmetric)


@dataclass(frozen=True)
class _Equations:
    """Normal equations AᵀA c = Aᵀb, with the number of rows of A and bᵀb."""

    gram: Array
    right: Array
    count: int
    square: float

    @classmethod
    def of(cls, rows: Array, targets: Array) -> _Equations:
        """Those of rows (n, r, M) and targets (n, r, q)."""
        A, b = rows.reshape(-1, rows.shape[2]), targets.reshape(-1, targets.shape[2])
        return cls(A.T @ A, A.T @ b, len(A), float(np.vdot(b, b)))

    def __add__(self, other: _Equations) -> _Equations:
        return _Equations(
            self.gram + other.gram, self.right + other.right, self.count + other.count, self.square + other.square
        )

    def determine(self, size: int) -> bool:
        """Whether there are enough for the first coefficients."""
        return self.count >= _EQUATIONS * size

    def solution(self, size: int) -> Array | None:
        """The first ``size`` coefficients (size, q), None where they are not determined to rounding."""
        gram = self.gram[:size, :size]
        norms = np.sqrt(np.diag(gram))
        norms[norms == 0.0] = 1.0
        scaled = gram / norms / norms[:, None]
        scaled[np.diag_indices(size)] += _RIDGE * size
        try:
            factor = linalg.cho_factor(scaled, overwrite_a=True, check_finite=False)
        except linalg.LinAlgError:
            return None
        return np.asarray(linalg.cho_solve(factor, self.right[:size] / norms[:, None]) / norms[:, None])

    def error_at(self, others: _Equations, size: int) -> float:
        """Relative error of the solution in other equations, √(|A c − b|²/|b|²)."""
        c = self.solution(size)
        if c is None or others.square == 0.0:
            return np.inf
        Ac = others.gram[:size, :size] @ c
        square = float(np.vdot(c, Ac) - 2.0 * np.vdot(c, others.right[:size])) + others.square
        return float(np.sqrt(max(square, 0.0) / others.square))

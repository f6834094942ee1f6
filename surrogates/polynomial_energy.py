"""Polynomial energies: fitted by linear least squares in a second, and the control for every claim about a network.

    Ŵ(U) = Σ_{2 ≤ |α| ≤ d} c_α x^α,   x = (U − I)/s,   T = ∂Ŵ/∂U

without constant and linear part, so that energy and flux vanish at U = I. Derivatives of a polynomial are
polynomials: with the vector m(x) of all monomials up to degree d, energy, flux and tangent are the rows of one
matrix product K m(x).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coupling.contract import Array
from coupling.errors import ModelError
from surrogates.backend import Precision, Tensor, backend_of
from surrogates.potential import check_weights
from surrogates.stretch_space import stretch_reference


@dataclass(frozen=True)
class Monomials:
    """All monomials of k variables up to degree d, by degree.

    By degree, then by the variables in order: the multiples of x_v in one degree, those of earlier variables left
    out, are x_v times a tail of the degree before. ``products`` lists them as (slice of the multiples, slice of the
    tail, v).
    """

    exponents: NDArray[np.int64]
    products: tuple[tuple[slice, slice, int], ...]

    @classmethod
    def up_to(cls, degree: int, k: int) -> Monomials:
        """The monomials of k variables of total degree 0, …, ``degree``."""
        exponents, products, unit = [np.zeros(k, dtype=np.int64)], [], np.eye(k, dtype=np.int64)
        for d in range(1, degree + 1):
            end = len(exponents)
            for v in range(k):
                tail = slice(end - comb(d - 2 + k - v, d - 1), end)
                multiples = [row + unit[v] for row in exponents[tail]]
                products.append((slice(len(exponents), len(exponents) + len(multiples)), tail, v))
                exponents += multiples
        return cls(np.array(exponents), tuple(products))

    def evaluate(self, x: Array) -> Array:
        """m(x) (n, M) at x (n, k)."""
        m = np.empty((len(self.exponents), len(x)))
        self.fill(m, x.T, np)
        return m.T

    def fill(self, m: Tensor, x: Tensor, xp: Any) -> None:
        """Overwrite m (M, n) by the monomials at x (k, n), both of the module ``xp``, numpy or torch."""
        m[0] = 1.0
        for multiples, tail, v in self.products:
            xp.multiply(m[tail], x[v], out=m[multiples])

    def derivative(self, variable: int) -> Array:
        """∂ (M, M) with ∂m/∂x_variable = ∂ m."""
        index = {tuple(exponent): column for column, exponent in enumerate(self.exponents)}
        matrix = np.zeros((len(self.exponents),) * 2)
        for row in np.flatnonzero(self.exponents[:, variable]):
            lowered = self.exponents[row].copy()
            lowered[variable] -= 1
            matrix[row, index[tuple(lowered)]] = self.exponents[row, variable]
        return matrix

    def responses(self, scale: Array) -> Array:
        """R (C, M, M): energy, flux (k) and upper triangle of the tangent in U are c·R_r m of the coefficients c."""
        first = [self.derivative(v) / s for v, s in enumerate(scale)]
        pairs = zip(*np.triu_indices(len(scale)), strict=True)
        return np.stack([np.eye(len(self.exponents)), *first, *(first[i] @ first[j] for i, j in pairs)])


class PolynomialEnergy:
    """The energy of this module's docstring. Not safe for threads: one instance has one set of work buffers.

    Nothing makes it grow as a stretch collapses: at det U → 0 the energy is finite, and outside the range of its data
    it may fall without bound, so that a solver can be drawn there. What protects is the box of
    :class:`surrogates.energy_surrogate.EnergySurrogate`, which answers OUTSIDE_RANGE there; an energy with the growth
    term is :class:`surrogates.energy_network.EnergyNetwork`.

    Args:
        weights: ``coefficients`` c (M,) of all monomials up to the degree, by degree, the first 1 + k zero;
            ``scale`` s (k,).
        degree: d ≥ 2.
        k: 3 (2D) or 6 (3D).
        device: where it evaluates, see :func:`surrogates.backend.backend_of`.
        precision: in which it evaluates; weights are float64.

    Raises:
        ModelError: where the weights do not fit, energy or flux do not vanish at U = I, or the device cannot be used.
    """

    family = "polynomial-energy"

    def __init__(
        self,
        weights: Mapping[str, Array],
        degree: int,
        k: int,
        device: str = "cpu",
        precision: Precision = "float64",
    ) -> None:
        if degree < 2 or k not in (3, 6):
            raise ModelError(f"a polynomial energy has degree 2 or more and 3 or 6 inputs, got {degree} and {k}")
        self.degree, self.k, self.backend = degree, k, backend_of(device, precision)
        check_weights(weights, {"coefficients": (comb(degree + k, k),), "scale": (k,)})
        if np.any(weights["coefficients"][: 1 + k]) or not (weights["scale"] > 0.0).all():
            raise ModelError("a polynomial energy needs positive scales and no constant or linear coefficient")
        self.weights = {name: np.array(array) for name, array in weights.items()}
        self._prepare(Monomials.up_to(degree, k))
        self._work = lru_cache(maxsize=2 if device == "cpu" else None)(self._allocate)  # devices see a few sizes only

    @property
    def architecture(self) -> dict[str, Any]:
        """Degree and number of components."""
        return {"degree": self.degree, "k": self.k}

    @classmethod
    def from_architecture(
        cls,
        architecture: Mapping[str, Any],
        weights: Mapping[str, Array],
        device: str = "cpu",
        precision: Precision = "float64",
    ) -> PolynomialEnergy:
        """The polynomial that :attr:`architecture` and :attr:`weights` describe."""
        return cls(weights, architecture["degree"], architecture["k"], device, precision)

    def evaluate(self, U: Tensor, energy: Tensor, flux: Tensor, tangent: Tensor) -> None:
        """Overwrite energy (n,), flux (n, k), tangent (n, k, k) by those at U (n, k), n > 0."""
        xp, work = self.backend.xp, self._work(len(U))
        xp.subtract(U, self._reference, out=work.x)
        xp.multiply(work.x, self._inverse_scale, out=work.x)
        for tail, x, multiples in work.products:
            xp.multiply(tail, x, out=multiples)
        xp.matmul(self._rows, work.monomials, out=work.rows)
        energy[:] = work.rows[0]
        flux[:] = work.flux
        xp.matmul(work.pairs, self._unpack, out=tangent.reshape(len(U), -1))

    def _prepare(self, monomials: Monomials) -> None:
        array, scale = self.backend.array, self.weights["scale"]
        self._reference, self._inverse_scale = array(stretch_reference(self.k)), array(np.reciprocal(scale))
        self._rows = array(self.weights["coefficients"] @ monomials.responses(scale))
        i, j = np.triu_indices(self.k)
        unpack = np.zeros((len(i), self.k, self.k))
        unpack[np.arange(len(i)), i, j] = unpack[np.arange(len(i)), j, i] = 1.0
        self._unpack = array(unpack.reshape(len(i), -1))
        self._products = monomials.products

    def _allocate(self, n: int) -> _Work:
        count, k = self._rows.shape[1], self.k
        monomials, rows = self.backend.empty(count, n), self.backend.empty(len(self._rows), n)
        monomials[0] = 1.0
        x = monomials[1 : 1 + k]
        products = [(monomials[tail], x[v], monomials[multiples]) for multiples, tail, v in self._products[k:]]
        return _Work(monomials, x.T, products, rows, rows[1 : 1 + k].T, rows[1 + k :].T)


@dataclass(frozen=True)
class _Work:
    """Buffers for n points: ``monomials`` (M, n), of which ``x`` (n, k) and ``products`` are views, ``rows`` (C, n).

    ``flux`` (n, k) and ``pairs`` (n, k(k+1)/2), the upper triangle of the tangent, are views of ``rows``.
    """

    monomials: Tensor
    x: Tensor
    products: list[tuple[Tensor, Tensor, Tensor]]
    rows: Tensor
    flux: Tensor
    pairs: Tensor

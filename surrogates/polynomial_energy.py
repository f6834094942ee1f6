"""Polynomial energies: fitted by linear least squares in a second, and the control for every claim about a network.

    Ŵ(U) = Σ_{2 ≤ |α| ≤ d} c_α x^α,   x = (U − I)/s,   T = ∂Ŵ/∂U

without constant and linear part, so that energy and flux vanish at U = I. Derivatives of a polynomial are
polynomials: with the vector m(x) of all monomials up to degree d, energy, flux and tangent are the rows of one
matrix product K m(x).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import comb
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from coupling.contract import Array
from coupling.errors import ModelError
from surrogates.growth import Triple
from surrogates.potential import check_weights
from surrogates.stretch_space import stretch_reference


@dataclass(frozen=True)
class Monomials:
    """All monomials of k variables up to degree d, by degree.

    Each is an earlier one, ``parent``, times one ``variable``; ``levels`` holds the slice of every degree, 1 to d.
    """

    exponents: NDArray[np.int64]
    parent: NDArray[np.int64]
    variable: NDArray[np.int64]
    levels: tuple[slice, ...]

    @classmethod
    def up_to(cls, degree: int, k: int) -> Monomials:
        """The monomials of k variables of total degree 0, …, ``degree``."""
        tuples = [c for d in range(degree + 1) for c in itertools.combinations_with_replacement(range(k), d)]
        index = {c: i for i, c in enumerate(tuples)}
        sizes = [len(c) for c in tuples]
        bounds = np.searchsorted(sizes, np.arange(degree + 2))
        return cls(
            exponents=np.array([[c.count(v) for v in range(k)] for c in tuples], dtype=np.int64).reshape(-1, k),
            parent=np.array([index[c[:-1]] for c in tuples], dtype=np.int64),
            variable=np.array([c[-1] if c else 0 for c in tuples], dtype=np.int64),
            levels=tuple(slice(int(a), int(b)) for a, b in itertools.pairwise(bounds[1:])),
        )

    def evaluate(self, x: Array) -> Array:
        """m(x) (n, M) at x (n, k)."""
        m = np.ones((len(self.exponents), len(x)))
        for level in self.levels:
            m[level] = m[self.parent[level]] * x.T[self.variable[level]]
        return m.T

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

    Args:
        weights: ``coefficients`` c (M,) of all monomials up to the degree, by degree, the first 1 + k zero;
            ``scale`` s (k,).
        degree: d ≥ 2.
        k: 3 (2D) or 6 (3D).
        device: where it evaluates.

    Raises:
        ModelError: where the weights do not fit, or energy or flux do not vanish at U = I.
    """

    family = "polynomial-energy"

    def __init__(self, weights: Mapping[str, Array], degree: int, k: int, device: torch.device | str = "cpu") -> None:
        if degree < 2 or k not in (3, 6):
            raise ModelError(f"a polynomial energy has degree 2 or more and 3 or 6 inputs, got {degree} and {k}")
        self.degree, self.k, self.device = degree, k, torch.device(device)
        check_weights(weights, {"coefficients": (comb(degree + k, k),), "scale": (k,)})
        if np.any(weights["coefficients"][: 1 + k]) or not (weights["scale"] > 0.0).all():
            raise ModelError("a polynomial energy needs positive scales and no constant or linear coefficient")
        self.weights = {name: np.array(array) for name, array in weights.items()}
        self._prepare(Monomials.up_to(degree, k))
        self._work = lru_cache(maxsize=2)(self._allocate)

    @property
    def architecture(self) -> dict[str, Any]:
        """Degree and number of components."""
        return {"degree": self.degree, "k": self.k}

    @classmethod
    def from_architecture(
        cls, architecture: Mapping[str, Any], weights: Mapping[str, Array], device: torch.device | str = "cpu"
    ) -> PolynomialEnergy:
        """The polynomial that :attr:`architecture` and :attr:`weights` describe."""
        return cls(weights, architecture["degree"], architecture["k"], device)

    def evaluate(self, U: torch.Tensor) -> Triple:
        """Energy (n,), flux (n, k), tangent (n, k, k) at U (n, k), n > 0; valid until the next call."""
        x, m, rows = self._work(U.shape[0])
        torch.sub(U, self._reference, out=x.t()).div_(self._scale)
        for level, parent, variable in self._levels:
            torch.mul(m.index_select(0, parent), x.index_select(0, variable), out=m[level])
        torch.mm(self._rows, m, out=rows)
        tangent = rows.index_select(0, self._unpack).t().view(-1, self.k, self.k)
        return rows[0], rows[1 : 1 + self.k].t(), tangent

    def _prepare(self, monomials: Monomials) -> None:
        def tensor(array: NDArray[Any]) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

        self._reference, self._scale = tensor(stretch_reference(self.k)), tensor(self.weights["scale"])
        self._levels = [(s, tensor(monomials.parent[s]), tensor(monomials.variable[s])) for s in monomials.levels]
        self._rows = tensor(self.weights["coefficients"] @ monomials.responses(self.weights["scale"]))
        i, j = np.triu_indices(self.k)
        full = np.zeros((self.k, self.k), dtype=np.int64)
        full[i, j] = full[j, i] = 1 + self.k + np.arange(len(i))
        self._unpack = tensor(full.ravel())

    def _allocate(self, n: int) -> Triple:
        options: dict[str, Any] = {"dtype": torch.float64, "device": self.device}
        rows, monomials = self._rows.shape
        return torch.empty(self.k, n, **options), torch.ones(monomials, n, **options), torch.empty(rows, n, **options)

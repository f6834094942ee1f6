"""Predicted fields: a POD basis of sampled solutions, with coefficients that are polynomials in what is known.

    w(x) ≈ Φ c(x),   c(x) = A m((x − x₀)/s),   ∂w/∂x = Φ ∂c/∂x

Φ (N, p) holds the leading left singular vectors of the sampled fields (Sirovich 1987, Quart. Appl. Math. 45, 561–571),
m the monomials of degree 1, …, d: the field of the reference x₀ is zero, as that of an RVE at rest is. A is a linear
least-squares fit, done in a second. What is known are the components of the macroscopic gradient, and features of the
history in further columns where a law has one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coupling.contract import Array, Status
from coupling.errors import ModelError
from coupling.guess import Guess
from surrogates.dataset import Dataset
from surrogates.polynomial_energy import Monomials

_LEAST_SINGULAR_VALUE = 1e-8  # relative to the largest


@dataclass(frozen=True)
class FieldPredictor:
    """The fit of this module's docstring, a :class:`coupling.guess.DifferentiablePredictor`.

    Args:
        basis: (p, N), Φᵀ.
        coefficients: (p, M), A, the first column (of the constant) zero.
        reference: (f,), x₀.
        scale: (f,), s.
        degree: d.
    """

    basis: Array
    coefficients: Array
    reference: Array
    scale: Array
    degree: int

    @classmethod
    def fit(cls, known: Array, fields: Array, *, reference: Array, degree: int = 8, modes: int = 40) -> FieldPredictor:
        """Fit fields (n, N) that were found at ``known`` (n, f).

        Args:
            known: (n, f).
            fields: (n, N).
            reference: (f,) where the field is zero.
            degree: of the polynomials, lowered where there are fewer than two samples per coefficient.
            modes: largest number p of modes.

        Raises:
            ModelError: where shapes do not fit, numbers are not finite or samples are too few.
        """
        n, f = known.shape
        if len(fields) != n or not (np.isfinite(known).all() and np.isfinite(fields).all()):
            raise ModelError(f"{n} known rows and {len(fields)} fields must be as many and finite: drop failed samples")
        degree = max((d for d in range(1, degree + 1) if 2 * len(Monomials.up_to(d, f).exponents) <= n), default=0)
        if not degree:
            raise ModelError(f"{n} samples are too few for {f} variables: sample at least {2 * (f + 1)}")
        scale = np.abs(known - reference).max(axis=0)
        _, sizes, modes_of_fields = np.linalg.svd(fields, full_matrices=False)
        basis = modes_of_fields[: min(modes, int((sizes > _LEAST_SINGULAR_VALUE * sizes[0]).sum()))]
        m = Monomials.up_to(degree, f).evaluate((known - reference) / scale)[:, 1:]
        A = np.linalg.lstsq(m, fields @ basis.T, rcond=None)[0].T
        return cls(basis, np.hstack([np.zeros((len(basis), 1)), A]), np.array(reference), scale, degree)

    @classmethod
    def of(cls, dataset: Dataset, *, degree: int = 8, modes: int = 40) -> FieldPredictor:
        """Fit the fields of a data set, which :func:`surrogates.sample` keeps where it is asked to.

        Raises:
            ModelError: where it has none.
        """
        if dataset.fields is None:
            raise ModelError("the data set has no fields: sample(..., fields=rve.fluctuations)")
        reference = np.array(dataset.spec.reference)
        return cls.fit(dataset.gradient, dataset.fields, reference=reference, degree=degree, modes=modes)

    def predict(self, known: Array) -> Guess:
        """Fields at the rows of ``known`` (n, f); a row that is not finite has none."""
        monomials, _ = self._monomials(known)
        fields = monomials @ self.coefficients.T @ self.basis
        status = np.where(np.isfinite(fields).all(axis=1), np.int8(Status.OK), np.int8(Status.FAILED))
        return Guess(fields, status)

    def sensitivity(self, known: Array) -> Array:
        """∂w/∂x (n, N, f) at the rows of ``known`` (n, f)."""
        monomials, space = self._monomials(known)
        slopes = [monomials @ (self.coefficients @ space.derivative(v)).T / s for v, s in enumerate(self.scale)]
        return np.ascontiguousarray(np.stack([slope @ self.basis for slope in slopes], axis=2))

    def observe(self, known: Array, found: Array) -> None:
        """It has learned beforehand."""

    def _monomials(self, known: Array) -> tuple[Array, Monomials]:
        space = Monomials.up_to(self.degree, len(self.scale))
        return space.evaluate((known - self.reference) / self.scale), space

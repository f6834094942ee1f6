"""Predicted fields: a POD basis of sampled solutions, with coefficients that are interpolated in what is known.

    w(x) ≈ Φ c(x),   ∂w/∂x = Φ ∂c/∂x

Φ (N, p) holds the leading modes of the sampled fields (Sirovich 1987, Quart. Appl. Math. 45, 561–571), c is the kernel
interpolant of the samples' coefficients (:mod:`surrogates.kernel_interpolation`). What is known are the components of
the macroscopic gradient, with features of the history in further columns where a law has one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coupling.contract import Array, Status
from coupling.errors import ModelError
from coupling.guess import Guess
from surrogates.dataset import Dataset
from surrogates.kernel_interpolation import Interpolant

_LEAST = 1e-6  # singular value, relative to the largest, that makes a mode


@dataclass(frozen=True)
class FieldPredictor:
    """The prediction of this module's docstring, a :class:`coupling.guess.DifferentiablePredictor`.

    Args:
        modes: (p, N), Φᵀ, orthonormal rows.
        coefficients: c.
    """

    modes: Array
    coefficients: Interpolant

    @classmethod
    def fit(cls, known: Array, fields: Array, *, reference: Array, most_modes: int = 64) -> FieldPredictor:
        """Fit fields (n, N) that were found at ``known`` (n, f), where ``reference`` (f,) is at rest.

        Raises:
            ModelError: where shapes do not fit, numbers are not finite or samples are too few.
        """
        if not np.isfinite(fields).all():
            raise ModelError("some fields are not finite: drop failed samples")
        _, sizes, modes = np.linalg.svd(fields, full_matrices=False)
        modes = np.ascontiguousarray(modes[: min(most_modes, int((sizes > _LEAST * sizes[0]).sum()))])
        return cls(modes, Interpolant.through(known, fields @ modes.T, reference=reference))

    @classmethod
    def of(cls, dataset: Dataset, *, most_modes: int = 64) -> FieldPredictor:
        """Fit the fields of a data set, which :func:`surrogates.sample` keeps where it is asked to.

        Raises:
            ModelError: where it has none.
        """
        if dataset.fields is None:
            raise ModelError("the data set has no fields: sample(..., fields=rve.fluctuations)")
        reference = np.array(dataset.spec.reference)
        return cls.fit(dataset.gradient, dataset.fields, reference=reference, most_modes=most_modes)

    def predict(self, known: Array) -> Guess:
        """Fields at the rows of ``known`` (n, f); a row that is not finite has none."""
        fields = self.coefficients(known) @ self.modes
        status = np.where(np.isfinite(fields).all(axis=1), np.int8(Status.OK), np.int8(Status.FAILED))
        return Guess(fields, status)

    def sensitivity(self, known: Array) -> Array:
        """∂w/∂x (n, N, f) at the rows of ``known`` (n, f)."""
        slopes = self.coefficients.derivative(known).transpose(2, 0, 1)
        return np.asarray((slopes @ self.modes).transpose(1, 2, 0))

    def observe(self, known: Array, found: Array) -> None:
        """It has learned beforehand."""

"""Predicted fields: a POD basis of sampled solutions, with coefficients that follow from what is known.

    w(x) ≈ Φ c(x),   ∂w/∂x = Φ ∂c/∂x

Φ (N, p) holds the leading modes of the sampled fields (Sirovich 1987, Quart. Appl. Math. 45, 561–571). What is known
are the components of the macroscopic gradient, with features of the history in further columns where a law has one.
The coefficients are interpolated by a kernel (:mod:`surrogates.kernel_interpolation`) or come from a small network
(:mod:`surrogates.vector_network`). For the RVEs of the first demo:

    RVE, samples   coefficients   learnt in   modes   error   Newton iterations, tolerance 1e-12   1e-6
    fibre, 400     zero start                                 4.36                                 3.22
                   kernel         0.1 s       47      1e-5    1.17                                 1.00
                   network        12 s        19      3e-4    2.00                                 1.00
    void, 2,000    zero start                                 4.10                                 2.99
                   kernel         1.8 s       70      3e-4    1.40                                 1.00
                   network        116 s       27      1e-3    2.12                                 1.02

Errors of the fields (relative) and iterations are means over cold starts, from rest to 1,000 stretches drawn from the
inner 80 % of the range. Where a zero start takes 4 iterations, one from a kernel's field takes 2 or 1, and it does not
fail where a zero start does (``./run bench warmstart --part cells``); in the whole range of the void it did at 1 of 171
such points, in the edge. The void's largest errors are those of interpolation where its ligaments buckle, in a steep
layer across the range of stretches; elsewhere all modes that count are needed: with 64 of them it took 1.89 iterations.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol, get_args

import numpy as np

from coupling.contract import Array, Status
from coupling.errors import ContractError, ModelError
from coupling.guess import Guess
from surrogates.dataset import Dataset
from surrogates.kernel_interpolation import Interpolant
from surrogates.vector_network import train_network

Method = Literal["kernel", "network"]

_LEAST = {"kernel": 1e-6, "network": 1e-4}  # singular value, relative to the largest, that makes a mode
_HIDDEN, _ITERATIONS, _HELD = (24, 24), 100, 0.15


class Coefficients(Protocol):
    """A function c: ℝᶠ → ℝ^p with its derivative, made of arrays."""

    @property
    def outputs(self) -> int:
        """Number of values, p."""
        ...

    @property
    def weights(self) -> dict[str, Array]:
        """All its numbers, by name."""
        ...

    def __call__(self, x: Array) -> Array:
        """Values (n, p) at x (n, f)."""
        ...

    def derivative(self, x: Array) -> Array:
        """∂c/∂x (n, p, f) at x (n, f)."""
        ...


@dataclass(frozen=True)
class FieldPredictor:
    """The prediction of this module's docstring, a :class:`coupling.guess.DifferentiablePredictor`.

    Args:
        modes: (p, N), Φᵀ, orthonormal rows.
        coefficients: c.
        error: root mean square error of the fields on samples held out, relative to that of the fields.
        origin: where the samples come from; anything that JSON holds.
    """

    modes: Array
    coefficients: Coefficients
    error: float
    origin: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        known: Array,
        fields: Array,
        *,
        reference: Array,
        coefficients: Method = "kernel",
        most_modes: int = 128,
        seed: int = 0,
        origin: dict[str, Any] | None = None,
    ) -> FieldPredictor:
        """Fit fields (n, N) that were found at ``known`` (n, f).

        A seventh of the samples tells the error; a network is trained without them, a kernel passes through all.

        Args:
            known: (n, f), gradients and features.
            fields: (n, N).
            reference: (f,), what is known at rest.
            coefficients: how they follow from what is known.
            most_modes: p, at most.
            seed: of a network's training, and of the choice of the samples held out.
            origin: where the samples come from.

        Raises:
            ContractError: there are no such coefficients.
            ModelError: where shapes do not fit, numbers are not finite or samples are too few.
        """
        if coefficients not in get_args(Method):
            raise ContractError(f"coefficients must be one of {get_args(Method)}, got {coefficients!r}")
        if len(known) != len(fields) or not (np.isfinite(known).all() and np.isfinite(fields).all()):
            raise ModelError(
                f"fields need one row of what is known for each, all finite, got {len(fields)} fields and "
                f"{len(known)} rows: drop failed samples"
            )
        _, sizes, modes = np.linalg.svd(fields, full_matrices=False)
        kept = min(most_modes, int((sizes > _LEAST[coefficients] * sizes[0]).sum()))
        modes = np.ascontiguousarray(modes[:kept])
        targets = fields @ modes.T
        c: Coefficients
        if coefficients == "kernel":
            c, error = _interpolated(known, targets, reference, seed)
        else:
            options: dict[str, Any] = {"hidden": _HIDDEN, "max_iterations": _ITERATIONS, "seed": seed}
            c, error = train_network(known, targets, validation=_HELD, **options)
        return cls(modes, c, error, origin or {})

    @classmethod
    def of(
        cls, dataset: Dataset, *, coefficients: Method = "kernel", most_modes: int = 128, seed: int = 0
    ) -> FieldPredictor:
        """Fit the fields of a data set, which :func:`surrogates.sample` keeps where it is asked to.

        Raises:
            ModelError: where it has none.
        """
        if dataset.fields is None:
            raise ModelError("the data set has no fields: sample(..., fields=rve.fluctuations)")
        return cls.fit(
            dataset.gradient,
            dataset.fields,
            reference=np.array(dataset.spec.reference),
            coefficients=coefficients,
            most_modes=most_modes,
            seed=seed,
            origin={
                "components": dataset.spec.gradient,
                "range": {"lower": dataset.box.lower, "upper": dataset.box.upper},
                "dataset": {"sha256": dataset.fingerprint, "provenance": dataset.provenance},
            },
        )

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


def _interpolated(x: Array, y: Array, reference: Array, seed: int) -> tuple[Interpolant, float]:
    """The interpolant of all samples, and the error at some of them of that of the others."""
    held, used = np.split(np.random.default_rng(seed).permutation(len(x)), [max(1, round(_HELD * len(x)))])
    fit = partial(Interpolant.through, reference=reference, adapted=True)
    error = fit(x[used], y[used])(x[held]) - y[held]
    relative = np.sqrt(np.mean((error**2).sum(axis=1)) / (np.mean((y**2).sum(axis=1)) or 1.0))
    return fit(x, y), float(relative)

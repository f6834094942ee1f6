"""Polynomial fluxes: a surrogate of any closure without history, of whatever gradients and fluxes.

    q(g) = Σ_{|α| ≤ d} c_α x^α,   x = (g − centre)/(half width of the box)

with its exact derivative as tangent. Where the closure's tangent is symmetric, the flux is the derivative of a
polynomial potential of degree d + 1 instead, q = ∂Φ/∂g, and the tangent is symmetric to round-off. Fitted by
linear least squares to fluxes and tangents together, the mean over the samples of |δq|²/⟨|q|²⟩ + |δ∂q/∂x|²/⟨|∂q/∂x|²⟩.

Energy surrogates (:mod:`surrogates.polynomial_energy`) know more about finite strain. This one serves where there is no
energy, or none of stretches: conduction, (θ, ∇θ) ↦ q, small strain, several operands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import comb
from typing import Any

import numpy as np
from scipy import sparse

from coupling.contract import Array, Response, Status, check_arguments, mark_unusable
from coupling.errors import ContractError, ModelError
from surrogates import least_squares
from surrogates.backend import Precision, Tensor, backend_of
from surrogates.dataset import Dataset
from surrogates.model_card import HoldOutErrors, ModelCard
from surrogates.polynomial_energy import Monomials
from surrogates.potential import check_weights


class PolynomialFlux:
    """The closure of this module's docstring.

    A gradient outside the box is OUTSIDE_RANGE, one that is not finite INADMISSIBLE. ``uncertainty`` is the largest
    flux error over the hold-out samples, no bound, and +∞ outside the box.

    Args:
        weights: ``coefficients`` c (m, N) of all monomials up to the degree, by degree.
        degree: d ≥ 1.
        card: what is known about it; its range gives x.
        device: where it evaluates, see :func:`surrogates.backend.backend_of`.
        precision: in which it evaluates; weights are float64.

    Raises:
        ModelError: where the weights do not fit, or the device cannot be used.
    """

    family = "polynomial-flux"

    def __init__(
        self,
        weights: Mapping[str, Array],
        degree: int,
        card: ModelCard,
        device: str = "cpu",
        precision: Precision = "float64",
    ) -> None:
        if type(degree) is not int or degree < 1:
            raise ModelError(f"a polynomial flux has a degree of 1 or more, got {degree!r}")
        self.card, self.spec, self.degree, self.backend = card, card.spec, degree, backend_of(device, precision)
        check_weights(weights, {"coefficients": (self.spec.m, comb(degree + self.spec.k, degree))})
        self.weights = {name: np.array(array) for name, array in weights.items()}
        self.monomials = Monomials.up_to(degree, self.spec.k)
        self.chunk = 256 if device == "cpu" else 16_384
        array = self.backend.array
        self._centre, self._inverse_scale = array(card.box.centre), array(np.reciprocal(card.box.half_width))
        self._rows = array(self.rows)

    @property
    def rows(self) -> Array:
        """(m + m k, N): flux and tangent ∂q/∂g, row by row, in terms of the monomials."""
        c, scale = self.weights["coefficients"], self.card.box.half_width
        slopes = [c @ D / s for D, s in zip(derivatives(self.monomials, self.spec.k), scale, strict=True)]
        return np.vstack([c, np.stack(slopes, axis=1).reshape(-1, c.shape[1])])

    @property
    def architecture(self) -> dict[str, Any]:
        """The degree; all else is on the card."""
        return {"degree": self.degree}

    @classmethod
    def from_architecture(
        cls,
        architecture: Mapping[str, Any],
        weights: Mapping[str, Array],
        card: ModelCard,
        device: str = "cpu",
        precision: Precision = "float64",
    ) -> PolynomialFlux:
        """The polynomial that :attr:`architecture`, :attr:`weights` and card describe."""
        return cls(weights, architecture["degree"], card, device, precision)

    def initial_state(self, n: int) -> None:
        """No state."""

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """Flux q (n, m) and tangent ∂q/∂g (n, m, k) at the gradients (n, k)."""
        n, m, k = check_arguments(self.spec, gradient, state, hint), self.spec.m, self.spec.k
        finite, inside = np.asarray(np.isfinite(gradient).all(axis=1)), self.card.box.contains(gradient)
        safe = gradient if finite.all() else np.where(finite[:, None], gradient, self.card.box.centre)
        flux, tangent = np.empty((n, m)), np.empty((n, m, k))
        for start in range(0, n, self.chunk):
            part = slice(start, start + self.chunk)
            self.backend.call(self._evaluate, safe[part], (flux[part], tangent[part]))
        status = np.where(inside, np.int8(Status.OK), np.int8(Status.OUTSIDE_RANGE))
        uncertainty = np.where(inside, self.card.errors.flux_max_absolute, np.inf)
        return mark_unusable(Response(flux, tangent, status, uncertainty=uncertainty), ~finite, Status.INADMISSIBLE)

    def _evaluate(self, gradient: Tensor, flux: Tensor, tangent: Tensor) -> None:
        xp, n, m = self.backend.xp, len(gradient), self.spec.m
        monomials = self.backend.empty(len(self.monomials.exponents), n)
        self.monomials.fill(monomials, ((gradient - self._centre) * self._inverse_scale).T, xp)
        values = xp.matmul(self._rows, monomials).T
        flux[:] = values[:, :m]
        tangent.reshape(n, -1)[:] = values[:, m:]


def fit_polynomial_flux(dataset: Dataset, *, degree: int = 4, seed: int = 0, hold_out: float = 0.15) -> PolynomialFlux:
    """Fit a polynomial flux by linear least squares.

    Args:
        dataset: samples of the fine scale.
        degree: total degree d of the flux.
        seed: of the choice of the hold-out samples.
        hold_out: fraction of the samples that only serve for the errors.

    Raises:
        ContractError: where the data set is too small, to hold anything out or for the number of coefficients.
    """
    if degree < 1:
        raise ContractError(f"a polynomial flux has a degree of 1 or more, got {degree}")
    train, held = dataset.split((hold_out,), seed)
    fit = _fit_potential if dataset.spec.symmetric else _fit_components
    weights = {"coefficients": fit(train, degree)}
    training = {"method": "linear least squares", "seed": seed, "hold_out": hold_out}
    unknown = HoldOutErrors(None, None, np.nan, np.nan, np.nan, np.nan, np.nan, len(held))
    card = ModelCard(dataset.spec, dataset.box, unknown, dataset.fingerprint, dataset.provenance, training)
    answer = PolynomialFlux(weights, degree, card).evaluate(held.gradient, None, 0.0)
    errors = HoldOutErrors.of(held, None, answer.flux, answer.tangent)
    return PolynomialFlux(weights, degree, replace(card, errors=errors))


def _fit_components(data: Dataset, degree: int) -> Array:
    """Coefficients (m, N) of polynomials without relation to each other, one solve for each flux component."""
    monomials, x, weights = _scaled(data, degree)
    equations = len(data) * (1 + data.spec.k)
    least_squares.check_determined(equations, len(monomials.exponents), degree=degree, samples=len(data))
    first = derivatives(monomials, data.spec.k)
    values = monomials.evaluate(x)
    matrix = np.vstack([values * weights[0], *(weights[1] * (values @ D.T) for D in first)])
    slopes = data.tangent * data.box.half_width
    targets = np.vstack([data.flux * weights[0], *(slopes[:, :, v] * weights[1] for v in range(data.spec.k))])
    return np.ascontiguousarray(least_squares.solve(matrix, targets).T)


def _fit_potential(data: Dataset, degree: int) -> Array:
    """Coefficients (k, N) of the derivatives of one polynomial Φ of degree d + 1."""
    monomials, x, weights = _scaled(data, degree + 1)
    k, scale = data.spec.k, data.box.half_width
    equations = len(data) * (k + k * k)
    least_squares.check_determined(equations, len(monomials.exponents) - 1, degree=degree, samples=len(data))
    first, pairs = derivatives(monomials, k), list(zip(*np.triu_indices(k), strict=True))
    values, slopes = monomials.evaluate(x), data.tangent * scale
    rows, targets = [], []
    for i, D in enumerate(first):
        rows.append(weights[0] / scale[i] * (values @ D.T))
        targets.append(weights[0] * data.flux[:, i])
    for i, j in pairs:
        for a, b in {(i, j), (j, i)}:
            rows.append(weights[1] / scale[a] * (values @ (first[a] @ first[b]).T))
            targets.append(weights[1] * slopes[:, a, b])
    matrix = np.vstack(rows)[:, 1:]
    c = np.concatenate([[0.0], least_squares.solve(matrix, np.concatenate(targets))])
    return flux_of_potential(c, degree, first, scale)


def _scaled(data: Dataset, degree: int) -> tuple[Monomials, Array, tuple[float, float]]:
    """Monomials, coordinates x (n, k), and the weights of fluxes and tangents ∂q/∂x."""
    x = (data.gradient - data.box.centre) / data.box.half_width
    norms = (np.linalg.norm(values) / np.sqrt(len(data)) for values in (data.flux, data.tangent * data.box.half_width))
    of_flux, of_tangent = (1.0 / max(float(norm), np.finfo(float).tiny) for norm in norms)
    return Monomials.up_to(degree, data.spec.k), x, (of_flux, of_tangent)


def flux_of_potential(c: Array, degree: int, first: Sequence[sparse.csr_array], scale: Array) -> Array:
    """Coefficients (k, N) up to the degree of the flux ∂Φ/∂g, from those of Φ (one degree more) in g/scale."""
    flux = np.stack([c @ D / s for D, s in zip(first, scale, strict=True)])
    return np.ascontiguousarray(flux[:, : comb(degree + len(scale), degree)])


def derivatives(monomials: Monomials, k: int) -> list[sparse.csr_array]:
    """∂_v (M, M), v = 1, …, k, with ∂m/∂x_v = ∂_v m."""
    return [sparse.csr_array(monomials.derivative(v)) for v in range(k)]

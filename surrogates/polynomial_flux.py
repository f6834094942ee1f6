"""Polynomial fluxes: a surrogate of any closure without history, of whatever gradients and fluxes.

    q(g) = Σ_{|α| ≤ d} c_α x^α,   x = (g − centre)/(half width of the box)

with its exact derivative as tangent. Where the closure's tangent is symmetric, the flux is the derivative of a
polynomial potential of degree d + 1 instead, q = ∂Φ/∂g, and the tangent is symmetric to round-off. Fitted by
linear least squares to fluxes and tangents together, the mean over the samples of |δq|²/⟨|q|²⟩ + |δ∂q/∂x|²/⟨|∂q/∂x|²⟩.

Energy surrogates (:mod:`surrogates.polynomial_energy`) know more about finite strain. This one serves where there is no
energy, or none of stretches: conduction, (θ, ∇θ) ↦ q, small strain, several operands.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from coupling.contract import Array, ClosureSpec, Response, Status, check_arguments, mark_unusable
from coupling.errors import ContractError
from surrogates.box import Box
from surrogates.dataset import Dataset
from surrogates.model_card import relative_errors
from surrogates.polynomial_energy import Monomials

_CHUNK = 256


@dataclass(frozen=True)
class FluxErrors:
    """Errors on samples that the fit did not see.

    ``…_rms`` is the root mean square of the error over that of the data, ``…_max`` the largest error over the root mean
    square of the data, in the Euclidean norm at each point and with respect to x; ``flux_max_absolute`` is the largest
    flux error in the flux's unit; ``samples`` counts the samples.
    """

    flux_rms: float
    flux_max: float
    tangent_rms: float
    tangent_max: float
    flux_max_absolute: float
    samples: int


class PolynomialFlux:
    """The closure of this module's docstring.

    A gradient outside the box is OUTSIDE_RANGE, one that is not finite INADMISSIBLE. ``uncertainty`` is the largest
    flux error over the hold-out samples, no bound, and +∞ outside the box.

    Args:
        spec: of the closure it stands for, which has no history.
        box: the range it was fitted in.
        rows: (m + m k, N), flux and tangent ∂q/∂x row by row in terms of the N monomials of degree d.
        degree: d.
        errors: on the hold-out samples, None where there were none.
    """

    def __init__(self, spec: ClosureSpec, box: Box, rows: Array, degree: int, errors: FluxErrors | None = None) -> None:
        self.spec, self.box, self.degree, self.errors = spec, box, degree, errors
        self._monomials, self._rows = Monomials.up_to(degree, spec.k), rows
        self._centre, self._scale = box.centre, box.half_width

    def initial_state(self, n: int) -> None:
        """No state."""

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """Flux q (n, m) and tangent ∂q/∂g (n, m, k) at the gradients (n, k)."""
        n, m, k = check_arguments(self.spec, gradient, state, hint), self.spec.m, self.spec.k
        finite = np.asarray(np.isfinite(gradient).all(axis=1))
        x = np.where(finite[:, None], (gradient - self._centre) / self._scale, 0.0)
        values = np.empty((n, m + m * k))
        for start in range(0, n, _CHUNK):
            part = slice(start, start + _CHUNK)
            values[part] = self._monomials.evaluate(x[part]) @ self._rows.T
        inside = self.box.contains(gradient)
        status = np.where(inside, np.int8(Status.OK), np.int8(Status.OUTSIDE_RANGE))
        known = np.nan if self.errors is None else self.errors.flux_max_absolute
        tangent = values[:, m:].reshape(n, m, k) / self._scale
        response = Response(values[:, :m].copy(), tangent, status, uncertainty=np.where(inside, known, np.inf))
        return mark_unusable(response, ~finite, Status.INADMISSIBLE)


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
    if len(dataset) < 10 or not 0.0 < hold_out < 1.0 or degree < 1:
        raise ContractError(
            "fitting needs 10 samples or more, a fraction to hold out between 0 and 1 and a degree of 1 or more, got "
            f"{len(dataset)} samples, {hold_out} and {degree}"
        )
    train, held = dataset.split((hold_out,), seed)
    fit = _fit_potential if dataset.spec.symmetric else _fit_components
    surrogate = PolynomialFlux(dataset.spec, dataset.box, fit(train, degree), degree)
    answer = surrogate.evaluate(held.gradient, None, 0.0)
    scale = dataset.box.half_width
    surrogate.errors = FluxErrors(
        *relative_errors(answer.flux, held.flux),
        *relative_errors(answer.tangent * scale, held.tangent * scale),
        float(np.linalg.norm(answer.flux - held.flux, axis=1).max()),
        len(held),
    )
    return surrogate


def _fit_components(data: Dataset, degree: int) -> Array:
    """Rows of polynomials without relation to each other; the coefficients of each flux component are one solve."""
    monomials, x, weights = _scaled(data, degree)
    first = _derivatives(monomials, data.spec.k)
    values = monomials.evaluate(x)
    matrix = np.vstack([values * weights[0], *(weights[1] * (values @ D.T) for D in first)])
    slopes = data.tangent * data.box.half_width
    targets = np.vstack([data.flux * weights[0], *(slopes[:, :, v] * weights[1] for v in range(data.spec.k))])
    c = _least_squares(matrix, targets, degree, len(data)).T
    tangent = np.stack([c @ D for D in first], axis=1)
    return np.vstack([c, tangent.reshape(-1, c.shape[1])])


def _fit_potential(data: Dataset, degree: int) -> Array:
    """Rows of the derivatives of one polynomial Φ of degree d + 1."""
    monomials, x, weights = _scaled(data, degree + 1)
    k, scale = data.spec.k, data.box.half_width
    first, pairs = _derivatives(monomials, k), list(zip(*np.triu_indices(k), strict=True))
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
    c = np.concatenate([[0.0], _least_squares(matrix, np.concatenate(targets), degree, len(data))])
    kept = len(Monomials.up_to(degree, k).exponents)
    flux = np.stack([c @ D / s for D, s in zip(first, scale, strict=True)])
    tangent = np.stack([[c @ (first[i] @ first[j]) / scale[i] for j in range(k)] for i in range(k)])
    return np.vstack([flux, tangent.reshape(k * k, -1)])[:, :kept]


def _scaled(data: Dataset, degree: int) -> tuple[Monomials, Array, tuple[float, float]]:
    """Monomials, coordinates x (n, k), and the weights of fluxes and tangents ∂q/∂x."""
    x = (data.gradient - data.box.centre) / data.box.half_width
    norms = (np.linalg.norm(values) / np.sqrt(len(data)) for values in (data.flux, data.tangent * data.box.half_width))
    of_flux, of_tangent = (1.0 / max(float(norm), np.finfo(float).tiny) for norm in norms)
    return Monomials.up_to(degree, data.spec.k), x, (of_flux, of_tangent)


def _derivatives(monomials: Monomials, k: int) -> list[sparse.csr_array]:
    return [sparse.csr_array(monomials.derivative(v)) for v in range(k)]


def _least_squares(matrix: Array, targets: Array, degree: int, samples: int) -> Array:
    if len(matrix) < matrix.shape[1]:
        raise ContractError(
            f"{samples} samples give {len(matrix)} equations for the {matrix.shape[1]} coefficients of degree "
            f"{degree}: sample more or lower the degree"
        )
    norms = np.linalg.norm(matrix, axis=0)
    norms[norms == 0.0] = 1.0
    return np.asarray((np.linalg.lstsq(matrix / norms, targets, rcond=1e-13)[0].T / norms).T)

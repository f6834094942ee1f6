"""Sobolev training: energies fitted to energy, flux and tangent together.

The loss is the mean over the samples of |δŴ|²/⟨Ŵ²⟩ + ‖δT‖²/⟨‖T‖²⟩ + ‖δ∂T/∂U‖²/⟨‖∂T/∂U‖²⟩ (Czarnecki et al. 2017,
Sobolev training for neural networks). It is a sum of squares: networks are trained by Levenberg–Marquardt on all
samples at once, polynomials by one linear least-squares solve.

The samples are split three ways: ``hold_out`` of them are only looked at when all is done, for the errors on the card;
``validation`` of them decide when the training of a network stops; a polynomial, which needs no stopping, is fitted to
all that are not held out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from coupling.contract import Array
from surrogates import least_squares
from surrogates.backend import NumpyBackend, Precision
from surrogates.dataset import Dataset
from surrogates.energy_network import EnergyNetwork
from surrogates.energy_surrogate import EnergySurrogate
from surrogates.growth import Growth
from surrogates.levenberg_marquardt import levenberg_marquardt
from surrogates.model_card import Float32Errors, HoldOutErrors, ModelCard
from surrogates.network_fit import NetworkFit, initial_parameters, unpack
from surrogates.polynomial_energy import Monomials, PolynomialEnergy
from surrogates.potential import Potential, evaluate_chunks


def train_energy_network(
    dataset: Dataset,
    *,
    hidden: Sequence[int] = (32, 32),
    seed: int = 0,
    hold_out: float = 0.15,
    validation: float = 0.15,
    max_iterations: int = 150,
    patience: int = 40,
    progress: bool = True,
    device: str = "cpu",
) -> EnergySurrogate:
    """Train an energy network on a data set; the iterate with the smallest validation loss is returned.

    The cost of an iteration grows with samples × parameters², so that it pays to keep networks small: 2 layers of 32
    have about 1,200 parameters. Runs on the CPU; with the same arguments, libraries and machine the result is the same.

    Args:
        dataset: samples of the fine scale.
        hidden: widths h_1, …, h_L of the hidden layers.
        seed: of the initial weights and of the choice of the samples for hold-out and validation.
        hold_out: fraction of the samples that only serve for the errors of the card.
        validation: fraction of the samples that only serve for early stopping.
        max_iterations: of Levenberg–Marquardt.
        patience: iterations without a smaller validation loss after which training stops.
        progress: whether to show a progress bar.
        device: where the returned surrogate evaluates.

    Raises:
        ContractError: where the data set is too small, or nothing would be left to train on.
    """
    train, validating, held = dataset.split((validation, hold_out), seed)
    layers, scaling = (dataset.spec.k, *hidden), _Scaling(train)
    fit = NetworkFit(*scaling.problem(train), layers)
    check = NetworkFit(*scaling.problem(validating), layers)
    best, best_loss, stale, iterations = initial_parameters(layers, seed), np.inf, 0, 0
    with _progress_bar(progress) as bar:
        description = f"training a {'×'.join(map(str, hidden))} network"
        task = bar.add_task(description, total=max_iterations, loss="")
        for theta, cost in levenberg_marquardt(fit, best):
            iterations, loss = iterations + 1, check.cost(theta)
            stale = 0 if loss < best_loss else stale + 1
            if loss < best_loss:
                best, best_loss = theta, loss
            bar.update(task, advance=1, loss=f"loss {np.sqrt(cost):.1e}, validation {np.sqrt(best_loss):.1e}")
            if iterations >= max_iterations or stale >= patience:
                break
        bar.update(task, total=iterations)
    network = EnergyNetwork(scaling.network_weights(best, layers), layers, device)
    training = {
        "method": "Levenberg–Marquardt",
        "seed": seed,
        "hold_out": hold_out,
        "validation": validation,
        "iterations": iterations,
    }
    return _with_card(network, dataset, held, training)


def fit_polynomial(
    dataset: Dataset, *, degree: int = 8, seed: int = 0, hold_out: float = 0.15, device: str = "cpu"
) -> EnergySurrogate:
    """Fit a polynomial energy by linear least squares (:func:`surrogates.least_squares.solve`).

    Args:
        dataset: samples of the fine scale.
        degree: total degree of the polynomial.
        seed: of the choice of the hold-out samples, which is the one of :func:`train_energy_network` for the same seed.
        hold_out: fraction of the samples that only serve for the errors of the card.
        device: where the returned surrogate evaluates.

    Raises:
        ContractError: where the data set is too small, to hold anything out or for the number of coefficients.
    """
    train, held = dataset.split((hold_out,), seed)
    k, scale = dataset.spec.k, dataset.stretches.scale
    monomials = Monomials.up_to(degree, k)
    free = len(monomials.exponents) - 1 - k
    x, targets, weights = _Scaling(train, growth=0.0).problem(train)
    least_squares.check_determined(targets.size, free, degree=degree, samples=len(train))
    rows = np.tensordot(monomials.evaluate(x), monomials.responses(np.ones(k)), axes=(1, 2))  # (n, C, M)
    matrix = (rows[:, :, 1 + k :] * weights[:, None]).reshape(-1, free)
    solution = least_squares.solve(matrix, (targets * weights).ravel())
    energy_scale = _rms(train.energies)
    coefficients = np.concatenate((np.zeros(1 + k), energy_scale * solution))
    polynomial = PolynomialEnergy({"coefficients": coefficients, "scale": scale}, degree, k, device)
    return _with_card(polynomial, dataset, held, {"method": "linear least squares", "seed": seed, "hold_out": hold_out})


class _Scaling:
    """Scaled coordinates x = (U − I)/s and energies Ŵ/e of a training set, and the weights of the Sobolev loss.

    The growth coefficient is a thousandth of the typical tangent unless given: large enough to dominate where a stretch
    collapses, small enough not to be noticed in the data.
    """

    def __init__(self, train: Dataset, growth: float | None = None) -> None:
        self.scale, self.energy_scale = train.stretches.scale, _rms(train.energies)
        self.growth = 1e-3 * _rms(train.tangent) if growth is None else growth
        k = train.spec.k
        i, j = np.triu_indices(k)
        self._upper = (i, j)
        self._units = np.concatenate(([1.0], self.scale, self.scale[i] * self.scale[j])) / self.energy_scale
        once_or_twice = np.where(i == j, 1.0, np.sqrt(2.0))
        norms = (_rms(train.energies), _rms(train.flux), _rms(train.tangent))
        self._weights = (
            np.concatenate(([1.0 / norms[0]], np.full(k, 1.0 / norms[1]), once_or_twice / norms[2])) / self._units
        )

    def problem(self, data: Dataset) -> tuple[Array, Array, Array]:
        """Coordinates x (n, k), target jets (n, C) less the growth term, and weights (C,)."""
        energy, flux, tangent = data.energies.copy(), data.flux.copy(), data.tangent.copy()
        Growth(-self.growth, data.spec.k, NumpyBackend()).add(data.gradient, energy, flux, tangent)
        jets = np.hstack((energy[:, None], flux, tangent[:, self._upper[0], self._upper[1]]))
        x = (data.gradient - np.array(data.spec.reference)) / self.scale
        return x, jets * self._units, self._weights

    def network_weights(self, theta: Array, layers: Sequence[int]) -> dict[str, Array]:
        """The weights of :class:`EnergyNetwork` from parameters θ."""
        W, b, output = unpack(theta, layers)
        weights = {
            f"{name}{level}": array for name, arrays in (("W", W), ("b", b)) for level, array in enumerate(arrays)
        }
        constants = {"energy_scale": np.array(self.energy_scale), "growth": np.array(self.growth)}
        return weights | {"output": output, "scale": self.scale} | constants


def _rms(values: Array) -> float:
    """Root mean square over the samples of the Euclidean norm of each."""
    return float(np.sqrt(np.sum(values * values) / len(values)))


def _with_card(potential: Potential, dataset: Dataset, held: Dataset, training: dict[str, Any]) -> EnergySurrogate:
    """The surrogate with its hold-out errors, and with what float32 adds to them."""
    architecture, weights = potential.architecture, potential.weights
    double, single = (
        evaluate_chunks(potential.from_architecture(architecture, weights, "cpu", precision), held.gradient, 256)
        for precision in get_args(Precision)
    )
    errors, added = HoldOutErrors.of(held, *double), Float32Errors.of(single, double)
    card = ModelCard(dataset.spec, dataset.stretches, errors, dataset.fingerprint, dataset.provenance, training, added)
    return EnergySurrogate(potential, card)


def _progress_bar(shown: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[loss]}"), TimeElapsedColumn())
    return Progress(*columns, disable=not shown)

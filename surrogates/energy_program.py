"""Trained surrogates in torch operations that ``torch.export`` can make a program of.

The formulas of :mod:`surrogates.energy_network`, :mod:`surrogates.polynomial_energy` and
:mod:`surrogates.polynomial_flux` without buffers: a program is a graph of values, and knows of no memory that is
written twice.
"""

from __future__ import annotations

from itertools import groupby
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from coupling.contract import Array
from coupling.errors import ModelError
from surrogates.backend import TorchBackend
from surrogates.energy_network import EnergyNetwork
from surrogates.growth import Growth
from surrogates.model_folder import TrainedSurrogate
from surrogates.polynomial_energy import Monomials, PolynomialEnergy
from surrogates.polynomial_flux import PolynomialFlux
from surrogates.stretch_space import stretch_reference

Results: TypeAlias = tuple[Tensor, Tensor, Tensor]


def torch_module(surrogate: TrainedSurrogate) -> nn.Module:
    """The module of a surrogate on the CPU, float64.

    Of a flux g (n, k) ↦ q (n, m), ∂q/∂g (n, m, k); of an energy U (n, k) ↦ T (n, k), upper triangles of ∂T/∂U
    (n, k(k+1)/2) row by row, Ŵ (n,).

    Raises:
        ModelError: for a family without such a module.
    """
    if isinstance(surrogate, PolynomialFlux):
        return FluxModule(surrogate)
    potential = surrogate.potential
    if isinstance(potential, EnergyNetwork):
        return NetworkModule(potential)
    if isinstance(potential, PolynomialEnergy):
        return PolynomialModule(potential)
    raise ModelError(f"there is no torch module for the family {potential.family!r}: export your own torch.nn.Module")


class NetworkModule(nn.Module):
    """The formulas of :class:`EnergyNetwork`."""

    def __init__(self, network: EnergyNetwork) -> None:
        super().__init__()
        w, k, depth = network.weights, network.layers[0], len(network.layers) - 1
        W = [w[f"W{level}"] for level in range(depth)]
        W[0] = W[0] / w["scale"]
        self.reference = _constant(stretch_reference(k))
        self.W = nn.ParameterList(_constant(array) for array in W)
        self.b = nn.ParameterList(_constant(w[f"b{level}"]) for level in range(depth))
        self.output = _constant(w["energy_scale"] * w["output"])
        self.first_pairs = _constant((W[0][:, :, None] * W[0][:, None, :]).reshape(-1, k * k))
        self.upper = _constant(_upper_triangle(k))
        self.growth = Growth(_constant(w["growth"]), k, TorchBackend("cpu"))
        energy, flux, _ = self._network(torch.zeros(1, k, dtype=torch.float64))
        self.energy_at_rest, self.flux_at_rest = _constant(energy.numpy()), _constant(flux.numpy())

    def forward(self, U: Tensor) -> Results:
        """Flux, packed tangent and energy at U."""
        k = self.reference.shape[0]
        strain = U - self.reference
        energy, flux, hessian = self._network(strain)
        energy = energy - self.energy_at_rest - strain @ self.flux_at_rest[0]
        flux, tangent = flux - self.flux_at_rest, (-2.0 * hessian).reshape(-1, k, k)
        self.growth.add(U, energy, flux, tangent)
        return flux, tangent.reshape(-1, k * k) @ self.upper, energy

    def _network(self, x: Tensor) -> Results:
        """N (n,), ∂N/∂U (n, k) and Σ_l Z_lᵀ diag(a_l ⊙ p_l) Z_l (n, k²) at U = I + x."""
        a, A, layers = x, None, []
        for W, b in zip(self.W, self.b, strict=True):
            Z = W.T[:, None, :] if A is None else (A.flatten(0, 1) @ W.T).unflatten(0, (len(A), -1))
            a = torch.tanh(a @ W.T + b)
            slope = 1.0 - a * a
            A = Z * slope
            layers.append((W, a, slope, Z))
        energy, gradient = a @ self.output, self.output
        hessian = torch.zeros(self.first_pairs.shape[1], dtype=x.dtype)
        for W, a, slope, Z in reversed(layers[1:]):
            p = slope * gradient
            hessian = hessian + ((Z * (a * p)).permute(1, 0, 2) @ Z.permute(1, 2, 0)).flatten(1)
            gradient = p @ W
        W, a, slope, _ = layers[0]
        p = slope * gradient
        return energy, p @ W, hessian + (a * p) @ self.first_pairs


class _Polynomials(nn.Module):
    """Polynomials of x = (g − centre)/scale, the ``rows`` (C, M) in terms of the monomials."""

    def __init__(self, monomials: Monomials, rows: Array, centre: Array, scale: Array) -> None:
        super().__init__()
        self.centre, self.inverse_scale, self.rows = _constant(centre), _constant(np.reciprocal(scale)), _constant(rows)
        k = len(scale)
        by_degree = groupby(monomials.products[k:], key=lambda product: product[1].stop)
        self.degrees = [[(tail, v) for _, tail, v in products] for _, products in by_degree]

    def forward(self, gradient: Tensor) -> Tensor:
        """Values (n, C)."""
        x = ((gradient - self.centre) * self.inverse_scale).T
        monomials = torch.cat([torch.ones_like(x[:1]), x])
        for products in self.degrees:
            monomials = torch.cat([monomials, *(monomials[tail] * x[v] for tail, v in products)])
        return (self.rows @ monomials).T


class PolynomialModule(nn.Module):
    """The formulas of :class:`PolynomialEnergy`."""

    def __init__(self, polynomial: PolynomialEnergy) -> None:
        super().__init__()
        scale, self.k = polynomial.weights["scale"], polynomial.k
        monomials = Monomials.up_to(polynomial.degree, self.k)
        rows = polynomial.weights["coefficients"] @ monomials.responses(scale)
        self.polynomials = _Polynomials(monomials, rows, stretch_reference(self.k), scale)

    def forward(self, U: Tensor) -> Results:
        """Flux, packed tangent and energy at U."""
        rows = self.polynomials(U)
        return rows[:, 1 : 1 + self.k], rows[:, 1 + self.k :], rows[:, 0]


class FluxModule(nn.Module):
    """The formulas of :class:`PolynomialFlux`."""

    def __init__(self, polynomial: PolynomialFlux) -> None:
        super().__init__()
        box, self.m, self.k = polynomial.card.box, polynomial.spec.m, polynomial.spec.k
        self.polynomials = _Polynomials(polynomial.monomials, polynomial.rows, box.centre, box.half_width)

    def forward(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Flux and tangent at the gradients."""
        rows = self.polynomials(gradient)
        return rows[:, : self.m], rows[:, self.m :].reshape(-1, self.m, self.k)


def _constant(values: Array) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float64), requires_grad=False)


def _upper_triangle(k: int) -> Array:
    """P (k², k(k+1)/2): A P is the upper triangle of ½ (A + Aᵀ), row by row, of matrices A as rows of k² numbers."""
    i, j = np.triu_indices(k)
    P = np.zeros((k, k, len(i)))
    P[i, j, np.arange(len(i))] += 0.5
    P[j, i, np.arange(len(i))] += 0.5
    return np.asarray(P.reshape(k * k, -1))

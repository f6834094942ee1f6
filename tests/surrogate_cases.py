"""Networks, polynomials, stretches and data sets that several tests of the surrogates share."""

from typing import Any

from mpi4py import MPI

import numpy as np
import torch

from coupling.closed_forms import StretchNeoHookean
from coupling.polar import mandel_basis
from surrogates import (
    EnergyNetwork,
    EnergySurrogate,
    HoldOutErrors,
    ModelCard,
    PolynomialEnergy,
    StretchBox,
    sample,
    stretch_design,
)
from surrogates.energy_network import weight_shapes
from surrogates.polynomial_energy import Monomials
from surrogates.stretch_space import stretch_reference

func: Any = torch.func  # its stubs export nothing
TORCH = "cpu:0"  # the formulas on torch, where a GPU would run them
BOX = {2: ((0.8, 0.8, -0.2), (1.2, 1.2, 0.2)), 3: ((0.9,) * 3 + (-0.1,) * 3, (1.1,) * 3 + (0.1,) * 3)}


def stretch_spec(k):
    return StretchNeoHookean(1.0, 1.5, 2 if k == 3 else 3).spec


def random_stretches(k, n, seed=0):
    return stretch_reference(k) + np.random.default_rng(seed).uniform(-0.2, 0.2, (n, k))


def random_network(layers, seed=0, device="cpu"):
    rng = np.random.default_rng(seed)
    weights = {
        name: np.asarray(rng.normal(size=shape) / np.sqrt(shape[-1] if shape else 1.0))
        for name, shape in weight_shapes(layers).items()
    }
    scales = {"scale": rng.uniform(0.2, 0.3, layers[0]), "energy_scale": np.array(1.7), "growth": np.array(0.3)}
    return EnergyNetwork(weights | scales, layers, device)


def random_polynomial(degree, k, seed=0, device="cpu"):
    rng = np.random.default_rng(seed)
    coefficients = rng.normal(size=len(Monomials.up_to(degree, k).exponents))
    coefficients[: 1 + k] = 0.0
    return PolynomialEnergy({"coefficients": coefficients, "scale": rng.uniform(0.2, 0.3, k)}, degree, k, device)


def surrogate_of(potential):
    """A potential as a surrogate for the stretches of :data:`BOX`."""
    k = len(potential.weights["scale"])
    errors = HoldOutErrors(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3e-3, 10)
    card = ModelCard(stretch_spec(k), StretchBox.of(*BOX[2 if k == 3 else 3]), errors, "", {}, {})
    return EnergySurrogate(potential, card)


def autodiff(energy, U):
    """Energy (n,), gradient (n, k) and Hessian (n, k, k) of a scalar function of one stretch, by torch.func."""
    return [func.vmap(f)(U) for f in (energy, func.grad(energy), func.hessian(energy))]


def network_energy(network):
    """The energy of a network for one stretch, as its formula reads, from elementary torch operations."""
    w = {name: torch.from_numpy(array).to(network.backend.device) for name, array in network.weights.items()}
    k = network.layers[0]
    identity = torch.from_numpy(stretch_reference(k)).to(network.backend.device)
    basis = torch.from_numpy(np.array(mandel_basis(2 if k == 3 else 3))).to(network.backend.device)

    def N(x):
        for level in range(len(network.layers) - 1):
            x = torch.tanh(w[f"W{level}"] @ x + w[f"b{level}"])
        return w["output"] @ x

    def determinant(U):  # by Leibniz' rule: the Hessian of torch.linalg.det is wrong under vmap in torch 2.6
        A = torch.einsum("p,pij->ij", U, basis)
        if k == 3:
            return A[0, 0] * A[1, 1] - A[0, 1] * A[1, 0]
        return torch.dot(A[0], torch.linalg.cross(A[1], A[2]))

    origin = torch.zeros_like(identity)
    at_rest, slope = N(origin), func.grad(N)(origin)

    def energy(U):
        x, J = (U - identity) / w["scale"], determinant(U)
        return w["energy_scale"] * (N(x) - at_rest - slope @ x) + w["growth"] * (J + 1 / J - 2) ** 2

    return energy


def neo_hookean_data(n, dim=2, seed=0):
    closure = StretchNeoHookean(1.0, 1.5, dim)
    return sample(closure, stretch_design(*BOX[dim], n, seed=seed), comm=MPI.COMM_SELF, progress=False)

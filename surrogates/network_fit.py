"""The least-squares problem of an energy network: residuals, and the normal equations of its parameters.

The parameters θ are (W0, b0, W1, …, w), one after the other, of N in :mod:`surrogates.energy_network`; everything
here is in the scaled coordinates x = (U − I)/s. Since ∂(∂_ij N)/∂θ = ∂_ij (∂N/∂θ), the Jacobian of energy, flux and
tangent is the jet of

    ∂N/∂W_l = g_l ⊗ a_{l−1},   ∂N/∂b_l = g_l,   ∂N/∂w = a_L,   g_l = tanh'(z_l) ⊙ W_{l+1}ᵀ g_{l+1}

which two passes over the layers give exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg.blas import dsyrk

from coupling.contract import Array
from surrogates import jets

_BLOCK = 64


def initial_parameters(layers: Sequence[int], seed: int) -> Array:
    """Random θ: weights normal with variance 1/inputs, biases uniform in (−1, 1)."""
    rng = np.random.default_rng(seed)
    parts: list[Array] = []
    for inner, outer in zip(layers[:-1], layers[1:], strict=True):
        parts += [rng.normal(size=outer * inner) / np.sqrt(inner), rng.uniform(-1.0, 1.0, outer)]
    return np.concatenate([*parts, rng.normal(size=layers[-1]) / np.sqrt(layers[-1])])


def unpack(theta: Array, layers: Sequence[int]) -> tuple[list[Array], list[Array], Array]:
    """Views (W, b, w) of θ."""
    W: list[Array] = []
    b: list[Array] = []
    at = 0
    for inner, outer in zip(layers[:-1], layers[1:], strict=True):
        W.append(theta[at : at + outer * inner].reshape(outer, inner))
        at += outer * inner
        b.append(theta[at : at + outer])
        at += outer
    return W, b, theta[at:]


class NetworkFit:
    """Residuals r = ω ⊙ (Y(θ) − Y) of the jets of N(x) − N(0) − ∂N(0)·x at n points.

    Args:
        x: (n, k) coordinates.
        targets: (n, C) jets to match.
        weights: ω (C,) of the parts of a jet.
        layers: k, h_1, …, h_L.
    """

    def __init__(self, x: Array, targets: Array, weights: Array, layers: Sequence[int]) -> None:
        self.x, self.targets, self.layers = x, targets, tuple(layers)
        self.weights = weights / np.sqrt(len(x))

    def cost(self, theta: Array) -> float:
        """‖r‖², the weighted mean square over the points."""
        W, b, w = unpack(theta, self.layers)
        values = _forward(W, b, self.x)[1][-1] @ w
        at_reference = _forward(W, b, np.zeros((1, self.x.shape[1])))[1][-1] @ w
        r = (_corrected(self.x, values.T, at_reference.T[0]) - self.targets) * self.weights
        return float(np.vdot(r, r))

    def normal_equations(self, theta: Array) -> tuple[Array, Array]:
        """JᵀJ (upper triangle, Fortran order) and Jᵀr, J = ∂r/∂θ."""
        gram, gradient = np.zeros((len(theta),) * 2, order="F"), np.zeros(len(theta))
        value0, jacobian0 = _value_and_jacobian(theta, self.layers, np.zeros((1, self.x.shape[1])))
        for start in range(0, len(self.x), _BLOCK):
            part = slice(start, start + _BLOCK)
            value, jacobian = _value_and_jacobian(theta, self.layers, self.x[part])
            r = (_corrected(self.x[part], value, value0[0]) - self.targets[part]) * self.weights
            J = _corrected(self.x[part], jacobian, jacobian0[0])
            J *= self.weights[:, None]
            J = J.reshape(-1, len(theta))
            gram = dsyrk(1.0, J.T, beta=1.0, c=gram, overwrite_c=True)
            gradient += r.ravel() @ J
        return gram, gradient


def _corrected(x: Array, values: Array, reference: Array) -> Array:
    """Values (n, C, …), changed in place, less the tangent plane at x = 0, given by the jet ``reference`` (C, …)."""
    k = x.shape[1]
    values[:, 0] -= reference[0] + np.tensordot(x, reference[1 : 1 + k], 1)
    values[:, 1 : 1 + k] -= reference[1 : 1 + k]
    return values


def _forward(W: list[Array], b: list[Array], x: Array) -> tuple[list[Array], list[Array]]:
    """Jets of z_1, …, z_L and of a_0, …, a_L."""
    k = x.shape[1]
    z, a = [], [jets.variables(x)]
    for weight, bias in zip(W, b, strict=True):
        z.append(a[-1] @ weight.T)
        z[-1][0] += bias
        t = np.tanh(z[-1][0])
        slope = 1.0 - t * t
        a.append(jets.compose(z[-1], (t, slope, -2.0 * t * slope), k))
    return z, a


def _value_and_jacobian(theta: Array, layers: Sequence[int], x: Array) -> tuple[Array, Array]:
    """Jets of N (n, C) and of ∂N/∂θ (n, C, P)."""
    (n, k), (W, b, w) = x.shape, unpack(theta, layers)
    z, a = _forward(W, b, x)
    jacobian = np.empty((n, jets.jet_parts(k), len(theta)))
    end = len(theta) - len(w)
    jacobian[:, :, end:] = a[-1].transpose(1, 0, 2)
    g = np.zeros_like(a[-1])
    g[0] = w
    for level in range(len(W) - 1, -1, -1):
        t = a[level + 1][0]
        slope = 1.0 - t * t
        g = jets.product(jets.compose(z[level], (slope, -2.0 * t * slope, slope * (6.0 * t * t - 2.0)), k), g, k)
        outer = jets.product(g[:, :, :, None], a[level][:, :, None, :], k)
        start = end - b[level].size - W[level].size
        jacobian[:, :, start : end - b[level].size] = outer.reshape(len(outer), n, -1).transpose(1, 0, 2)
        jacobian[:, :, end - b[level].size : end] = g.transpose(1, 0, 2)
        g, end = g @ W[level], start
    return (a[-1] @ w).T, jacobian

"""Energy networks: a stress that is the derivative of a learned energy, evaluated by hand-batched formulas.

    Ŵ(U) = e [N(x) − N(0) − ∂N(0)·x] + G(U),   x = (U − I)/s,   T = ∂Ŵ/∂U

N is a network of tanh layers z_l = W_l a_{l−1} + b_l, a_l = tanh z_l, N = w·a_L; s and e are scales, G the growth term
(:mod:`surrogates.growth`). Energy and flux vanish at U = I, the tangent is symmetric, and Ŵ → ∞ as det U → 0,
whatever the weights. Rotations never enter (:class:`coupling.stretch.StretchFrame`).

Tangents Z_l = ∂z_l/∂U travel forward with the values, p_l = ∂N/∂z_l backward, and with tanh'' = −2 tanh tanh'

    ∂N/∂U = W_0ᵀ p_0,   ∂²N/∂U² = −2 Σ_l Z_lᵀ diag(a_l ⊙ p_l) Z_l,   p_l = (1 − a_l²) ⊙ W_{l+1}ᵀ p_{l+1}

(forward over reverse differentiation by hand: Griewank and Walther 2008, Evaluating Derivatives, ch. 5; the
derivatives of the linear output vanish).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from coupling.contract import Array
from coupling.errors import ModelError
from surrogates.backend import Precision, Tensor, backend_of
from surrogates.growth import Growth
from surrogates.potential import check_weights
from surrogates.stretch_space import stretch_reference


class EnergyNetwork:
    """The energy of this module's docstring. Not safe for threads: one instance has one set of work buffers.

    Args:
        weights: ``W0``, ``b0``, ``W1``, … (h_l, h_{l−1}) and (h_l,), ``output`` w (h_L,), ``scale`` s (k,),
            ``energy_scale`` e and ``growth`` c, of shape ().
        layers: k, h_1, …, h_L.
        device: where it evaluates, see :func:`surrogates.backend.backend_of`.
        precision: in which it evaluates; weights are float64.

    Raises:
        ModelError: where the weights do not fit the layers, or the device cannot be used.
    """

    family = "energy-network"

    def __init__(
        self, weights: Mapping[str, Array], layers: Sequence[int], device: str = "cpu", precision: Precision = "float64"
    ) -> None:
        self.layers = tuple(int(width) for width in layers)
        if len(self.layers) < 2 or self.layers[0] not in (3, 6):
            raise ModelError(f"the layers of an energy network are 3 or 6 inputs and hidden widths, got {self.layers}")
        check_weights(weights, weight_shapes(self.layers))
        if not (weights["scale"] > 0.0).all() or weights["growth"] < 0.0:
            raise ModelError("an energy network needs a positive scale and a growth coefficient that is not negative")
        self.weights = {name: np.array(array) for name, array in weights.items()}
        self.backend = backend_of(device, precision)
        self._growth = Growth(float(weights["growth"]), self.layers[0], self.backend)
        self._fold_scales()
        self._work = lru_cache(maxsize=2 if device == "cpu" else None)(self._allocate)  # devices see a few sizes only
        self._subtract_reference()

    @property
    def architecture(self) -> dict[str, Any]:
        """Widths of the layers and the activation."""
        return {"layers": list(self.layers), "activation": "tanh"}

    @classmethod
    def from_architecture(
        cls,
        architecture: Mapping[str, Any],
        weights: Mapping[str, Array],
        device: str = "cpu",
        precision: Precision = "float64",
    ) -> EnergyNetwork:
        """The network that :attr:`architecture` and :attr:`weights` describe.

        Raises:
            ModelError: for another activation, layers that are not whole numbers, or weights that do not fit.
        """
        if architecture.get("activation") != "tanh":
            raise ModelError(f"energy networks have the activation tanh, got {architecture.get('activation')!r}")
        layers = architecture["layers"]
        if not isinstance(layers, list) or not all(type(width) is int and width > 0 for width in layers):
            raise ModelError(
                f"layers of the architecture must be whole numbers above 0 in a list, got {layers!r}: "
                "the card was edited or damaged, copy the model again"
            )
        return cls(weights, layers, device, precision)

    def evaluate(self, U: Tensor, energy: Tensor, flux: Tensor, tangent: Tensor) -> None:
        """Overwrite energy (n,), flux (n, k), tangent (n, k, k) by those at U (n, k), n > 0."""
        xp, work = self.backend.xp, self._work(len(U))
        self._forward(U, work)
        xp.matmul(work.levels[-1].a, self._output, out=energy)
        energy -= U @ self._reference_flux
        energy -= self._reference_energy
        self._backward(work, flux)
        flux -= self._reference_flux
        xp.matmul(work.hessian, self._symmetrisation, out=tangent.reshape(len(U), -1))
        self._growth.add(U, energy, flux, tangent)

    def _forward(self, U: Tensor, work: _Work) -> None:
        """Values and tangents, layer by layer; a linear map takes both in one product."""
        xp = self.backend.xp
        xp.matmul(U, self._transposed[0], out=work.levels[0].z)
        Z = self._transposed[0][:, None, :]
        for level, (at, b) in enumerate(zip(work.levels, self._b, strict=True)):
            if level:
                xp.matmul(work.levels[level - 1].all_a, self._transposed[level], out=at.all_z)
                Z = at.Z
            xp.add(at.z, b, out=at.z)
            xp.tanh(at.z, out=at.a)
            xp.multiply(at.a, at.a, out=at.slope)
            xp.subtract(self._one, at.slope, out=at.slope)
            if level + 1 < len(self._W):
                xp.multiply(Z, at.slope, out=at.A)

    def _backward(self, work: _Work, flux: Tensor) -> None:
        """∂N/∂U goes to ``flux``, Σ_l Z_lᵀ diag(a_l ⊙ p_l) Z_l to ``work.hessian``; overwrites values on the way."""
        xp, hessian, g = self.backend.xp, work.hessian, self._output
        hessian[:] = 0.0
        for level in range(len(self._W) - 1, -1, -1):
            at = work.levels[level]
            p = xp.multiply(at.slope, g, out=at.slope)
            xp.multiply(at.a, p, out=at.z)
            if level:
                xp.multiply(at.Z, at.z, out=at.A)
                xp.matmul(at.rows_of_A, at.columns_of_Z, out=work.term)
                hessian += work.flat_term
                g = xp.matmul(p, self._W[level], out=work.levels[level - 1].z)
        xp.matmul(work.levels[0].z, self._first_pairs, out=work.flat_term)
        hessian += work.flat_term
        xp.matmul(p, self._W[0], out=flux)

    def _fold_scales(self) -> None:
        """Take s and e into the first layer and the output."""
        k, array = self.layers[0], self.backend.array
        W = [self.weights[f"W{level}"] for level in range(len(self.layers) - 1)]
        b = [self.weights[f"b{level}"] for level in range(len(self.layers) - 1)]
        W[0] = W[0] / self.weights["scale"]
        b[0] = b[0] - W[0] @ stretch_reference(k)
        self._W, self._transposed, self._b = [[array(v) for v in vs] for vs in (W, [w.T for w in W], b)]
        self._output = array(self.weights["energy_scale"] * self.weights["output"])
        self._one = array(np.array(1.0))
        self._first_pairs = array((W[0][:, :, None] * W[0][:, None, :]).reshape(len(W[0]), k * k))
        self._symmetrisation = array(-2.0 * _symmetrisation(k))

    def _subtract_reference(self) -> None:
        k = self.layers[0]
        self._reference_energy, self._reference_flux = 0.0, self.backend.array(np.zeros(k))
        reference = stretch_reference(k)
        energy, flux = np.empty(1), np.empty((1, k))
        self.backend.call(self.evaluate, reference[None], (energy, flux, np.empty((1, k, k))))
        self._reference_energy = float(energy[0] - flux[0] @ reference)
        self._reference_flux = self.backend.array(flux[0])

    def _allocate(self, n: int) -> _Work:
        k, empty = self.layers[0], self.backend.empty
        levels = [_Level.of(empty(1 + k, n, h), empty(1 + k, n, h), empty(n, h)) for h in self.layers[1:]]
        hessian, term = empty(n, k * k), empty(n, k * k)
        return _Work(levels, hessian, term, term.reshape(n, k, k))


@dataclass(frozen=True)
class _Level:
    """Buffers of one layer for n points, as the views that the formulas take.

    ``z`` and ``a`` = tanh z (n, h) with their tangents ``Z`` and ``A`` (k, n, h), ``slope`` tanh'(z) (n, h);
    ``all_z`` and ``all_a`` are values and tangents as the rows of one matrix ((1 + k) n, h).
    """

    z: Tensor
    Z: Tensor
    all_z: Tensor
    columns_of_Z: Tensor
    a: Tensor
    A: Tensor
    all_a: Tensor
    rows_of_A: Tensor
    slope: Tensor

    @classmethod
    def of(cls, z: Tensor, a: Tensor, slope: Tensor) -> _Level:
        """The views of z and a (1 + k, n, h)."""
        h = slope.shape[1]
        columns_of_Z = z[1:].swapaxes(0, 1).swapaxes(1, 2)
        rows_of_A = a[1:].swapaxes(0, 1)
        return cls(z[0], z[1:], z.reshape(-1, h), columns_of_Z, a[0], a[1:], a.reshape(-1, h), rows_of_A, slope)


@dataclass(frozen=True)
class _Work:
    """Buffers for n points: those of the layers, ``hessian`` (n, k²) and one ``term`` (n, k, k) of it, flat (n, k²)."""

    levels: list[_Level]
    hessian: Tensor
    flat_term: Tensor
    term: Tensor


def weight_shapes(layers: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of a network with these widths k, h_1, …, h_L."""
    shapes: dict[str, tuple[int, ...]] = {}
    for level, (inner, outer) in enumerate(zip(layers[:-1], layers[1:], strict=True)):
        shapes |= {f"W{level}": (outer, inner), f"b{level}": (outer,)}
    return shapes | {"output": (layers[-1],), "scale": (layers[0],), "energy_scale": (), "growth": ()}


def _symmetrisation(k: int) -> Array:
    """S (k², k²) with A S = ½ (A + Aᵀ) for matrices A (k, k) as rows of k² numbers.

    The result is symmetric to the bit: every entry is a sum of two products, which rounds to the same in either order.
    """
    unit = np.eye(k * k)
    return np.asarray(0.5 * (unit + unit[:, np.arange(k * k).reshape(k, k).T.ravel()]))

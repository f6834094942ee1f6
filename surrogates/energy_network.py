"""Energy networks: a stress that is the derivative of a learned energy, evaluated by hand-batched formulas.

    Ŵ(U) = e [N(x) − N(0) − ∂N(0)·x] + G(U),   x = (U − I)/s,   T = ∂Ŵ/∂U

N is a network of tanh layers z_l = W_l a_{l−1} + b_l, a_l = tanh z_l, N = w·a_L; s and e are scales, G the growth term
(:mod:`surrogates.growth`). Energy and flux vanish at U = I, the tangent is symmetric, and Ŵ → ∞ as det U → 0,
whatever the weights. Rotations never enter (:class:`coupling.stretch.StretchFrame`).

For the evaluation the layers are rewritten with the logistic function σ, which costs half as much: tanh z = 2σ(2z) − 1,
so that y_l = 2 z_l = 4 W_l σ(y_{l−1}) + 2 (b_l − W_l 1). Tangents Y_l = ∂y_l/∂U travel forward with the values,
g_l = ∂N/∂σ(y_l) backward, and with σ' = σ − σ², σ'' = σ' (1 − 2σ)

    ∂²N/∂U² = Σ_l Y_lᵀ diag(σ''(y_l) ⊙ g_l) Y_l

(forward over reverse differentiation by hand: Griewank and Walther 2008, Evaluating Derivatives, ch. 5; the
derivatives of the linear output vanish).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from coupling.contract import Array
from coupling.errors import ModelError
from surrogates.growth import Growth, Triple
from surrogates.potential import check_weights
from surrogates.stretch_space import stretch_reference


@dataclass(frozen=True)
class _Work:
    """Buffers for one number of points n: jets[l] (1+k, n, h) holds σ(y_l) and its tangents, y[l] the same of y_l."""

    y: list[torch.Tensor]
    jets: list[torch.Tensor]
    slopes: list[torch.Tensor]
    adjoint: list[torch.Tensor]
    products: list[torch.Tensor]
    pairs: torch.Tensor
    rows: torch.Tensor
    flux: torch.Tensor


class EnergyNetwork:
    """The energy of this module's docstring. Not safe for threads: one instance has one set of work buffers.

    Args:
        weights: ``W0``, ``b0``, ``W1``, … (h_l, h_{l−1}) and (h_l,), ``output`` w (h_L,), ``scale`` s (k,),
            ``energy_scale`` e and ``growth`` c, of shape ().
        layers: k, h_1, …, h_L.
        device: where it evaluates.

    Raises:
        ModelError: where the weights do not fit the layers.
    """

    family = "energy-network"

    def __init__(self, weights: Mapping[str, Array], layers: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.layers = tuple(int(width) for width in layers)
        if len(self.layers) < 2 or self.layers[0] not in (3, 6):
            raise ModelError(f"the layers of an energy network are 3 or 6 inputs and hidden widths, got {self.layers}")
        check_weights(weights, weight_shapes(self.layers))
        if not (weights["scale"] > 0.0).all() or weights["growth"] < 0.0:
            raise ModelError("an energy network needs a positive scale and a growth coefficient that is not negative")
        self.weights = {name: np.array(array) for name, array in weights.items()}
        self.device = torch.device(device)
        self._growth = Growth(float(weights["growth"]), self.layers[0], self.device)
        self._fold_scales()
        self._work = lru_cache(maxsize=2)(self._allocate)
        self._subtract_reference()

    @property
    def architecture(self) -> dict[str, Any]:
        """Widths of the layers and the activation."""
        return {"layers": list(self.layers), "activation": "tanh"}

    @classmethod
    def from_architecture(
        cls, architecture: Mapping[str, Any], weights: Mapping[str, Array], device: torch.device | str = "cpu"
    ) -> EnergyNetwork:
        """The network that :attr:`architecture` and :attr:`weights` describe.

        Raises:
            ModelError: for another activation, or weights that do not fit.
        """
        if architecture.get("activation") != "tanh":
            raise ModelError(f"energy networks have the activation tanh, got {architecture.get('activation')!r}")
        return cls(weights, architecture["layers"], device)

    def evaluate(self, U: torch.Tensor) -> Triple:
        """Energy (n,), flux (n, k), tangent (n, k, k) at U (n, k), n > 0; valid until the next call."""
        work = self._work(U.shape[0])
        self._forward(U, work)
        energy = torch.mv(work.jets[-1][0], self._output)
        energy -= torch.addmv(self._reference_energy, U, self._reference_flux)
        flux = self._backward(work)
        tangent = work.pairs.index_select(0, self._unpack).t().view(-1, self.layers[0], self.layers[0])
        added = self._growth.evaluate(U)
        return energy + added[0], flux + added[1], tangent + added[2]

    def _forward(self, U: torch.Tensor, work: _Work) -> None:
        directions = self._W[0].t()[:, None, :]
        torch.addmm(self._b[0], U, self._W[0].t(), out=work.y[0][0])
        for level, (y, jet, slope) in enumerate(zip(work.y, work.jets, work.slopes, strict=True)):
            if level:
                torch.mm(work.jets[level - 1].flatten(0, 1), self._W[level].t(), out=y.flatten(0, 1))
                y[0] += self._b[level]
                directions = y[1:]
            s = torch.sigmoid(y[0], out=jet[0])
            torch.addcmul(s, s, s, value=-1.0, out=slope)
            if level + 1 < len(self._W):
                torch.mul(directions, slope, out=jet[1:])

    def _backward(self, work: _Work) -> torch.Tensor:
        """Flux; the packed upper triangle of the tangent goes to ``work.pairs``."""
        k, g = self.layers[0], self._output
        work.pairs.zero_()
        for level in range(len(self._W) - 1, -1, -1):
            p = torch.mul(work.slopes[level], g, out=work.adjoint[level])
            q = torch.addcmul(p, p, work.jets[level][0], value=-2.0, out=work.slopes[level])
            if level == 0:
                break
            Y, products, row = work.y[level][1:], work.products[level], 0
            for i in range(k):
                weighted = torch.mul(Y[i], q, out=work.y[level][0])
                torch.mul(Y[i:], weighted, out=products[i:])
                work.pairs[row : row + k - i] += torch.sum(products[i:], -1, out=work.rows[i:])
                row += k - i
            g = torch.mm(p, self._W[level], out=work.jets[level - 1][1])
        work.pairs.addmm_(self._first_pairs, q.t())
        return torch.addmm(-self._reference_flux, p, self._W[0], out=work.flux)

    def _fold_scales(self) -> None:
        """Take s and e into the first layer and the output, and rewrite tanh as σ; N loses a constant."""
        tensors = {name: torch.from_numpy(array).to(self.device) for name, array in self.weights.items()}
        depth, k = len(self.layers) - 1, self.layers[0]
        reference = torch.from_numpy(stretch_reference(k)).to(self.device)
        first = tensors["W0"] / tensors["scale"]
        self._W, self._b = [2.0 * first], [2.0 * (tensors["b0"] - first @ reference)]
        for level in range(1, depth):
            W, b = tensors[f"W{level}"], tensors[f"b{level}"]
            self._W.append(4.0 * W)
            self._b.append(2.0 * (b - W.sum(1)))
        self._output = 2.0 * tensors["energy_scale"] * tensors["output"]
        i, j = np.triu_indices(k)
        full = np.zeros((k, k), dtype=np.int64)
        full[i, j] = full[j, i] = np.arange(len(i))
        self._unpack = torch.from_numpy(full.ravel()).to(self.device)
        self._first_pairs = (self._W[0][:, i] * self._W[0][:, j]).t().contiguous()

    def _subtract_reference(self) -> None:
        k = self.layers[0]
        reference = torch.from_numpy(stretch_reference(k)).to(self.device)
        self._reference_energy = torch.zeros((), dtype=torch.float64, device=self.device)
        self._reference_flux = torch.zeros(k, dtype=torch.float64, device=self.device)
        energy, flux, _ = self.evaluate(reference[None])
        self._reference_energy = energy[0] - flux[0] @ reference
        self._reference_flux = flux[0].clone()

    def _allocate(self, n: int) -> _Work:
        def empty(*shape: int) -> torch.Tensor:
            return torch.empty(shape, dtype=torch.float64, device=self.device)

        k, hidden = self.layers[0], self.layers[1:]
        jets = [empty(1 + k, n, h) for h in hidden]
        planes = [empty(n, h) for h in hidden]
        return _Work(
            y=[empty(1 + k, n, h) for h in hidden],
            jets=jets,
            slopes=[empty(n, h) for h in hidden],
            adjoint=planes,
            products=[empty(k, n, h) for h in hidden],
            pairs=empty(k * (k + 1) // 2, n),
            rows=empty(k, n),
            flux=empty(n, k),
        )


def weight_shapes(layers: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of a network with these widths k, h_1, …, h_L."""
    shapes: dict[str, tuple[int, ...]] = {}
    for level, (inner, outer) in enumerate(zip(layers[:-1], layers[1:], strict=True)):
        shapes |= {f"W{level}": (outer, inner), f"b{level}": (outer,)}
    return shapes | {"output": (layers[-1],), "scale": (layers[0],), "energy_scale": (), "growth": ()}

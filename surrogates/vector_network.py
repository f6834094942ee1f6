"""Small networks ℝᶠ → ℝ^q, fitted by Levenberg–Marquardt to samples of their values.

f(x) = W_L a_{L−1} + b_L,   a_l = tanh(W_l a_{l−1} + b_l),   a_0 = x
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from coupling.contract import Array
from surrogates.levenberg_marquardt import levenberg_marquardt
from surrogates.potential import check_weights

_BLOCK = 256


@dataclass(frozen=True)
class VectorNetwork:
    """The function f of this module's docstring.

    Args:
        layers: (W_l, b_l) of each layer, shapes (h_l, h_{l−1}) and (h_l,).
    """

    layers: tuple[tuple[Array, Array], ...]

    def __call__(self, x: Array) -> Array:
        """Values f (n, q) at x (n, f)."""
        *_, last = x, *self.activations(x)
        W, b = self.layers[-1]
        return np.asarray(last @ W.T + b)

    def derivative(self, x: Array) -> Array:
        """∂f/∂x (n, q, f) at x (n, f)."""
        slopes = np.broadcast_to(np.eye(x.shape[1]), (len(x), x.shape[1], x.shape[1]))
        for (W, _), a in zip(self.layers, self.activations(x), strict=False):
            slopes = (1.0 - a * a)[:, :, None] * (W @ slopes)
        return np.asarray(self.layers[-1][0] @ slopes)

    def activations(self, x: Array) -> Iterator[Array]:
        """a_1, …, a_{L−1}."""
        a = x
        for W, b in self.layers[:-1]:
            a = np.tanh(a @ W.T + b)
            yield a

    @property
    def outputs(self) -> int:
        """Number of values, q."""
        return len(self.layers[-1][1])

    @property
    def weights(self) -> dict[str, Array]:
        """All its numbers by name: W0, b0, W1, …."""
        return {f"{name}{i}": a for i, layer in enumerate(self.layers) for name, a in zip("Wb", layer, strict=True)}

    @classmethod
    def from_weights(cls, weights: Mapping[str, Array]) -> VectorNetwork:
        """The network of :attr:`weights`.

        Raises:
            ModelError: arrays are missing or do not belong together, or numbers are not finite.
        """
        L = max(1, len(weights) // 2)
        widths = [weights["W0"].shape[-1] if "W0" in weights else 0]
        widths += [len(weights[name]) if name in weights else 0 for name in (f"W{i}" for i in range(L))]
        shapes: dict[str, tuple[int, ...]] = {f"W{i}": (widths[i + 1], widths[i]) for i in range(L)}
        check_weights(weights, shapes | {f"b{i}": (widths[i + 1],) for i in range(L)})
        return cls(tuple((weights[f"W{i}"], weights[f"b{i}"]) for i in range(L)))


def train_network(
    inputs: Array,
    targets: Array,
    *,
    hidden: Sequence[int],
    validation: float = 0.15,
    max_iterations: int = 200,
    decay: float = 1e-8,
    seed: int = 0,
) -> tuple[VectorNetwork, float]:
    """A network of the targets (n, q) at the inputs (n, f), and its relative error on samples held out.

    The iterate of Levenberg–Marquardt that is best on those is kept; errors are relative to the root mean square of
    the targets.

    Args:
        inputs: (n, f); all are scaled to [−1, 1] inside.
        targets: (n, q), in units in which their errors are alike.
        hidden: widths of the hidden layers.
        validation: fraction of the samples held out.
        max_iterations: of Levenberg–Marquardt.
        decay: weight of the squared parameters beside the relative mean square error; it makes the network smooth
            where samples are few.
        seed: of the initial weights and of the choice of the samples held out.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(inputs))
    held, used = np.split(order, [max(1, round(validation * len(inputs)))])
    low, high = inputs.min(axis=0), inputs.max(axis=0)
    half = np.where(high > low, (high - low) / 2.0, 1.0)
    scaled: Array = (inputs - (low + high) / 2.0) / half
    size = float(np.sqrt(np.mean(np.sum(targets**2, axis=1)))) or 1.0
    widths = (inputs.shape[1], *hidden, targets.shape[1])
    wanted = np.asarray(targets / size, dtype=np.float64)
    fit, check = (
        LeastSquaresFit(scaled[used], wanted[used], widths, decay),
        LeastSquaresFit(scaled[held], wanted[held], widths),
    )
    best = fit.initial(rng)
    lowest = check.cost(best)
    for iteration, (theta, _) in enumerate(levenberg_marquardt(fit, best), start=1):
        if (loss := check.cost(theta)) < lowest:
            best, lowest = theta, loss
        if iteration >= max_iterations:
            break
    layers = list(fit.network(best).layers)
    W0, b0 = layers[0]
    layers[0] = (W0 / half, b0 - W0 @ ((low + high) / 2.0 / half))
    layers[-1] = (size * layers[-1][0], size * layers[-1][1])
    return VectorNetwork(tuple(layers)), float(np.sqrt(lowest))


class LeastSquaresFit:
    """Mean square error of the network of parameters θ = (W_0, b_0, W_1, …) at scaled samples, plus decay ‖θ‖²."""

    def __init__(self, inputs: Array, targets: Array, widths: tuple[int, ...], decay: float = 0.0) -> None:
        self._inputs, self._targets, self._widths, self._decay = inputs, targets, widths, decay
        inner, outer = widths[-2:]
        weights, biases = outer * inner, outer
        end = sum((a + 1) * b for a, b in zip(widths[:-1], widths[1:], strict=True))
        self._hidden = end - weights - biases
        of_weights, of_biases = np.split(np.arange(self._hidden, end), [weights])
        self._of_outputs = np.hstack((of_weights.reshape(outer, inner), of_biases[:, None]))

    def initial(self, rng: np.random.Generator) -> Array:
        """Random θ: weights normal with variance 1/inputs, biases uniform in (−1, 1)."""
        parts: list[Array] = []
        for inner, outer in zip(self._widths[:-1], self._widths[1:], strict=True):
            parts += [rng.normal(size=outer * inner) / np.sqrt(inner), rng.uniform(-1.0, 1.0, outer)]
        return np.concatenate(parts)

    def network(self, theta: Array) -> VectorNetwork:
        """The network whose weights are views of θ."""
        found, at = [], 0
        for inner, outer in zip(self._widths[:-1], self._widths[1:], strict=True):
            W = theta[at : at + outer * inner].reshape(outer, inner)
            found.append((W, theta[at + outer * inner : at + outer * (inner + 1)]))
            at += outer * (inner + 1)
        return VectorNetwork(tuple(found))

    def cost(self, theta: Array) -> float:
        """Mean over the samples of the squared error, plus decay ‖θ‖²."""
        r = self.network(theta)(self._inputs) - self._targets
        return float((r * r).sum() / len(self._inputs)) + self._decay * float(theta @ theta)

    def normal_equations(self, theta: Array) -> tuple[Array, Array]:
        """JᵀJ (upper triangle) and Jᵀr of the residuals r whose squares :meth:`cost` sums.

        The last layer is linear, and its parameters for one output change no other one.
        """
        n, h, network = len(self._inputs), self._hidden, self.network(theta)
        gram, gradient = np.zeros((len(theta),) * 2), np.zeros(len(theta))
        for start in range(0, n, _BLOCK):
            x = self._inputs[start : start + _BLOCK]
            *_, last = x, *network.activations(x)
            a, J = np.hstack((last, np.ones((len(x), 1)))), self._of_hidden(network, x)
            r = network(x) - self._targets[start : start + _BLOCK]
            flat, square = J.reshape(r.size, h), a.T @ a
            gram[:h, :h] += flat.T @ flat
            gradient[:h] += r.reshape(-1) @ flat
            for i, columns in enumerate(self._of_outputs):
                gram[:h, columns] += J[:, i].T @ a
                gram[np.ix_(columns, columns)] += square
                gradient[columns] += a.T @ r[:, i]
        gram[np.diag_indices_from(gram)] += n * self._decay
        return gram / n, gradient / n + self._decay * theta

    def _of_hidden(self, network: VectorNetwork, x: Array) -> Array:
        """Derivatives (n, q, P) of the outputs with respect to the parameters of all layers but the last."""
        a = [x, *network.activations(x)]
        G = np.broadcast_to(network.layers[-1][0], (len(x), *network.layers[-1][0].shape))
        parts: list[Array] = [np.empty((len(x), network.outputs, 0))]
        for level in range(len(network.layers) - 2, -1, -1):
            G = G * (1.0 - a[level + 1] ** 2)[:, None, :]
            outer = (G[:, :, :, None] * a[level][:, None, None, :]).reshape(*G.shape[:2], -1)
            parts = [outer, G, *parts]
            G = G @ network.layers[level][0]
        return np.concatenate(parts, axis=2)

"""What a family of energy surrogates provides: an energy with two derivatives, and the numbers it is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from coupling.contract import Array
from coupling.errors import ModelError
from surrogates.backend import Backend, Precision, Tensor


class Potential(Protocol):
    """An energy Ŵ(U) of stretches in Mandel form, with zero energy and zero flux in the reference state."""

    @property
    def family(self) -> str:
        """Name of the family, which finds the class again when a model is loaded."""
        ...

    @property
    def backend(self) -> Backend:
        """Where it evaluates."""
        ...

    @property
    def architecture(self) -> dict[str, Any]:
        """What together with the weights rebuilds the potential, for JSON."""
        ...

    @property
    def weights(self) -> dict[str, Array]:
        """All its numbers, float64."""
        ...

    @classmethod
    def from_architecture(
        cls, architecture: Mapping[str, Any], weights: Mapping[str, Array], device: str, precision: Precision
    ) -> Potential:
        """The potential of that architecture and those weights, on a device, in a precision."""
        ...

    def evaluate(self, U: Tensor, energy: Tensor, flux: Tensor, tangent: Tensor) -> None:
        """Overwrite energy (n,), flux (n, k) and tangent (n, k, k), C-contiguous, by those at U (n, k), n > 0."""
        ...


def evaluate_chunks(potential: Potential, U: Array, chunk: int) -> tuple[Array, Array, Array]:
    """Energy (n,), flux (n, k) and tangent (n, k, k) at U (n, k), in chunks of so many points."""
    n, k = U.shape
    results = np.empty(n), np.empty((n, k)), np.empty((n, k, k))
    fill_chunks(potential, U, chunk, results)
    return results


def fill_chunks(potential: Potential, U: Array, chunk: int, results: tuple[Array, Array, Array]) -> None:
    """Overwrite arrays by what :func:`evaluate_chunks` returns."""
    n = len(U)
    if 0 < n <= chunk:
        potential.backend.call(potential.evaluate, U, results)
        return
    for start in range(0, n, chunk):
        part = slice(start, start + chunk)
        potential.backend.call(potential.evaluate, U[part], [array[part] for array in results])


def check_weights(weights: Mapping[str, Array], shapes: Mapping[str, Sequence[int]]) -> None:
    """Check that weights are exactly the named float64 arrays of these shapes, all finite.

    Raises:
        ModelError: naming the array, what was expected and what was got.
    """
    if weights.keys() != shapes.keys():
        raise ModelError(
            f"the architecture has the arrays {sorted(shapes)}, the weights are {sorted(weights)}: "
            "the two do not belong together"
        )
    for name, shape in shapes.items():
        array = weights[name]
        if array.shape != tuple(shape) or array.dtype != np.float64:
            raise ModelError(f"weights {name} must be float64 {tuple(shape)}, got {array.dtype} {array.shape}")
        if not np.isfinite(array).all():
            raise ModelError(
                f"weights {name} have numbers that are not finite: the training diverged or the file is damaged"
            )

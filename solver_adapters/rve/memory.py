"""What points remember of their RVEs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coupling.anchors import product
from coupling.contract import Array


@dataclass(frozen=True)
class Memory:
    """What n points remember: equilibria w (n, N) at g (n, k), their sensitivities S (n, N, k) and histories (n, h).

    The history is the one at the equilibrium in rows of a state, and the one that an increment starts with, h₀, in what
    an iteration starts from.
    """

    gradient: Array
    fluctuation: Array
    sensitivity: Array
    history: Array

    @classmethod
    def of(cls, rows: Array, k: int, size: int) -> Memory:
        """Views of the rows (n, k + N (1 + k) + h) of a state."""
        end = k + size * (1 + k)
        sensitivity = rows[:, k + size : end].reshape(len(rows), size, k)
        return cls(rows[:, :k], rows[:, k : k + size], sensitivity, rows[:, end:])

    def rows(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> Memory:
        """What some of the points remember."""
        return Memory(*(values[which] for values in (self.gradient, self.fluctuation, self.sensitivity, self.history)))

    def carried(self, gradient: Array) -> Array:
        """Fluctuations (n, N) at other gradients to first order, w + S (g' − g)."""
        return self.fluctuation + product(self.sensitivity, gradient - self.gradient)

"""What points remember of their RVEs."""

from __future__ import annotations

from dataclasses import dataclass

from coupling.anchors import product
from coupling.contract import Array


@dataclass(frozen=True)
class Memory:
    """What n points remember: equilibria w (n, N) at g (n, k) with their sensitivities S (n, N, k)."""

    gradient: Array
    fluctuation: Array
    sensitivity: Array

    @classmethod
    def of(cls, rows: Array, k: int, size: int) -> Memory:
        """Views of the rows (n, k + N (1 + k)) of a state."""
        return cls(rows[:, :k], rows[:, k : k + size], rows[:, k + size :].reshape(len(rows), size, k))

    def carried(self, gradient: Array) -> Array:
        """Fluctuations (n, N) at other gradients to first order, w + S (g' − g)."""
        return self.fluctuation + product(self.sensitivity, gradient - self.gradient)

"""What points remember of their RVEs."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from coupling.anchors import product
from coupling.contract import Array


@dataclass(frozen=True)
class Memory:
    """What n points remember: equilibria w (n, N) at g (n, k), their sensitivities S (n, N, k) and histories (n, h).

    Where a guess has told S well, the defect (n,) is its estimated relative error in any direction, and the error (n,)
    that of w in units of strain. Elsewhere both are zero, and nothing is known of them.

    The history is the one at the equilibrium in rows of a state, and the one that an increment starts with, h₀, in what
    an iteration starts from.
    """

    gradient: Array
    fluctuation: Array
    sensitivity: Array
    defect: Array
    error: Array
    history: Array

    @classmethod
    def size(cls, k: int, unknowns: int, history: int) -> int:
        """Numbers in a row of a state."""
        return k + unknowns * (1 + k) + 2 + history

    @classmethod
    def of(cls, rows: Array, k: int, unknowns: int) -> Memory:
        """Views of the rows (n, s) of a state."""
        end = k + unknowns * (1 + k)
        sensitivity = rows[:, k + unknowns : end].reshape(len(rows), unknowns, k)
        return cls(
            rows[:, :k], rows[:, k : k + unknowns], sensitivity, rows[:, end], rows[:, end + 1], rows[:, end + 2 :]
        )

    def rows(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> Memory:
        """What some of the points remember."""
        return Memory(*(getattr(self, f.name)[which] for f in fields(self)))

    def carried(self, gradient: Array) -> Array:
        """Fluctuations (n, N) at other gradients to first order, w + S (g' − g)."""
        return self.fluctuation + product(self.sensitivity, gradient - self.gradient)

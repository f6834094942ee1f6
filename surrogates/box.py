"""The range of a surrogate: a box of gradients."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from coupling.contract import Array
from coupling.errors import ContractError


@dataclass(frozen=True)
class Box:
    """The box lower ≤ g ≤ upper of gradients with k components.

    Args:
        lower: k lower bounds.
        upper: k upper bounds.

    Raises:
        ContractError: where the bounds are no box.
    """

    lower: tuple[float, ...]
    upper: tuple[float, ...]

    def __post_init__(self) -> None:
        lower, upper = np.array(self.lower), np.array(self.upper)
        if lower.shape != upper.shape:
            raise ContractError(
                f"the box has {len(lower)} lower and {len(upper)} upper bounds: give one pair per component"
            )
        if not (np.isfinite(lower).all() and np.isfinite(upper).all() and (lower < upper).all()):
            raise ContractError(f"every lower bound must be below its upper bound, got {self.lower} and {self.upper}")

    @classmethod
    def of(cls, lower: Sequence[float] | Array, upper: Sequence[float] | Array) -> Self:
        """The box of any two sequences of k numbers."""
        return cls(tuple(float(v) for v in lower), tuple(float(v) for v in upper))

    @property
    def k(self) -> int:
        """Number of components."""
        return len(self.lower)

    @property
    def centre(self) -> Array:
        """Its middle (k,)."""
        lower, upper = self._bounds
        return np.asarray((lower + upper) / 2)

    @property
    def half_width(self) -> Array:
        """Half its edges (k,)."""
        lower, upper = self._bounds
        return np.asarray((upper - lower) / 2)

    def contains(self, gradient: Array) -> NDArray[np.bool_]:
        """Mask (n,) of the gradients (n, k) in the box, bounds included."""
        lower, upper = self._bounds
        return np.asarray(((gradient >= lower) & (gradient <= upper)).all(axis=1))

    def grid(self, n: int) -> Array:
        """The nᵏ gradients (nᵏ, k) of a regular grid from bound to bound."""
        axes = [np.linspace(low, high, n) for low, high in zip(self.lower, self.upper, strict=True)]
        return np.array(list(itertools.product(*axes)))

    @cached_property
    def _bounds(self) -> tuple[Array, Array]:
        return np.array(self.lower), np.array(self.upper)

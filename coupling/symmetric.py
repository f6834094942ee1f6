"""Symmetric matrices as their upper triangles, row by row: k(k+1)/2 numbers instead of k²."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from coupling.contract import Array


def packed_size(k: int) -> int:
    """k(k+1)/2, entries of the upper triangle of a (k, k) matrix."""
    return k * (k + 1) // 2


def unpacked(packed: Array, k: int) -> Array:
    """The matrices (n, k, k), C-contiguous, of upper triangles (n, k(k+1)/2)."""
    return np.take(packed, _places(k), axis=1)


@lru_cache(maxsize=16)
def _places(k: int) -> NDArray[np.intp]:
    """Where entry ij of a matrix stands in its upper triangle."""
    places = np.empty((k, k), np.intp)
    i, j = np.triu_indices(k)
    places[i, j] = places[j, i] = np.arange(packed_size(k))
    return places

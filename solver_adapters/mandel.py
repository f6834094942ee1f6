"""Mandel form of symmetric tensors in UFL, in the order of :func:`coupling.contract.mandel_components`."""

from __future__ import annotations

from typing import Any

import numpy as np
import ufl

from coupling.errors import ContractError

_MANDEL_PAIRS = {1: ((0, 0),), 2: ((0, 0), (1, 1), (0, 1)), 3: ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))}


def mandel(tensor: Any) -> Any:
    """Mandel vector of a symmetric UFL tensor: (11, 22, √2·12) in 2D, (11, 22, 33, √2·23, √2·13, √2·12) in 3D.

    The upper triangle is read. Scalar products are kept: mandel(A)·mandel(B) = A : B.
    """
    dim = tensor.ufl_shape[0] if len(set(tensor.ufl_shape)) == 1 and len(tensor.ufl_shape) == 2 else 0
    if dim not in _MANDEL_PAIRS:
        raise ContractError(f"mandel() needs a square tensor of dimension 1 to 3, got shape {tensor.ufl_shape}")
    return ufl.as_vector([tensor[i, j] * (1.0 if i == j else np.sqrt(2.0)) for i, j in _MANDEL_PAIRS[dim]])


def from_mandel(vector: Any) -> Any:
    """Symmetric UFL tensor of a Mandel vector of length 1, 3 or 6; the inverse of :func:`mandel`."""
    dim = {(1,): 1, (3,): 2, (6,): 3}.get(vector.ufl_shape, 0)
    if dim == 0:
        raise ContractError(f"from_mandel() needs a vector of length 1, 3 or 6, got shape {vector.ufl_shape}")
    row = {pair: a for a, pair in enumerate(_MANDEL_PAIRS[dim])}
    entry = [
        [vector[row[min(i, j), max(i, j)]] / (1.0 if i == j else np.sqrt(2.0)) for j in range(dim)] for i in range(dim)
    ]
    return ufl.as_tensor(entry)

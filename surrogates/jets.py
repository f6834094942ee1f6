"""Second-order jets: a function's value, gradient and Hessian in k variables, carried together through a computation.

A jet is an array (C, …), C = 1 + k + k(k+1)/2: the value, the k first derivatives, and the second derivatives ij, i
≤ j, row by row. Linear maps act on the trailing axes of all C parts alike; products and scalar functions are the two
rules here. (Truncated Taylor arithmetic: Griewank and Walther 2008, Evaluating Derivatives, ch. 13.)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from coupling.contract import Array


def jet_parts(k: int) -> int:
    """C, the number of parts of a jet in k variables."""
    return 1 + k + k * (k + 1) // 2


def second_parts(k: int) -> list[tuple[int, int, int]]:
    """(part, i, j) of the second derivatives, where i and j count the parts of first derivatives, 1 to k."""
    pairs = itertools.combinations_with_replacement(range(1, 1 + k), 2)
    return [(1 + k + p, i, j) for p, (i, j) in enumerate(pairs)]


def variables(x: Array) -> Array:
    """The jet (C, n, k) of the coordinates x (n, k) themselves."""
    n, k = x.shape
    jet = np.zeros((jet_parts(k), n, k))
    jet[0] = x
    jet[1 : 1 + k] = np.eye(k)[:, None, :]
    return jet


def product(a: Array, b: Array, k: int) -> Array:
    """The jet of a·b, broadcasting trailing axes."""
    out: Array = a[0] * b
    out[1:] += a[1:] * b[0]
    for part, i, j in second_parts(k):
        out[part] += a[i] * b[j]
        out[part] += a[j] * b[i]
    return out


def compose(z: Array, derivatives: Sequence[Array], k: int) -> Array:
    """The jet of f(z) from f(z₀), f'(z₀), f''(z₀)."""
    value, first, second = derivatives
    out = first * z
    out[0] = value
    for part, i, j in second_parts(k):
        out[part] += second * z[i] * z[j]
    return out

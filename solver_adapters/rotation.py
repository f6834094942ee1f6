"""Rotation of closure components, read off their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from math import isqrt

import numpy as np

from coupling.contract import Array, mandel_components, tensor_components
from coupling.errors import ContractError
from coupling.polar import mandel_basis


def symbol(component: str) -> str:
    """The quantity a component belongs to: F of F12, U of √2·U12, θ of θ."""
    return re.sub(r"[0-9]+$", "", component.removeprefix("√2·"))


def quantities(components: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Components of each quantity, in order: {"θ": ("θ",), "g": ("g1", "g2")} of ("θ", "g1", "g2")."""
    return {name: tuple(group) for name, group in groupby(components, symbol)}


def component_rotation(components: Sequence[str], rotation: Array) -> Array:
    """T (n, k, k), orthogonal, with T g the components in axes e'_i of what has components g in axes e_j.

    For R_ij = e'_i · e_j: scalars T = 1, vectors T = R, tensors A' = R A Rᵀ (row by row or in Mandel form).

    Args:
        components: names as in ``spec.gradient``, (k,).
        rotation: R (n, 3, 3); in 2D its upper left part is read.

    Raises:
        ContractError: names that tell no scalar, vector, general tensor or Mandel form.
    """
    k = len(components)
    whole, first = np.zeros((len(rotation), k, k)), 0
    for name, names in quantities(components).items():
        last = first + len(names)
        whole[:, first:last, first:last] = _block(name, names, rotation)
        first = last
    return whole


def _block(name: str, names: tuple[str, ...], rotation: Array) -> Array:
    size, n = len(names), len(rotation)
    if names == (name,):
        return np.ones((n, 1, 1))
    if size in (2, 3) and names == tuple(f"{name}{i}" for i in range(1, size + 1)):
        return rotation[:, :size, :size]
    for dim in (2, 3):
        R = rotation[:, :dim, :dim]
        if names == mandel_components(name, dim):
            D = mandel_basis(dim)
            return np.asarray(np.einsum("aij,nik,bkl,njl->nab", D, R, D, R, optimize=True))
    if names == tensor_components(name, isqrt(size)):
        R = rotation[:, : isqrt(size), : isqrt(size)]
        return np.asarray(np.einsum("nik,njl->nijkl", R, R).reshape(n, size, size))
    raise ContractError(
        f"components {names} cannot be rotated: name them as a vector (g1, g2), by tensor_components() or by "
        "mandel_components()"
    )

"""Gradients at the faces of a rectilinear grid, and the divergence of what flows through them, as sparse matrices.

The nodes carry the unknowns. A node's control volume reaches halfway to its neighbours and ends at the boundary, so
that no flux enters there (the natural condition of a weak form). With u the values at the nodes a rank sees,

    g = G u at its faces,   r = D (n·q) at its nodes, owned or ghost,   ∂r/∂u = D (n·∂q/∂g) G

Across a face the difference quotient, along it the mean of the central differences at its two nodes: second order on
uniform grids. Tensor grids make every operator a Kronecker product of operators along the axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from coupling.contract import Array
from solver_adapters.grid.axes import Axis


class Faces:
    """The faces that a rank owns, direction by direction, in each the first axis running fastest.

    Args:
        axes: the axes of the grid.
        value: whether the operand is the value followed by the gradient, or the gradient alone.

    Attributes:
        n: number of faces.
        direction: (n,), the axis that the normal of each face points along.
        coordinates: (n, d), midpoints.
        gradient: G, (n·k, seen), the k rows of a face one after the other.
        divergence: D, (seen, n).
        volumes: (own,), control volumes of the owned nodes.
    """

    def __init__(self, axes: Sequence[Axis], *, value: bool) -> None:
        dim = len(axes)
        counts = [int(np.prod([_along(axis, a == b) for b, axis in enumerate(axes)])) for a in range(dim)]
        self.n = sum(counts)
        self.k = dim + int(value)
        self.direction: NDArray[np.intp] = np.repeat(np.arange(dim), counts)
        self.coordinates = np.vstack([_midpoints(axes, a) for a in range(dim)])
        stacked = [sp.vstack([_gradient(axes, a, b) for a in range(dim)]) for b in range(-int(value), dim)]
        by_face = np.arange(self.n * self.k).reshape(self.k, self.n).T.reshape(-1)
        self.gradient = sp.csr_array(sp.vstack(stacked).tocsr()[by_face])
        self.divergence = sp.csr_array(sp.hstack([_divergence(axes, a) for a in range(dim)]))
        self.volumes = _kron([axis.lengths[:, None] for axis in axes]).toarray().reshape(-1)

    def normal(self, flux: Array) -> Array:
        """n·q (n,) or n·∂q/∂g (n, k) of flux (n, d) or tangent (n, d, k)."""
        return np.ascontiguousarray(flux[np.arange(self.n), self.direction])

    def stiffness(self, tangent: Array) -> sp.csr_array:
        """∂r/∂u = D (n·∂q/∂g) G, (seen, seen), of the tangents (n, d, k) at the faces."""
        normal = self.normal(tangent).reshape(-1)
        starts, columns = np.arange(0, normal.size + 1, self.k), np.arange(normal.size)
        T = sp.csr_array((normal, columns, starts), shape=(self.n, normal.size))
        return sp.csr_array(self.divergence @ T @ self.gradient)


def _along(axis: Axis, across: bool) -> int:
    return int(axis.lower_nodes.size) if across else axis.own


def _gradient(axes: Sequence[Axis], a: int, b: int) -> sp.csr_array:
    """∂u/∂x_b at the faces of direction a; u itself where b = −1."""
    parts = []
    for c, axis in enumerate(axes):
        if c == a:
            parts.append(axis.slope() if b == a else axis.average())
        else:
            parts.append(axis.derivative() if b == c else axis.select())
    return _kron(parts)


def _divergence(axes: Sequence[Axis], a: int) -> sp.csr_array:
    """What leaves the control volumes through the faces of direction a, of the fluxes across them."""
    parts = [
        -axis.incidence().T if c == a else axis.select().T @ sp.diags_array(axis.lengths) for c, axis in enumerate(axes)
    ]
    return _kron(parts)


def _midpoints(axes: Sequence[Axis], a: int) -> Array:
    lines = []
    for c, axis in enumerate(axes):
        i = axis.lower_nodes if c == a else np.arange(*axis.owned)
        lines.append((axis.at(i) + axis.at(i + 1)) / 2.0 if c == a else axis.at(i))
    grids = np.meshgrid(*reversed(lines), indexing="ij")
    return np.column_stack([grid.reshape(-1) for grid in reversed(grids)])


def _kron(parts: Sequence[object]) -> sp.csr_array:
    """Kronecker product with the first axis running fastest."""
    return sp.csr_array(reduce(lambda slow, fast: sp.kron(slow, fast, format="csr"), reversed(parts)))

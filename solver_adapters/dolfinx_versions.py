"""What differs between DOLFINx 0.9, 0.10 and 0.11, of what is used here; all else is the same in the three of them."""

from __future__ import annotations

from math import prod
from typing import Any

import basix
import basix.ufl
import dolfinx
import numpy as np
from dolfinx import cpp, fem, mesh
from numpy.typing import NDArray

from coupling.errors import ContractError

VERSION = tuple(int(part) for part in dolfinx.__version__.split(".")[:2])  # type: ignore[attr-defined]

QuadratureElement: Any = basix.ufl._QuadratureElement
"""Base of elements whose degrees of freedom are values at points; basix 0.9 to 0.11 have no public one."""


def geometry_dofmap(domain: mesh.Mesh) -> NDArray[np.int32]:
    """Geometry nodes (c, a) of the cells of a mesh with cells of one kind."""
    of_kinds = getattr(domain.geometry, "dofmaps", None)  # since 0.11, which deprecates the other
    dofmap: NDArray[np.int32] = domain.geometry.dofmap if of_kinds is None else of_kinds[0]
    return dofmap


def coordinate_map(domain: mesh.Mesh) -> Any:
    """The map of reference cells to the cells of a mesh with cells of one kind."""
    of_kinds = getattr(domain.geometry, "cmaps", None)  # since 0.11, which deprecates the other
    return domain.geometry.cmap if of_kinds is None else of_kinds[0]


def facet_values(expression: fem.Expression, domain: mesh.Mesh, pairs: NDArray[np.int32]) -> NDArray[np.float64]:
    """Values (f, q, c) of an expression on pairs (f, 2) of cell and local facet, in the order of its q points.

    0.9 takes the pairs flat. 0.11 goes through the points in an order that the neighbouring cell shares, rotated by
    p // 2 and reflected by p % 2 for the facet permutation p, where an integral over the facet does not.
    """
    values = expression.eval(domain, pairs.ravel() if VERSION < (0, 10) else pairs)
    points = np.asarray(expression.X())
    components = prod(values.shape[1:]) // len(points)
    values = np.asarray(values, dtype=np.float64).reshape(len(pairs), len(points), components)
    if VERSION < (0, 11):
        return values
    facets = basix.topology(domain.basix_cell())[-2]
    permutation = domain.topology.get_facet_permutations().reshape(-1, len(facets))[pairs[:, 0], pairs[:, 1]]
    for p in np.unique(permutation):
        of_p = np.flatnonzero(permutation == p)
        values[of_p] = values[of_p[:, None], _visited(points, len(facets[0]), int(p))]
    return values


def _visited(points: NDArray[np.float64], corners: int, permutation: int) -> NDArray[np.intp]:
    """When each point (q, d) of a facet is visited in the order of a permutation."""
    moved = points.copy()
    for _ in range(permutation // 2):
        rest = moved.sum(axis=1) if corners == 3 else moved[:, 0]
        moved = np.column_stack((moved[:, 1], 1 - rest))
    if permutation % 2:
        moved = 1 - moved if corners == 2 else moved[:, ::-1]
    distance = np.abs(points[:, None] - moved).max(axis=2)
    visited: NDArray[np.intp] = distance.argmin(axis=1)
    if distance.min(axis=1).max() > 1e-9:
        raise ContractError("the quadrature rule of a surface closure must be symmetric here: use a lower degree")
    return visited


def space_of(V: Any, dofmap: Any) -> Any:
    """The function space on the mesh and with the element of V that has another dofmap, a ``cpp.fem.DofMap``."""
    element = getattr(V.element, "_cpp_object", V.element)  # 0.9 does not wrap it
    shape = (list(V.value_shape),) if VERSION < (0, 10) else ()
    space = cpp.fem.FunctionSpace_float64(V.mesh._cpp_object, element, dofmap, *shape)
    return fem.FunctionSpace(V.mesh, V.ufl_element(), space)

"""Function spaces that are periodic, or constant over the whole mesh, by their dofmaps alone.

Identifying the degrees of freedom of opposite faces in the dofmap makes every function of the space periodic: assembled
matrices are square in the independent degrees of freedom and need no constraints or reduction afterwards. In the same
way a piecewise constant element whose cells all share one block of degrees of freedom is the space of constants ℝᵏ, so
that ``ufl.derivative`` with respect to a macroscopic gradient assembles average fluxes and their couplings.
"""

from __future__ import annotations

from typing import Any

from mpi4py import MPI

import numpy as np
from dolfinx import cpp, fem
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from coupling.errors import MeshError


def periodic_space(mesh: Any, degree: int, shape: tuple[int, ...]) -> tuple[Any, Any, NDArray[np.int32]]:
    """Periodic Lagrange space on a mesh whose bounding box is its period.

    Args:
        mesh: mesh on one rank.
        degree: polynomial degree.
        shape: value shape, () for scalars or (d,) for vectors.

    Returns:
        The periodic space, the ordinary space V, and for each block of V the block of the periodic space it equals.

    Raises:
        MeshError: where a boundary point has no partner on the opposite face.
    """
    V = fem.functionspace(mesh, ("Lagrange", degree, shape))
    blocks = _identify(V.tabulate_dof_coordinates()[:, : mesh.geometry.dim], mesh.geometry.x[:, : mesh.geometry.dim])
    return _with_dofmap(V, blocks[V.dofmap.list], int(blocks.max()) + 1), V, blocks


def constant_space(mesh: Any, size: int) -> Any:
    """The space ℝ^size of constants over the mesh."""
    V = fem.functionspace(mesh, ("DG", 0, (size,)))
    return _with_dofmap(V, np.zeros_like(V.dofmap.list), 1)


def period(mesh: Any) -> NDArray[np.float64]:
    """Edge lengths of the bounding box, (d,)."""
    x = mesh.geometry.x[:, : mesh.geometry.dim]
    return np.asarray(np.ptp(x, axis=0))


def _identify(points: NDArray[np.float64], vertices: NDArray[np.float64]) -> NDArray[np.int32]:
    """Number of the independent point that each point equals, after translating upper faces onto lower ones."""
    low, edges = vertices.min(axis=0), np.ptp(vertices, axis=0)
    tolerance = 1e-6 * edges.min()
    upper = points > low + edges - tolerance
    independent = ~upper.any(axis=1)
    distance, partner = cKDTree(points[independent]).query(points - upper * edges)
    lonely = np.flatnonzero(distance > tolerance)
    if lonely.size:
        raise MeshError(
            f"{lonely.size} points on the upper faces have no partner on the opposite face, the first at "
            f"{points[lonely[0]]}: mesh opposite faces alike (gmsh: Periodic Curve/Surface)"
        )
    return np.asarray(partner, dtype=np.int32)


def _with_dofmap(V: Any, cells: NDArray[np.int32], blocks: int) -> Any:
    """The space with the element of V and the given cell-to-block map."""
    index_map = cpp.common.IndexMap(MPI.COMM_SELF, blocks)
    adjacency = cpp.graph.AdjacencyList_int32(np.ascontiguousarray(cells, dtype=np.int32))
    bs = V.dofmap.bs
    dofmap = cpp.fem.DofMap(V.dofmap.dof_layout, index_map, bs, adjacency, bs)
    element = getattr(V.element, "_cpp_object", V.element)
    space = cpp.fem.FunctionSpace_float64(V.mesh._cpp_object, element, dofmap, list(V.value_shape))
    return fem.FunctionSpace(V.mesh, V.ufl_element(), space)

"""Function spaces that are periodic, or constant over the whole mesh, by their dofmaps alone.

Identifying the degrees of freedom of opposite faces in the dofmap makes every function of the space periodic: assembled
matrices are square in the independent degrees of freedom and need no constraints or reduction afterwards. In the same
way a piecewise constant element whose cells all share one block of degrees of freedom is the space of constants ℝᵏ, so
that ``ufl.derivative`` with respect to a macroscopic gradient assembles average fluxes and their couplings; and a space
in which the whole boundary is one block, which is then held, is the space of functions that vanish on the boundary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mpi4py import MPI

import numpy as np
from dolfinx import cpp, fem
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from coupling.contract import Array
from coupling.errors import MeshError
from solver_adapters.dolfinx_versions import space_of

FACE_TOLERANCE = 1e-6  # of the edges of the cell: what lies closer to a face lies on it


@dataclass(frozen=True)
class Period:
    """The period of a unit cell: a parallelepiped, x = origin + ξ · lattice with 0 ≤ ξ ≤ 1.

    Args:
        origin: (d,), its lowest corner.
        lattice: (d, d), its edges as rows.
    """

    origin: Array
    lattice: Array

    @classmethod
    def around(cls, points: Array, lattice: Array | None = None) -> Period:
        """Period that encloses points (n, d): their bounding box, or one with the given edges.

        Raises:
            MeshError: the lattice is not that of the points.
        """
        dim = points.shape[1]
        edges = np.diag(np.ptp(points, axis=0)) if lattice is None else np.asarray(lattice, dtype=float)
        if edges.shape != (dim, dim) or not abs(np.linalg.det(edges)) > 0:
            raise MeshError(f"lattice must have {dim} independent rows of {dim} components, got {edges.tolist()}")
        xi = points @ np.linalg.inv(edges)
        extent = np.ptp(xi, axis=0)
        if np.abs(extent - 1).max() > FACE_TOLERANCE:
            raise MeshError(
                f"the mesh extends over {np.round(extent, 6).tolist()} lattice vectors, but must fill one cell of the "
                f"lattice {edges.tolist()}"
            )
        return cls(xi.min(axis=0) @ edges, edges)

    @property
    def volume(self) -> float:
        """Its volume, in 2D its area."""
        return abs(float(np.linalg.det(self.lattice)))

    def fractional(self, points: Array) -> Array:
        """ξ (n, d) of points (n, d)."""
        return np.asarray((points - self.origin) @ np.linalg.inv(self.lattice))

    def faces(self, points: Array) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """For points (n, d), whether they lie on the lower and upper face of each direction, two masks (n, d)."""
        xi = self.fractional(points)
        return xi < FACE_TOLERANCE, xi > 1 - FACE_TOLERANCE

    def identify(self, points: Array, *, open_faces: bool = False) -> NDArray[np.int32]:
        """Number of the point of the periodic medium that each point (n, d) is: opposite faces are one.

        Args:
            points: (n, d).
            open_faces: whether a point on a face may lack a partner, where a void lies on the other side.

        Raises:
            MeshError: where a point on a face has no partner on the opposite face, unless it may.
        """
        lower, upper = self.faces(points)
        if not open_faces:
            self._check_partners(points, lower, upper)
        on_faces = np.flatnonzero((lower | upper).any(axis=1))
        wrapped = (self.fractional(points) - upper)[on_faces]
        pairs = on_faces[cKDTree(wrapped).query_pairs(FACE_TOLERANCE, output_type="ndarray")]
        graph = sparse.coo_matrix((np.ones(len(pairs)), tuple(pairs.T)), shape=(len(points),) * 2)
        _, label = connected_components(graph, directed=False)
        # Points are numbered in their order, those that are not on upper faces first among equals.
        order = np.lexsort((np.arange(len(points)), upper.any(axis=1), label))
        first = order[np.searchsorted(label[order], np.arange(label.max() + 1))]
        rank = np.empty(len(first), dtype=np.int32)
        rank[np.argsort(first)] = np.arange(len(first))
        return np.asarray(rank[label])

    def _check_partners(self, points: Array, lower: NDArray[np.bool_], upper: NDArray[np.bool_]) -> None:
        xi = self.fractional(points)
        for axis in range(points.shape[1]):
            along = np.delete(xi, axis, axis=1)
            faces = np.flatnonzero(lower[:, axis]), np.flatnonzero(upper[:, axis])
            for name, here, there in (("upper", *faces[::-1]), ("lower", *faces)):
                distance = _nearest(along[there], along[here])
                lonely = np.flatnonzero(distance > FACE_TOLERANCE)
                if lonely.size:
                    first = lonely[0]
                    raise MeshError(
                        f"the mesh is not periodic: {lonely.size} points on the {name} face of direction {axis + 1} "
                        f"have no partner on the opposite face, the first at {place(points[here[first]])} is "
                        f"{distance[first]:.2g} edge lengths away from one: mesh opposite faces alike (gmsh: Periodic "
                        "Curve/Surface), or say open_faces=True where voids cut them"
                    )


def periodic_space(
    mesh: Any, degree: int, shape: tuple[int, ...], period: Period | None = None
) -> tuple[Any, Any, NDArray[np.int32]]:
    """Periodic Lagrange space on a mesh.

    Args:
        mesh: mesh on one rank.
        degree: polynomial degree.
        shape: value shape, () for scalars or (d,) for vectors.
        period: by default the bounding box of the mesh.

    Returns:
        The periodic space, the ordinary space V, and for each block of V the block of the periodic space it equals.

    Raises:
        MeshError: where a boundary point has no partner on the opposite face.
    """
    dim = mesh.geometry.dim
    V = fem.functionspace(mesh, ("Lagrange", degree, shape))
    period = period or Period.around(mesh.geometry.x[:, :dim])
    blocks = period.identify(V.tabulate_dof_coordinates()[:, :dim])
    return identified(V, blocks), V, blocks


def constant_space(mesh: Any, size: int) -> Any:
    """The space ℝ^size of constants over the mesh."""
    V = fem.functionspace(mesh, ("DG", 0, (size,)))
    return identified(V, np.zeros(V.dofmap.index_map.size_local, dtype=np.int32))


def identified(V: Any, blocks: NDArray[np.int32]) -> Any:
    """The space with the element of V in which block i of V is block ``blocks[i]``."""
    index_map = cpp.common.IndexMap(MPI.COMM_SELF, int(blocks.max()) + 1)
    adjacency = cpp.graph.AdjacencyList_int32(np.ascontiguousarray(blocks[V.dofmap.list], dtype=np.int32))
    bs = V.dofmap.bs
    dofmap = cpp.fem.DofMap(V.dofmap.dof_layout, index_map, bs, adjacency, bs)
    return space_of(V, dofmap)


def place(point: Array) -> str:
    """Coordinates of a point in a message."""
    return "(" + ", ".join(f"{value:.6g}" for value in np.round(point, 9) + 0.0) + ")"


def _nearest(targets: Array, points: Array) -> Array:
    """Distance of each point to the nearest target."""
    if not len(targets):
        return np.full(len(points), np.inf)
    return np.asarray(cKDTree(targets).query(points)[0])

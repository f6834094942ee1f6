"""Outer surfaces of 3D meshes, drawn by matplotlib."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mpi4py import MPI

import numpy as np
from dolfinx import fem
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from numpy.typing import NDArray

from coupling.contract import Array

FACES = {  # of the vertices of a cell in DOLFINx' order
    4: [[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]],
    8: [[0, 1, 3, 2], [4, 5, 7, 6], [0, 1, 5, 4], [2, 3, 7, 6], [0, 2, 6, 4], [1, 3, 7, 5]],
}


@dataclass(frozen=True)
class Body:
    """Tetrahedra or hexahedra: vertices (c, v, 3) of c cells, their displacements (c, v, 3), a value for each."""

    vertices: Array
    displacement: Array
    values: Array

    def part(self, cells: NDArray[np.bool_]) -> Body:
        """Some of the cells."""
        return Body(self.vertices[cells], self.displacement[cells], self.values[cells])

    def draw(self, axes: Any, label: str, *, scale: float = 1.0, cmap: str = "viridis") -> None:
        """Draw the outer surface, deformed, with a colour bar."""
        faces = np.array(FACES[self.vertices.shape[1]])
        corners = self.vertices[:, faces].reshape(-1, faces.shape[1], 3)
        key = np.round(corners.mean(axis=1), 9) + 0.0
        _, first, count = np.unique(key, axis=0, return_index=True, return_counts=True)
        outer = first[count == 1]
        moved = corners + scale * self.displacement[:, faces].reshape(corners.shape)
        norm = Normalize(float(self.values.min()), float(self.values.max()))
        values = np.repeat(self.values, len(faces))
        colours = colormaps[cmap](norm(values[outer]))
        axes.add_collection3d(Poly3DCollection(moved[outer], facecolors=colours, edgecolors="0.3", linewidths=0.2))
        low, high = moved[outer].min(axis=(0, 1)), moved[outer].max(axis=(0, 1))
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
        axes.set_box_aspect(high - low)
        axes.figure.colorbar(ScalarMappable(norm, cmap), ax=axes, label=label, shrink=0.6, pad=0.02)


def body(u: fem.Function | None, values: fem.Function, comm: MPI.Comm) -> Body | None:
    """Gather cells with a piecewise constant value on rank 0, None elsewhere (collective)."""
    mesh = values.function_space.mesh
    space = fem.functionspace(mesh, ("Lagrange", 1, (3,)))
    moved = fem.Function(space)
    if u is not None:
        moved.interpolate(u)
    owned = mesh.topology.index_map(3).size_local
    cells = space.dofmap.list[:owned]
    part = (
        space.tabulate_dof_coordinates()[cells],
        moved.x.array.reshape(-1, 3)[cells],
        values.x.array[values.function_space.dofmap.list[:owned, 0]],
    )
    parts = comm.gather(part)
    return None if parts is None else Body(*(np.concatenate([p[i] for p in parts]) for i in range(3)))

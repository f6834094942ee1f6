"""Values of a function at points, on any number of ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from dolfinx import fem, geometry

from coupling.contract import Array
from coupling.errors import ContractError
from solver_adapters.case.reading import CaseFile

_PADDING = 1e-10  # of the mesh's extent: a point on the boundary may lie outside by round-off


@dataclass(frozen=True)
class PointProbe:
    """A function at a point.

    Args:
        name: of the values.
        u: the function.
        point: (3,) coordinates.
        cell: that holds the point, None where it is another rank's.
    """

    name: str
    u: fem.Function
    point: Array
    cell: int | None

    def value(self) -> Array:
        """Components (m,) of the function (collective)."""
        mine = None if self.cell is None else self.u.eval(self.point[None], np.array([self.cell], dtype=np.int32))
        found = self.u.function_space.mesh.comm.allgather(mine)
        return np.atleast_1d(next(value for value in found if value is not None).reshape(-1))


def point_probes(file: CaseFile, u: fem.Function) -> list[PointProbe]:
    """The probes of output.probes; mistakes become complaints (collective)."""
    mesh = u.function_space.mesh
    probes = []
    for number, probe in enumerate(file.case.output.probes):
        with file.at("output", "probes", number, "point"):
            if len(probe.point) != mesh.geometry.dim:
                raise ContractError(f"needs {mesh.geometry.dim} coordinates in this mesh, got {len(probe.point)}")
            point = np.zeros(3)
            point[: len(probe.point)] = probe.point
            probes.append(PointProbe(probe.name, u, point, _cell_at(u, point)))
    return probes


def _cell_at(u: fem.Function, point: Array) -> int | None:
    """Owned cell at a point, None on ranks other than the first that has one (collective)."""
    mesh = u.function_space.mesh
    dim = mesh.topology.dim
    extent = float(np.ptp(mesh.geometry.x, axis=0).max()) if len(mesh.geometry.x) else 0.0
    tree = geometry.bb_tree(mesh, dim, padding=_PADDING * extent)
    near = geometry.compute_collisions_points(tree, point[None])
    hit = geometry.compute_colliding_cells(mesh, near, point[None]).links(0)
    owned = hit[hit < mesh.topology.index_map(dim).size_local]
    have = mesh.comm.allgather(bool(owned.size))
    if not any(have):
        raise ContractError(f"({', '.join(f'{x:g}' for x in point[:dim])}) lies in no cell of the mesh")
    return int(owned[0]) if have.index(True) == mesh.comm.rank else None

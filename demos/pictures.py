"""Triangulated fields for the figures of the demos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import matplotlib

matplotlib.use("Agg")

from mpi4py import MPI

import numpy as np
from dolfinx import fem
from matplotlib.tri import Triangulation
from numpy.typing import NDArray

from coupling.contract import Array
from coupling.polar import mandel_basis
from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.rve.fields import fluctuation, local_flux


@dataclass(frozen=True)
class Picture:
    """A triangulated field: corners (p, 2), their displacements (p, 2), triangles (c, 3), a value for each of these.

    Where it is ``smooth`` it has a value for each corner instead.
    """

    corners: Array
    displacement: Array
    triangles: NDArray[np.int64]
    values: Array
    smooth: bool = False

    def draw(
        self,
        axes: Any,
        label: str,
        *,
        cmap: str = "viridis",
        smallest: float | None = 0.0,
        largest: float | None = None,
    ) -> None:
        """Draw it deformed, with a colour bar."""
        x, y = (self.corners + self.displacement).T
        colours = axes.tripcolor(
            Triangulation(x, y, self.triangles),
            self.values,
            cmap=cmap,
            vmin=smallest,
            vmax=largest,
            **({"shading": "gouraud"} if self.smooth else {"edgecolors": "face"}),
        )
        axes.figure.colorbar(colours, ax=axes, label=label, shrink=0.8)
        axes.set_aspect("equal")


def picture(u: fem.Function | None, values: fem.Function, comm: MPI.Comm) -> Picture | None:
    """Gather a field on triangles on rank 0, None elsewhere (collective).

    Args:
        u: displacement, None for none.
        values: piecewise constant, or any other scalar, which is then drawn by its values at the corners.
        comm: communicator of the mesh.
    """
    mesh = values.function_space.mesh
    corner_space = fem.functionspace(mesh, ("Lagrange", 1, (2,)))
    at_corners = fem.Function(corner_space)
    if u is not None:
        at_corners.interpolate(u)
    owned = mesh.topology.index_map(2).size_local
    part = (
        corner_space.tabulate_dof_coordinates()[:, :2],
        at_corners.x.array.reshape(-1, 2),
        corner_space.dofmap.list[:owned],
        _drawn_values(values, owned),
    )
    parts = comm.gather(part)
    if parts is None:
        return None
    offsets = np.cumsum([0] + [len(p[0]) for p in parts[:-1]])
    triangles = np.vstack([p[2].astype(np.int64) + o for p, o in zip(parts, offsets, strict=True)])
    corners, displacement = (np.vstack([p[i] for p in parts]) for i in (0, 1))
    smooth = not values.function_space.element.basix_element.discontinuous
    return Picture(corners, displacement, triangles, np.concatenate([p[3] for p in parts]), smooth)


def _drawn_values(values: fem.Function, owned: int) -> Array:
    space = values.function_space
    if space.element.basix_element.discontinuous:
        return np.asarray(values.x.array[space.dofmap.list[:owned, 0]])
    at_corners = fem.Function(fem.functionspace(space.mesh, ("Lagrange", 1)))
    at_corners.interpolate(values)
    return np.asarray(at_corners.x.array)


def rve_picture(rve: PeriodicRVE, row: Array) -> Picture:
    """The RVE of a state row with the norm of its local flux, deformed where it is one of finite strain."""
    w, q = fluctuation(rve, row), local_flux(rve, row)
    mesh = rve.cell.mesh
    norm = fem.Function(fem.functionspace(mesh, ("DG", 0)))
    norm.x.array[:] = np.linalg.norm(q.x.array.reshape(len(norm.x.array), -1), axis=1)
    u = None
    if w.function_space.dofmap.bs == 2:
        known = rve.equilibrium(row)
        H = np.tensordot(known.gradient, mandel_basis(2), 1) - np.eye(2)
        u = fem.Function(w.function_space)
        u.interpolate(lambda x: H @ x[:2])
        u.x.array[:] += w.x.array
    drawn = picture(u, norm, MPI.COMM_SELF)
    assert drawn is not None
    return drawn

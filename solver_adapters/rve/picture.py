"""Pictures of deformed RVEs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from dolfinx import fem

from coupling.contract import Array
from coupling.errors import ContractError, MissingPackageError
from coupling.polar import mandel_basis
from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.rve.fields import fluctuation, local_flux

try:
    from matplotlib.figure import Figure
    from matplotlib.tri import Triangulation
except ImportError as error:
    raise MissingPackageError("a picture needs matplotlib: pip install matplotlib") from error


def draw_rve(rve: PeriodicRVE, row: Array, file: str | Path, *, rotation: Array | None = None) -> None:
    """Draw a 2D RVE deformed, its cells coloured by the norm of the local first Piola–Kirchhoff stress.

    Args:
        rve: in the stretch frame.
        row: (s,) one row of a state that it returned.
        file: any format that matplotlib writes.
        rotation: R (2, 2) of F = R U, none by default.

    Raises:
        ContractError: the RVE is not of triangles or quadrilaterals.
        MissingPackageError: matplotlib is not installed.
    """
    mesh = rve.cell.mesh
    if mesh.topology.dim != 2:
        raise ContractError(f"a picture is of a 2D RVE, got one in {mesh.topology.dim}D: leave --picture out")
    space = fem.functionspace(mesh, ("Lagrange", 1, (2,)))
    w = fem.Function(space)
    w.interpolate(fluctuation(rve, row))
    X = space.tabulate_dof_coordinates()[:, :2]
    U = np.tensordot(rve.equilibrium(row).gradient, mandel_basis(2), 1)
    x = (X @ U + w.x.array.reshape(-1, 2)) @ (np.eye(2) if rotation is None else rotation).T
    corners = space.dofmap.list
    quads = corners.shape[1] == 4
    triangles = np.concatenate((corners[:, [0, 1, 2]], corners[:, [1, 3, 2]])) if quads else corners
    stress = np.linalg.norm(local_flux(rve, row).x.array.reshape(len(corners), -1), axis=1)
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    colours = axes.tripcolor(
        Triangulation(x[:, 0], x[:, 1], triangles), np.tile(stress, 1 + quads), vmin=0.0, edgecolors="face"
    )
    figure.colorbar(colours, ax=axes, label=f"norm of the local Piola–Kirchhoff stress [{rve.spec.flux_unit}]")
    axes.set_aspect("equal")
    try:
        figure.savefig(file, dpi=150)
    except ValueError as error:
        raise ContractError(f"{file} cannot be written as a picture: {error}") from error

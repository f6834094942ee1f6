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
from solver_adapters.rve.kinematics import Stretch

try:
    from matplotlib.figure import Figure
    from matplotlib.tri import Triangulation
except ImportError as error:
    raise MissingPackageError("a picture needs matplotlib: pip install matplotlib") from error


def draw_rve(rve: PeriodicRVE, row: Array, file: str | Path, *, rotation: Array | None = None) -> None:
    """Draw a 2D RVE, deformed where it has displacements, its cells coloured by the norm of the local flux.

    Args:
        rve: of any kinematics.
        row: (s,) one row of a state that it returned.
        file: any format that matplotlib writes.
        rotation: R (2, 2) of F = R U in the stretch frame, none by default.

    Raises:
        ContractError: the RVE is not of triangles or quadrilaterals.
        MissingPackageError: matplotlib is not installed.
    """
    mesh = rve.cell.mesh
    if mesh.topology.dim != 2:
        raise ContractError(f"a picture is of a 2D RVE, got one in {mesh.topology.dim}D: leave --picture out")
    space = fem.functionspace(mesh, ("Lagrange", 1, (2,)))
    x = _places(rve, row, space) @ (np.eye(2) if rotation is None else rotation).T
    corners = space.dofmap.list
    quads = corners.shape[1] == 4
    triangles = np.concatenate((corners[:, [0, 1, 2]], corners[:, [1, 3, 2]])) if quads else corners
    stress = np.linalg.norm(local_flux(rve, row).x.array.reshape(len(corners), -1), axis=1)
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    colours = axes.tripcolor(
        Triangulation(x[:, 0], x[:, 1], triangles), np.tile(stress, 1 + quads), vmin=0.0, edgecolors="face"
    )
    figure.colorbar(colours, ax=axes, label=f"norm of the local {_flux_name(rve)} [{rve.spec.flux_unit}]")
    axes.set_aspect("equal")
    try:
        figure.savefig(file, dpi=150)
    except ValueError as error:
        raise ContractError(f"{file} cannot be written as a picture: {error}") from error


def _places(rve: PeriodicRVE, row: Array, space: fem.FunctionSpace) -> Array:
    """Where the nodes (n, 2) of a vector space are: x = U X + w, X + ε X + w, or X without displacements."""
    X = np.asarray(space.tabulate_dof_coordinates()[:, :2])
    if not rve.kinematics.field_shape(2):
        return X
    w = fem.Function(space)
    w.interpolate(fluctuation(rve, row))
    G = np.tensordot(rve.equilibrium(row).gradient, mandel_basis(2), 1)
    H = G - np.eye(2) if isinstance(rve.kinematics, Stretch) else G
    return np.asarray(X + X @ H + w.x.array.reshape(-1, 2))


def _flux_name(rve: PeriodicRVE) -> str:
    if isinstance(rve.kinematics, Stretch):
        return "Piola–Kirchhoff stress"
    return "stress" if rve.kinematics.field_shape(2) else "flux"

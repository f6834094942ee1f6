"""Figures and Paraview files of the Cook's membrane demo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from mpi4py import MPI

import matplotlib.pyplot as plt
import numpy as np
import ufl
from dolfinx import fem, io
from matplotlib.tri import Triangulation
from numpy.typing import NDArray

from coupling import together
from coupling.contract import Array
from coupling.polar import mandel_basis
from demos.cook_runs import Run
from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.rve.fields import fluctuation, local_flux


@dataclass(frozen=True)
class Picture:
    """A triangulated field: corners (p, 2), their displacements (p, 2), triangles (c, 3), a value for each of these."""

    corners: Array
    displacement: Array
    triangles: NDArray[np.int64]
    values: Array

    def draw(self, axes: Any, label: str, *, cmap: str = "viridis", largest: float | None = None) -> None:
        """Draw it deformed, with a colour bar."""
        x, y = (self.corners + self.displacement).T
        colours = axes.tripcolor(
            Triangulation(x, y, self.triangles), self.values, cmap=cmap, vmin=0.0, vmax=largest, edgecolors="face"
        )
        axes.figure.colorbar(colours, ax=axes, label=label, shrink=0.8)
        axes.set_aspect("equal")


def picture(u: fem.Function, values: fem.Function, comm: MPI.Comm) -> Picture | None:
    """Gather a displacement and a cell-wise value on rank 0, None elsewhere (collective)."""
    mesh = u.function_space.mesh
    corner_space = fem.functionspace(mesh, ("Lagrange", 1, (2,)))
    at_corners = fem.Function(corner_space)
    at_corners.interpolate(u)
    owned = mesh.topology.index_map(2).size_local
    cells = corner_space.dofmap.list[:owned]
    part = (
        corner_space.tabulate_dof_coordinates()[:, :2],
        at_corners.x.array.reshape(-1, 2),
        cells,
        values.x.array[values.function_space.dofmap.list[:owned, 0]],
    )
    parts = comm.gather(part)
    if parts is None:
        return None
    offsets = np.cumsum([0] + [len(p[0]) for p in parts[:-1]])
    triangles = np.vstack([p[2].astype(np.int64) + o for p, o in zip(parts, offsets, strict=True)])
    corners, displacement = (np.vstack([p[i] for p in parts]) for i in (0, 1))
    return Picture(corners, displacement, triangles, np.concatenate([p[3] for p in parts]))


def membrane_picture(run: Run, comm: MPI.Comm) -> Picture | None:
    """The deformed membrane with the norm of its stress (collective)."""
    flux = run.membrane.flux
    norm = flux.cell_average(ufl.sqrt(ufl.inner(flux.value, flux.value)), name="stress norm")
    return picture(run.membrane.problem.u, norm, comm)


def rve_picture(rve: PeriodicRVE, row: Array) -> Picture:
    """The deformed RVE of a state row with the norm of its local stress."""
    w, P = fluctuation(rve, row), local_flux(rve, row)
    known = rve.equilibrium(row)
    H = np.tensordot(known.gradient, mandel_basis(2), 1) - np.eye(2)
    u = fem.Function(w.function_space)
    u.interpolate(lambda x: H @ x[:2])
    u.x.array[:] += w.x.array
    norm = fem.Function(fem.functionspace(rve.cell.mesh, ("DG", 0)))
    norm.x.array[:] = np.linalg.norm(P.x.array.reshape(-1, 4), axis=1)
    drawn = picture(u, norm, MPI.COMM_SELF)
    assert drawn is not None
    return drawn


def write_figures(
    comm: MPI.Comm, classical: Run, accelerated: Run, rve: PeriodicRVE, worst: tuple[int, int], out: Path
) -> list[tuple[Path, str]]:
    """Write the figures on rank 0 and return their paths and captions (collective)."""
    drawn = [membrane_picture(run, comm) for run in (classical, accelerated)]
    response = classical.membrane.flux.response
    assert response is not None and response.state is not None
    row = comm.bcast(response.state[worst[1]] if comm.rank == worst[0] else None, root=worst[0])
    files = [out / "membrane.png", out / "load_displacement.png", out / "rve.png"]

    def draw() -> None:
        _membranes([d for d in drawn if d is not None], files[0])
        _curves(classical, accelerated, files[1])
        _rve(rve_picture(rve, row), rve.equilibrium(row).gradient, files[2])

    together(comm, draw if comm.rank == 0 else lambda: None)
    captions = (
        "The deformed membrane with the norm of the first Piola–Kirchhoff stress, cell averages",
        "Load against tip displacement, and the error of the accelerated run",
        "The RVE at the point of the largest stress error, deformed, with the norm of its local stress",
    )
    return list(zip(files, captions, strict=True))


def _membranes(drawn: list[Picture], file: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(12, 5), layout="constrained")
    largest = max(float(d.values.max()) for d in drawn)
    for ax, d, title in zip(axes, drawn, ("classical FE²", "accelerated FE²"), strict=False):
        d.draw(ax, "‖P‖", largest=largest)
        ax.set_title(title)
    error = np.abs(drawn[1].values - drawn[0].values) / largest
    Picture(drawn[0].corners, drawn[0].displacement, drawn[0].triangles, error).draw(
        axes[2], "|Δ‖P‖| / max ‖P‖", cmap="magma"
    )
    axes[2].set_title("difference")
    figure.savefig(file, dpi=120)
    plt.close(figure)


def _curves(classical: Run, accelerated: Run, file: Path) -> None:
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(6, 6), sharex=True, height_ratios=(3, 1), layout="constrained")
    upper.plot(*classical.curve.T, "o-", label=f"classical FE² ({classical.seconds:.1f} s)", markersize=8, mfc="none")
    upper.plot(*accelerated.curve.T, "x--", label=f"accelerated ({accelerated.seconds:.2f} s)")
    upper.set_ylabel("vertical tip displacement")
    upper.legend()
    error = np.abs(accelerated.curve[1:, 1] / classical.curve[1:, 1] - 1)
    lower.semilogy(classical.curve[1:, 0], np.maximum(error, 1e-16), "k.-")
    lower.set(xlabel="load factor", ylabel="relative error")
    figure.savefig(file, dpi=120)
    plt.close(figure)


def _rve(drawn: Picture, gradient: Array, file: Path) -> None:
    figure, axes = plt.subplots(figsize=(6, 5), layout="constrained")
    drawn.draw(axes, "local ‖P‖")
    axes.set_title(
        "RVE at the point of the largest stress error\n"
        + f"(U11, U22, √2·U12) = ({', '.join(f'{g:.3f}' for g in gradient)})"
    )
    figure.savefig(file, dpi=120)
    plt.close(figure)


def write_fields(comm: MPI.Comm, classical: Run, accelerated: Run, out: Path) -> None:
    """Displacement and cell stress of both runs, one Paraview file each (collective)."""
    for name, run in (("classical", classical), ("accelerated", accelerated)):
        with io.VTKFile(comm, out / f"{name}.pvd", "w") as file:
            file.write_function([run.membrane.problem.u, run.membrane.flux.cell_average(name="P")])

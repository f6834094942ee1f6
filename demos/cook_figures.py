"""Figures and Paraview files of the Cook's membrane demo."""

from __future__ import annotations

from pathlib import Path

from mpi4py import MPI

import matplotlib.pyplot as plt
import numpy as np
import ufl
from dolfinx import io

from coupling import together
from coupling.contract import Array
from demos.cook_runs import Run
from demos.pictures import Picture, picture, rve_picture
from solver_adapters.fenicsx_rve import PeriodicRVE


def membrane_picture(run: Run, comm: MPI.Comm) -> Picture | None:
    """The deformed membrane with the norm of its stress (collective)."""
    flux = run.membrane.flux
    norm = flux.cell_average(ufl.sqrt(ufl.inner(flux.value, flux.value)), name="stress norm")
    return picture(run.membrane.problem.u, norm, comm)


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

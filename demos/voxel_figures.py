"""Figures of the demo that starts from an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpi4py import MPI

import matplotlib.pyplot as plt
import numpy as np
import ufl
from numpy.typing import NDArray

from coupling import together
from coupling.contract import Array
from demos.cook import Membrane
from demos.pictures import Picture, picture, rve_picture
from solver_adapters.fenicsx_rve import PeriodicRVE


def write_figures(
    comm: MPI.Comm,
    image: NDArray[np.int64],
    runs: tuple[Membrane, Membrane],
    rve: PeriodicRVE,
    curves: tuple[Array, Array],
    means: Sequence[Array],
    properties: tuple[Array, Array],
    out: Path,
) -> list[tuple[Path, str]]:
    """Write the figure on rank 0 and return its path and caption (collective).

    Args:
        comm: of the runs.
        image: of the material.
        runs: classical and accelerated, in their final state.
        rve: of the image.
        curves: load factors and tip displacements (steps + 1, 2) of both runs.
        means: the same of the solids with mean moduli and mean compliances.
        properties: conductivities and bulk moduli (3,) with the pixels refined 1, 2 and 4 times.
        out: folder.
    """
    drawn = [_membrane(run, comm) for run in runs]
    row = _most_stressed(runs[0], comm)
    file = out / "voxel_image.png"

    def draw() -> None:
        figure, axes = plt.subplots(2, 3, figsize=(13.5, 8), layout="constrained")
        axes[0, 0].imshow(image.T, origin="lower", cmap="gray_r", extent=(0, 1, 0, 1))
        axes[0, 0].set_title(f"image, {image.shape[0]} × {image.shape[1]} pixels")
        rve_picture(rve, row).draw(axes[0, 1], "local ‖P‖")
        axes[0, 1].set_title("RVE where the stress is largest")
        _settling(axes[0, 2], *properties)
        _membranes(axes[1, :2], [d for d in drawn if d is not None])
        _curves(axes[1, 2], curves, means)
        figure.savefig(file, dpi=110)
        plt.close(figure)

    together(comm, draw if comm.rank == 0 else lambda: None)
    caption = (
        "The image; the RVE at the point of the largest stress, deformed, with the norm of its local stress; effective "
        "properties as the pixels are refined; the accelerated membrane and its difference from the classical one; "
        "load against tip displacement"
    )
    return [(file, caption)]


def _membrane(run: Membrane, comm: MPI.Comm) -> Picture | None:
    norm = run.flux.cell_average(ufl.sqrt(ufl.inner(run.flux.value, run.flux.value)), name="stress norm")
    return picture(run.problem.u, norm, comm)


def _most_stressed(run: Membrane, comm: MPI.Comm) -> Array:
    """State row of the point with the largest stress of all ranks (collective)."""
    response = run.flux.response
    assert response.state is not None
    norm = np.linalg.norm(response.flux, axis=1)
    largest = comm.allgather(float(norm.max(initial=-1.0)))
    root = int(np.argmax(largest))
    return np.asarray(comm.bcast(response.state[norm.argmax()] if comm.rank == root else None, root=root))


def _settling(axes: Any, conductivities: Array, bulks: Array) -> None:
    refinement = [1, 2, 4]
    for values, style, label in ((conductivities, "o-", "conductivity"), (bulks, "s-", "bulk modulus")):
        axes.plot(refinement, values / values[-1], style, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(refinement, [str(r) for r in refinement])
    axes.set(xlabel="elements along the edge of a pixel", ylabel="relative to the finest", title="effective properties")
    axes.legend()


def _membranes(axes: Any, drawn: list[Picture]) -> None:
    largest = max(float(d.values.max()) for d in drawn)
    drawn[1].draw(axes[0], "‖P‖", largest=largest)
    axes[0].set_title("accelerated FE²")
    error = np.abs(drawn[1].values - drawn[0].values) / largest
    Picture(drawn[0].corners, drawn[0].displacement, drawn[0].triangles, error).draw(
        axes[1], "|Δ‖P‖| / max ‖P‖", cmap="magma"
    )
    axes[1].set_title("difference from the classical run")


def _curves(axes: Any, curves: tuple[Array, Array], means: Sequence[Array]) -> None:
    for curve, style, label in zip(means, (":", "--"), ("mean moduli", "mean compliances"), strict=True):
        axes.plot(curve[:, 1], curve[:, 0], style, color="0.5", label=label)
    for curve, style, label in zip(curves, ("o", "x"), ("classical FE²", "accelerated FE²"), strict=True):
        axes.plot(curve[:, 1], curve[:, 0], style, mfc="none", label=label)
    axes.set(xlabel="tip displacement", ylabel="load factor", title="Cook's membrane")
    axes.legend()

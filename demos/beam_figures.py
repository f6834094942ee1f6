"""Figures of the cantilever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mpi4py import MPI

import matplotlib.pyplot as plt
import numpy as np
from dolfinx import fem

from coupling import together
from coupling.contract import Array
from demos.beam import Beam
from demos.surfaces import Body, body
from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.rve.fields import local_flux
from solver_adapters.rve.meshes import MATRIX


def write_figures(
    comm: MPI.Comm,
    beam: Beam,
    rve: PeriodicRVE,
    law: tuple[Array, Array],
    theory: tuple[Array, Array],
    runs: tuple[Array, Array],
    out: Path,
) -> list[tuple[Path, str]]:
    """Write the figure on rank 0 and return its path and caption (collective).

    Args:
        comm: of the runs.
        beam: in its final state.
        rve: any of the RVEs.
        law: uniaxial strains and stresses.
        theory: load factors and deflections of beam theory.
        runs: load factors and deflections (steps + 1, 2), classically and accelerated.
        out: folder.
    """
    axial = beam.stress.cell_average(1e3 * beam.stress.vector[0])
    drawn = body(beam.problem.u, axial, comm)
    file = out / "beam.png"

    def draw() -> None:
        assert drawn is not None
        figure = plt.figure(figsize=(11, 7.5), layout="constrained")
        (left, right), (lower_left, lower_right) = figure.subplots(
            2, 2, subplot_kw={"projection": "3d"}, height_ratios=(1, 1)
        )
        _beam(left, drawn)
        _rve(right, rve)
        for old, plot in ((lower_left, lambda ax: _law(ax, *law)), (lower_right, lambda ax: _curves(ax, theory, runs))):
            where = old.get_subplotspec()
            old.remove()
            plot(figure.add_subplot(where))
        figure.savefig(file, dpi=110)
        plt.close(figure)

    together(comm, draw if comm.rank == 0 else lambda: None)
    caption = (
        "The bent beam (displacements five times enlarged) with its axial stress; the RVE under uniaxial strain, an "
        "octant of the polymer removed, with the norm of its local stress; its uniaxial law; load against deflection"
    )
    return [(file, caption)]


def _beam(axes: Any, drawn: Body) -> None:
    drawn.draw(axes, "σ₁₁ in MPa", scale=5.0, cmap="coolwarm")
    axes.set_title("cantilever, displacements × 5")
    axes.view_init(elev=18, azim=-65)
    axes.set_axis_off()


def _rve(axes: Any, rve: PeriodicRVE) -> None:
    g = np.array([[0.015, 0.0, 0.0, 0.0, 0.0, 0.0]])
    response = rve.evaluate(g, rve.initial_state(1), 0.0)
    assert response.state is not None
    stress = local_flux(rve, response.state[0])
    norm = fem.Function(fem.functionspace(rve.cell.mesh, ("DG", 0)))
    norm.x.array[:] = 1e3 * np.linalg.norm(stress.x.array.reshape(len(norm.x.array), -1), axis=1)
    whole = body(None, norm, MPI.COMM_SELF)
    assert whole is not None
    x, y, z = whole.vertices.mean(axis=1).T
    polymer = rve.cell.tags.values == MATRIX
    whole.part(~(polymer & (x > 0.5) & (y < 0.5) & (z > 0.5))).draw(axes, "‖σ‖ in MPa")
    axes.set_title("RVE, ε₁₁ = 1.5 %")
    axes.view_init(elev=25, azim=-50)
    axes.set_axis_off()


def _law(axes: Any, strain: Array, stress: Array) -> None:
    axes.plot(100 * strain, 1e3 * stress, label="RVE")
    axes.plot(100 * strain[:11], 1e3 * strain[:11] * stress[1] / strain[1], ":", color="0.5", label="initial modulus")
    axes.set(xlabel="axial strain in %", ylabel="axial stress in MPa", title="uniaxial stress")
    axes.legend()


def _curves(axes: Any, theory: tuple[Array, Array], runs: tuple[Array, Array]) -> None:
    loads, deflections = theory
    axes.plot(deflections, loads, "k-", lw=1, label="beam theory with the RVE's law")
    axes.plot(loads * deflections[1] / loads[1], loads, ":", color="0.5", label="beam theory, initial moduli")
    for curve, style, label in zip(runs, ("o", "x"), ("classical FE²", "accelerated FE²"), strict=True):
        axes.plot(curve[:, 1], curve[:, 0], style, mfc="none", label=label)
    axes.set(xlabel="deflection in mm", ylabel="load factor", title="bending")
    axes.legend()

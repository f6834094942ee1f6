"""Figures of the composite wall."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mpi4py import MPI

import matplotlib.pyplot as plt
import numpy as np
import ufl

from coupling import together
from coupling.contract import Array
from demos.pictures import Picture, picture, rve_picture
from demos.refractory import hashin_shtrikman, wiener
from demos.wall import COLD, HOT, THICKNESS, Wall
from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.rve.meshes import INCLUSION


def write_figures(
    comm: MPI.Comm, classical: Wall, accelerated: Wall, rve: PeriodicRVE, curves: tuple[Array, Array, Array], out: Path
) -> list[tuple[Path, str]]:
    """Write the figure on rank 0 and return its path and caption (collective).

    Args:
        comm: of the runs.
        classical: with the RVE alone.
        accelerated: with the surrogate.
        rve: any of the RVEs.
        curves: temperatures (n,), conductivities (n, 2, 2) and Kirchhoff's depth (n,) of each temperature.
        out: folder.
    """
    drawn = picture(None, accelerated.problem.u, comm)
    arrows = _arrows(classical, comm)
    profiles = [wall.profile() for wall in (classical, accelerated)]
    file = out / "wall.png"

    def draw() -> None:
        assert drawn is not None and arrows is not None
        figure, axes = plt.subplots(2, 2, figsize=(10.5, 8), layout="constrained")
        _temperature(axes[0, 0], drawn, arrows)
        _rve(axes[0, 1], rve)
        _conductivity(axes[1, 0], *curves[:2], rve.cell.fraction(INCLUSION))
        _profile(axes[1, 1], profiles, curves[0], curves[2])
        figure.savefig(file, dpi=110)
        plt.close(figure)

    together(comm, draw if comm.rank == 0 else lambda: None)
    caption = (
        "Temperature of the accelerated run with the heat flux of the classical one; the RVE and its local flux; the "
        "effective conductivity between the bounds of Wiener and of Hashin and Shtrikman; temperature across an arm"
    )
    return [(file, caption)]


def _arrows(wall: Wall, comm: MPI.Comm) -> Array | None:
    """Places and fluxes (n, 4) of the cells, on rank 0 (collective)."""
    flux = wall.flux.cell_average()
    domain = flux.function_space.mesh
    owned = domain.topology.index_map(2).size_local
    centre = wall.flux.cell_average(ufl.SpatialCoordinate(domain))
    rows = [f.x.array.reshape(-1, 2)[:owned] for f in (centre, flux)]
    parts = comm.gather(np.hstack(rows))
    return None if parts is None else np.vstack(parts)


def _temperature(axes: Any, drawn: Picture, arrows: Array) -> None:
    drawn.draw(axes, "temperature in K", cmap="inferno", smallest=COLD, largest=HOT)
    along, depth = np.arange(0.15, 0.6, 0.07), THICKNESS / 2
    places = np.array([[depth, depth], *([depth, y] for y in along), *([x, depth] for x in along)])
    shown = arrows[np.linalg.norm(arrows[:, :2] - places[:, None], axis=2).argmin(axis=1)]
    axes.quiver(*shown.T, color="white", width=0.004, scale=18 * np.linalg.norm(shown[:, 2:], axis=1).mean())
    axes.set(title="wall of a flue", xlabel="x₁ in m", ylabel="x₂ in m")


def _rve(axes: Any, rve: PeriodicRVE) -> None:
    gradient = np.array([[800.0, 1e4, 0.0]])
    response = rve.evaluate(gradient, rve.initial_state(1), 0.0)
    assert response.state is not None
    drawn = rve_picture(rve, response.state[0])
    replace(drawn, values=np.asarray(1e-3 * drawn.values, dtype=np.float64)).draw(axes, "local flux in kW/m²")
    axes.set_title("RVE at 800 K, 10 K/mm along x₁")


def _conductivity(axes: Any, theta: Array, kappa: Array, share: float) -> None:
    axes.fill_between(theta, *wiener(theta, share), color="0.9", label="Wiener")
    axes.fill_between(theta, *hashin_shtrikman(theta, share), color="0.75", label="Hashin–Shtrikman (isotropic)")
    axes.plot(theta, kappa[:, 0, 0], label="κ₁₁")
    axes.plot(theta, kappa[:, 1, 1], "--", label="κ₂₂")
    axes.set(xlabel="temperature in K", ylabel="W/(m K)", title="effective conductivity", yscale="log")
    axes.legend()


def _profile(axes: Any, profiles: list[Array], theta: Array, depth: Array) -> None:
    axes.plot(1e3 * depth, theta, "k-", lw=1, label="Kirchhoff, homogenised")
    axes.plot([0, 1e3 * THICKNESS], [COLD, HOT], ":", color="0.6", label="constant conductivity")
    for (x, values), style, label in zip(
        (p.T for p in profiles), ("o", "x"), ("classical FE²", "accelerated FE²"), strict=True
    ):
        axes.plot(1e3 * x, values, style, mfc="none", label=label)
    axes.set(xlabel="depth from the cold face in mm", ylabel="temperature in K", title="across an arm")
    axes.legend()

"""Warm starts in somebody else's DOLFINx code: a parameter study in finite elasticity, no multiscale part in it.

    ./run demo warm_start_snes
    ./run mpi 2 demos/demo_warm_start_snes.py

A rubber bar is clamped at one end, twisted and compressed at the other, for several Poisson's ratios one after the
other. The code is the usual one, a SNES whose residual and Jacobian DOLFINx assembles, and stays as it is but for one
line:

    warm_start(snes, predictor, parameter=lambda: (load, nu))

1. The study is run as it is: each solve starts from the solution before it. 2. It is run again with each predictor:
extrapolation, the last tangent, modes of all solutions so far, least residual within the last modes, and a network that
   was trained on the first materials of the study.
3. Newton iterations, time and the difference in the solutions are compared in a table, two figures and a page.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from mpi4py import MPI
from petsc4py import PETSc

import matplotlib.pyplot as plt
import numpy as np
import ufl
from dolfinx import fem, mesh
from dolfinx.fem import petsc as fem_petsc
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize
from rich.console import Console
from rich.table import Table

from coupling import together
from coupling.contract import Array
from coupling.files import write_atomically
from coupling.guess import Predictor
from coupling.predictors.pod import PODPredictor
from coupling.report import write_report
from solver_adapters.petsc_snes import warm_start
from surrogates.state_network import Run, train_state_network

_assemble_matrix: Any = fem_petsc.assemble_matrix  # single dispatch hides its signature from type checkers
LENGTH = 5.0
MATERIALS = (0.20, 0.30, 0.40, 0.25, 0.35)
TRAINED_ON = 3
INTRODUCTION = (
    "A rubber bar, twisted and compressed, for five Poisson's ratios: an ordinary DOLFINx code with a SNES. With one "
    "line more each solve starts from a prediction, where its residual is lower than at the last solution. All runs "
    "end at the same tolerance."
)


class Bar:
    """A compressible neo-Hookean bar of P2 hexahedra, the way DOLFINx users write it.

    Attributes:
        load: from 0 to 1: angle of twist and compression of the right end.
        nu: Poisson's ratio.
        u: the displacement.
        snes: the solver.
    """

    def __init__(self, comm: MPI.Comm, cells: int) -> None:
        box = np.array([[0.0, 0.0, 0.0], [LENGTH, 1.0, 1.0]])
        bar = mesh.create_box(comm, list(box), [5 * cells, cells, cells], mesh.CellType.hexahedron)
        V = fem.functionspace(bar, ("Lagrange", 2, (3,)))
        self.u, self.end, v = fem.Function(V, name="displacement"), fem.Function(V), ufl.TestFunction(V)
        self._lame = fem.Constant(bar, np.zeros(2))
        self.load = self.nu = 0.0
        ends = [fem.locate_dofs_geometrical(V, lambda x, at=at: np.isclose(x[0], at)) for at in (0.0, LENGTH)]
        self._bcs = [fem.dirichletbc(np.zeros(3), ends[0], V), fem.dirichletbc(self.end, ends[1])]
        F = ufl.Identity(3) + ufl.grad(self.u)
        mu, lmbda, J = self._lame[0], self._lame[1], ufl.det(F)
        energy = mu / 2 * (ufl.tr(F.T * F) - 3 - 2 * ufl.ln(J)) + lmbda / 2 * ufl.ln(J) ** 2
        residual = ufl.derivative(energy * ufl.dx(degree=4), self.u, v)
        self._F = fem.form(residual)
        self._J = fem.form(ufl.derivative(residual, self.u, ufl.TrialFunction(V)))
        self._A, self._b = fem_petsc.create_matrix(self._J), fem.Function(V)
        self.x = fem.Function(V)
        self.snes = PETSc.SNES().create(comm)
        self.snes.setOptionsPrefix("bar_")
        self.snes.setFunction(self._residual, self._b.x.petsc_vec)
        self.snes.setJacobian(self._jacobian, self._A)
        self.snes.setTolerances(rtol=1e-8, atol=1e-12, max_it=30)
        self.snes.ksp.setType("preonly")
        self.snes.ksp.pc.setType("lu")
        self.snes.setFromOptions()

    def set(self, load: float, nu: float) -> None:
        """Set the load and the material (shear modulus 1)."""
        self.load, self.nu = load, nu
        self._lame.value[:] = 1.0, 2.0 * nu / (1.0 - 2.0 * nu)
        c, s = np.cos(1.5 * load), np.sin(1.5 * load)

        def moved(x: Array) -> Array:
            y, z = x[1] - 0.5, x[2] - 0.5
            return np.stack((np.full_like(y, -0.6 * load), c * y - s * z - y, s * y + c * z - z))

        self.end.interpolate(moved)

    def _residual(self, snes: PETSc.SNES, x: PETSc.Vec, b: PETSc.Vec) -> None:
        self._take(x)
        with b.localForm() as local:
            local.set(0.0)
        fem_petsc.assemble_vector(b, self._F)
        fem_petsc.apply_lifting(b, [self._J], [self._bcs], [x], -1.0)
        b.ghostUpdate(addv=PETSc.InsertMode.ADD, mode=PETSc.ScatterMode.REVERSE)
        fem_petsc.set_bc(b, self._bcs, x, -1.0)

    def _jacobian(self, snes: PETSc.SNES, x: PETSc.Vec, A: PETSc.Mat, P: PETSc.Mat) -> None:
        A.zeroEntries()
        _assemble_matrix(A, self._J, self._bcs)
        A.assemble()

    def _take(self, x: PETSc.Vec) -> None:
        x.ghostUpdate(addv=PETSc.InsertMode.INSERT, mode=PETSc.ScatterMode.FORWARD)
        with x.localForm() as local:
            self.u.x.array[:] = local.array_r


@dataclass
class Study:
    """What one run of the study took: Newton iterations (materials, loads), seconds, and its solutions on this rank."""

    iterations: Array
    seconds: Array
    solutions: Array
    guesses: int


def run_study(
    bar: Bar,
    loads: Array,
    predictor: str | Predictor,
    parameter: Callable[[], float | Sequence[float]],
    materials: Sequence[float] = MATERIALS,
) -> Study:
    """The materials one after the other, each loaded from rest (collective)."""
    comm = bar.u.function_space.mesh.comm
    x = bar.x.x.petsc_vec
    solutions = np.zeros((len(materials), len(loads), x.getLocalSize()))
    iterations, seconds = np.zeros((len(materials), len(loads)), dtype=int), np.zeros(len(materials))
    with warm_start(bar.snes, predictor, parameter=parameter) as warm:  # the one line
        for i, nu in enumerate(materials):
            x.set(0.0)
            comm.barrier()
            start = time.perf_counter()
            for j, load in enumerate(loads):
                bar.set(load, nu)
                bar.snes.solve(None, x)
                if bar.snes.getConvergedReason() < 0:
                    raise SystemExit(f"no convergence at load {load} and Poisson's ratio {nu}")
                iterations[i, j], solutions[i, j] = bar.snes.getIterationNumber(), x.array_r
            seconds[i] = time.perf_counter() - start
    guesses = comm.bcast(warm.ledger.counts.get("snes/guesses used", 0))
    return Study(iterations, np.max(comm.allgather(seconds), axis=0), solutions, guesses)


def train(comm: MPI.Comm, study: Study, loads: Array) -> tuple[Predictor, float]:
    """A network trained on the first materials, and the seconds that took (collective)."""
    start = time.perf_counter()
    runs = [
        Run(np.column_stack((loads, np.full(len(loads), nu))), study.solutions[i])
        for i, nu in enumerate(MATERIALS[:TRAINED_ON])
    ]
    network = train_state_network(runs, comm=comm, rank=12, hidden=(12, 12), validation=0.1, max_iterations=150)
    return network, comm.allreduce(time.perf_counter() - start, MPI.MAX)


def run_all(comm: MPI.Comm, cells: int, steps: int) -> tuple[Bar, Array, dict[str, Study], float]:
    """The study as it is and with each predictor (collective)."""
    bar, loads = Bar(comm, cells), np.arange(steps + 1) / steps
    run_study(bar, loads[:2], "none", lambda: bar.load)  # compiled forms and warm caches for all
    studies = {"last solution": run_study(bar, loads, "none", lambda: bar.load)}
    for name in ("linear", "quadratic", "tangent", "projection"):
        studies[name] = run_study(bar, loads, name, lambda: bar.load)
    studies["POD"] = run_study(bar, loads, PODPredictor(comm=comm, window=200), lambda: (bar.load, bar.nu))
    network, seconds = train(comm, studies["last solution"], loads)
    new = run_study(bar, loads, network, lambda: (bar.load, bar.nu), MATERIALS[TRAINED_ON:])
    studies["network"] = _continued(studies["last solution"], new)
    return bar, loads, studies, seconds


def _continued(first: Study, new: Study) -> Study:
    """The first materials of one study and the new ones of another."""
    return Study(
        np.concatenate((first.iterations[:TRAINED_ON], new.iterations)),
        np.concatenate((first.seconds[:TRAINED_ON], new.seconds)),
        np.concatenate((first.solutions[:TRAINED_ON], new.solutions)),
        new.guesses,
    )


def compare(comm: MPI.Comm, studies: Mapping[str, Study], training: float) -> dict[str, Any]:
    """All numbers of the table (collective)."""
    reference = studies["last solution"]
    size = comm.allreduce(float(np.abs(reference.solutions).max()), MPI.MAX)
    new = slice(TRAINED_ON, None)
    return {
        "ranks": comm.size,
        "solves": int(reference.iterations[:, 1:].size),
        "training seconds": training,
        "studies": {
            name: {
                "iterations": int(study.iterations.sum()),
                "iterations, new materials": int(study.iterations[new].sum()),
                "seconds": float(study.seconds.sum()),
                "seconds, new materials": float(study.seconds[new].sum()),
                "guesses": study.guesses,
                "difference": comm.allreduce(float(np.abs(study.solutions - reference.solutions).max()), MPI.MAX)
                / size,
            }
            for name, study in studies.items()
        },
    }


def table(summary: Mapping[str, Any]) -> Table:
    """The comparison as a table."""
    shown = Table(
        "start",
        "Newton its",
        "seconds",
        f"its, last {len(MATERIALS) - TRAINED_ON}",
        "seconds",
        "guesses",
        "change",
        title=f"{summary['solves']} solves on {summary['ranks']} rank(s)",
    )
    for column in shown.columns[1:]:
        column.justify = "right"
    for name, r in summary["studies"].items():
        shown.add_row(
            name,
            str(r["iterations"]),
            f"{r['seconds']:.2f}",
            str(r["iterations, new materials"]),
            f"{r['seconds, new materials']:.2f}",
            str(r["guesses"]),
            f"{r['difference']:.0e}",
        )
    shown.caption = (
        f"The network was trained on the solutions of the first {TRAINED_ON} materials in "
        f"{summary['training seconds']:.1f} s and used for the last {len(MATERIALS) - TRAINED_ON}. Change: of the "
        "solutions, relative to the largest displacement."
    )
    return shown


def write_figures(
    comm: MPI.Comm, bar: Bar, loads: Array, studies: Mapping[str, Study], out: Path
) -> list[tuple[Path, str]]:
    """Write the figures on rank 0 and return their paths and captions (collective)."""
    files = [out / "bar.png", out / "iterations.png"]
    surfaces = [_surface(comm, bar, studies["last solution"].solutions[-1, j]) for j in (0, len(loads) // 2, -1)]

    def draw() -> None:
        _draw_bars(surfaces, files[0])
        _draw_iterations(studies, files[1])

    together(comm, draw if comm.rank == 0 else lambda: None)
    captions = (
        f"The bar at rest, at half and at full load, Poisson's ratio {MATERIALS[-1]}; colours: displacement",
        "Newton iterations, summed over the solves; the vertical lines separate the materials",
    )
    return list(zip(files, captions, strict=True))


def _surface(comm: MPI.Comm, bar: Bar, solution: Array) -> tuple[Array, Array]:
    """Deformed quadrilaterals (q, 4, 3) of the surface on all ranks, and the displacement (q,) in their middle."""
    domain = bar.u.function_space.mesh
    bar.u.x.array[: len(solution)] = solution
    bar.u.x.scatter_forward()
    corners = fem.Function(fem.functionspace(domain, ("Lagrange", 1, (3,))))
    corners.interpolate(bar.u)
    domain.topology.create_connectivity(2, 3)
    facets = mesh.exterior_facet_indices(domain.topology)
    nodes = mesh.entities_to_geometry(domain, 2, facets)
    place = np.zeros_like(domain.geometry.x)
    place[domain.geometry.dofmap] = corners.x.array.reshape(-1, 3)[corners.function_space.dofmap.list]
    x = domain.geometry.x[nodes][:, [0, 1, 3, 2]]
    u = place[nodes][:, [0, 1, 3, 2]]
    parts = comm.allgather((x + u, np.linalg.norm(u, axis=2).mean(axis=1)))
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def _draw_bars(surfaces: Sequence[tuple[Array, Array]], file: Path) -> None:
    """Seen from the front, obliquely from above; what is farther away is drawn first."""
    a, b = 0.35, 0.5
    right = np.array([np.cos(a), np.sin(a), 0.0])
    up = np.array([-np.sin(a) * np.sin(b), np.cos(a) * np.sin(b), np.cos(b)])
    away = np.cross(up, right)
    figure, axes = plt.subplots(len(surfaces), 1, figsize=(7, 6), layout="constrained", sharex=True)
    scale = Normalize(0.0, max(float(values.max()) for _, values in surfaces))
    everything = np.concatenate([corners.reshape(-1, 3) for corners, _ in surfaces])
    low, high = ([f(everything @ direction) for direction in (right, up)] for f in (np.min, np.max))
    for panel, (corners, values) in zip(axes, surfaces, strict=True):
        order = np.argsort(-(corners.mean(axis=1) @ away))
        flat = np.stack((corners[order] @ right, corners[order] @ up), axis=2)
        drawn = PolyCollection(list(flat), array=values[order], norm=scale, edgecolors="k", linewidths=0.3)
        panel.add_collection(drawn)
        panel.set(xlim=(low[0] - 0.1, high[0] + 0.1), ylim=(low[1] - 0.1, high[1] + 0.1))
        panel.set_aspect("equal")
        panel.set_axis_off()
    figure.colorbar(drawn, ax=list(axes), label="displacement", shrink=0.7)
    figure.savefig(file, dpi=150)
    plt.close(figure)


def _draw_iterations(studies: Mapping[str, Study], file: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for name, study in studies.items():
        sums = np.cumsum(study.iterations[:, 1:])
        axes.plot(np.arange(1, len(sums) + 1), sums, label=f"{name}: {sums[-1]}")
    per_material = studies["last solution"].iterations.shape[1] - 1
    for i, nu in enumerate(MATERIALS):
        if i:
            axes.axvline(i * per_material + 0.5, color="0.8", zorder=0)
        axes.text((i + 0.5) * per_material, -8, f"ν = {nu}", ha="center", va="center", color="0.4")
    axes.set(xlabel="solve", ylabel="Newton iterations so far")
    axes.set(xlim=(0, len(MATERIALS) * per_material + 1), ylim=(-15, None))
    axes.legend(title="start of a solve")
    figure.savefig(file, dpi=150)
    plt.close(figure)


def check(summary: Mapping[str, Any]) -> None:
    """Stop with a message unless the answers agree and iterations were saved."""
    studies = summary["studies"]
    if (worst := max(r["difference"] for r in studies.values())) > 1e-6:
        raise SystemExit(f"a warm start changed a solution by {worst:.1e}")
    least = min(studies[name]["iterations"] for name in ("linear", "quadratic", "tangent"))
    if not studies["POD"]["iterations"] < least < studies["last solution"]["iterations"]:
        raise SystemExit("POD was to take fewer iterations than extrapolation, and that fewer than the last solution")
    new = {name: r["iterations, new materials"] for name, r in studies.items()}
    if not new["network"] <= 0.6 * new["last solution"]:
        raise SystemExit(f"the network was to save 40 % of the iterations on new materials, got {new}")


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=2, help="hexahedra across the bar (default 2)")
    parser.add_argument("--steps", type=int, default=10, help="load steps for each material (default 10)")
    parser.add_argument("--out", type=Path, default=Path("results/warm_start_snes"), help="folder for results")
    args = parser.parse_args()
    comm, out = MPI.COMM_WORLD, args.out
    out.mkdir(parents=True, exist_ok=True)
    bar, loads, studies, training = run_all(comm, args.cells, args.steps)
    summary = compare(comm, studies, training)
    figures = write_figures(comm, bar, loads, studies, out)

    def tell() -> None:
        write_atomically(out / "summary.json", json.dumps(summary, indent=2) + "\n")
        Console().print(table(summary))
        write_report(out / "report.html", "Warm starts of a DOLFINx code", INTRODUCTION, table(summary), figures)
        Console().print(f"{out / 'report.html'}: everything on one page")

    together(comm, tell if comm.rank == 0 else lambda: None)
    check(summary)


if __name__ == "__main__":
    main()

"""Transient heat in a composite plate by finite differences: two scales, PETSc's DMDA and TS, warm-started steps.

    ./run demo fd_diffusion
    ./run mpi 2 demos/demo_fd_diffusion.py

One edge of the plate is heated and cooled by turns. At each face of the grid the heat flux comes from a representative
volume element; the time stepper is PETSc's own, backward Euler with a Newton iteration per step.

1. Classical: each step starts from the one before. 2. The same with one line more, ``warm_start(ts, predictor)``:
extrapolation, dynamic mode decomposition, extended dynamic mode decomposition. The answer is the same.
3. The exact mode, also one line, ``exact_time_steps(ts, fluxes)``: a polynomial finds the solution of a step, sweeps
over the RVEs correct it. It learns from the run itself between the steps, so that nothing is sampled beforehand.
4. With a polynomial flux fitted to samples of the RVE in front of it: not the same answer, and no RVE is left.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from mpi4py import MPI

import matplotlib.pyplot as plt
import numpy as np
from rich.progress import Progress
from rich.table import Table

from coupling import AcceleratedClosure, Closure, Ledger, RangeGate
from coupling.contract import Array
from coupling.guess import Predictor
from coupling.ledger import ledgers, merged
from coupling.predictors.dmd import DMDPredictor
from coupling.predictors.edmd import EDMDPredictor
from demos.comparison import write_results
from demos.plate import Plate, composite
from solver_adapters.exact_snes import exact_time_steps
from solver_adapters.petsc_snes import warm_start
from surrogates import OnlinePolynomial, box_design, fit_polynomial_flux, sample

INTRODUCTION = (
    "A composite plate whose left edge is heated and cooled by turns, by finite differences. The heat flux at "
    "each face comes from a representative volume element. Warm starts leave the answer as it is, to the tolerance of "
    "the Newton iteration (10⁻⁶ of a step's first residual), and shorten the way to it; so does the exact mode, whose "
    "polynomial learns from the run itself and whose RVEs share a few factorised matrices."
)
PERIODS = 3
COLDEST, HOTTEST, STEEPEST = -0.2, 3.0, 8.0


@dataclass(frozen=True)
class March:
    """One run through all time steps.

    Args:
        iterations: (steps,) Newton iterations.
        factorisations: (steps,) of the RVEs' stiffness matrices, of all ranks, accumulated.
        seconds: wall time.
        theta: (nodes, nodes) final temperatures, on all ranks.
        unbalanced: heat stored less heat that entered, accumulated, relative to the heat that the edges exchanged.
        ledger: of closure and plate, over all ranks.
    """

    iterations: Array
    factorisations: Array
    seconds: float
    theta: Array
    unbalanced: float
    ledger: Ledger


def predictor(name: str, comm: MPI.Comm) -> Predictor | str:
    """A predictor that remembers more than one period of the heating, or a name of one."""
    if name == "dmd":
        return DMDPredictor(window=30, comm=comm)
    if name == "edmd":
        return EDMDPredictor(window=30, rank=8, comm=comm)
    return name


def march(comm: MPI.Comm, closure: Closure, name: str, title: str) -> March:
    """Run the plate for some periods (collective)."""
    before = merged(comm, *ledgers(closure)).counts
    plate = Plate(comm, closure)
    if name == "exact":
        exact_time_steps(plate.ts, [plate.fluxes])
    else:
        warm_start(plate.ts, predictor(name, comm))
    iterations, factorisations, heat = [0], [0], np.zeros(3)
    stored = [float(plate.theta.dot(plate.fluxes.volumes))]
    with Progress(disable=comm.rank > 0) as bar:
        task = bar.add_task(title, total=PERIODS)

        def after_step(ts: Any, step: int, t: float, x: Any) -> None:
            if step == 0:
                return
            iterations.append(ts.getSNESIterations())
            factorisations.append(merged(comm, *ledgers(closure)).counts.get("rve/factorisations", 0))
            entered = plate.entering() * ts.getTimeStep()
            stored.append(float(x.dot(plate.fluxes.volumes)))
            heat[:] += stored[-1] - stored[-2], sum(entered), sum(abs(flow) for flow in entered)
            bar.update(task, completed=t)

        plate.ts.setMonitor(after_step)
        plate.ts.setMaxTime(float(PERIODS))
        start = time.perf_counter()
        plate.ts.solve(plate.theta)
        seconds = time.perf_counter() - start
    ledger = merged(comm, plate.fluxes.ledger, *ledgers(closure))
    for count, n in before.items():
        ledger.counts[count] -= n
    theta, unbalanced = plate.temperatures(), abs(heat[0] - heat[1]) / heat[2]
    plate.close()
    return March(np.diff(iterations), np.array(factorisations[1:]), seconds, theta, unbalanced, ledger)


def self_taught() -> AcceleratedClosure:
    """The RVE in exact mode with a polynomial that learns from the run."""
    rve = composite()
    return AcceleratedClosure(rve, OnlinePolynomial(rve.spec), gate=RangeGate(), mode="exact")


def accelerated(comm: MPI.Comm, seconds: dict[str, float]) -> AcceleratedClosure:
    """The RVE with a polynomial flux in front of it (collective)."""
    start, rve = time.perf_counter(), composite()
    box = (COLDEST, -STEEPEST, -STEEPEST), (HOTTEST, STEEPEST, STEEPEST)
    data = sample(rve, box_design(*box, 400, seed=0), comm=comm, provenance=rve.description)
    seconds["sampling"] = time.perf_counter() - start
    surrogate = fit_polynomial_flux(data, degree=10)
    seconds["fitting"] = time.perf_counter() - start - seconds["sampling"]
    return AcceleratedClosure(composite(), surrogate, gate=RangeGate())


def table(comm: MPI.Comm, marches: Mapping[str, March], training: Mapping[str, float]) -> Table:
    """The comparison; ratios are to the run that starts from the previous step."""
    first = marches["previous step"]
    shown = Table(
        "start of a step",
        "Newton iterations",
        "last period",
        "RVE solves",
        "matrices factorised",
        "time",
        "difference",
        title=f"Composite plate on {comm.size} rank(s), {len(first.iterations)} time steps",
    )
    per_period = len(first.iterations) // PERIODS
    for name, m in marches.items():
        counts = m.ledger.counts
        solves = counts.get("exact/points", counts.get("rve/points", 0))
        total, last = int(m.iterations.sum()), int(m.iterations[-per_period:].sum())
        shown.add_row(
            name,
            f"{total} ({total / first.iterations.sum():.2f})",
            f"{last / per_period:.2f} a step",
            f"{solves} ({solves / first.ledger.counts['rve/points']:.2f})",
            str(counts.get("rve/factorisations", 0)),
            f"{m.seconds:.2f} s",
            f"{difference(m, first):.0e}",
        )
    shown.caption = ", ".join(f"{name} {s:.2f} s" for name, s in training.items())
    return shown


def difference(one: March, other: March) -> float:
    """Largest difference of the final temperatures relative to their range."""
    return float(np.abs(one.theta - other.theta).max() / np.ptp(other.theta))


def draw(marches: Mapping[str, March], path: Path) -> None:
    """The last temperatures, the iterations of each step, and what they cost the RVEs over time."""
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.4), layout="constrained", width_ratios=[1, 1.35, 1.35])
    theta = marches["previous step"].theta
    line = np.linspace(0.0, 1.0, len(theta))
    filled = axes[0].contourf(line, line, theta, levels=24, cmap="inferno")
    axes[0].contour(line, line, theta, levels=12, colors="white", linewidths=0.5)
    figure.colorbar(filled, ax=axes[0], label="temperature θ", shrink=0.8)
    axes[0].set(aspect="equal", xlabel="x", ylabel="y", title=f"after {PERIODS} periods")
    exact = {name: m for name, m in marches.items() if name != "polynomial flux"}
    iterations = np.array([m.iterations for m in exact.values()])
    t = PERIODS * np.arange(iterations.shape[1] + 1) / iterations.shape[1]
    colours = matplotlib.colormaps["viridis"].resampled(int(iterations.max()) + 1)
    shown = axes[1].pcolormesh(
        t, np.arange(len(exact) + 1) - 0.5, iterations, cmap=colours, vmin=-0.5, vmax=iterations.max() + 0.5
    )
    figure.colorbar(shown, ax=axes[1], ticks=range(int(iterations.max()) + 1), shrink=0.8)
    axes[1].set_yticks(range(len(exact)), [f"{name}: {m.iterations.sum()}" for name, m in exact.items()])
    axes[1].invert_yaxis()
    axes[1].set(xlabel="time / period", title="Newton iterations per step, and their sums")
    for name, m in exact.items():
        axes[2].step(t[1:], m.factorisations, where="post", label=name)
    axes[2].set(xlabel="time / period", ylabel="factorisations so far", title="what they cost the RVEs")
    axes[2].legend(frameon=False)
    axes[2].grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def assert_results(marches: Mapping[str, March]) -> None:
    """Raise SystemExit where a number is not what it must be."""
    first, broken = marches["previous step"], []
    for name, m in marches.items():
        limit = 1e-3 if name == "polynomial flux" else 1e-6
        if (found := difference(m, first)) > limit:
            broken.append(f"{name}: temperatures differ by {found:.1e}, at most {limit:.0e}")
        if m.unbalanced > 1e-6:
            broken.append(f"{name}: {m.unbalanced:.1e} of the heat is lost")
    if marches["DMD"].iterations.sum() > 0.6 * first.iterations.sum():
        broken.append("DMD saves less than 40 % of the Newton iterations")
    if marches["exact mode"].factorisations[-1] > 0.05 * first.factorisations[-1]:
        broken.append("the exact mode takes more than 5 % of the factorisations")
    if marches["polynomial flux"].ledger.counts.get("rve/points", 0):
        broken.append("the polynomial's range was left")
    if broken:
        raise SystemExit("; ".join(broken))


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/fd_diffusion"), help="folder for results")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    comm = MPI.COMM_WORLD

    starts = {
        "previous step": "none",
        "linear": "linear",
        "quadratic": "quadratic",
        "DMD": "dmd",
        "extended DMD": "edmd",
    }
    marches = {name: march(comm, composite(), kind, f"classical, {name}") for name, kind in starts.items()}
    marches["exact mode"] = march(comm, self_taught(), "exact", "exact mode, self-taught")
    training: dict[str, float] = {}
    marches["polynomial flux"] = march(comm, accelerated(comm, training), "none", "accelerated")

    shown, picture = table(comm, marches, training), out / "fd_diffusion.png"
    if comm.rank == 0:
        draw(marches, picture)
    caption = "Temperatures at the end; Newton iterations and factorisations of RVEs where the RVE decides, over time."
    summary = {
        name: {
            "iterations": m.iterations.tolist(),
            "seconds": m.seconds,
            "unbalanced": m.unbalanced,
            "difference": difference(m, marches["previous step"]),
            "counts": m.ledger.counts,
        }
        for name, m in marches.items()
    }
    write_results(
        comm,
        out,
        summary | {"ranks": comm.size, "training seconds": training},
        shown,
        title="Transient heat in a composite plate",
        introduction=INTRODUCTION,
        figures=[(picture, caption)],
    )
    assert_results(marches)


if __name__ == "__main__":
    main()

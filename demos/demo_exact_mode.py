"""Cook's membrane in the exact mode: the classical FE² answer, to its tolerance, for a fraction of the work.

    python -m demos.demo_exact_mode [--rve void]
    ./run mpi 2 demos/demo_exact_mode.py

1. The RVE is sampled, fluxes and fluctuation fields; both are interpolated, which takes a second.
2. The classical run: at each quadrature point and Newton iterate one micro iteration with one factorisation.
3. The exact mode: the surrogate finds the solution of a load step; one exact sweep over the RVEs, which start from
   predicted fields, tells its true residual and corrects the surrogate; and so on until that meets the tolerance.
4. The same without learning: in place of the surrogate a neo-Hookean law with the RVE's moduli, and no fields.

All three give the same displacements; a table, a figure of the residual against the time, one HTML page.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from mpi4py import MPI

import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console
from rich.table import Table

from coupling import AcceleratedClosure, Closure, RangeGate, StretchFrame, together
from coupling.closed_forms import StretchNeoHookean
from coupling.contract import Array
from coupling.files import write_atomically
from coupling.guess import Predictor
from coupling.report import write_report
from demos.cook import Membrane
from demos.cook_runs import CASES, MATERIALS, Case, Run, create_rve, run
from solver_adapters.fenicsx_rve import PeriodicRVE
from surrogates import FieldPredictor, KernelSurrogate, sample, stretch_design

RTOL = 1e-9
LARGEST_ERROR = 1e-8
INTRODUCTION = (
    "The same membrane three times, each to the same tolerance of the same residual: classical FE², the exact mode, in "
    "which a surrogate finds the solution of every load step and the RVEs correct it, and the exact mode with a law "
    "that needs no learning in place of the surrogate. The displacements are equal."
)


class Residuals:
    """True residuals of a run, with the time at which they were known: those of SNES, or of exact sweeps."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.norms: list[float] = []
        self._start = 0.0

    def watch(self, membrane: Membrane) -> None:
        """Enter the residuals of a membrane's problem from now on."""
        problem = membrane.problem
        if problem.exact:
            problem.on_sweep = lambda measured: self._enter(measured.norm)
        else:
            problem.snes.setMonitor(lambda snes, iteration, norm: self._enter(norm))
        self._start = time.perf_counter()

    def _enter(self, norm: float) -> None:
        self.seconds.append(time.perf_counter() - self._start)
        self.norms.append(norm)


def exact_mode(case: Case, surrogate: Closure, predictor: Predictor | None) -> Closure:
    """The exact mode of the accelerated closure, in the stretch frame."""
    rve = PeriodicRVE(case.cell(size=case.size), MATERIALS, tolerance=1e-6, predictor=predictor)
    return StretchFrame(AcceleratedClosure(rve, surrogate, gate=RangeGate(), mode="exact"))


def unlearned_law(case: Case) -> StretchNeoHookean:
    """A neo-Hookean law with the RVE's moduli in the reference state."""
    tangent = create_rve(case).reference.tangent
    return StretchNeoHookean(float(tangent[2, 2]) / 2, float(tangent[0, 1]))


def learn(comm: MPI.Comm, case: Case, samples: int) -> tuple[KernelSurrogate, FieldPredictor]:
    """Sample the RVE on all ranks and interpolate the answers (collective)."""
    rve = create_rve(case, for_training=True)
    design = stretch_design(case.lower, case.upper, samples, seed=0)
    data = sample(rve, design, comm=comm, fields=rve.fluctuations)
    return KernelSurrogate(data), FieldPredictor.of(data)


def demonstrate(
    comm: MPI.Comm, case: Case, *, samples: int, steps: int
) -> tuple[dict[str, Any], dict[str, Run], dict[str, Residuals]]:
    """Learn, run all three and compare (collective)."""
    start = time.perf_counter()
    surrogate, fields = learn(comm, case, samples)
    seconds = time.perf_counter() - start
    closures = {
        "classical FE²": StretchFrame(create_rve(case)),
        "exact mode": exact_mode(case, surrogate, fields),
        "without learning": exact_mode(case, unlearned_law(case), None),
    }
    runs, residuals = {}, {}
    for name, closure in closures.items():
        residuals[name] = Residuals()
        runs[name] = run(comm, closure, case, steps=steps, rtol=RTOL, title=name, watch=residuals[name].watch)
    return {"ranks": comm.size, "learning seconds": seconds, "runs": compare(comm, runs)}, runs, residuals


def compare(comm: MPI.Comm, runs: Mapping[str, Run]) -> dict[str, Any]:
    """Numbers of each run (collective)."""
    classical = runs["classical FE²"]
    exact = classical.membrane.problem.solution
    largest = comm.allreduce(float(np.abs(exact).max(initial=0.0)), op=MPI.MAX)
    return {
        name: {
            "seconds": r.seconds,
            "speed-up": classical.seconds / r.seconds,
            "error": comm.allreduce(_difference(r.membrane.problem.solution, exact), op=MPI.MAX) / largest,
            "tip": r.tip.tolist(),
            "counts": r.ledger.counts,
        }
        for name, r in runs.items()
    }


def _difference(ours: Array, exact: Array) -> float:
    return float(np.abs(ours - exact).max(initial=0.0))


def table(summary: Mapping[str, Any]) -> Table:
    """The comparison as a table."""
    runs = summary["runs"]
    shown = Table("", *runs, title=f"Cook's membrane on {summary['ranks']} rank(s), residual to {RTOL:g}")
    shown.add_row("wall time", *(f"{r['seconds']:.2f} s" for r in runs.values()))
    shown.add_row("speed-up", *(f"{r['speed-up']:.1f}" for r in runs.values()))
    best = min(r["seconds"] for name, r in runs.items() if name != "exact mode")
    shown.add_row("speed-up over the best of the others", "", f"{best / runs['exact mode']['seconds']:.1f}", "")
    shown.add_row("largest difference of the displacement", *(f"{r['error']:.1e}" for r in runs.values()))
    shown.add_section()
    for label, names in (
        ("macro Newton iterations", ["macro/iterations"]),
        ("exact sweeps over all RVEs", ["macro/exact sweeps"]),
        ("RVE solves", ["rve/points", "exact/points"]),
        ("micro Newton iterations", ["rve/newton iterations"]),
        ("micro corrections with a stale factor", ["rve/corrections"]),
        ("micro factorisations", ["rve/factorisations"]),
        ("guessed fields used", ["rve/guesses used"]),
    ):
        shown.add_row(label, *(f"{sum(r['counts'].get(name, 0) for name in names):,}" for r in runs.values()))
    shown.add_section()
    shown.add_row("learning", "", f"{summary['learning seconds']:.1f} s", "")
    return shown


def draw(residuals: Mapping[str, Residuals], file: Path) -> None:
    """Residual against time, one line for each load step."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for (name, r), style in zip(residuals.items(), ("o-", "s-", "^-"), strict=True):
        norms, seconds = np.array(r.norms), np.array(r.seconds)
        starts = np.flatnonzero(np.append(True, norms[1:] > 10 * norms[:-1]))
        colour = axes.semilogy([], [], style, markersize=4, label=f"{name} ({seconds[-1]:.1f} s)")[0].get_color()
        for begin, end in zip(starts, np.append(starts[1:], len(norms)), strict=True):
            axes.semilogy(seconds[begin:end], norms[begin:end], style, markersize=4, linewidth=1, color=colour)
    axes.set(xlabel="wall time [s]", ylabel="norm of the true residual", xlim=(0, None))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rve", choices=CASES, default="fibre", help="unit cell (default fibre)")
    parser.add_argument("--samples", type=int, help="RVE samples (default 400 for fibre, 600 for void)")
    parser.add_argument("--steps", type=int, default=8, help="load steps (default 8)")
    parser.add_argument("--out", type=Path, help="folder for results (default results/exact_mode_RVE)")
    args = parser.parse_args()
    comm, case = MPI.COMM_WORLD, CASES[args.rve]
    out = args.out or Path("results") / f"exact_mode_{args.rve}"
    out.mkdir(parents=True, exist_ok=True)
    summary, _, residuals = demonstrate(comm, case, samples=args.samples or case.samples, steps=args.steps)

    def tell() -> None:
        draw(residuals, out / "residual.png")
        caption = "Norm of the true residual over the load steps, against the wall time"
        write_atomically(out / "summary.json", json.dumps(summary, indent=2) + "\n")
        figures = [(out / "residual.png", caption)]
        title = f"Cook's membrane in the exact mode, {args.rve} RVE"
        write_report(out / "report.html", title, INTRODUCTION, table(summary), figures)
        Console().print(table(summary))
        Console().print(f"{out / 'report.html'}: everything on one page")

    together(comm, tell if comm.rank == 0 else lambda: None)
    worst = max(r["error"] for r in summary["runs"].values())
    if worst > LARGEST_ERROR:
        raise SystemExit(f"the displacements differ by {worst:.1e}, more than {LARGEST_ERROR:.0e}")


if __name__ == "__main__":
    main()

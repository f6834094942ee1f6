"""Cook's membrane as a concurrent two-scale (FE²) run, classically and with a trained surrogate in the loop.

    ./run demo                       fibre-reinforced RVE
    ./run demo --rve void            the harder one
    ./run mpi 2 demos/demo_cooks_membrane.py

1. The RVE is sampled at stretches of a low-discrepancy design and an energy network is trained on the answers.
2. The membrane is loaded in steps; at each quadrature point and Newton iterate the RVE is solved: classical FE².
3. The same, with the network in front of the RVE. Where a stretch leaves the range it was trained for, the RVE answers.
4. Both runs are compared. All numbers go to ``summary.json``, fields to files for Paraview, figures to PNG files.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mpi4py import MPI

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from coupling import AcceleratedClosure, Closure, Ledger, RangeGate, StretchFrame
from coupling.contract import Array
from coupling.files import write_atomically
from demos.cook import Membrane, membrane
from solver_adapters.energies import Energy, NeoHookean
from solver_adapters.fenicsx import StepRecord, load_steps
from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.rve_meshes import UnitCell, centred_fibre, centred_void
from surrogates import EnergySurrogate, load_model, sample, save_model, stretch_design, train_energy_network

MATERIALS: Mapping[int, Energy] = {1: NeoHookean(1.0, 2.0), 2: NeoHookean(20.0, 40.0)}


@dataclass(frozen=True)
class Case:
    """What is run: the unit cell, the load that bends the membrane well into finite strain, and the range to train for.

    The box of stretches is that of a run with the matrix material alone, rounded outwards.
    """

    cell: Callable[..., UnitCell]
    size: float
    load: float
    lower: tuple[float, float, float]
    upper: tuple[float, float, float]
    samples: int
    largest_tip_error: float


CASES = {
    "fibre": Case(centred_fibre, 0.106, 0.25, (0.80, 0.93, -0.10), (1.12, 1.12, 0.25), 400, 1e-4),
    "void": Case(centred_void, 0.092, 0.10, (0.82, 0.95, -0.08), (1.09, 1.09, 0.21), 600, 3e-4),
}


@dataclass(frozen=True)
class Run:
    """One finished run of the membrane.

    Args:
        membrane: in its final state.
        seconds: wall time of the load steps.
        curve: (steps + 1, 2) load factor and vertical tip displacement.
        tip: (2,) final tip displacement.
        records: one for each load step.
        ledger: of the macro problem, the closure and the RVE together, over all ranks.
    """

    membrane: Membrane
    seconds: float
    curve: Array
    tip: Array
    records: list[StepRecord]
    ledger: Ledger


def create_rve(case: Case, *, for_training: bool = False) -> PeriodicRVE:
    """The RVE of a case; for training with the energy and a tighter tolerance."""
    return PeriodicRVE(
        case.cell(size=case.size), MATERIALS, energy=for_training, tolerance=1e-12 if for_training else 1e-10
    )


def train(comm: MPI.Comm, case: Case, folder: Path, *, samples: int, seconds: dict[str, float]) -> EnergySurrogate:
    """Sample on all ranks, train on the first, and load the saved model on all (collective)."""
    rve = create_rve(case, for_training=True)
    start = time.perf_counter()
    design = stretch_design(case.lower, case.upper, samples, seed=0)
    data = sample(rve, design, comm=comm, provenance=rve.description)
    seconds["sampling"] = time.perf_counter() - start
    if comm.rank == 0:
        save_model(train_energy_network(data), folder)
    comm.barrier()
    seconds["training"] = time.perf_counter() - start - seconds["sampling"]
    return load_model(folder)


def run(
    comm: MPI.Comm, closure: Closure, case: Case, *, steps: int = 8, cells: tuple[int, int] = (6, 3), title: str = ""
) -> Run:
    """Step the membrane to its full load (collective)."""
    macro = membrane(comm, closure, cells=cells, load=case.load)
    curve = [(0.0, 0.0)]
    with Progress(disable=comm.rank > 0 or not title) as bar:
        task = bar.add_task(title, total=1.0)

        def on_step(record: StepRecord) -> None:
            curve.append((record.load, float(macro.tip()[1])))
            bar.update(task, completed=record.load)

        start = time.perf_counter()
        records = load_steps(macro.problem, macro.apply_load, steps=steps, on_step=on_step)
        seconds = time.perf_counter() - start
    ledger = merged(comm, macro.problem.ledger, *ledgers(closure))
    return Run(macro, seconds, np.array(curve), macro.tip(), records, ledger)


def ledgers(closure: Any) -> list[Ledger]:
    """The ledgers inside a closure, found through the closures it is made of."""
    inner = [getattr(closure, name) for name in ("inner", "fine") if hasattr(closure, name)]
    own = [closure.ledger] if hasattr(closure, "ledger") else []
    return own + [ledger for part in inner for ledger in ledgers(part)]


def merged(comm: MPI.Comm, *parts: Ledger) -> Ledger:
    """One ledger of several, over all ranks (collective)."""
    total = Ledger()
    for part in parts:
        for name, n in part.counts.items():
            total.count(name, n)
        total.seconds.update(part.seconds)
    return total.gathered(comm)


def stress_errors(comm: MPI.Comm, classical: Run, accelerated: Run) -> tuple[float, tuple[int, int]]:
    """Largest stress error relative to the largest stress, and its (rank, point) (collective)."""
    exact, ours = (r.membrane.flux.response.flux for r in (classical, accelerated))
    error = np.linalg.norm(ours - exact, axis=1)
    largest = comm.allreduce(float(np.linalg.norm(exact, axis=1).max(initial=0.0)), op=MPI.MAX)
    worst = max(comm.allgather((float(error.max(initial=-1.0)), -comm.rank, int(error.argmax()) if error.size else -1)))
    return worst[0] / largest, (-worst[1], worst[2])


def compare(comm: MPI.Comm, classical: Run, accelerated: Run, training: dict[str, float]) -> dict[str, Any]:
    """All numbers of the table (collective)."""
    stress, worst = stress_errors(comm, classical, accelerated)
    saved = classical.seconds - accelerated.seconds
    return {
        "ranks": comm.size,
        "tip error": float(np.linalg.norm(accelerated.tip - classical.tip) / np.linalg.norm(classical.tip)),
        "largest stress error": stress,
        "worst point": worst,
        "speed-up": classical.seconds / accelerated.seconds,
        "training seconds": training,
        "break-even runs": sum(training.values()) / saved if saved > 0 else float("inf"),
        "runs": {
            name: {
                "seconds": r.seconds,
                "tip": r.tip.tolist(),
                "iterations": [record.iterations for record in r.records],
                "counts": r.ledger.counts,
                "seconds_by_phase": r.ledger.seconds,
            }
            for name, r in (("classical", classical), ("accelerated", accelerated))
        },
    }


def table(summary: Mapping[str, Any]) -> Table:
    """The comparison as a table."""
    runs = summary["runs"]
    shown = Table("", "classical FE²", "accelerated", title=f"Cook's membrane on {summary['ranks']} rank(s)")

    def row(name: str, value: Callable[[Mapping[str, Any]], str]) -> None:
        shown.add_row(name, value(runs["classical"]), value(runs["accelerated"]))

    row("wall time", lambda r: f"{r['seconds']:.3f} s")
    for phase in ("closure", "assemble", "linear solve"):
        row(f"  {phase}", partial(_phase_seconds, phase))
    row("closure calls", lambda r: f"{r['counts'].get('closure/calls', 0)}")
    row("point evaluations", lambda r: f"{r['counts'].get('closure/points', 0)}")
    row("  of these RVE solves", lambda r: f"{r['counts'].get('rve/points', 0)}")
    row("micro Newton iterations", lambda r: f"{r['counts'].get('rve/newton iterations', 0)}")
    row("micro factorisations", lambda r: f"{r['counts'].get('rve/factorisations', 0)}")
    row("macro Newton iterations", lambda r: f"{r['counts'].get('macro/iterations', 0)}")
    row("tip displacement", lambda r: f"{r['tip'][1]:.6f}")
    shown.add_section()
    cost = summary["training seconds"]
    for name, value in (
        ("tip error", f"{summary['tip error']:.1e}"),
        ("largest stress error", f"{summary['largest stress error']:.1e}"),
        ("speed-up", f"{summary['speed-up']:.0f} times"),
        ("training cost", ", ".join(f"{name} {s:.1f} s" for name, s in cost.items())),
        ("break-even after", f"{summary['break-even runs']:.1f} runs"),
    ):
        shown.add_row(name, "", value)
    return shown


def _phase_seconds(phase: str, run: Mapping[str, Any]) -> str:
    return f"{run['seconds_by_phase'][phase]:.3f} s"


def demonstrate(comm: MPI.Comm, case: Case, out: Path, *, samples: int, steps: int) -> tuple[dict[str, Any], Run, Run]:
    """Train, run both ways and compare (collective)."""
    seconds: dict[str, float] = {}
    surrogate = train(comm, case, out / "model", samples=samples, seconds=seconds)
    classical = run(comm, StretchFrame(create_rve(case)), case, steps=steps, title="classical FE²")
    closure = AcceleratedClosure(StretchFrame(create_rve(case)), StretchFrame(surrogate), gate=RangeGate())
    accelerated = run(comm, closure, case, steps=steps, title="accelerated FE²")
    return compare(comm, classical, accelerated, seconds), classical, accelerated


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rve", choices=CASES, default="fibre", help="unit cell (default fibre)")
    parser.add_argument("--samples", type=int, help="RVE samples to train on (default 400 for fibre, 600 for void)")
    parser.add_argument("--steps", type=int, default=8, help="load steps (default 8)")
    parser.add_argument("--out", type=Path, help="folder for results (default results/cooks_membrane_RVE)")
    args = parser.parse_args()
    comm, case = MPI.COMM_WORLD, CASES[args.rve]
    out = args.out or Path("results") / f"cooks_membrane_{args.rve}"
    out.mkdir(parents=True, exist_ok=True)

    summary, classical, accelerated = demonstrate(
        comm, case, out, samples=args.samples or case.samples, steps=args.steps
    )

    from demos.cook_figures import write_fields, write_figures

    figures = write_figures(comm, classical, accelerated, create_rve(case), summary["worst point"], out)
    write_fields(comm, classical, accelerated, out)
    if comm.rank == 0:
        write_atomically(out / "summary.json", json.dumps(summary, indent=2) + "\n")
        Console().print(table(summary))
        Console().print(f"Figures: {', '.join(str(f) for f in figures)}. Fields for Paraview: {out}/*.pvd")
    assert summary["tip error"] <= case.largest_tip_error, "the surrogate's tip displacement is not accurate enough"


if __name__ == "__main__":
    main()

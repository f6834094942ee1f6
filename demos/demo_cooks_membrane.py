"""Cook's membrane as a concurrent two-scale (FE²) run, classically and with a trained surrogate in the loop.

    ./run demo                       fibre-reinforced RVE
    ./run demo --rve void            the harder one
    ./run mpi 2 demos/demo_cooks_membrane.py

1. The RVE is sampled at stretches of a low-discrepancy design and an energy network is trained on the answers.
2. The membrane is loaded in steps; at each quadrature point and Newton iterate the RVE is solved: classical FE².
3. The same, with the network in front of the RVE. Where a stretch leaves the range it was trained for, the RVE answers.
4. Both runs are compared: a table, figures, one HTML page, fields for Paraview, and all numbers as JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from mpi4py import MPI

import numpy as np
from rich.console import Console
from rich.table import Table

from coupling import AcceleratedClosure, RangeGate, StretchFrame, together
from coupling.files import write_atomically
from coupling.report import write_report
from demos.cook_figures import write_fields, write_figures
from demos.cook_runs import CASES, Case, Run, create_rve, run, stress_errors, tip_error_over_steps
from surrogates import (
    HoldOutErrors,
    TrainedSurrogate,
    load_model,
    sample,
    save_model,
    stretch_design,
    train_energy_network,
)

INTRODUCTION = (
    "The same membrane twice: with a representative volume element solved at every quadrature point in every Newton "
    "iteration (classical FE²), and with an energy network in its place. Errors are relative to the classical run."
)


def train(comm: MPI.Comm, case: Case, folder: Path, *, samples: int, seconds: dict[str, float]) -> TrainedSurrogate:
    """Sample on all ranks, train on the first, and load the saved model on all (collective)."""
    rve = create_rve(case, for_training=True)
    start = time.perf_counter()
    design = stretch_design(case.lower, case.upper, samples, seed=0)
    data = sample(rve, design, comm=comm, provenance=rve.description)
    seconds["sampling"] = time.perf_counter() - start
    together(comm, lambda: save_model(train_energy_network(data), folder) if comm.rank == 0 else None)
    seconds["training"] = time.perf_counter() - start - seconds["sampling"]
    return together(comm, lambda: load_model(folder))


def compare(
    comm: MPI.Comm, classical: Run, accelerated: Run, training: dict[str, float], errors: HoldOutErrors
) -> dict[str, Any]:
    """All numbers of the table (collective)."""
    stress, worst = stress_errors(comm, classical, accelerated)
    saved = classical.seconds - accelerated.seconds
    return {
        "ranks": comm.size,
        "tip error": float(np.linalg.norm(accelerated.tip - classical.tip) / np.linalg.norm(classical.tip)),
        "largest tip error": tip_error_over_steps(classical, accelerated),
        "largest stress error": stress,
        "hold-out errors": asdict(errors),
        "worst point": worst,
        "speed-up": classical.seconds / accelerated.seconds,
        "training seconds": training,
        "break-even runs": sum(training.values()) / saved if saved > 0 else float("inf"),
        "runs": {
            name: {
                "seconds": r.seconds,
                "tip": r.tip.tolist(),
                "curve": r.curve.tolist(),
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
        ("tip error", f"{summary['tip error']:.1e} at full load, at most {summary['largest tip error']:.1e}"),
        ("largest stress error", f"{summary['largest stress error']:.1e}"),
        ("  on held-out samples", "rms {flux_rms:.1e}, max {flux_max:.1e}".format(**summary["hold-out errors"])),
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
    return compare(comm, classical, accelerated, seconds, surrogate.card.errors), classical, accelerated


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
        comm, case, out, samples=case.samples if args.samples is None else args.samples, steps=args.steps
    )

    figures = write_figures(comm, classical, accelerated, create_rve(case), summary["worst point"], out)
    write_fields(comm, classical, accelerated, out)

    def tell() -> None:
        write_atomically(out / "summary.json", json.dumps(summary, indent=2) + "\n")
        Console().print(table(summary))
        write_report(out / "report.html", f"Cook's membrane, {args.rve} RVE", INTRODUCTION, table(summary), figures)
        for name, what in (("report.html", "everything on one page"), ("*.pvd", "fields for Paraview")):
            Console().print(f"{out / name}: {what}")

    together(comm, tell if comm.rank == 0 else lambda: None)
    if summary["largest tip error"] > case.largest_tip_error:
        raise SystemExit(f"the tip error {summary['largest tip error']:.1e} exceeds {case.largest_tip_error:.1e}")


if __name__ == "__main__":
    main()

"""Cook's membrane: classical FE² against accelerated FE² and against the same macro problem with a closed-form law.

    ./run bench fe2 [--rve fibre|void] [--small] [--json PATH]

Two macro sizes (108 and 432 points) and two RVE sizes (about 1,000 and 10,000 degrees of freedom), one core each; the
runs of a case take turns. The surrogate is an energy network; a polynomial energy fitted to the same samples is its
control. The classical run starts each RVE from its last equilibrium and the sensitivity, condenses flux and tangent,
takes one micro iteration (and one factorisation) for each macro iterate, and extrapolates the macro solution; so do the
others.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from mpi4py import MPI

import numpy as np
import torch

from coupling import AcceleratedClosure, Closure, RangeGate, StretchFrame
from coupling.closed_forms import NeoHookean
from demos.cook_runs import CASES, Case, Run, create_rve, run
from solver_adapters.fenicsx_rve import PeriodicRVE
from surrogates import EnergySurrogate, fit_polynomial, sample, stretch_design, train_energy_network
from tests.benchmarks.timing import show, show_goals, with_goals, write_json

MACRO_CELLS = {108: (6, 3), 432: (12, 6)}
LARGEST_TIP_ERROR = {"fibre": 1e-4, "void": 3e-4}
SPEED_UP, OVER_FLOOR = "classical / accelerated", "accelerated / closed form"
CLOSURES = "closure: classical / accelerated"
COARSE_DOFS = 5000
"""Below, an RVE is one of the coarse ones."""

FINE_SIZE = {"fibre": 0.0314, "void": 0.0280}


def trained(case: Case) -> dict[str, EnergySurrogate]:
    """An energy network for the RVE of a case and, as its control, a polynomial energy of the same samples."""
    rve = create_rve(case, for_training=True)
    data = sample(rve, stretch_design(case.lower, case.upper, case.samples, seed=0), comm=MPI.COMM_SELF)
    return {"accelerated": train_energy_network(data), "polynomial": fit_polynomial(data)}


def moduli(rve: PeriodicRVE) -> tuple[float, float]:
    """μ and λ of the RVE in the reference state."""
    A = rve.reference.tangent
    return float(A[2, 2]) / 2, float(A[0, 1])


def measure(case: Case, surrogates: dict[str, EnergySurrogate], points: int, repeats: int) -> dict[str, Any]:
    """Run the variants in turn ``repeats`` times, the fast ones five times each."""
    rve = create_rve(case)
    law = NeoHookean(*moduli(rve))
    variants: dict[str, Callable[[], Closure]] = {
        "classical": lambda: StretchFrame(rve),
        "closed form": lambda: law,
    }
    for name, surrogate in surrogates.items():
        variants[name] = partial(AcceleratedClosure, StretchFrame(rve), StretchFrame(surrogate), gate=RangeGate())
    fast = [name for name in variants if name != "classical"]
    runs: dict[str, list[Run]] = {name: [] for name in variants}
    for name in fast:
        run(MPI.COMM_SELF, variants[name](), case, cells=MACRO_CELLS[points])
    for _ in range(repeats):
        for name in ["classical", *(5 * fast)]:
            rve.ledger.reset()
            runs[name].append(run(MPI.COMM_SELF, variants[name](), case, cells=MACRO_CELLS[points]))
    return {"points": points, "dofs": rve.problem.n, "repeats": repeats, **compare(runs)}


def compare(runs: dict[str, list[Run]]) -> dict[str, Any]:
    """Medians and ratios of the runs of one case."""
    seconds = {name: median(r.seconds for r in of) for name, of in runs.items()}
    closure = {name: median(r.ledger.seconds["closure"] for r in of) for name, of in runs.items()}
    exact = runs["classical"][0].tip
    return {
        "seconds": seconds,
        "closure seconds": closure,
        "counts": {name: of[-1].ledger.counts for name, of in runs.items()},
        "tip error": {
            name: float(np.linalg.norm(runs[name][0].tip - exact) / np.linalg.norm(exact))
            for name in ("accelerated", "polynomial")
        },
        SPEED_UP: seconds["classical"] / seconds["accelerated"],
        OVER_FLOOR: seconds["accelerated"] / seconds["closed form"],
        CLOSURES: closure["classical"] / closure["accelerated"],
    }


def goals(name: str, result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The goals of one case, at the smaller macro size, with what was reached."""
    if result["points"] != min(MACRO_CELLS):
        return {}
    coarse = result["dofs"] < COARSE_DOFS
    reached = {key: result[key] for key in (SPEED_UP, OVER_FLOOR, CLOSURES)}
    reached["tip error"] = result["tip error"]["accelerated"]
    at_most = {OVER_FLOOR: 1.5, "tip error": LARGEST_TIP_ERROR[name]}
    at_least = {SPEED_UP: 100.0, CLOSURES: 300.0} if coarse else {CLOSURES: 3000.0}
    return with_goals(reached, at_most=at_most if coarse else None, at_least=at_least)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rve", choices=CASES, help="only this RVE (default: all)")
    parser.add_argument("--small", action="store_true", help="only the 1,000-dof RVEs (two minutes instead of forty)")
    parser.add_argument("--repeats", type=int, default=3, help="repetitions of runs under a minute; one of longer ones")
    parser.add_argument("--json", type=Path, default=Path("results/bench_fe2.json"), help="where the result is written")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for name in [args.rve] if args.rve else list(CASES):
        for size in (CASES[name].size, FINE_SIZE[name])[: 1 if args.small else 2]:
            case = replace(CASES[name], size=size)
            surrogates = trained(case)
            repeats = args.repeats if size == CASES[name].size else 1
            for points in MACRO_CELLS:
                result = measure(case, surrogates, points, repeats)
                results.append({"rve": name, **result, "goals": goals(name, result)})
                show_results(results)
                write_json(args.json, {"benchmark": "fe2", "results": results})
    for r in results:
        if r["goals"]:
            show_goals(f"{r['rve']} RVE, {r['dofs']:,} dofs, {r['points']} points", r["goals"])


def show_results(results: list[dict[str, Any]]) -> None:
    """Print the table of all cases measured so far."""
    columns = ["RVE", "dofs", "points", "classical [s]", "accelerated [s]", "closed form [s]"]
    ratios = [SPEED_UP, OVER_FLOOR, CLOSURES]
    rows = [
        [r["rve"], str(r["dofs"]), str(r["points"])]
        + [f"{r['seconds'][name]:.3f}" for name in ("classical", "accelerated", "closed form")]
        + [f"{r[name]:.3g}" for name in ratios]
        + [f"{error:.1e}" for error in r["tip error"].values()]
        for r in results
    ]
    show(
        "Cook's membrane on one core: medians of interleaved runs",
        [*columns, *ratios, "tip error", "polynomial's"],
        rows,
    )


if __name__ == "__main__":
    main()

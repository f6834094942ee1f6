"""The same answer with less work: starts of solves and the exact mode, all to the same final tolerance.

    ./run bench warmstart [--part exact|history|cells|predictors] [--rve fibre|void] [--quick] [--repeats N]
                          [--json PATH]

exact: Cook's membrane with an RVE, on one core. The classical run with all kinds of starts (the previous state,
extrapolation, the last tangent, projection, POD, dynamic modes, PETSc's guesses of linear solves, networks for the
macro solution and for the fields of the RVEs) and the exact mode, with and without learning and with surrogates that
mean no good. Micro and macro Newton iterations, linear solves and time, each also as a ratio to the best without
learning.

history: a square with plastic RVEs, loaded and unloaded, classically and in the exact mode with surrogates that know
nothing of plasticity or mean no good; in 16 load steps, and in few large ones.

cells: Newton iterations of RVEs that start cold, from zero and from predicted fields.

predictors: a hyperelastic bar without RVEs, where the macro iteration is all there is to save.

The variants of a part take turns. With --quick everything is small: it shows that all of it works, no more.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from demos.cook_runs import CASES, Case
from tests.benchmarks.timing import show_goals, write_json
from tests.benchmarks.warmstart_cells import compare_cold_starts
from tests.benchmarks.warmstart_exact import classical, exact_variants, goals, learn, show_exact, unlearned_exact
from tests.benchmarks.warmstart_history import (
    LARGE_STEPS,
    SMALL_STEPS,
    Square,
    compare_large_steps,
    compare_with_history,
)
from tests.benchmarks.warmstart_predictors import compare_predictors
from tests.benchmarks.warmstart_runs import RTOL, Size, measure, show_costs
from tests.benchmarks.warmstart_starts import earlier_runs, materials_with, start_variants

SAMPLES = {"fibre": 400, "void": 2000}
"""Of the interpolants; the networks are those of the first demo."""

QUICK_SAMPLES, QUICK_SIZE = 120, 0.25
STARTS = 2000
"""Cold starts of each RVE."""

PARTS = ("exact", "history", "cells", "predictors")


def case_of(name: str, *, quick: bool) -> tuple[Case, int]:
    """The case, and how many samples are taken."""
    if quick:
        return replace(CASES[name], size=QUICK_SIZE, samples=QUICK_SAMPLES), QUICK_SAMPLES
    return CASES[name], SAMPLES[name]


def compare_on_membrane(name: str, size: Size, *, quick: bool) -> dict[str, Any]:
    """All variants with the RVE of one case: measured, printed, returned for JSON."""
    case, samples = case_of(name, quick=quick)
    variants = exact_variants(case, learn(case, samples))
    start = time.perf_counter()
    runs = earlier_runs(lambda modulus: unlearned_exact(case, materials_with(modulus)), case, size)
    earlier = time.perf_counter() - start
    starts, training = start_variants(lambda: classical(case), runs)
    costs = measure(variants | starts, case, size)
    met = goals(name, costs)
    show_costs(f"Cook's membrane, {name} RVE, one core, residual to {RTOL:g}", costs)
    print(f"  the macro network was trained in {training:.1f} s, on runs that took {earlier:.1f} s")
    show_exact(costs)
    show_goals(f"{name} RVE", met)
    return {"variants": costs, "goals": met, "earlier runs seconds": earlier, "training seconds": training}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, help="only this part (default: all)")
    parser.add_argument("--rve", choices=CASES, help="only this RVE (default: all)")
    parser.add_argument("--repeats", type=int, default=3, help="interleaved repetitions (default 3)")
    parser.add_argument("--quick", action="store_true", help="small problems, once each")
    parser.add_argument("--json", type=Path, default=Path("results/bench_warmstart.json"), help="where the result goes")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    size = Size(steps=4, cells=(4, 2), repeats=1) if args.quick else Size(repeats=args.repeats)
    results: dict[str, Any] = {"benchmark": "warmstart", "rtol": RTOL, "quick": args.quick}
    names = [args.rve] if args.rve else list(CASES)
    if args.part in (None, "exact"):
        results["exact"] = {}
        for name in names:
            results["exact"][name] = compare_on_membrane(name, size, quick=args.quick)
            write_json(args.json, results)
    if args.part in (None, "history"):
        small, large = ([Square(2, 4)],) * 2 if args.quick else (SMALL_STEPS, LARGE_STEPS)
        results["history"] = {str(square): compare_with_history(square, size.repeats) for square in small}
        write_json(args.json, results)
        results["history, large steps"] = compare_large_steps(large, size.repeats)
        write_json(args.json, results)
    if args.part in (None, "cells"):
        starts = 100 if args.quick else STARTS
        results["cells"] = {n: compare_cold_starts(n, *case_of(n, quick=args.quick), starts) for n in names}
        write_json(args.json, results)
    if args.part in (None, "predictors"):
        cells, steps = (1, 12) if args.quick else (2, 12)
        results["predictors"] = compare_predictors(cells, steps, size.repeats)
        write_json(args.json, results)


if __name__ == "__main__":
    main()

"""The same answer with less work: Cook's membrane by the exact mode, against the strong classical run and ablations.

    ./run bench warmstart [--rve fibre|void] [--repeats N] [--json PATH]

All runs meet the same tolerance of the same residual on one core, and take turns.

* classical: previous state and sensitivity, condensed flux and tangent, one micro iteration and one factorisation for
  each macro iterate, macro extrapolation.
* exact: a surrogate and a field predictor, both made of the same RVE samples, in the exact mode.
* without learning: the same machinery (shared stale factors, secants, tangents by measured time) with no model but
  what earlier sweeps said, or with a neo-Hookean law that has the RVE's moduli.
* hostile: surrogates that mean no good.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mpi4py import MPI

import numpy as np
import torch

from coupling import AcceleratedClosure, Closure, RangeGate, StretchFrame
from coupling.closed_forms import StretchNeoHookean
from coupling.guess import Predictor
from demos.cook_runs import CASES, MATERIALS, Case, Run, create_rve, run
from solver_adapters.fenicsx_rve import PeriodicRVE
from surrogates import Dataset, FieldPredictor, KernelSurrogate, sample, stretch_design, train_energy_network
from tests.benchmarks.timing import show, write_json
from tests.hostile_surrogates import HOSTILE

RTOL = 1e-9
SAMPLES = {"fibre": 400, "void": 2000}  # of the interpolants; the networks are those of the first demo
GOALS = {
    "fibre": {"speed-up": 5.0, "sweeps per step": 2.5, "factorisations": 0.1, "over no learning": 1.7, "hostile": 1.15},
    "void": {"speed-up": 3.5, "sweeps per step": 2.5, "factorisations": 0.1, "over no learning": 1.7, "hostile": 1.15},
}
UNLEARNED = ("no model", "neo-Hookean model")


@dataclass(frozen=True)
class Learned:
    """What is made of the samples of one RVE."""

    data: Dataset
    network: Closure
    fields: FieldPredictor


def learn(case: Case, samples: int) -> Learned:
    """Sample the RVE of a case and learn from that; the network from as many samples as in the first demo."""
    rve = create_rve(case, for_training=True)
    design = stretch_design(case.lower, case.upper, samples, seed=0)
    data = sample(rve, design, comm=MPI.COMM_SELF, fields=rve.fluctuations)
    return Learned(data, train_energy_network(data.subset(slice(0, case.samples))), FieldPredictor.of(data))


def rve_of(case: Case, predictor: Predictor | None = None) -> PeriodicRVE:
    """The RVE of a run, as :func:`demos.cook_runs.create_rve` makes it, with a predictor of its fields."""
    return PeriodicRVE(case.cell(size=case.size), MATERIALS, tolerance=1e-6, predictor=predictor)


def exact_mode(case: Case, surrogate: Closure, predictor: Predictor | None = None) -> Closure:
    """The exact mode with a fresh RVE, so that no run profits from the factors of another."""
    fine = rve_of(case, predictor)
    return StretchFrame(AcceleratedClosure(fine, surrogate, gate=RangeGate(), mode="exact"))


def closed_form(case: Case) -> Closure:
    """A neo-Hookean law with the RVE's moduli in the reference state."""
    A = create_rve(case).reference.tangent
    return StretchNeoHookean(float(A[2, 2]) / 2, float(A[0, 1]))


def exact_variants(case: Case, learned: Learned) -> dict[str, Callable[[], Closure]]:
    """All variants of the exact mode and of the classical run, by name."""
    spec, law = learned.data.spec, closed_form(case)
    kernel = KernelSurrogate(learned.data)
    variants: dict[str, Callable[[], Closure]] = {
        "classical": lambda: StretchFrame(rve_of(case)),
        "exact, kernel": lambda: exact_mode(case, kernel, learned.fields),
        "exact, network": lambda: exact_mode(case, learned.network, learned.fields),
        "exact, no fields": lambda: exact_mode(case, learned.network),
        "no model": lambda: exact_mode(case, HOSTILE["constant"](spec)),
        "neo-Hookean model": lambda: exact_mode(case, law),
    }
    for name, hostile in HOSTILE.items():
        variants[f"hostile: {name}"] = lambda hostile=hostile: exact_mode(case, hostile(spec))  # type: ignore[misc]
    return variants


def measure(variants: Mapping[str, Callable[[], Closure]], case: Case, repeats: int) -> dict[str, list[Run]]:
    """Runs of all variants, taking turns."""
    runs: dict[str, list[Run]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, create in variants.items():
            closure = create()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # of surrogates that raise
                runs[name].append(run(MPI.COMM_SELF, closure, case, rtol=RTOL))
    return runs


def compare(runs: Mapping[str, list[Run]]) -> dict[str, Any]:
    """Times, counts and errors of each variant, relative to the classical run."""
    seconds = {name: median(r.seconds for r in of) for name, of in runs.items()}
    exact = runs["classical"][0]
    result = {}
    for name, of in runs.items():
        counts = of[-1].ledger.counts
        result[name] = {
            "seconds": seconds[name],
            "speed-up": median(c.seconds / r.seconds for c, r in zip(runs["classical"], of, strict=True)),
            "tip error": float(np.linalg.norm(of[0].tip - exact.tip) / np.linalg.norm(exact.tip)),
            "sweeps per step": counts.get("macro/exact sweeps", 0) / counts["macro/steps"],
            "macro iterations": counts["macro/iterations"],
            "micro iterations": counts.get("rve/newton iterations", 0) + counts.get("rve/corrections", 0),
            "factorisations": counts["rve/factorisations"],
            "tangents": counts.get("rve/tangents", counts.get("rve/points", 0)),
            "counts": counts,
        }
    return result


def goals(name: str, result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Each goal with what was reached, by the best exact variant."""
    best = result[max((n for n in result if n.startswith("exact")), key=lambda n: float(result[n]["speed-up"]))]
    unlearned = max(result[n]["speed-up"] for n in UNLEARNED)
    reached = {
        "speed-up": best["speed-up"],
        "sweeps per step": best["sweeps per step"],
        "factorisations": best["factorisations"] / result["classical"]["factorisations"],
        "over no learning": best["speed-up"] / unlearned,
        "hostile": max(1.0 / r["speed-up"] for n, r in result.items() if n.startswith("hostile")),
    }
    at_least = {"speed-up", "over no learning"}
    return {
        key: {"goal": goal, "reached": reached[key], "met": (reached[key] >= goal) == (key in at_least)}
        for key, goal in GOALS[name].items()
    }


def show_exact(name: str, result: Mapping[str, Any], met: Mapping[str, Any]) -> None:
    """Print the table of one RVE and its goals."""
    columns = ["seconds", "speed-up", "tip error", "sweeps per step", "macro iterations", "micro iterations"]
    columns += ["factorisations", "tangents"]
    rows = [[variant, *(f"{r[c]:.3g}" for c in columns)] for variant, r in result.items()]
    show(f"Cook's membrane, {name} RVE, one core, residual to {RTOL:g}", ["", *columns], rows)
    for goal, r in met.items():
        print(f"  {goal}: {r['reached']:.2f}, goal {r['goal']:g}: {'met' if r['met'] else 'MISSED'}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rve", choices=CASES, help="only this RVE (default: all)")
    parser.add_argument("--repeats", type=int, default=3, help="repetitions (default 3)")
    parser.add_argument("--json", type=Path, default=Path("results/bench_warmstart.json"), help="where the result goes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {"benchmark": "warmstart", "rtol": RTOL, "exact": {}}
    for name in [args.rve] if args.rve else list(CASES):
        case = CASES[name]
        result = compare(measure(exact_variants(case, learn(case, SAMPLES[name])), case, args.repeats))
        met = goals(name, result)
        results["exact"][name] = {"variants": result, "goals": met}
        show_exact(name, result, met)
        write_json(args.json, results)


if __name__ == "__main__":
    main()

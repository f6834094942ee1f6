"""The exact mode on Cook's membrane against the classical run, without learning, and with surrogates that mean no good.

* classical: previous state and sensitivity, condensed flux and tangent, one micro iteration and one factorisation for
  each macro iterate, macro extrapolation. "fields": the RVEs start from predicted fields.
* exact: a surrogate and a field predictor, both made of the same RVE samples, in the exact mode.
  "online": the surrogate is a polynomial that learns from the run itself, and knows nothing beforehand.
* without learning: the same machinery (shared stale factors, secants, tangents by measured time) with no model but
  what earlier sweeps said, or with a neo-Hookean law that has the RVE's moduli.
* hostile: surrogates that mean no good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mpi4py import MPI

from coupling import AcceleratedClosure, Closure, RangeGate, StretchFrame
from coupling.closed_forms import StretchNeoHookean
from coupling.guess import Predictor
from demos.cook_runs import MATERIALS, Case, create_rve
from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.rve.energies import Energy
from surrogates import (
    Dataset,
    FieldPredictor,
    KernelSurrogate,
    OnlinePolynomial,
    sample,
    stretch_design,
    train_energy_network,
)
from tests.benchmarks.bench_fe2 import moduli
from tests.benchmarks.timing import show, with_goals
from tests.benchmarks.warmstart_runs import Variant
from tests.hostile_surrogates import HOSTILE

SPEED_UPS = {"fibre": 5.0, "void": 3.5}
"""Goals of the best exact variant over the classical run."""

AT_LEAST = {"over the best without learning": 1.7}
AT_MOST = {
    "sweeps per step": 2.5,
    "factorisations over classical": 0.1,
    "time of the worst surrogate over classical": 1.15,
    "tip error": 1e-8,
}


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


def rve_of(
    case: Case, predictor: Predictor | None = None, *, materials: Mapping[int, Energy] = MATERIALS
) -> PeriodicRVE:
    """The RVE of a run, as :func:`demos.cook_runs.create_rve` makes it, with a predictor of its fields."""
    return PeriodicRVE(case.cell(size=case.size), materials, tolerance=1e-6, predictor=predictor)


def classical(case: Case, predictor: Predictor | None = None) -> Closure:
    """The closure of the classical run."""
    return StretchFrame(rve_of(case, predictor))


def exact_mode(fine: PeriodicRVE, surrogate: Closure) -> Closure:
    """The exact mode of the accelerated closure, in the stretch frame."""
    return StretchFrame(AcceleratedClosure(fine, surrogate, gate=RangeGate(), mode="exact"))


def unlearned_exact(case: Case, materials: Mapping[int, Energy] = MATERIALS) -> Closure:
    """The exact mode with a neo-Hookean law of the RVE's moduli in place of a surrogate."""
    rve = rve_of(case, materials=materials)
    return exact_mode(rve, StretchNeoHookean(*moduli(rve)))


def exact_variants(case: Case, learned: Learned) -> dict[str, Variant]:
    """The classical run and all variants of the exact mode, by name; the classical one comes first."""
    spec, kernel, fields = learned.data.spec, KernelSurrogate(learned.data), learned.fields
    variants = {
        "classical": Variant(lambda: classical(case)),
        "classical, fields": Variant(lambda: classical(case, fields), kind="learned"),
        "exact, kernel": Variant(lambda: exact_mode(rve_of(case, fields), kernel), kind="learned"),
        "exact, network": Variant(lambda: exact_mode(rve_of(case, fields), learned.network), kind="learned"),
        "exact, no fields": Variant(lambda: exact_mode(rve_of(case), learned.network), kind="learned"),
        "exact, online": Variant(lambda: exact_mode(rve_of(case), OnlinePolynomial(spec)), kind="learned"),
        "no model": Variant(lambda: exact_mode(rve_of(case), HOSTILE["constant"](spec))),
        "neo-Hookean model": Variant(lambda: unlearned_exact(case)),
    }
    for name, hostile in HOSTILE.items():
        variants[f"hostile: {name}"] = Variant(
            lambda hostile=hostile: exact_mode(rve_of(case), hostile(spec)),  # type: ignore[misc]
            kind="hostile",
        )
    return variants


def goals(name: str, costs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each goal with what was reached, by the best exact variant."""
    best = costs[max((n for n in costs if n.startswith("exact")), key=lambda n: float(costs[n]["speed-up"]))]
    unlearned = max(float(cost["speed-up"]) for cost in costs.values() if cost["kind"] == "unlearned")
    reached = {
        "speed-up over classical": best["speed-up"],
        "over the best without learning": best["speed-up"] / unlearned,
        "sweeps per step": best["sweeps per step"],
        "factorisations over classical": best["factorisations"] / costs["classical"]["factorisations"],
        "time of the worst surrogate over classical": max(
            1.0 / cost["speed-up"] for cost in costs.values() if cost["kind"] == "hostile"
        ),
        "tip error": max(cost["tip error"] for cost in costs.values()),
    }
    return with_goals(reached, at_least={"speed-up over classical": SPEED_UPS[name]} | AT_LEAST, at_most=AT_MOST)


def show_exact(costs: Mapping[str, Mapping[str, Any]]) -> None:
    """Print what the exact mode did."""
    columns = ["speed-up", "sweeps per step", "factorisations", "tangents"]
    rows = [
        [name, *(f"{cost[c]:.3g}" for c in columns)]
        for name, cost in costs.items()
        if name == "classical" or cost["sweeps per step"] > 0 or cost["kind"] == "hostile"
    ]
    show("The exact mode", ["", *columns], rows)

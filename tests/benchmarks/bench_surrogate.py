"""Cost of energy, flux and tangent of a surrogate, against automatic differentiation and against one point at a time.

    ./run bench surrogate [--json PATH] [--device cuda]

All tasks take turns in one run on one thread. On the device ``cpu`` NumPy evaluates, on every other one torch, also on
``cpu:0``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from coupling.contract import Array
from surrogates import EnergyNetwork, EnergySurrogate, HoldOutErrors, ModelCard, StretchBox
from surrogates.potential import Potential
from tests.benchmarks.timing import interleaved, show, write_json
from tests.surrogate_cases import (
    autodiff,
    network_energy,
    random_network,
    random_polynomial,
    random_stretches,
    stretch_spec,
)

BATCHES = (1, 16, 108, 1000, 10_000)
COMPARED = 1000
AT_MOST = {
    "ms at 108, network 2×32": 0.16,
    "µs per point at 1,000, network 2×32": 1.3,
    "ms at 108, network 3×64": 0.5,
    "µs per point at 1,000, network 3×64": 5.0,
    "ms at 108, polynomial, degree 8": 0.12,
}
AT_LEAST = {"× faster than torch.func, network 3×64": 5.0, "× faster than point by point, network 3×64": 100.0}


def surrogate_of(potential: Potential) -> EnergySurrogate:
    """A surrogate with a card that says nothing."""
    k = len(potential.weights["scale"])
    spec = stretch_spec(k)
    box = StretchBox.of(np.array(spec.reference) - 0.25, np.array(spec.reference) + 0.25)
    return EnergySurrogate(
        potential, ModelCard(spec, box, HoldOutErrors(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0), "", {}, {})
    )


def evaluation(surrogate: EnergySurrogate, U: Array, calls: int = 1) -> Callable[[], None]:
    """Calls of the closure, arrays in and arrays out."""

    def task() -> None:
        for _ in range(calls):
            surrogate.evaluate(U, None, 0.0)

    return task


def microseconds(surrogate: EnergySurrogate, repeats: int) -> dict[int, float]:
    """Microseconds per point for every size of batch, each called several times in a row as a solver does."""
    k = surrogate.spec.k
    calls = {n: max(1, min(20, 4000 // n)) for n in BATCHES}
    tasks = {str(n): evaluation(surrogate, random_stretches(k, n), calls[n]) for n in BATCHES}
    seconds = interleaved(tasks, repeats=repeats)
    return {n: 1e6 * seconds[str(n)] / (n * calls[n]) for n in BATCHES}


def ratios(network: EnergyNetwork, repeats: int) -> dict[str, float]:
    """Milliseconds for 1,000 points of the surrogate, of torch.func, and of torch.func one point at a time."""
    surrogate, energy = surrogate_of(network), network_energy(network)
    U = random_stretches(network.layers[0], COMPARED)
    on_device = torch.from_numpy(U).to(network.backend.device)
    few = 20

    def point_by_point() -> None:
        for point in on_device[:few]:
            autodiff(energy, point[None])

    tasks = {
        "surrogate": evaluation(surrogate, U),
        "torch.func": lambda: autodiff(energy, on_device),
        "point by point": point_by_point,
    }
    seconds = interleaved(tasks, repeats=repeats)
    seconds["point by point"] *= COMPARED / few
    return {name: 1e3 * s for name, s in seconds.items()}


def figures_of(cost: dict[str, dict[int, float]], ms: dict[str, float]) -> dict[str, float]:
    """The figures that have goals, by name."""
    figures = {
        f"× faster than {name}, network 3×64": ms[name] / ms["surrogate"] for name in ("torch.func", "point by point")
    }
    for name, us in cost.items():
        figures |= {f"ms at 108, {name}": 1e-3 * 108 * us[108], f"µs per point at 1,000, {name}": us[1000]}
    return {name: figures[name] for name in (*AT_MOST, *AT_LEAST)}


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--device", default="cpu", help="cpu, cpu:0 (torch on the CPU) or cuda")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    reference = random_network((3, 64, 64, 64), device=arguments.device)
    potentials: dict[str, Potential] = {
        "network 3×64": reference,
        "network 2×32": random_network((3, 32, 32), device=arguments.device),
        "polynomial, degree 8": random_polynomial(8, 3, device=arguments.device),
        "network 3×64, 3D": random_network((6, 64, 64, 64), device=arguments.device),
    }
    cost = {name: microseconds(surrogate_of(p), arguments.repeats) for name, p in potentials.items()}
    rows = [[name, *(f"{us[n]:.2f}" for n in BATCHES), f"{1e-3 * 108 * us[108]:.3f}"] for name, us in cost.items()]
    columns = ["energy, flux and tangent", *(f"n = {n:,}" for n in BATCHES), "ms at 108"]
    show("µs per point by size of batch", columns, rows)

    ms = ratios(reference, max(3, arguments.repeats // 6))
    figures = figures_of(cost, ms)
    goals = {name: f"≤ {goal:g}" for name, goal in AT_MOST.items()} | {name: f"≥ {g:g}" for name, g in AT_LEAST.items()}
    show("goals", ["", "measured", "goal"], [[name, f"{value:.3g}", goals[name]] for name, value in figures.items()])
    write_json(
        arguments.json,
        {
            "device": arguments.device,
            "us_per_point": {name: {str(n): us[n] for n in BATCHES} for name, us in cost.items()},
            "ms_per_1000": ms,
            "figures": figures,
            "goals": {"at most": AT_MOST, "at least": AT_LEAST},
        },
    )


if __name__ == "__main__":
    main()

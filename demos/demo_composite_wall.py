"""Heat through the wall of a flue, made of a ceramic with hollow spheres whose conductivity depends on temperature.

    ./run demo composite_wall
    ./run mpi 2 demos/demo_composite_wall.py

The ceramic conducts less the hotter it is; the hollow spheres conduct more, since heat radiates across them. At each
quadrature point a representative volume element with six of them is solved for the temperature and its gradient there.

1. What the RVE must obey: the bounds on the conductivity of any two-phase composite, at all temperatures.
2. Classical FE², and the same with a polynomial flux fitted to 300 samples of the RVE in front of it.
3. What the wall must obey: heat that enters leaves; far from the corner, temperature and flux are those of Kirchhoff's
   transformation Φ(θ) = ∫ κ dθ; the corner adds a shape factor of 0.559.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from mpi4py import MPI

import numpy as np
from scipy.integrate import cumulative_simpson

from coupling import AcceleratedClosure, Closure, RangeGate
from coupling.contract import Array
from demos.comparison import Timed, timed_steps, work_table, write_results
from demos.refractory import conductivities, create_rve, trace_slack
from demos.wall import ARM, COLD, CORNER, HOT, THICKNESS, Wall, composite_wall
from demos.wall_figures import write_figures
from solver_adapters.rve.meshes import INCLUSION
from surrogates import PolynomialFlux, box_design, fit_polynomial_flux, sample

INTRODUCTION = (
    "The wall of a square flue, 1300 K inside and 300 K outside, made of a ceramic with hollow spheres. Classical FE² "
    "solves a representative volume element at every quadrature point in every Newton iteration; the accelerated run "
    "has a polynomial in front of it. Since the law is linear in the gradient, what the polynomial learns is no more "
    "than four curves κ(θ): the easy end of what surrogates are for."
)
STEEPEST = 2e5  # kelvin per metre, the range to sample: the flux is singular at the inner edge of the corner
STEPS, SAMPLES, DEGREE = 4, 300, 12


def train(comm: MPI.Comm, seconds: dict[str, float]) -> PolynomialFlux:
    """Sample the RVE on all ranks and fit (collective)."""
    start = time.perf_counter()
    design = box_design((COLD - 5, -STEEPEST, -STEEPEST), (HOT + 5, STEEPEST, STEEPEST), SAMPLES, seed=0)
    rve = create_rve(COLD)
    data = sample(rve, design, comm=comm, provenance=rve.description)
    seconds["sampling"] = time.perf_counter() - start
    surrogate = fit_polynomial_flux(data, degree=DEGREE)
    seconds["fitting"] = time.perf_counter() - start - seconds["sampling"]
    return surrogate


def run(comm: MPI.Comm, closure: Closure, title: str) -> tuple[Wall, Timed]:
    """Heat the wall from COLD to HOT (collective)."""
    wall = composite_wall(comm, closure)
    return wall, timed_steps(wall.problem, closure, wall.apply_load, steps=STEPS, title=title)


def kirchhoff(theta: Array, kappa: Array) -> tuple[Array, Array]:
    """Φ(θ) = ∫ κ dθ of the two diagonal conductivities (2, n), and the depth x(θ) (n,) in a plane wall along x₁."""
    potential = np.stack([cumulative_simpson(kappa[:, i, i], x=theta, initial=0.0) for i in (0, 1)])
    return potential, THICKNESS * potential[0] / potential[0, -1]


def checks(classical: Wall, accelerated: Wall, potential: Array, theta: Array, depth: Array) -> dict[str, float]:
    """What the two solutions must obey and how far they are from it; relative numbers (collective)."""
    found: dict[str, float] = {}
    for name, wall in (("classical", classical), ("accelerated", accelerated)):
        entering, leaving = wall.heat_flows()
        found[f"{name} heat flow"] = entering
        found[f"{name} heat balance"] = abs(entering - leaving) / entering
        x, profile = wall.profile().T
        found[f"{name} profile"] = float(np.abs(profile - np.interp(x, depth, theta)).max()) / (HOT - COLD)
        outside = ARM / THICKNESS * potential[:, -1].sum()
        found[f"{name} corner"] = (entering - outside) / potential[:, -1].mean()
    comm = classical.problem.comm
    exact, ours = classical.problem.u.x.array, accelerated.problem.u.x.array
    difference = comm.allreduce(float(np.abs(ours - exact).max(initial=0.0)), op=MPI.MAX)
    found["temperature error"] = difference / (HOT - COLD)
    found["heat flow error"] = abs(found["accelerated heat flow"] / found["classical heat flow"] - 1)
    return found


def assert_physics(found: dict[str, float]) -> None:
    """Raise SystemExit where a number is not what it must be."""
    limits = {
        "classical heat balance": 1e-8,
        "accelerated heat balance": 1e-8,
        "classical profile": 1e-3,
        "accelerated profile": 1e-3,
        "temperature error": 1e-4,
        "heat flow error": 1e-4,
    }
    broken = [
        f"{name} is {found[name]:.1e}, at most {limit:.0e}" for name, limit in limits.items() if found[name] > limit
    ]
    if abs(found["classical corner"] / CORNER - 1) > 0.02:
        broken.append(f"the corner's shape factor is {found['classical corner']:.4f}, not {CORNER:.4f}")
    if found["room within the bounds"] < 0:
        broken.append("the conductivity leaves its bounds")
    if broken:
        raise SystemExit("; ".join(broken))


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/composite_wall"), help="folder for results")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    comm = MPI.COMM_WORLD

    rve, theta = create_rve(COLD), np.asarray(np.linspace(COLD, HOT, 101), dtype=np.float64)
    kappa = conductivities(rve, theta)
    slack = trace_slack(kappa, theta, rve.cell.fraction(INCLUSION))
    potential, depth = kirchhoff(theta, kappa)

    training: dict[str, float] = {}
    surrogate = train(comm, training)
    classical, slow = run(comm, create_rve(COLD), "classical FE²")
    closure = AcceleratedClosure(create_rve(COLD), surrogate, gate=RangeGate())
    accelerated, fast = run(comm, closure, "accelerated FE²")

    found = checks(classical, accelerated, potential, theta, depth) | {"room within the bounds": float(slack.min())}
    plane = ARM / THICKNESS * potential[:, -1].sum()

    def both(name: str, shown: str) -> tuple[str, str]:
        return shown.format(found[f"classical{name}"]), shown.format(found[f"accelerated{name}"])

    table = work_table(
        f"Composite wall on {comm.size} rank(s)",
        slow,
        fast,
        training=training,
        results=[
            ("heat flow", *both(" heat flow", "{:.2f} W/m")),
            ("  in less out", *both(" heat balance", "{:.0e}")),
            ("  of the arms (Kirchhoff)", f"{plane:.2f} W/m", ""),
            ("  shape factor of the corner", *both(" corner", f"{{:.4f}} (exact {CORNER:.4f})")),
            ("profile less Kirchhoff's", *both(" profile", "{:.1e}")),
        ],
        checks=[
            ("temperature error", f"{found['temperature error']:.1e}"),
            ("heat flow error", f"{found['heat flow error']:.1e}"),
            (
                "  on held-out samples",
                f"rms {surrogate.card.errors.flux_rms:.1e}, max {surrogate.card.errors.flux_max:.1e}",
            ),
        ],
    )
    summary = found | {
        "ranks": comm.size,
        "hold-out errors": surrogate.card.errors.known,
        "training seconds": training,
        "runs": {"classical": slow.as_dict(), "accelerated": fast.as_dict()},
    }
    figures = write_figures(comm, classical, accelerated, rve, (theta, kappa, depth), out)
    write_results(
        comm, out, summary, table, title="Composite wall of a flue", introduction=INTRODUCTION, figures=figures
    )
    assert_physics(found)


if __name__ == "__main__":
    main()

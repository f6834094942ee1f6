"""A cantilever of polymer with glass spheres, bent until it softens: FE² in 3D, at small strain.

    ./run demo beam_3d
    ./run mpi 2 demos/demo_beam_3d.py

With linear phases one solve of the representative volume element (RVE) would say all: its effective stiffness. Here the
polymer softens beyond a strain of two per cent, so that the stiffness of every point depends on its strain, between the
glass spheres more strongly than on the whole.

1. The RVE under uniaxial stress: an effective law, from which beam theory predicts the deflection.
2. Classical FE², and the same with an energy network in front of it, trained on 400 solved RVEs.
3. The deflections are compared: with beam theory, with the effective moduli alone, and with each other.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path

from mpi4py import MPI

import numpy as np

from coupling import AcceleratedClosure, Closure, RangeGate, StrainFrame, StretchOfStrain, together
from coupling.contract import Array
from demos.beam import FORCE, GLASS, POLYMER, Beam, beam_theory, cantilever, create_rve, uniaxial
from demos.beam_figures import write_figures
from demos.comparison import Timed, timed_steps, work_table, write_results
from solver_adapters.rve.meshes import INCLUSION
from surrogates import TrainedSurrogate, fit_polynomial, load_model, sample, save_model, stretch_design
from surrogates import train_energy_network as train_network

INTRODUCTION = (
    "A cantilever of 20-node bricks whose stress comes from a cube of polymer with a glass sphere in it, solved at "
    "every integration point in every Newton iteration (classical FE²), and with an energy network in its place. Beam "
    "theory, with the uniaxial law of the same RVE, is an independent prediction of the deflection."
)
LARGEST_STRAIN = (0.0175, 0.008, 0.008, 0.003, 0.004, 0.004)  # Mandel components, the range to train for
STEPS, SAMPLES, HIDDEN, ITERATIONS = 4, 400, (24, 24), 80


def train(comm: MPI.Comm, folder: Path, seconds: dict[str, float]) -> tuple[TrainedSurrogate, float]:
    """The network, trained on the first rank, and the flux error of a polynomial as a control (collective)."""
    start = time.perf_counter()
    rve, identity = create_rve(for_training=True), np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    largest = np.array(LARGEST_STRAIN)
    design = stretch_design(identity - largest, identity + largest, SAMPLES, seed=0)
    data = sample(StretchOfStrain(rve), design, comm=comm, provenance=rve.description)
    seconds["sampling"] = time.perf_counter() - start

    def fit() -> float:
        save_model(train_network(data, hidden=HIDDEN, max_iterations=ITERATIONS), folder)
        seconds["training"] = time.perf_counter() - start - seconds["sampling"]
        return fit_polynomial(data, degree=6).card.errors.flux_rms

    control = comm.bcast(together(comm, fit if comm.rank == 0 else lambda: 0.0))
    seconds.update(comm.bcast(seconds))
    return together(comm, lambda: load_model(folder)), control


def run(comm: MPI.Comm, closure: Closure, title: str) -> tuple[Beam, Timed, Array]:
    """Bend the beam; deflection (steps + 1, 2) against load factor with it (collective)."""
    beam, curve = cantilever(comm, closure), [(0.0, 0.0)]
    timed = timed_steps(
        beam.problem,
        closure,
        beam.apply_load,
        steps=STEPS,
        title=title,
        on_step=lambda record: curve.append((record.load, beam.deflection())),
    )
    return beam, timed, np.array(curve)


def stress_error(comm: MPI.Comm, classical: Beam, accelerated: Beam) -> float:
    """Largest stress error relative to the largest stress (collective)."""
    exact, ours = classical.stress.response.flux, accelerated.stress.response.flux
    pairs = (np.linalg.norm(ours - exact, axis=1), np.linalg.norm(exact, axis=1))
    error, scale = (comm.allreduce(float(values.max(initial=0.0)), op=MPI.MAX) for values in pairs)
    return float(error / scale)


def bulk_bounds(fraction: float, stiffness: Array) -> tuple[float, float, float]:
    """Lower bound of Hashin & Shtrikman (1963), bulk modulus of the RVE, upper bound; phases unsoftened."""
    (mu, bulk, _), (glass, lmbda) = POLYMER, GLASS
    other = lmbda + 2 * glass / 3

    def bound(c: float, K1: float, K2: float, shear: float) -> float:
        return K1 + c / (1 / (K2 - K1) + (1 - c) / (K1 + 4 * shear / 3))

    own = float(stiffness[:3, :3].sum() / 9)
    return bound(fraction, bulk, other, mu), own, bound(1 - fraction, other, bulk, glass)


def assert_physics(found: dict[str, float]) -> None:
    """Raise SystemExit where a number is not what it must be."""
    limits = {
        "first step less beam theory": 0.03,
        "full load less beam theory": 0.04,
        "deflection error": 2e-3,
        "stress error": 1e-2,
    }
    broken = [f"{name} is {found[name]:.1e}, not {limit:.0e}" for name, limit in limits.items() if found[name] > limit]
    if not found["lower bulk bound"] < found["bulk modulus"] < found["upper bulk bound"]:
        broken.append("the bulk modulus leaves its bounds")
    if not found["softening"] > 1.1:
        broken.append("the beam does not soften")
    if broken:
        raise SystemExit("; ".join(broken))


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/beam_3d"), help="folder for results")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    comm = MPI.COMM_WORLD

    rve, strain = create_rve(for_training=True), np.asarray(np.linspace(0.0, 0.02, 21), dtype=np.float64)
    stress, stiffness = uniaxial(rve, strain), rve.reference.tangent
    loads: Array = np.asarray(np.linspace(0.0, 1.0, 21), dtype=np.float64)
    theory = beam_theory(strain, stress, float(stiffness[4, 4]) / 2, FORCE * loads)

    training: dict[str, float] = {}
    surrogate, control = train(comm, out / "model", training)
    classical, slow, exact = run(comm, create_rve(), "classical FE²")
    closure = AcceleratedClosure(create_rve(), StrainFrame(surrogate), gate=RangeGate())
    accelerated, fast, ours = run(comm, closure, "accelerated FE²")

    predicted = np.interp(exact[:, 0], loads, theory)
    lower, bulk, upper = bulk_bounds(rve.cell.fraction(INCLUSION), stiffness)
    found = {
        "classical deflection": exact[-1, 1],
        "accelerated deflection": ours[-1, 1],
        "beam theory": predicted[-1],
        "first step less beam theory": abs(exact[1, 1] / predicted[1] - 1),
        "full load less beam theory": abs(exact[-1, 1] / predicted[-1] - 1),
        "softening": exact[-1, 1] / (exact[1, 1] / exact[1, 0]),
        "deflection error": float(np.abs(ours - exact)[:, 1].max() / exact[-1, 1]),
        "stress error": stress_error(comm, classical, accelerated),
        "lower bulk bound": lower,
        "bulk modulus": bulk,
        "upper bulk bound": upper,
    }
    errors = surrogate.card.errors
    table = work_table(
        f"Cantilever on {comm.size} rank(s)",
        slow,
        fast,
        training=training,
        results=[
            ("deflection at full load", f"{exact[-1, 1]:.5f} mm", f"{ours[-1, 1]:.5f} mm"),
            ("  beam theory", f"{predicted[-1]:.5f} mm", ""),
            ("  at a quarter of the load", f"{exact[1, 1]:.5f} mm", f"{ours[1, 1]:.5f} mm"),
            ("  beam theory", f"{predicted[1]:.5f} mm", ""),
        ],
        checks=[
            ("deflection error", f"{found['deflection error']:.1e}"),
            ("largest stress error", f"{found['stress error']:.1e}"),
            ("  on held-out samples", f"rms {errors.flux_rms:.1e}, max {errors.flux_max:.1e}"),
            ("  of a polynomial (control)", f"rms {control:.1e}"),
            ("bulk modulus in its bounds", f"{lower:.2f} < {bulk:.2f} < {upper:.2f} GPa"),
        ],
    )
    summary = {name: float(value) for name, value in found.items()} | {
        "ranks": comm.size,
        "hold-out errors": asdict(errors),
        "polynomial hold-out flux error": control,
        "training seconds": training,
        "runs": {"classical": slow.as_dict(), "accelerated": fast.as_dict()},
    }
    figures = write_figures(comm, accelerated, rve, (strain, stress), (loads, theory), (exact, ours), out)
    write_results(comm, out, summary, table, title="Cantilever in 3D", introduction=INTRODUCTION, figures=figures)
    assert_physics(found)


if __name__ == "__main__":
    main()

"""From a picture of a microstructure to its effective properties and an FE² run.

    ./run demo voxel_image
    ./run demo voxel_image --image my.tif     tags 1 and 2, one pixel each; TIFF, PNG, NumPy or a meshio file
    ./run mpi 2 demos/demo_voxel_image.py

1. A picture of two phases is written as a TIFF file and read back as one would read a segmented micrograph.
2. Every pixel becomes two triangles: conductivity and bulk modulus, with the pixels refined until the numbers settle,
   and the bounds that they must keep.
3. Cook's membrane at finite strain, made of this material: classical FE², and with an energy network in front.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path

from mpi4py import MPI

import numpy as np
from numpy.typing import NDArray

from coupling import AcceleratedClosure, Closure, RangeGate, StretchFrame, together
from coupling.closed_forms import NeoHookean as ClosedNeoHookean
from coupling.contract import Array
from demos.comparison import Timed, timed_steps, work_table, write_results
from demos.cook import Membrane, membrane
from demos.micrograph import MATRIX, STIFF, micrograph, write_picture
from demos.voxel_figures import write_figures
from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.rve.energies import Conduction, NeoHookean, isotropic
from solver_adapters.rve.kinematics import ScalarGradient, SmallStrain
from solver_adapters.rve.voxels import read_image, voxel_cell
from surrogates import TrainedSurrogate, load_model, sample, save_model, stretch_design, train_energy_network

INTRODUCTION = (
    "A picture of a two-phase material becomes a representative volume element: its effective properties, between "
    "their bounds, and Cook's membrane of that material, classically (the RVE at every quadrature point in every "
    "Newton iteration) and with an energy network in the RVE's place."
)
LAWS = {MATRIX: (1.0, 2.0), STIFF: (20.0, 40.0)}  # Lamé's μ and λ
CONDUCTIVITIES = {MATRIX: 1.0, STIFF: 20.0}
PIXELS, FRACTION, REFINEMENTS = 20, 0.4, (1, 2, 4)
LOAD, STEPS = 0.3, 6
LOWER, UPPER, SAMPLES = (0.85, 0.94, -0.09), (1.1, 1.1, 0.22), 300


def refined(image: NDArray[np.int64], factor: int) -> NDArray[np.int64]:
    """The same picture with each pixel cut into factor² ones."""
    return np.kron(image, np.ones((factor, factor), dtype=image.dtype))


def effective(image: NDArray[np.int64]) -> tuple[Array, Array]:
    """Conductivity (2, 2) and stiffness (3, 3) in Mandel form, both phases linear."""
    cell = voxel_cell(image, simplices=True)
    conductors = {tag: Conduction(value) for tag, value in CONDUCTIVITIES.items()}
    solids = {tag: isotropic(*law) for tag, law in LAWS.items()}
    conduction, elasticity = PeriodicRVE(cell, conductors, ScalarGradient()), PeriodicRVE(cell, solids, SmallStrain())
    return -conduction.reference.tangent, elasticity.reference.tangent


def settled(values: Array) -> float:
    """Limit of three values at h, h/2 and h/4 (Aitken's extrapolation)."""
    a, b, c = values
    return float(c - (c - b) ** 2 / (c - 2 * b + a))


def trace_slack(conductivity: Array, fraction: float) -> tuple[float, float]:
    """Room within the bounds of Lurie & Cherkaev (1984) on two-phase conductivities, relatively; negative is broken."""
    low, high = CONDUCTIVITIES.values()
    means = np.array([1 / ((1 - fraction) / low + fraction / high), (1 - fraction) * low + fraction * high])
    eigenvalues = np.linalg.eigvalsh(conductivity)
    one, two = (1 - (1 / np.abs(eigenvalues - end)).sum() / (1 / np.abs(means - end)).sum() for end in (low, high))
    return float(one), float(two)


def create_rve(image: NDArray[np.int64], *, for_training: bool = False) -> PeriodicRVE:
    """The RVE at finite strain, one P2 element pair per pixel; tolerances as in the first demo."""
    laws = {tag: NeoHookean(*law) for tag, law in LAWS.items()}
    tolerance = 1e-12 if for_training else 1e-6
    return PeriodicRVE(voxel_cell(image, simplices=True), laws, energy=for_training, tolerance=tolerance)


def train(comm: MPI.Comm, image: NDArray[np.int64], folder: Path, seconds: dict[str, float]) -> TrainedSurrogate:
    """Sample on all ranks, train on the first, and load the saved model on all (collective)."""
    start = time.perf_counter()
    rve = create_rve(image, for_training=True)
    data = sample(rve, stretch_design(LOWER, UPPER, SAMPLES, seed=0), comm=comm, provenance=rve.description)
    seconds["sampling"] = time.perf_counter() - start

    def fit() -> None:
        save_model(train_energy_network(data, hidden=(24, 24), max_iterations=100), folder)

    together(comm, fit if comm.rank == 0 else lambda: None)
    seconds["training"] = time.perf_counter() - start - seconds["sampling"]
    return together(comm, lambda: load_model(folder))


def run(comm: MPI.Comm, closure: Closure, title: str = "") -> tuple[Membrane, Timed, Array]:
    """Load the membrane; vertical tip displacement (steps + 1, 2) against load factor with it (collective)."""
    macro, curve = membrane(comm, closure, load=LOAD), [(0.0, 0.0)]
    timed = timed_steps(
        macro.problem,
        closure,
        macro.apply_load,
        steps=STEPS,
        title=title,
        on_step=lambda record: curve.append((record.load, float(macro.tip()[1]))),
    )
    return macro, timed, np.array(curve)


def mean_laws(fraction: float) -> tuple[ClosedNeoHookean, ClosedNeoHookean]:
    """Homogeneous solids with the arithmetic means of μ and λ (no fluctuation at all: stiffer) and the harmonic."""
    one, two = (np.array(LAWS[tag]) for tag in (MATRIX, STIFF))
    arithmetic, harmonic = (1 - fraction) * one + fraction * two, 1 / ((1 - fraction) / one + fraction / two)
    stiff, soft = (ClosedNeoHookean(float(mu), float(lmbda)) for mu, lmbda in (arithmetic, harmonic))
    return stiff, soft


def assert_physics(found: dict[str, float]) -> None:
    """Raise SystemExit where a number is not what it must be."""
    broken = []
    if min(found["room above the lower bound"], found["room below the upper bound"]) < 0:
        broken.append("the conductivity leaves its bounds")
    if not found["Reuss bulk"] < found["bulk modulus"] < found["Voigt bulk"]:
        broken.append("the bulk modulus leaves its bounds")
    if not found["tip of the stiffer solid"] < found["classical tip"] < found["tip of the softer solid"]:
        broken.append("the membrane is not between those of the mean materials")
    for name, limit in (("tip error", 1e-3), ("discretisation of the conductivity", 0.1)):
        if found[name] > limit:
            broken.append(f"{name} is {found[name]:.1e}, not {limit:.0e}")
    if broken:
        raise SystemExit("; ".join(broken))


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, help="image of tags 1 and 2 in place of the generated one")
    parser.add_argument("--out", type=Path, default=Path("results/voxel_image"), help="folder for results")
    args = parser.parse_args()
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    comm = MPI.COMM_WORLD

    source = args.image or out / "micrograph.tif"
    if args.image is None:
        generated = micrograph(PIXELS, FRACTION)
        together(comm, lambda: write_picture(generated, source) if comm.rank == 0 else None)
    image = together(comm, lambda: read_image(source))
    fraction = float((image == STIFF).mean())

    properties = [effective(refined(image, factor)) for factor in REFINEMENTS]
    conductivities = np.array([np.trace(kappa) / 2 for kappa, _ in properties])
    bulks = np.array([C[:2, :2].sum() / 4 for _, C in properties])
    room = trace_slack(properties[-1][0], fraction)
    K = {tag: law[0] + law[1] for tag, law in LAWS.items()}

    training: dict[str, float] = {}
    surrogate = train(comm, image, out / "model", training)
    classical, slow, exact = run(comm, StretchFrame(create_rve(image)), "classical FE²")
    closure = AcceleratedClosure(StretchFrame(create_rve(image)), StretchFrame(surrogate), gate=RangeGate())
    accelerated, fast, ours = run(comm, closure, "accelerated FE²")
    means = [run(comm, law)[2] for law in mean_laws(fraction)]

    found = {
        "fraction": fraction,
        "conductivity": settled(conductivities),
        "discretisation of the conductivity": abs(conductivities[0] / settled(conductivities) - 1),
        "room above the lower bound": room[0],
        "room below the upper bound": room[1],
        "bulk modulus": settled(bulks),
        "Voigt bulk": (1 - fraction) * K[MATRIX] + fraction * K[STIFF],
        "Reuss bulk": 1 / ((1 - fraction) / K[MATRIX] + fraction / K[STIFF]),
        "classical tip": exact[-1, 1],
        "accelerated tip": ours[-1, 1],
        "tip of the stiffer solid": means[0][-1, 1],
        "tip of the softer solid": means[1][-1, 1],
        "tip error": float(np.abs(ours - exact)[:, 1].max() / exact[-1, 1]),
    }
    errors = surrogate.card.errors
    table = work_table(
        f"From an image to FE², on {comm.size} rank(s)",
        slow,
        fast,
        training=training,
        results=[
            ("tip displacement", f"{exact[-1, 1]:.5f}", f"{ours[-1, 1]:.5f}"),
            ("  solid of mean moduli", f"{means[0][-1, 1]:.5f}", ""),
            ("  solid of mean compliances", f"{means[1][-1, 1]:.5f}", ""),
        ],
        checks=[
            ("tip error", f"{found['tip error']:.1e}"),
            ("  stress on held-out samples", f"rms {errors.flux_rms:.1e}, max {errors.flux_max:.1e}"),
            ("conductivity (phases 1, 20)", " → ".join(f"{value:.4f}" for value in conductivities)),
            ("  limit, and room in its bounds", f"{found['conductivity']:.4f}, {room[0]:.0%} and {room[1]:.0%}"),
            ("bulk modulus (phases 3, 60)", " → ".join(f"{value:.4f}" for value in bulks)),
        ],
    )
    summary = {name: float(value) for name, value in found.items()} | {
        "ranks": comm.size,
        "conductivities": conductivities.tolist(),
        "bulk moduli": bulks.tolist(),
        "hold-out errors": asdict(errors),
        "training seconds": training,
        "runs": {"classical": slow.as_dict(), "accelerated": fast.as_dict()},
    }
    figures = write_figures(
        comm, image, (classical, accelerated), create_rve(image), (exact, ours), means, (conductivities, bulks), out
    )
    write_results(comm, out, summary, table, title="From an image to FE²", introduction=INTRODUCTION, figures=figures)
    assert_physics(found)


if __name__ == "__main__":
    main()

"""Runs of Cook's membrane with an RVE: the cases, one run with any closure, and how two of them differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mpi4py import MPI

import numpy as np

from coupling import Closure, Ledger
from coupling.contract import Array
from coupling.guess import Predictor
from demos.comparison import timed_steps
from demos.cook import Membrane, membrane
from solver_adapters.fenicsx import StepRecord
from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.rve.energies import Energy, NeoHookean
from solver_adapters.rve.meshes import UnitCell, centred_fibre, centred_void

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
    """The RVE of a case.

    In a run its tolerance is loose: each macro iterate then costs one micro iteration, and the flux error, which the
    hints make fall with the macro residual, is gone when that has converged (monolithic two-level Newton). The tip
    displacement is the same to 1e-13 as with a tolerance of 1e-12. Training data are converged, and carry the energy.
    """
    tolerance = 1e-12 if for_training else 1e-6
    return PeriodicRVE(case.cell(size=case.size), MATERIALS, energy=for_training, tolerance=tolerance)


def run(
    comm: MPI.Comm,
    closure: Closure,
    case: Case,
    *,
    steps: int = 8,
    cells: tuple[int, int] = (6, 3),
    title: str = "",
    rtol: float = 1e-10,
    predictor: str | Predictor = "linear",
    watch: Callable[[Membrane], None] | None = None,
) -> Run:
    """Step the membrane to its full load (collective); ``watch`` may install monitors before.

    ``predictor`` is that of :func:`solver_adapters.fenicsx.load_steps`.
    """
    macro = membrane(comm, closure, cells=cells, load=case.load, rtol=rtol)
    if watch is not None:
        watch(macro)
    curve = [(0.0, 0.0)]
    timed = timed_steps(
        macro.problem,
        closure,
        macro.apply_load,
        steps=steps,
        title=title,
        predictor=predictor,
        on_step=lambda record: curve.append((record.load, float(macro.tip()[1]))),
    )
    return Run(macro, timed.seconds, np.array(curve), macro.tip(), timed.records, timed.ledger)


def stress_errors(comm: MPI.Comm, classical: Run, accelerated: Run) -> tuple[float, tuple[int, int]]:
    """Largest stress error relative to the largest stress, and its (rank, point) (collective)."""
    exact, ours = (r.membrane.flux.response.flux for r in (classical, accelerated))
    error = np.linalg.norm(ours - exact, axis=1)
    largest = comm.allreduce(float(np.linalg.norm(exact, axis=1).max(initial=0.0)), op=MPI.MAX)
    worst = max(comm.allgather((float(error.max(initial=-1.0)), -comm.rank, int(error.argmax()) if error.size else -1)))
    return worst[0] / largest, (-worst[1], worst[2])


def tip_error_over_steps(classical: Run, accelerated: Run) -> float:
    """Largest error of the vertical tip displacement over all load steps, relative to the largest displacement."""
    loads, exact = classical.curve.T
    ours = np.interp(loads, *accelerated.curve.T)
    return float(np.abs(ours - exact).max() / np.abs(exact).max())

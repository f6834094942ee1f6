"""One measurement of :mod:`tests.benchmarks.bench_balance`, on the ranks that it is started on.

mpirun -n 2 python -m tests.benchmarks.balance_run RVE REPEATS JSON
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from mpi4py import MPI

import numpy as np

from coupling import AcceleratedClosure, BalancedClosure, Closure, RangeGate, Response, StretchFrame
from coupling.contract import Array
from demos.cook_runs import CASES, create_rve, run
from solver_adapters.fenicsx_rve import PeriodicRVE
from surrogates import EnergySurrogate, fit_polynomial, sample, stretch_design

CELLS = (12, 6)
SIZE = 0.06  # of the RVE's triangles: some 3,000 unknowns
RANGE = 0.6  # of the range of stretches that a surrogate for the whole membrane needs


class Watched:
    """An RVE's closure, with the Newton iterations of each call; it is called on all ranks in every evaluation."""

    def __init__(self, rve: PeriodicRVE, comm: MPI.Comm) -> None:
        self.rve, self.inner, self.collective = rve, StretchFrame(rve), comm
        self.spec = self.inner.spec
        self.work: list[float] = []

    def initial_state(self, n: int) -> Array | None:
        """The inner closure's."""
        return self.inner.initial_state(n)

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """The inner closure's answer."""
        response = self.inner.evaluate(gradient, state, dt, hint)
        self.work.append(self.rve.point_work.sum())
        return response

    def taken(self) -> Array:
        """Newton iterations (ranks, evaluations) since the last call (collective)."""
        work, self.work = self.work, []
        return np.array(self.collective.allgather(work))


def narrow_surrogate(comm: MPI.Comm, name: str) -> EnergySurrogate:
    """A polynomial energy that knows small stretches only, so that the clamped corner falls back on the RVE."""
    case = CASES[name]
    rest = np.array([1.0, 1.0, 0.0])
    lower, upper = (rest + RANGE * (np.array(bound) - rest) for bound in (case.lower, case.upper))
    rve = create_rve(replace(case, size=SIZE), for_training=True)
    data = sample(rve, stretch_design(lower, upper, 100, seed=0), comm=comm)
    return fit_polynomial(data)


def measure(comm: MPI.Comm, name: str, repeats: int) -> dict[str, Any]:
    """Runs with and without balance that take turns; the fastest of each."""
    case, surrogate = replace(CASES[name], size=SIZE), StretchFrame(narrow_surrogate(comm, name))
    rve = create_rve(case)
    watched = Watched(rve, comm)
    balanced = BalancedClosure(watched, comm)
    variants: dict[str, Closure] = {"unbalanced": watched, "balanced": balanced}
    result: dict[str, Any] = {"rve": name, "dofs": rve.problem.n, "ranks": comm.size}
    tips, work = {}, {}
    for _ in range(repeats):
        for variant, fine in variants.items():
            rve.ledger.reset()
            balanced.ledger.reset()
            done = run(comm, AcceleratedClosure(fine, surrogate, gate=RangeGate()), case, cells=CELLS)
            seconds = comm.allreduce(done.seconds, op=MPI.MAX)
            tips[variant], taken = done.tip, watched.taken()
            if variant not in result or seconds < result[variant]["seconds"]:
                work[variant] = taken
                result[variant] = {
                    "seconds": seconds,
                    "seconds of fine solves": done.ledger.seconds["fine"],
                    "critical work": float(taken.max(axis=0).sum()),
                    "counts": done.ledger.counts,
                }
    return (
        result
        | {"tip difference": difference(*tips.values())}
        | gains(result, work, cores=len(os.sched_getaffinity(0)))
    )


def gains(result: dict[str, Any], work: dict[str, Array], cores: int) -> dict[str, Any]:
    """Of the whole run and of its critical work, with what an even spread over ranks and cores would give."""
    before, after = work["unbalanced"], work["balanced"]
    critical, seconds = before.max(axis=0).sum(), result["unbalanced"]["seconds"]
    rest = seconds - result["unbalanced"]["seconds of fine solves"]
    even = before.sum() / min(len(before), cores) / critical
    return {
        "cores": cores,
        "work of ranks": {variant: taken.sum(axis=1).tolist() for variant, taken in work.items()},
        "gain": seconds / result["balanced"]["seconds"],
        "ideal gain": float(seconds / (rest + even * (seconds - rest))),
        "gain of critical work": float(critical / after.max(axis=0).sum()),
        "ideal gain of critical work": float(critical / before.mean(axis=0).sum()),
    }


def difference(tip: Array, other: Array) -> float:
    """Relative difference of two displacements."""
    return float(np.linalg.norm(tip - other) / np.linalg.norm(tip))


if __name__ == "__main__":
    result = measure(MPI.COMM_WORLD, sys.argv[1], int(sys.argv[2]))
    if MPI.COMM_WORLD.rank == 0:
        Path(sys.argv[3]).write_text(json.dumps(result))

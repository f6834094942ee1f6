"""One measurement of :mod:`tests.benchmarks.bench_balance`, on the ranks that it is started on.

    mpirun -n 2 python tests/benchmarks/balance_run.py RVE REPEATS JSON
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from mpi4py import MPI

import numpy as np

from coupling import AcceleratedClosure, BalancedClosure, Closure, RangeGate, Response, StretchFrame
from coupling.contract import Array
from demos.cook_runs import CASES, create_rve, run
from surrogates import EnergySurrogate, fit_polynomial, sample, stretch_design

CELLS = (12, 6)
RANGE = 0.35  # of the range of stretches that a surrogate for the whole membrane needs


class Watched:
    """The inner closure on its own rank, called and timed in every evaluation of any rank."""

    def __init__(self, inner: Closure, comm: MPI.Comm) -> None:
        self.inner, self.collective, self.spec = inner, comm, inner.spec
        self.work: list[float] = []

    def initial_state(self, n: int) -> Array | None:
        """The inner closure's."""
        return self.inner.initial_state(n)

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """The inner closure's answer."""
        start = time.thread_time()
        response = self.inner.evaluate(gradient, state, dt, hint)
        self.work.append(time.thread_time() - start)
        return response


def narrow_surrogate(name: str) -> EnergySurrogate:
    """A polynomial energy that knows small stretches only, so that the clamped corner falls back on the RVE."""
    case = CASES[name]
    rest = np.array([1.0, 1.0, 0.0])
    lower, upper = (rest + RANGE * (np.array(bound) - rest) for bound in (case.lower, case.upper))
    data = sample(create_rve(case, for_training=True), stretch_design(lower, upper, 200, seed=0), comm=MPI.COMM_SELF)
    return fit_polynomial(data)


def measure(comm: MPI.Comm, name: str, repeats: int) -> dict[str, Any]:
    """Runs with and without balance that take turns; the fastest of each."""
    case, surrogate = CASES[name], StretchFrame(narrow_surrogate(name))
    rve = create_rve(case)
    fine = {"balanced": BalancedClosure(StretchFrame(rve), comm), "unbalanced": Watched(StretchFrame(rve), comm)}
    best: dict[str, dict[str, Any]] = {}
    tips, work = {}, np.empty((0, 0))
    for _ in range(repeats):
        for variant, closure in fine.items():
            rve.ledger.reset()
            done = run(comm, AcceleratedClosure(closure, surrogate, gate=RangeGate()), case, cells=CELLS)
            tips[variant] = done.tip.tolist()
            seconds = {"run": comm.allreduce(done.seconds, op=MPI.MAX), "fine": done.ledger.seconds["fine"]}
            if variant not in best or seconds["run"] < best[variant]["seconds"]["run"]:
                best[variant] = {"seconds": seconds, "counts": done.ledger.counts}
        work = np.array(comm.allgather(fine["unbalanced"].work))
        fine["unbalanced"].work = []
    cores = min(comm.size, len(os.sched_getaffinity(0)))
    return {
        "rve": name,
        "dofs": rve.problem.n,
        "ranks": comm.size,
        "cores": cores,
        "same tip": tips["balanced"] == tips["unbalanced"],
        "work of ranks": work.sum(axis=1).tolist(),
        "ideal gain of the fine solves": float(work.max(axis=0).sum() / (work.sum() / cores)),
        **best,
    }


if __name__ == "__main__":
    result = measure(MPI.COMM_WORLD, sys.argv[1], int(sys.argv[2]))
    if MPI.COMM_WORLD.rank == 0:
        Path(sys.argv[3]).write_text(json.dumps(result))

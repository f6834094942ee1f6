"""One evaluation of all closures of a problem, agreed by all ranks."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mpi4py import MPI

import numpy as np

from coupling.agreement import together
from coupling.contract import Array
from coupling.ledger import Ledger
from coupling.two_level import two_level
from solver_adapters.closure_points import ClosurePoints
from solver_adapters.level import EVALUATE, Level


def evaluate_fluxes(
    fluxes: Sequence[ClosurePoints], dt: float, comm: MPI.Comm, ledger: Ledger, level: Level = EVALUATE
) -> int:
    """Bring the fluxes to the present values of their operands; number of failed points on all ranks (collective).

    A closure is called where its gradients, dt, level or committed state changed on any rank, and then on all ranks;
    otherwise what it answered last still holds. All closures are called even if one raises, so that ranks stay in step.

    Raises:
        Exception: what a closure raised, on its rank; RemoteRankError on the others.
    """
    if not fluxes:
        return 0
    gradients = [flux.operand_values() for flux in fluxes]
    stale = np.array([flux.is_stale(g, dt, level) for flux, g in zip(fluxes, gradients, strict=True)], dtype=np.int64)
    comm.Allreduce(MPI.IN_PLACE, stale, op=MPI.MAX)
    errors = [_evaluate(flux, g, dt, ledger, level) for flux, g, s in zip(fluxes, gradients, stale, strict=True) if s]
    ledger.count("closure/cached", len(fluxes) - len(errors))
    raised = next((error for error in errors if error is not None), None)
    outcome = np.array([raised is not None, sum(flux.failed for flux in fluxes)], dtype=np.int64)
    comm.Allreduce(MPI.IN_PLACE, outcome)
    if outcome[0]:
        with raising_through_petsc():
            together(comm, lambda: _raise(raised))
    return int(outcome[1])


@contextmanager
def raising_through_petsc() -> Iterator[None]:
    """For code in a callback of PETSc: what it raises does not meet a garbage collection that is due.

    petsc4py's error handler would run it, Python ≥ 3.12 then drops the error, and the process crashes.
    """
    try:
        yield
    except Exception:
        gc.collect(0)
        raise


def measure_magnitudes(fluxes: Sequence[ClosurePoints], comm: MPI.Comm) -> None:
    """Set the magnitude of each flux to the root mean square of its norm over all points (collective).

    One that vanishes counts as 1e-6 of what the tangent makes of a gradient of one.
    """
    sums = np.zeros((len(fluxes), 3))
    for row, flux in zip(sums, fluxes, strict=True):
        row[:] = (flux.response.flux**2).sum(), (flux.response.tangent**2).sum(), len(flux.response.flux)
    comm.Allreduce(MPI.IN_PLACE, sums)
    for (square, stiffness, n), flux in zip(sums, fluxes, strict=True):
        flux.magnitude = float(np.sqrt(max(square, 1e-12 * stiffness) / max(n, 1.0)))


def largest_error(fluxes: Sequence[ClosurePoints], comm: MPI.Comm) -> float:
    """Largest estimated error of the fluxes that were swept last, relative to their magnitudes (collective)."""
    errors = [
        float(flux.response.uncertainty.max(initial=0.0)) / flux.magnitude
        for flux in fluxes
        if flux.response.uncertainty is not None and two_level(flux.closure) is not None
    ]
    return float(comm.allreduce(max(errors, default=0.0), op=MPI.MAX))


def _evaluate(flux: ClosurePoints, gradient: Array, dt: float, ledger: Ledger, level: Level) -> Exception | None:
    ledger.count("closure/calls")
    ledger.count("closure/points", gradient.shape[0])
    with ledger.phase("closure"):
        try:
            flux.evaluate(gradient, dt, level)
        except Exception as error:  # the caller raises it on all ranks together
            return error
    return None


def _raise(error: Exception | None) -> None:
    if error is not None:
        raise error

"""One evaluation of a closure for hosts that have no place for a failed point: all are usable, or all ranks raise."""

from __future__ import annotations

from mpi4py import MPI

import numpy as np

from coupling.agreement import together
from coupling.contract import Array, Closure, Response, Status, check_response, finite_rows, usable
from coupling.errors import ClosureError


def usable_response(
    closure: Closure,
    gradient: Array,
    state: Array | None,
    dt: float,
    hint: Array | None,
    *,
    comm: MPI.Comm,
    name: str,
) -> Response:
    """The closure's answer to the gradients (n, k) of this rank, usable at all points of all ranks (collective).

    Args:
        closure: the closure.
        gradient: (n, k); n may be zero, and differ between ranks.
        state: committed state (n, s), or None where s = 0.
        dt: length of the increment.
        hint: state of an earlier evaluation in the same increment, or None.
        comm: communicator of the ranks that take part.
        name: of the closure in error messages.

    Raises:
        ClosureError: points failed on some rank; the same message on all ranks, so that all of them may cut back.
        Exception: what the closure raised, on its rank; RemoteRankError on the others.
    """
    response = together(comm, lambda: _checked(closure.evaluate(gradient, state, dt, hint), closure, len(gradient)))
    failed = np.flatnonzero(~usable(response.status) | ~finite_rows(response))
    lines = [_line(closure, gradient, response, int(i), comm.rank) for i in failed[:3]]
    everyone: list[tuple[int, list[str]]] = comm.allgather((len(failed), lines))
    total = sum(count for count, _ in everyone)
    if total:
        first = [line for _, lines_of_rank in everyone for line in lines_of_rank][:5]
        raise ClosureError("\n  ".join([f"{name} failed at {total} points; the first of them:", *first]))
    return response


def _checked(response: Response, closure: Closure, n: int) -> Response:
    check_response(closure.spec, response, n)
    return response


def _line(closure: Closure, gradient: Array, response: Response, i: int, rank: int) -> str:
    values = ", ".join(f"{value:.6g}" for value in gradient[i])
    status = Status(int(response.status[i]))
    message = "the answer is not finite" if status.usable else status.message
    return f"rank {rank}, point {i}, {', '.join(closure.spec.gradient)} = ({values}): {message}"

"""Runs of Cook's membrane whose surrogate times every request, and may kill its server in the middle of one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mpi4py import MPI

import numpy as np
from numpy.typing import NDArray

from coupling import AcceleratedClosure, Closure, Ledger, RangeGate, StretchFrame
from coupling.contract import Array, Response
from coupling.ledger import merged
from coupling.serving import RemoteSurrogate
from demos.cook_runs import Case, Run, create_rve, run

RANK, BEGIN, END, POINTS, LOSSES = range(5)
"""Columns of :attr:`ServedRun.requests`."""


class Timed:
    """A surrogate that notes of each evaluation its begin and end (monotonic clock, seconds), points and losses."""

    def __init__(self, inner: Closure) -> None:
        self.inner, self.spec = inner, inner.spec
        self.requests: list[tuple[float, float, int, int]] = []

    def initial_state(self, n: int) -> Array | None:
        return self.inner.initial_state(n)

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        begin, before = time.monotonic(), self.losses
        response = self.ask(gradient, state, dt, hint)
        self.requests.append((begin, time.monotonic(), len(gradient), self.losses - before))
        return response

    def ask(self, gradient: Array, state: Array | None, dt: float, hint: Array | None) -> Response:
        return self.inner.evaluate(gradient, state, dt, hint)

    @property
    def losses(self) -> int:
        """How often the server was lost so far."""
        return 0


class Killer(Timed):
    """The same over a server, which it kills (SIGKILL) while that has one of its requests."""

    def __init__(self, inner: RemoteSurrogate, at_request: int | None) -> None:
        super().__init__(inner)
        self._remote, self._at = inner, at_request
        self.killed: float | None = None

    @property
    def losses(self) -> int:
        return self._remote.ledger.counts.get("server/losses", 0)

    def ask(self, gradient: Array, state: Array | None, dt: float, hint: Array | None) -> Response:
        ticket = self._remote.submit(gradient, state, dt, hint)
        if len(self.requests) == self._at and self._remote.server is not None:
            os.kill(self._remote.server, signal.SIGKILL)
            self.killed = time.monotonic()
        return self._remote.collect(ticket)


@dataclass(frozen=True)
class ServedRun:
    """A run, and what it asked.

    Args:
        run: of the membrane.
        requests: (n, 5) of all ranks in the order of their begin: rank, begin and end in seconds since the first of
            them began, points, losses of the server.
        origin: when the first one began (monotonic clock).
        ledger: of the clients of the server, over all ranks.
        killed: when the server was killed, in the same seconds, None where it was not.
    """

    run: Run
    requests: Array
    origin: float
    ledger: Ledger = field(default_factory=Ledger)
    killed: float | None = None

    @property
    def latencies(self) -> Array:
        """Seconds (n,) of all requests."""
        return np.asarray(self.requests[:, END] - self.requests[:, BEGIN])

    @property
    def interrupted(self) -> NDArray[np.bool_]:
        """Mask (n,) of the requests that found the server dead, or dying under them."""
        return np.asarray(self.requests[:, LOSSES] > 0)

    @property
    def interruption(self) -> float:
        """Seconds by which the slowest of the interrupted requests exceeds the median of the others."""
        if not self.interrupted.any():
            return 0.0
        return float(self.latencies[self.interrupted].max() - np.median(self.latencies[~self.interrupted]))


def served(
    comm: MPI.Comm, surrogate: Timed, case: Case, *, steps: int, cells: tuple[int, int], title: str = ""
) -> ServedRun:
    """Step the membrane with that surrogate in front of the RVE (collective)."""
    closure = AcceleratedClosure(StretchFrame(create_rve(case)), StretchFrame(surrogate), gate=RangeGate())
    finished = run(comm, closure, case, steps=steps, cells=cells, title=title)
    requests, origin = _gathered(comm, surrogate.requests)
    ledger: Any = getattr(surrogate.inner, "ledger", Ledger())
    killed = [k for k in comm.allgather(getattr(surrogate, "killed", None)) if k is not None]
    return ServedRun(finished, requests, origin, merged(comm, ledger), killed[0] - origin if killed else None)


def _gathered(comm: MPI.Comm, own: Sequence[tuple[float, float, int, int]]) -> tuple[Array, float]:
    rows = np.array([(rank, *r) for rank, part in enumerate(comm.allgather(own)) for r in part])
    rows = rows[np.argsort(rows[:, BEGIN])]
    origin = float(rows[0, BEGIN])
    rows[:, BEGIN : END + 1] -= origin
    return rows, origin


def displacement_difference(comm: MPI.Comm, one: Run, other: Run) -> float:
    """Largest difference of the final displacements relative to the largest displacement (collective)."""
    u, v = (r.membrane.problem.u.x.array for r in (one, other))
    largest, difference = (comm.allreduce(float(np.abs(a).max(initial=0.0)), MPI.MAX) for a in (v, u - v))
    return float(difference / largest)

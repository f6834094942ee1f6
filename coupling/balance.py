"""Load balance of fine solves: points that cost much move to ranks that would wait, and their answers move back.

Points belong to the rank of their macro cell. Where a few of them take most of the work (a plastic zone, a corner in
which a surrogate is not trusted), one rank solves while the others wait for it. In the next evaluation rows of
gradient, state and hint then go to other ranks, to be answered there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from coupling.agreement import gathered, together
from coupling.contract import Array, Closure, Response, check_arguments, check_response
from coupling.errors import ContractError
from coupling.ledger import Ledger
from coupling.work_sharing import Journey, chosen, least_gain, seconds_per_byte, transfers

_LEAST_GAIN = 0.05  # of the slowest rank's time, below which points stay
_OVERHEAD = 1e-3  # seconds of an evaluation with guests, beside what moves with them
_PASSES = 3  # over each byte that moves: packed, sent, unpacked


@dataclass(frozen=True)
class _Offer:
    """What a rank brings into an evaluation: points, their work (0 if unknown), its pace, common arguments."""

    points: int
    work: float
    dearest: float
    done: tuple[float, float]
    arguments: tuple[float, bool]


@dataclass(frozen=True)
class _Plan:
    """Work that moves between ranks, mean work of a point, and the arguments that all points have in common."""

    moves: list[tuple[int, int, float]]
    mean: float
    dt: float
    hinted: bool


class BalancedClosure:
    """The inner closure, its points spread over the ranks of a communicator by the work they make.

    ``evaluate`` is collective: all ranks call it together, those without points too. Answers are the inner closure's
    own, bit by bit where these depend on the rows of a point alone. Where it raises on one rank, all ranks raise.

    A point is expected to make the work that it made in the last evaluation, or the mean of its rank where the number
    of points has changed since. Points move where the slowest rank then saves more than the moving costs, and more than
    5 %. On one rank nothing is done; with even work an evaluation takes two small messages more.

    It belongs around the fine scale itself, inside of accelerated closures, which then hand it what they reject::

        fine = BalancedClosure(StretchFrame(rve), comm)
        closure = AcceleratedClosure(fine, surrogate, gate=RangeGate())

    Ledger: counts ``balance/evaluations`` (in which points moved, entered by rank 0), ``balance/moved points`` (away
    from this rank); phase ``balance/moving``.

    Args:
        inner: a closure, the same on all ranks. One that has the attribute ``point_work``, (n,) work that the points of
            its last evaluation made in any unit (such as Newton iterations), or wraps such a one as ``inner``, tells
            points apart; else all count alike.
        comm: communicator of the ranks that share the work; the constructor is collective.
        ledger: where the work is entered, a new one if None.

    Attributes:
        collective: the communicator.

    Raises:
        ContractError: the inner closures of the ranks differ in their specification.
    """

    def __init__(self, inner: Closure, comm: Any, *, ledger: Ledger | None = None) -> None:
        self.inner, self.collective, self.spec = inner, comm, inner.spec
        self.ledger = Ledger() if ledger is None else ledger
        if any(spec != self.spec for spec in comm.allgather(self.spec)):
            raise ContractError("the closures of the ranks differ in their specification: make the same one on each")
        numbers = self.spec.k + 3 * self.spec.state_size + self.spec.m * (1 + self.spec.k)
        self._seconds_to_move = _PASSES * 8 * numbers * seconds_per_byte(comm)
        self._work: Array = np.empty(0)
        self._mean = 0.0
        self._done = (0.0, 0.0)

    def initial_state(self, n: int) -> Array | None:
        """The inner closure's."""
        return self.inner.initial_state(n)

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """The inner closure's answer to n points, some of them evaluated on other ranks (collective)."""
        comm = self.collective
        if comm.size == 1:
            return self.inner.evaluate(gradient, state, dt, hint)
        plan = self._plan(gathered(comm, lambda: self._offer(gradient, state, dt, hint)))
        if plan is not None:
            return self._shared(plan, gradient, state, hint)
        response, work = together(comm, lambda: self._measured(gradient, state, dt, hint))
        self._remember(work)
        return response

    def _offer(self, gradient: Array, state: Array | None, dt: float, hint: Array | None) -> _Offer:
        n = check_arguments(self.spec, gradient, state, hint)
        work = self._expected(n, unknown=0.0)
        return _Offer(n, float(work.sum()), float(work.max(initial=0.0)), self._done, (dt, hint is not None))

    def _expected(self, n: int, unknown: float) -> Array:
        """Work (n,) of the points, ``unknown`` of each where nothing has been measured."""
        return self._work if len(self._work) == n and self._work.any() else np.full(n, self._mean or unknown)

    def _remember(self, work: Array) -> None:
        self._work = work
        if work.size:
            self._mean = float(work.mean())

    def _plan(self, offers: list[_Offer]) -> _Plan | None:
        """What moves where that is worth it, the same on all ranks."""
        busy = [offer for offer in offers if offer.points]
        known = sum(offer.points for offer in busy if offer.work)
        if not known or len({offer.arguments for offer in busy}) > 1:
            return None
        mean = sum(offer.work for offer in busy) / known
        loads = np.array([offer.work or offer.points * mean for offer in offers])
        seconds, work = np.sum([offer.done for offer in offers], axis=0)
        gain = least_gain(loads, max(offer.dearest or mean for offer in busy))
        moved = offers[int(loads.argmax())].points * (1 - loads.mean() / loads.max())
        if gain < _LEAST_GAIN * loads.max() or gain * seconds / work < _OVERHEAD + moved * self._seconds_to_move:
            return None
        return _Plan(transfers(loads), mean, *busy[0].arguments)

    def _shared(self, plan: _Plan, gradient: Array, state: Array | None, hint: Array | None) -> Response:
        comm, n, s = self.collective, len(gradient), self.spec.state_size
        amounts = {taker: work for giver, taker, work in plan.moves if giver == comm.rank}
        with self.ledger.phase("balance/moving"):
            journey = Journey(comm, n, chosen(self._expected(n, unknown=plan.mean), amounts))
            gradient = journey.out(gradient)
            state = journey.out(state) if s and state is not None else None
            if plan.hinted:
                hint = journey.out(np.empty((0, s)) if hint is None else hint)
        worked = together(comm, lambda: self._measured(gradient, state, plan.dt, hint if plan.hinted else None))
        with self.ledger.phase("balance/moving"):
            response, work = _brought_home(journey, *worked)
        self._remember(work)
        self.ledger.count("balance/evaluations", int(comm.rank == 0))
        self.ledger.count("balance/moved points", len(journey.away))
        return response

    def _measured(self, gradient: Array, state: Array | None, dt: float, hint: Array | None) -> tuple[Response, Array]:
        """The inner closure's answer, and the work (n,) of the points."""
        n, start = len(gradient), time.thread_time()
        response = self.inner.evaluate(gradient, state, dt, hint)
        seconds = time.thread_time() - start
        check_response(self.spec, response, n)
        told = _point_work(self.inner)
        work: Array = np.ones(n) if told is None else np.array(told, dtype=float)
        if work.shape != (n,):
            raise ContractError(f"point_work must have shape ({n},), one value per point, got {work.shape}")
        if work.any():
            self._done = seconds, float(work.sum())
        return response, work


def _point_work(closure: object) -> Array | None:
    told: Array | None = getattr(closure, "point_work", None)
    return _point_work(closure.inner) if told is None and hasattr(closure, "inner") else told


def _brought_home(journey: Journey, response: Response, work: Array) -> tuple[Response, Array]:
    """Response and work for the points of this rank; all ranks bring the same fields, whatever the closure filled."""
    optional = {}
    for name in ("uncertainty", "energy"):
        rows = getattr(response, name)
        home = journey.home(np.full(len(work), np.nan) if rows is None else rows)
        optional[name] = None if rows is None else home
    flux, tangent, status = (journey.home(rows) for rows in (response.flux, response.tangent, response.status))
    state = None if response.state is None else journey.home(response.state)
    return Response(flux, tangent, status, state, **optional), journey.home(work)

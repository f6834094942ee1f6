"""Which points go to which rank when their work is spread evenly, and how their rows travel."""

from __future__ import annotations

import time
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coupling.contract import Array

Rows = NDArray[Any]
Indices = NDArray[np.intp]


def transfers(loads: Array) -> list[tuple[int, int, float]]:
    """Transfers (giver, taker, amount) after which all loads (P,) are their mean; at most P − 1 of them."""
    excess = loads - loads.mean()
    order: list[int] = list(np.argsort(-excess, kind="stable"))
    found = []
    while len(order) > 1:
        giver, taker = order[0], order[-1]
        amount = float(min(excess[giver], -excess[taker]))
        if amount > 0:
            found.append((giver, taker, amount))
        order = order[1:] if amount >= excess[giver] else order[:-1]
        excess[giver] -= amount
        excess[taker] += amount
    return found


def least_gain(loads: Array, dearest: float) -> float:
    """What :func:`transfers` of whole points take from the largest load, at least, where none costs over ``dearest``.

    A load comes to lie within half a point of its aim, and no load with a point in it below that point's.
    """
    return float(loads.max() - max(loads.mean() + dearest / 2, dearest))


def chosen(costs: Array, amounts: Mapping[int, float]) -> dict[int, Indices]:
    """Points for each taker, dearest first, whose costs (n,) come within half a point of its amount."""
    takers, left = list(amounts), np.array([*amounts.values()])
    points: dict[int, list[int]] = {taker: [] for taker in takers}
    for i in np.argsort(-costs, kind="stable") if takers else ():
        most = int(np.argmax(left))
        if left[most] > costs[i] / 2:
            points[takers[most]].append(int(i))
            left[most] -= costs[i]
    return {taker: np.array(rows, dtype=np.intp) for taker, rows in points.items()}


def seconds_per_byte(comm: Any, size: int = 1 << 19) -> float:
    """What it takes to send one byte to the next rank while one comes from the last, on the slowest rank."""
    sent, received, best = np.zeros(size, np.int8), np.empty(size, np.int8), np.inf
    for _ in range(4):
        start = time.perf_counter()
        comm.Sendrecv(sent, (comm.rank + 1) % comm.size, recvbuf=received, source=(comm.rank - 1) % comm.size)
        best = min(best, time.perf_counter() - start)
    return float(max(comm.allgather(best))) / size


class Journey:
    """Points that other ranks work on: their rows go out together with guests coming in, and the results come home.

    Everything is collective.

    Args:
        comm: communicator.
        n: number of points of this rank.
        sent: which of them go to which rank.

    Attributes:
        away: indices of the points that leave, by rank.
        stay: indices of the others, ascending.
    """

    def __init__(self, comm: Any, n: int, sent: Mapping[int, Indices]) -> None:
        self._comm, self._n = comm, n
        self.away: Indices = np.concatenate([np.empty(0, dtype=np.intp), *(sent[rank] for rank in sorted(sent))])
        self.stay: Indices = np.delete(np.arange(n), self.away)
        self._leaving = np.array([len(sent.get(rank, ())) for rank in range(comm.size)], dtype=np.int64)
        self._coming = np.empty_like(self._leaving)
        comm.Alltoall(self._leaving, self._coming)

    def out(self, rows: Rows) -> Rows:
        """Rows of the points that this rank works on, those that stay and the guests', from rows (n, …) of its own."""
        return np.concatenate([rows[self.stay], self._exchanged(rows[self.away], self._leaving, self._coming)])

    def home(self, results: Rows) -> Rows:
        """Results (n, …) for the points of this rank, from rows of those that it worked on."""
        here = len(self.stay)
        whole = np.empty((self._n, *results.shape[1:]), results.dtype)
        whole[self.stay] = results[:here]
        whole[self.away] = self._exchanged(np.ascontiguousarray(results[here:]), self._coming, self._leaving)
        return whole

    def _exchanged(self, rows: Rows, leaving: NDArray[np.int64], coming: NDArray[np.int64]) -> Rows:
        received = np.empty((int(coming.sum()), *rows.shape[1:]), rows.dtype)
        width = prod(rows.shape[1:])
        self._comm.Alltoallv([rows, leaving * width], [received, coming * width])
        return received

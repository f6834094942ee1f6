"""The last states of one problem, spread over ranks, and what their inner products say about them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from coupling.contract import Array
from coupling.errors import ContractError

_RESOLVED = 1e-12  # eigenvalues of the scaled Gram matrix that round-off leaves meaningful, relative to the largest


@dataclass(frozen=True)
class Coordinates:
    """Orthonormal coordinates of the states y_0 … y_m relative to the last: y_k = y_m + U z_k.

    Args:
        z: (m + 1, r), the same on all ranks; the last row is zero.
        weights: (m, r), with them U is a combination of the increments, U_j = Σᵢ weights_ij (y_{i+1} − y_i).
    """

    z: Array
    weights: Array


class Snapshots:
    """The last states y with the parameters x they belong to.

    A state at the parameters of the one before replaces it.

    Args:
        window: number of states that are kept.
        comm: communicator over which the entries of a state are spread, None for one process.
    """

    def __init__(self, window: int, comm: Any = None) -> None:
        if window < 2:
            raise ContractError(f"window must be 2 states or more, got {window}")
        self.window = window
        self._comm = comm
        self._x: list[Array] = []
        self._y: list[Array] = []
        self._products: Array = np.zeros((0, 0))

    def __len__(self) -> int:
        return len(self._y)

    @property
    def parameters(self) -> Array:
        """Parameters (m + 1, f) of the states, oldest first."""
        return np.array(self._x)

    def add(self, x: Array, y: Array) -> None:
        """Append the state y (N,) at the parameters x (f,)."""
        if self._x and np.array_equal(self._x[-1], x):
            self._drop(-1)
        elif len(self) == self.window:
            self._drop(0)
        self._x.append(x.copy())
        self._y.append(y.copy())

    def coordinates(self, rank: int | None = None, last: int | None = None) -> Coordinates:
        """Coordinates in at most ``rank`` dominant directions of the ``last`` states, of all by default (collective).

        Directions that round-off leaves nothing of are left out: with increments scaled to unit length, those below
        1e-6 of the largest.
        """
        used = slice(1 - (len(self) if last is None else last), None)
        G = self._gram()[used, used]
        lengths = np.sqrt(G.diagonal())
        lengths[lengths == 0.0] = 1.0
        values, vectors = np.linalg.eigh(G / np.outer(lengths, lengths))
        kept = values > _RESOLVED * max(values[-1], 0.0)
        root, V = np.sqrt(values[kept]), vectors[:, kept]
        increments = lengths[:, None] * V * root
        z = np.vstack((-np.cumsum(increments[::-1], axis=0)[::-1], np.zeros((1, root.size))))
        weights = V / root / lengths[:, None]
        if rank is not None and rank < root.size:
            directions = np.linalg.svd(z, full_matrices=False)[2][:rank].T
            z, weights = z @ directions, weights @ directions
        return Coordinates(z, weights)

    def state(self, coordinates: Coordinates, z: Array) -> Array:
        """This rank's part of the state y_m + U z, (N,)."""
        y = self._y[-1].copy()
        weights = coordinates.weights @ z
        for w, (before, after) in zip(weights, list(pairwise(self._y))[-weights.size :], strict=True):
            y += w * (after - before)
        return y

    def directions(self, coordinates: Coordinates) -> Array:
        """This rank's part of U, (N, r)."""
        weights = coordinates.weights
        increments = [after - before for before, after in pairwise(self._y)][-len(weights) :]
        return np.stack(increments, axis=1) @ weights

    def _gram(self) -> Array:
        """Inner products (m, m) of the increments; those that are missing are computed (collective)."""
        known, m = len(self._products), len(self) - 1
        if known < m:
            increments = [after - before for before, after in pairwise(self._y)]
            rows = np.array([[a @ b for b in increments] for a in increments[known:]])
            total = rows if self._comm is None else self._comm.allreduce(rows)
            products: Array = np.zeros((m, m))
            products[:known, :known] = self._products
            products[known:] = total
            products[:known, known:] = total[:, :known].T
            self._products = products
        return self._products

    def _drop(self, which: int) -> None:
        """Forget the first (0) or the last (−1) state."""
        del self._x[which], self._y[which]
        remaining = slice(1, None) if which == 0 else slice(max(len(self) - 1, 0))
        self._products = self._products[remaining, remaining]

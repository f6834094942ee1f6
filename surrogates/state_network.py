"""Learned predictors of converged states: a small network on the modes of earlier runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coupling.agreement import together
from coupling.contract import Array, Status
from coupling.errors import ContractError
from coupling.guess import Guess
from surrogates.vector_network import VectorNetwork, train_network

_RESOLVED = 1e-13  # eigenvalues of a Gram matrix that round-off leaves meaningful, relative to the largest


@dataclass(frozen=True)
class Run:
    """The converged states of an earlier run, in its order.

    Args:
        known: (n, f) parameters, the same on all ranks.
        found: (n, N) states, the unknowns of this rank.
    """

    known: Array
    found: Array


class StateNetwork:
    """y(x) = y_m + U (f(x) − f(x_m)), or with history y_m + U f(x, x_m, Uᵀ(y_m − ȳ)), after the last state y_m at x_m.

    U are the dominant modes of earlier runs and f is a network. What the modes do not span, and what the network is
    wrong by at x_m, is thus kept from the last state. Before there is one it is ȳ + U f(x), and with history none. A
    :class:`coupling.guess.Predictor`, made by :func:`train_state_network`.

    Attributes:
        error: root mean square error of the increments that were held out, relative to that of no increment.
    """

    def __init__(
        self, mean: Array, modes: Array, network: VectorNetwork, *, history: bool, error: float, comm: Any
    ) -> None:
        self.error = error
        self._mean, self._modes, self._network = mean, modes, network
        self._history, self._comm = history, comm
        self._last: tuple[Array, Array] | None = None

    def predict(self, known: Array) -> Guess:
        """The state at the parameters x = ``known`` (1, f) (collective)."""
        if self._history and self._last is None:
            return Guess.none(1, 0)
        if self._last is None:
            y = self._mean + self._modes @ self._network(known)[0]
        else:
            x, last = self._last
            y = last + self._modes @ self._increment(known[0], x, last)
        return Guess(y[None], np.array([Status.OK], dtype=np.int8))

    def observe(self, known: Array, found: Array) -> None:
        """Go on from the state ``found`` (1, N) at x = ``known`` (1, f)."""
        self._last = (known[0].copy(), found[0].copy())

    def _increment(self, x: Array, before: Array, last: Array) -> Array:
        if not self._history:
            after, now = self._network(np.stack((x, before)))
            return np.asarray(after - now)
        z = _sum(self._modes.T @ (last - self._mean), self._comm)
        return np.asarray(self._network(np.concatenate((x, before, z))[None])[0])


def train_state_network(
    runs: Sequence[Run],
    *,
    comm: Any = None,
    history: bool = False,
    rank: int = 8,
    hidden: Sequence[int] = (16, 16),
    validation: float = 0.15,
    max_iterations: int = 200,
    decay: float = 1e-8,
    seed: int = 0,
) -> StateNetwork:
    """Learn from earlier runs how states depend on parameters (collective).

    The modes come from inner products of the states summed over ``comm`` (method of snapshots); the network is trained
    by Levenberg–Marquardt on the first rank, and the iterate that is best on the samples held out is kept.

    Args:
        runs: earlier runs.
        comm: communicator over which the unknowns are spread, None for one process.
        history: whether the next state depends on the last one besides the parameters (materials with history,
            transient problems); the network then learns increments from state to state, else the states themselves.
        rank: largest number of modes.
        hidden: widths of the hidden layers.
        validation: fraction of the samples held out.
        max_iterations: of Levenberg–Marquardt.
        decay: weight of the squared parameters of the network beside its relative mean square error; it makes the
            network smooth where runs are few.
        seed: of the initial weights and of the choice of the samples held out.

    Raises:
        ContractError: the runs do not fit together, or are too short.
    """
    x, y = _stacked(runs) if comm is None else together(comm, lambda: _stacked(runs))
    mean = y.mean(axis=0)
    modes, z = _modes(y - mean, rank, comm)
    lengths = [len(run.known) for run in runs]
    inputs, targets = _increments(x, z, lengths) if history else (x, z)

    def train() -> tuple[VectorNetwork, float]:
        options: dict[str, Any] = {"validation": validation, "max_iterations": max_iterations}
        return train_network(inputs, targets, hidden=hidden, decay=decay, seed=seed, **options)

    def on_first_rank() -> Any:
        return train() if comm.rank == 0 else None

    network, error = train() if comm is None else comm.bcast(together(comm, on_first_rank))
    return StateNetwork(mean, modes, network, history=history, error=error, comm=comm)


def _stacked(runs: Sequence[Run]) -> tuple[Array, Array]:
    for run in runs:
        if run.known.ndim != 2 or run.found.ndim != 2 or len(run.known) != len(run.found):
            raise ContractError(
                f"a run has known (n, f) and found (n, N), got shapes {run.known.shape} and {run.found.shape}"
            )
    shapes = {(run.known.shape[1], run.found.shape[1]) for run in runs}
    if len(shapes) != 1 or sum(len(run.known) for run in runs) < 8:
        raise ContractError(
            f"training needs runs of the same f and N with 8 states or more in all, got {len(runs)} runs of "
            f"(f, N) in {sorted(shapes)}"
        )
    return np.vstack([run.known for run in runs]), np.vstack([run.found for run in runs])


def _sum(values: Array, comm: Any) -> Array:
    total: Array = values if comm is None else comm.allreduce(values)
    return total


def _modes(centred: Array, rank: int, comm: Any) -> tuple[Array, Array]:
    """Orthonormal modes (N, r) of the rows and their coordinates (n, r)."""
    values, vectors = np.linalg.eigh(_sum(centred @ centred.T, comm))
    kept = np.flatnonzero(values > _RESOLVED * values[-1])[::-1][:rank]
    if not kept.size:
        raise ContractError("all states of the runs are the same: there is nothing to learn")
    root, V = np.sqrt(values[kept]), vectors[:, kept]
    return centred.T @ (V / root), V * root


def _increments(x: Array, z: Array, lengths: Sequence[int]) -> tuple[Array, Array]:
    """Inputs (x_{k+1}, x_k, z_k) and targets z_{k+1} − z_k within each run."""
    starts = np.cumsum(lengths)[:-1]
    inside = np.setdiff1d(np.arange(len(x) - 1), starts - 1)
    return np.hstack((x[inside + 1], x[inside], z[inside])), z[inside + 1] - z[inside]

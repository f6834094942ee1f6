"""Dynamic mode decomposition of the increments."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from coupling.contract import Array, Status
from coupling.errors import MissingPackageError
from coupling.guess import Guess
from coupling.predictors.snapshots import Snapshots


class DMDPredictor:
    """y_{m+1} = y_m + A (y_m − y_{m−1}), with the A that fits the increments between the last states best.

    Increments in place of states, because A then also fits dynamics towards any steady state, y_{k+1} = A y_k + b, and
    what A does not know stays as it is. The fit is :class:`pydmd.DMD`'s, in orthonormal coordinates of the increments.
    P. J. Schmid, J. Fluid Mech. 656 (2010) 5–28; J. H. Tu et al., J. Comput. Dyn. 1 (2014) 391–421.

    The steps x_{k+1} − x_k must be equal; only the last states with equal steps are used. The next step may differ:
    over s steps an eigenvalue λ turns an increment into λ (λ^s − 1)/(λ − 1) times it.

    Args:
        rank: largest number of modes; by default all that the states resolve.
        window: number of last states to learn from.
        comm: communicator over which the unknowns are spread, None for one process.

    Raises:
        MissingPackageError: PyDMD is not installed.
    """

    def __init__(self, *, rank: int | None = None, window: int = 12, comm: Any = None) -> None:
        self._pydmd = import_pydmd()
        self.rank = rank
        self._snapshots = Snapshots(window, comm)

    def predict(self, known: Array) -> Guess:
        """The state at x = ``known`` (1, 1); none before four states with equal steps are known (collective)."""
        x = self._snapshots.parameters
        usable = equal_steps(x)
        if usable < 4:
            return Guess.none(1, 0)
        coordinates = self._snapshots.coordinates(self.rank, usable)
        increments = np.diff(coordinates.z, axis=0).T
        if not (resolved := numerical_rank(increments[:, :-1])):
            return Guess.none(1, 0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that increments are nearly dependent: hence the rank
            fit = self._pydmd.DMD(svd_rank=resolved).fit(increments[:, :-1], increments[:, 1:])
        amplitudes = np.linalg.pinv(fit.modes) @ increments[:, -1]
        z = (fit.modes @ (_over(fit.eigs, steps_ahead(x, known)) * amplitudes)).real
        return Guess(self._snapshots.state(coordinates, z)[None], np.array([Status.OK], dtype=np.int8))

    def observe(self, known: Array, found: Array) -> None:
        """Learn that the state at x = ``known`` (1, 1) is ``found`` (1, N)."""
        self._snapshots.add(known[0], found[0])


def import_pydmd() -> Any:
    """The module PyDMD, or MissingPackageError."""
    try:
        import pydmd
    except ImportError as error:
        raise MissingPackageError(
            f"dynamic mode decomposition needs PyDMD ({error}): pip install 'twoscale[dmd]', or pip install pydmd"
        ) from error
    return pydmd


def numerical_rank(X: Array) -> int:
    """Number of singular values above 1e-7 of the largest, the accuracy of coordinates."""
    singular = np.linalg.svd(X, compute_uv=False)
    return int(np.count_nonzero(singular > 1e-7 * singular.max(initial=0.0)))


def equal_steps(x: Array) -> int:
    """Number of the last parameters x (m, f) that are equally spaced; 0 where there are none or more than one each."""
    if x.ndim != 2 or x.shape[1] != 1:
        return 0
    steps = np.diff(x[:, 0])
    different = np.flatnonzero(~np.isclose(steps, steps[-1:], rtol=1e-6, atol=0.0))
    return len(x) - (int(different[-1]) + 1 if different.size else 0)


def steps_ahead(x: Array, known: Array) -> float:
    """How many steps x = ``known`` is after the last one."""
    return float((known[0, 0] - x[-1, 0]) / (x[-1, 0] - x[-2, 0]))


def _over(eigenvalues: Array, s: float) -> Any:
    """Factors λ (λ^s − 1)/(λ − 1) of the increments over s steps, s for λ = 1."""
    values = eigenvalues.astype(complex)
    if s == 1.0:
        return values
    one = np.isclose(values, 1.0, rtol=0.0, atol=1e-9)
    away = np.where(one, 0.5, values)
    return np.where(one, s, away * (away**s - 1.0) / (away - 1.0))

"""Proper orthogonal decomposition with interpolated coefficients."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.interpolate import RBFInterpolator

from coupling.contract import Array, Status
from coupling.guess import Guess
from coupling.predictors.snapshots import Snapshots

_KERNELS = (("quintic", 2), ("cubic", 1), ("linear", 0))


class PODPredictor:
    """y(x) = y_m + U z(x): modes U of the last states, their coefficients z interpolated over the parameters x.

    The modes are those of the snapshots relative to the last state; the coefficients pass through all of them, by
    radial functions with polynomials (quintic with degree 2 where there are enough states for it, else less), so that
    whatever is quadratic in x is reproduced. For one parameter that is a smoothed extrapolation, for several it serves
    parameter studies in any order. T. Bui-Thanh, M. Damodaran, K. Willcox, AIAA Paper 2003-4213 (POD with
    interpolation).

    Args:
        rank: largest number of modes; by default all that the states resolve.
        window: number of last states to learn from.
        comm: communicator over which the unknowns are spread, None for one process.
    """

    def __init__(self, *, rank: int | None = None, window: int = 24, comm: Any = None) -> None:
        self.rank = rank
        self._snapshots = Snapshots(window, comm)

    def predict(self, known: Array) -> Guess:
        """The state at the parameters x = ``known`` (1, f); none before two states are known (collective)."""
        if len(self._snapshots) < 2:
            return Guess.none(1, 0)
        coordinates = self._snapshots.coordinates(self.rank)
        z = _interpolated(self._snapshots.parameters, coordinates.z, known)
        return Guess(self._snapshots.state(coordinates, z)[None], np.array([Status.OK], dtype=np.int8))

    def observe(self, known: Array, found: Array) -> None:
        """Learn that the state at x = ``known`` (1, f) is ``found`` (1, N)."""
        self._snapshots.add(known[0], found[0])


def _interpolated(x: Array, z: Array, at: Array) -> Array:
    """Coefficients (r,) at the parameters ``at`` (1, f), through the last of those at equal x (m + 1, f)."""
    distinct = np.sort(np.unique(x[::-1], axis=0, return_index=True)[1])
    spread = np.ptp(x, axis=0)
    spread[spread == 0.0] = 1.0
    x, z, at = x[::-1][distinct] / spread, z[::-1][distinct], at / spread
    _, extents, directions = np.linalg.svd(x - x[0], full_matrices=False)
    varied = directions[extents > 1e-10].T  # a study that has moved along a line only is one of one parameter
    x, at = (x - x[0]) @ varied, (at - x[0]) @ varied
    for kernel, degree in _KERNELS:
        try:
            found: Array = RBFInterpolator(x, z, kernel=kernel, degree=degree)(at)[0]
        except (ValueError, np.linalg.LinAlgError):  # too few states for the degree, or all on one line
            continue
        return found
    newest: Array = z[0]
    return newest

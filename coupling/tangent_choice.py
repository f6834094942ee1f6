"""Which tangents a sweep should compute: those that save more time in later sweeps than they take now."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coupling.contract import Array

_REDUCTION = 1e-6  # of the error that is still to come after a first sweep
_UNMEASURED = 0.05
_POOR = 0.3
_MEMORY = 0.8


class TangentChoice:
    """Chooses by measured times.

    A point whose model predicts changes of its flux up to a fraction d, its *doubt*, needs about ln ε/ln d more sweeps
    to become more accurate by ε; all points wait for the slowest. With the i most doubtful points given the fine
    scale's tangents, the time left is about

        tᵢ = i t₁ + n t₀ ln ε/ln dᵢ₊₁

    where a sweep takes t₀ per point and a tangent t₁ more. The i with the least tᵢ is chosen. Before both times are
    known, points with a doubt above 0.05 get tangents.

    That is an estimate, which overrates tangents where secants learn quickly. So, after an increment in which tangents
    were computed, one goes with few, those of points with a doubt above 0.3, and from then on what took less time
    leads, as long as it does.
    """

    def __init__(self) -> None:
        self._sweep = self._tangent = math.nan
        self._seconds = {"many": math.nan, "few": math.nan}
        self._spent, self._computed = 0.0, 0
        self._leads = "many"

    def begin(self, *, repeated: bool) -> None:
        """An increment begins; whether it is the last one again, which then has not been solved.

        With few tangents that may be the reason: they never lead again. With many it is not, and the time adds up.
        """
        if repeated and self._leads == "many":
            return
        if self._spent and (self._computed or self._leads == "few"):
            seconds = math.inf if repeated else self._spent
            self._seconds[self._leads] = _mean(self._seconds[self._leads], seconds)
        others = {"many": "few", "few": "many"}[self._leads]
        if self._seconds[self._leads] > self._seconds[others] or self._computed and math.isnan(self._seconds[others]):
            self._leads = others
        self._spent, self._computed = 0.0, 0

    def among(self, doubt: Array) -> NDArray[np.bool_]:
        """Mask (n,) of the points whose tangents are to be computed."""
        if self._leads == "few":
            return np.asarray(doubt > _POOR)
        if math.isnan(self._tangent) or math.isnan(self._sweep):
            return np.asarray(doubt > _UNMEASURED)
        left = np.append(np.sort(doubt)[::-1], 0.0)
        times = np.arange(len(left)) * self._tangent + len(doubt) * self._sweep * sweeps_left(left)
        best = int(times.argmin())
        return np.asarray(doubt > left[best]) if best else np.zeros(len(doubt), dtype=bool)

    def learn(self, points: int, tangents: int, seconds: float) -> None:
        """Enter how long a sweep over some points with some tangents took."""
        self._spent += seconds
        self._computed += tangents
        if points and not tangents:
            self._sweep = _mean(self._sweep, seconds / points)
        elif tangents:
            sweep = 0.0 if math.isnan(self._sweep) else self._sweep * points
            self._tangent = _mean(self._tangent, max(seconds - sweep, 0.0) / tangents)


def sweeps_left(doubt: ArrayLike) -> Array:
    """Sweeps ln ε/ln d that it takes to become more accurate by ε = 1e-6, with doubts d."""
    return np.asarray(math.log(_REDUCTION) / np.log(np.clip(doubt, 1e-12, 0.9)))


def _mean(known: float, new: float) -> float:
    return new if math.isnan(known) else _MEMORY * known + (1.0 - _MEMORY) * new

"""Modified Newton's method for many RVEs at once: residuals alone are assembled, and factors are shared.

    w ← w − M⁻¹ r(g, w),   T ≈ T(g, w) + Sᵀ r / |Y|,   S ≈ dw/dg

One iteration costs a residual and a back-substitution, an order of magnitude less than a Newton iteration, which
assembles and factorises K. With the error e = −K⁻¹ r of w, the condensed flux errs by (S* − S)ᵀ K e + O(e²), S* being
the true sensitivity: two small factors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coupling.contract import Array
from coupling.ledger import Ledger
from solver_adapters.rve.cell_problem import CellProblem
from solver_adapters.rve.guesses import Starts
from solver_adapters.rve.shared_factors import SharedFactors

_MOST_ITERATIONS = 12
_SLOWEST_RATE = 0.7
LARGEST_DEFECT = 0.3
LEFT = 0.1  # of the error of w is left by the last correction
DEFECT = 5.0  # of a sensitivity in any direction, relative to what it errs by in that of the step


@dataclass(frozen=True)
class Corrected:
    """Where the iterations of n points ended.

    Args:
        fluctuation: (n, N), corrected by the residual that the flux was condensed with.
        flux: (n, m) condensed; NaN where the iteration failed.
        error: (n,) estimated error of the flux.
        which: (n,) factor that each point used.
        defect: (n,) estimated relative error of the sensitivity, LARGEST_DEFECT where nothing is known of it.
        left: (n,) estimated error of w after that, in units of strain.
    """

    fluctuation: Array
    flux: Array
    error: Array
    which: NDArray[np.intp]
    defect: Array
    left: Array

    @property
    def failed(self) -> NDArray[np.bool_]:
        """Mask (n,) of the points that did not converge."""
        return np.asarray(np.isnan(self.flux[:, 0]))


@dataclass(frozen=True)
class Start:
    """What the iteration of n points starts from.

    Args:
        gradient: (n, k), g.
        starts: w, with residuals that are known there; its residuals are overwritten.
        sensitivity: (n, N, k), S.
        step: (n,), |g − g₀| from the state in which w was an equilibrium.
        error: (n,), error of S relative to |S| in the direction of the step where w is a guess, elsewhere NaN.
        defect: (n,), least error of S in any direction, from what is known of it beforehand.
        left: (n,), error that w brings with it from the last equilibrium, in units of strain.
    """

    gradient: Array
    starts: Starts
    sensitivity: Array
    step: Array
    error: Array
    defect: Array
    left: Array

    def defects(self, where: NDArray[np.intp], size: Array) -> Array:
        """Relative errors (c,) of the sensitivities of some points, whose w err by ``size`` (c,) in units of strain."""
        with np.errstate(divide="ignore", invalid="ignore"):
            along = np.maximum(size - self.left[where], 0.0) / self.step[where]
            told = DEFECT * np.fmax(along, self.error[where])
        return np.asarray(np.fmin(LARGEST_DEFECT, np.fmax(told, self.defect[where])))


def strain_error(residual: Array, correction: Array, weight: float) -> Array:
    """Errors d (…) of fields in units of strain, from r and M⁻¹r (…, N) and the weight |Y| scale."""
    return np.asarray(np.sqrt(np.abs((residual * correction).sum(axis=-1)) / weight))


def modified_newton(
    problem: CellProblem, factors: SharedFactors, start: Start, *, tolerance: float, scale: float, ledger: Ledger
) -> Corrected:
    """Iterate until the estimated error of each flux is below ``tolerance`` times ``scale``.

    In units of strain the error of w is d = √(r·M⁻¹r/(|Y| scale)). The predictor w₀ + S (g − g₀) starts with d = d₀, so
    that S errs by about d₀/|g − g₀| in that direction; a guess w₀ + ŵ(g) − ŵ(g₀) says the same of ∂ŵ/∂g, which errs by
    no less than is given besides. The estimated error of the flux is five times that times d, plus d².

    Args:
        problem: the RVE problem.
        factors: its factors, of which more are made where points contract too slowly.
        start: gradients and starting values.
        tolerance: error of the flux relative to ``scale``.
        scale: norm of the tangent in the reference state.
        ledger: counts ``rve/corrections``, one for each iteration of each point.
    """
    g, w, residual = start.gradient, start.starts.fluctuation.copy(), start.starts.residual
    n = len(g)
    flux, error = np.full((n, problem.spec.m), np.nan), np.full(n, np.inf)
    which = factors.cover(g, w)
    active, size_before, defect = np.arange(n), np.full(n, np.nan), np.full(n, LARGEST_DEFECT)
    for iteration in range(_MOST_ITERATIONS):
        for i in active if iteration else np.flatnonzero(np.isnan(residual[:, 0])):
            problem.residual(g[i], w[i], residual[i])
        ledger.count("rve/corrections", active.size)
        active = active[np.isfinite(residual[active]).all(axis=1)]
        r = residual[active]
        correction = factors.solve(which[active], r)
        size = strain_error(r, correction, problem.volume * scale)
        if iteration == 0:
            defect[active] = start.defects(active, size)
        rate = size / size_before[active]
        if iteration == 1 and 2 * active.size > n:  # the last few to converge are the slowest
            factors.learn(g[active], which[active], rate)
        size_before[active] = size
        error[active] = defect[active] * size + size**2
        converged = error[active] <= tolerance
        for i in active[converged]:
            problem.flux(g[i], w[i], flux[i])
        done = active[converged]
        flux[done] += (
            np.matmul(residual[done, None, :], start.sensitivity[done])[:, 0, -problem.spec.m :] / problem.volume
        )
        w[active] -= correction
        active = active[~converged & ~(rate > _SLOWEST_RATE)]
        if not active.size:
            break
    return Corrected(w, flux, error * scale, which, defect, LEFT * size_before)

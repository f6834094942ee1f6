"""Modified Newton's method for RVEs with history, whose points get a new factor where the shared ones serve them badly.

    w ← w − M⁻¹ r(g, w; h₀),   T ≈ T(g, w; h₀) + Sᵀ r / |Y|

Stiffnesses jump where materials begin to yield or to unload, so that the distance of two gradients says little of
them: how fast a factor contracts is seen from the second iteration on. Sensitivities jump, too, and the history follows
from w itself: the iteration goes on until w is as exact as the flux has to be.
"""

from __future__ import annotations

import numpy as np

from coupling.contract import Array
from coupling.ledger import Ledger
from solver_adapters.rve.cell_problem import CellProblem
from solver_adapters.rve.modified_newton import LARGEST_DEFECT, LEFT, Corrected, Start
from solver_adapters.rve.shared_factors import SharedFactors

_MOST_ITERATIONS = 12
_SLOW = 0.3  # contraction from which on a factor is renewed
_UNTRIED = 10.0  # times the correction by a factor of unknown contraction is the error


def renewing_newton(
    problem: CellProblem,
    factors: SharedFactors,
    start: Start,
    history: Array,
    *,
    tolerance: float,
    scale: float,
    ledger: Ledger,
) -> Corrected:
    """Iterate until d = √(r·M⁻¹r/(|Y| scale)), the error of w in units of strain, is below ``tolerance``.

    A point that diverges goes back to where it was before its factor is renewed.

    Args:
        problem: the RVE problem.
        factors: its factors.
        start: gradients and starting values.
        history: (n, h), h₀.
        tolerance: error of the flux relative to ``scale``.
        scale: norm of the tangent in the reference state.
        ledger: counts ``rve/corrections``, one for each iteration of each point.
    """
    g, w, residual = start.gradient, start.starts.fluctuation.copy(), start.starts.residual
    n, m = len(g), problem.spec.m
    flux, error, which = np.full((n, m), np.nan), np.full(n, np.inf), factors.assigned(g)
    active, before, last, defect = np.arange(n), w.copy(), np.full(n, np.nan), np.full(n, LARGEST_DEFECT)
    for iteration in range(_MOST_ITERATIONS):
        for i in active if iteration else np.flatnonzero(np.isnan(residual[:, 0])):
            problem.residual(g[i], w[i], residual[i], history[i])
        ledger.count("rve/corrections", active.size)
        active = active[np.isfinite(residual[active]).all(axis=1)]
        correction = factors.solve(which[active], residual[active])
        size = np.sqrt(np.abs((residual[active] * correction).sum(axis=1)) / (problem.volume * scale))
        if iteration == 0:
            defect[active] = start.defects(active, size)
        rate = size / last[active]
        error[active] = np.where(np.isnan(rate), _UNTRIED, 1.0) * size
        done, slow = error[active] <= tolerance, rate > _SLOW
        for i in active[done]:
            problem.flux(g[i], w[i], flux[i], history[i])
            flux[i] += (residual[i] @ start.sensitivity[i])[-m:] / problem.volume
        last[active] = np.where(slow, np.nan, size)
        for j in np.flatnonzero(slow & ~done):
            i = active[j]
            w[i] = before[i] if rate[j] > 1.0 else w[i]
            try:
                which[i] = factors.renewed(g[i], w[i], history[i])
            except ArithmeticError:
                done[j] = True
                continue
            correction[j] = 0.0 if rate[j] > 1.0 else factors.solve(which[[i]], residual[[i]])[0]
        before[active] = w[active]
        w[active] -= correction
        active = active[~done]
        if not active.size:
            break
    return Corrected(w, flux, error * scale, which, defect, LEFT * error)

"""Modified Newton's method for RVEs with history, whose points get a new factor where the shared ones serve them badly.

    w ← w − M⁻¹ r(g, w; h₀),   T ≈ T(g, w; h₀) + Sᵀ r / |Y|

Stiffnesses jump where materials begin to yield or to unload, so that the distance of two gradients says little of
them: how fast a factor contracts is seen from the second iteration on. A new factor makes a full Newton iteration,
which tells tangent and sensitivity for a few more back-substitutions. Sensitivities jump, too, and the history follows
from w itself: the iteration goes on until w is as exact as the flux has to be.
"""

from __future__ import annotations

import numpy as np

from coupling.contract import Array
from coupling.ledger import Ledger
from solver_adapters.rve.cell_problem import CellProblem, Linearisation
from solver_adapters.rve.modified_newton import LARGEST_DEFECT, LEFT, Corrected, Start, strain_error
from solver_adapters.rve.shared_factors import SharedFactors

_MOST_ITERATIONS = 12
_SLOW = 0.3  # contraction from which on a factor is renewed
_ENOUGH = 3  # new factors at a point, after which it has to come closer with each of them
_CLOSER = 0.5
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
) -> tuple[Corrected, Array]:
    """Iterate until d = √(r·M⁻¹r/(|Y| scale)), the error of w in units of strain, is below ``tolerance``.

    A point that diverges goes back to where it was before its factor is renewed. One that new factors do not bring
    closer any more is given up, since Newton's method with a line search has better prospects there.

    Args:
        problem: the RVE problem.
        factors: its factors.
        start: gradients and starting values; sensitivities are overwritten where tangents are told.
        history: (n, h), h₀.
        tolerance: error of the flux relative to ``scale``.
        scale: norm of the tangent in the reference state.
        ledger: counts ``rve/corrections``, one for each iteration of each point, and ``rve/tangents``.

    Returns:
        Where the iterations ended, and condensed tangents (n, m, k): NaN at points that have got no new factor, and
        under a border.
    """
    g, w, residual, S = start.gradient, start.starts.fluctuation.copy(), start.starts.residual, start.sensitivity
    n, m, k = len(g), problem.spec.m, problem.spec.k
    flux, tangent = np.full((n, m), np.nan), np.full((n, m, k), np.nan)
    error, which = np.full(n, np.inf), factors.assigned(g)
    untried = 0.0 if problem.linear else _UNTRIED  # the first correction ends at the solution, the flux is its
    weight = problem.volume * scale
    active, before, last, defect = np.arange(n), w.copy(), np.full(n, np.nan), np.full(n, LARGEST_DEFECT)
    renewals, least = np.zeros(n, dtype=int), np.full(n, np.inf)
    for iteration in range(_MOST_ITERATIONS):
        for i in active if iteration else np.flatnonzero(np.isnan(residual[:, 0])):
            problem.residual(g[i], w[i], residual[i], history[i])
        ledger.count("rve/corrections", active.size)
        active = active[np.isfinite(residual[active]).all(axis=1)]
        correction = factors.solve(which[active], residual[active])
        size = strain_error(residual[active], correction, weight)
        if iteration == 0:
            defect[active] = start.defects(active, size)
        rate = size / last[active]
        error[active] = np.where(np.isnan(rate), untried, 1.0) * size
        done, slow = error[active] <= tolerance, rate > _SLOW
        stuck = slow & (renewals[active] >= _ENOUGH) & (size > _CLOSER * least[active])
        least[active] = np.fmin(least[active], size)
        for i in active[done]:
            problem.flux(g[i], w[i], flux[i], history[i])
            flux[i] += (residual[i] @ S[i])[-m:] / problem.volume
        done |= stuck
        renewals[active[slow & ~done]] += 1
        for j in np.flatnonzero(slow & ~done):
            i = active[j]
            w[i] = before[i] if rate[j] > 1.0 else w[i]
            try:
                which[i], system, X = _newton_step(problem, factors, g[i], w[i], history[i])
            except ArithmeticError:
                done[j] = True
                continue
            correction[j], size[j] = X[:, 0], strain_error(system.right[:, 0], X[:, 0], weight)
            if problem.border is None:
                S[i], G = -X[:, 1:], np.asarray(system.right.T @ X / problem.volume)
                tangent[i] = system.condensed(G)[1]
                ledger.count("rve/tangents")
        last[active], before[active] = size, w[active]
        w[active] -= correction
        active = active[~done]
        if not active.size:
            break
    return Corrected(w, flux, error * scale, which, defect, LEFT * error), tangent


def _newton_step(
    problem: CellProblem, factors: SharedFactors, gradient: Array, fluctuation: Array, history: Array
) -> tuple[int, Linearisation, Array]:
    """Index of a new factor, the linearised problem with residual r and coupling L, and K⁻¹[r, L] (N, 1 + k)."""
    system = problem.linearise(gradient, fluctuation, history)
    which, columns = factors.renewed(gradient), system.right[:, : 1 + problem.spec.k]
    return which, system, factors.solve(np.full(columns.shape[1], which), np.ascontiguousarray(columns.T)).T

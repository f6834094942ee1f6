"""The same final tolerance from whichever start."""

from __future__ import annotations

from petsc4py import PETSc

import numpy as np


class StartTolerance:
    """Measures convergence relative to the residual at the standard start, for one solve at a time.

    PETSc's own test is ‖F‖ ≤ max(atol, rtol ‖F₀‖) with the residual ‖F₀‖ of the start, which a good guess makes so
    small that its digits are computed twice, or that round-off never gets below. So atol is raised to rtol
    ‖F(standard)‖, and the divergence tolerance in the ratio of the residuals, until the solve has ended. A convergence
    test that the user has set in Python is left alone.

    Whoever holds releases: a solve that ends by an exception leaves the tolerances as they are.

    Args:
        snes: the solver.
    """

    def __init__(self, snes: PETSc.SNES) -> None:
        self._snes = snes
        self._held: tuple[tuple[float, float], tuple[float, float]] | None = None

    def hold(self, at_standard: float, at_guess: float, share: float = 1.0) -> None:
        """Keep the tolerance of the standard start, or that share of it, through the solve that begins."""
        if self._snes.getConvergenceTest() is not None or not np.isfinite(at_standard):
            return
        rtol, atol, _, _ = self._snes.getTolerances()
        divergence = self._snes.getDivergenceTolerance()
        raised = max(atol, share * rtol * at_standard)
        scaled = divergence * at_standard / at_guess if divergence > 0.0 and at_guess > 0.0 else divergence
        self._snes.setTolerances(atol=raised)
        self._snes.setDivergenceTolerance(scaled)
        self._held = ((atol, raised), (divergence, scaled))

    def release(self) -> None:
        """Give the tolerances back that were found, but for those that have been set anew meanwhile."""
        if self._held is None:
            return
        (atol, raised), (divergence, scaled) = self._held
        self._held = None
        if self._snes.getTolerances()[1] == raised:
            self._snes.setTolerances(atol=atol)
        if self._snes.getDivergenceTolerance() == scaled:
            self._snes.setDivergenceTolerance(divergence)

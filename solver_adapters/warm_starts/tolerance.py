"""The same final tolerance from whichever start."""

from __future__ import annotations

import numpy as np

from solver_adapters.warm_starts.borrowed import Borrowed


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

    def __init__(self, snes: Borrowed) -> None:
        self._snes = snes
        self._held: tuple[tuple[float, float], tuple[float, float]] | None = None

    def hold(self, at_standard: float, at_guess: float) -> None:
        """Keep the tolerance of the standard start through the solve that begins; both are residual norms.

        Where they are known up to an error, a lower bound at the standard start makes the tolerance no looser.
        """
        snes = self._snes()
        if snes.getConvergenceTest() is not None or not np.isfinite(at_standard):
            return
        rtol, atol, _, _ = snes.getTolerances()
        divergence = snes.getDivergenceTolerance()
        raised = max(atol, rtol * at_standard)
        scaled = divergence * at_standard / at_guess if divergence > 0.0 and at_guess > 0.0 else divergence
        snes.setTolerances(atol=raised)
        snes.setDivergenceTolerance(scaled)
        self._held = ((atol, raised), (divergence, scaled))

    def release(self) -> None:
        """Give the tolerances back that were found, but for those that have been set anew meanwhile."""
        if self._held is None:
            return
        (atol, raised), (divergence, scaled) = self._held
        self._held, snes = None, self._snes()
        if snes.getTolerances()[1] == raised:
            snes.setTolerances(atol=atol)
        if snes.getDivergenceTolerance() == scaled:
            snes.setDivergenceTolerance(divergence)

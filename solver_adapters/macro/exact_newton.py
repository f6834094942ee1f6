"""Newton's method at two levels: the model of the closures finds a solution, exact sweeps tell how good it is.

    until ‖F(u, q(u))‖ ≤ √(1 − φ²) max(atol, rtol·scale), q swept to φ = ¼ of that:
        Newton's method with the model, anchored at the last sweep, from u
        sweep at the new u

The residual that decides is that of a classical run, on the same scale. Fluxes are swept no more accurately than it
warrants (the forcing term of an inexact Newton method; Eisenstat & Walker 1996, SIAM J. Sci. Comput. 17, 16–32): their
errors enter the residual of the next sweep, so that they need not be smaller than that will be, judging by the last
load step, or by superlinear convergence. With history, or where models have failed before, a step begins with a rough
sweep: paths turn, and then it shows that a model leads nowhere. The last fluxes meet a quarter of the tolerance of the
residual, which has to be that much smaller: their errors are independent of it, so that both together meet the
tolerance.

In a SNES fluxes are scaled by what they change the residual (:mod:`solver_adapters.macro.swept_starts`). In forms their
tolerance is relative to their root mean square: random errors that reach it would change the residual by 2.5 to 10
times as much, for 3 × 2 to 32 × 24 cells of Cook's membrane. Those of RVEs stay far below it, and the true residual
below 0.3 of its tolerance (up to 20 × 15 cells); where they are larger, sweeps fail and classical solves take over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from coupling.contract import Array
from solver_adapters.level import Level
from solver_adapters.macro.load_stepping import Solved

INNER = 0.5
"""Of the tolerance is left to iterations with models: those that start from a residual just below it go on, too."""

_MOST_SWEEPS = 12
_FINAL = 0.25  # of the tolerance of the residual is that of the last fluxes
_ENOUGH = math.sqrt(1.0 - _FINAL**2)
_WORTH = 10.0  # a sweep that is less rough than this times the last ones may be the last
_REDUCTION = 3e-5  # of the residual by a sweep, while there is no experience
_HOPELESS = 0.5
_SETBACK = 0.75  # of the residual is left by a sweep that counts as none; one of them is permitted
_FRACTION = 0.1  # of a residual to come is the permitted error of fluxes
_ROUGH = 0.1  # tolerance of the first sweep where models have failed, or may
_TINY = 1e-300


@dataclass(frozen=True)
class Measured:
    """Norm of a residual, the tolerance that it has to meet, the scale of the forces, and what its fluxes err by.

    Args:
        norm: ‖F‖.
        target: its tolerance.
        scale: of the forces.
        error: of fluxes, at most, relative to their magnitude.
    """

    norm: float
    target: float
    scale: float
    error: float

    @property
    def relative(self) -> float:
        """Norm relative to the scale of the forces."""
        return self.norm / self.scale if self.scale > 0.0 else 0.0


class TwoLevelProblem(Protocol):
    """What the method needs of a macroscopic problem; all methods are collective."""

    def iterate(self, level: Level) -> Solved | None:
        """Newton's method from the present iterate, with closures asked at that level; None where it fails."""
        ...

    def measure(self, level: Level) -> Measured | None:
        """Residual at the present iterate, with closures asked at that level; None where a point fails."""
        ...

    def go_back(self) -> None:
        """Return to the first iterate and the committed states of the fluxes."""
        ...

    def values(self) -> Array:
        """Copy of the present iterate on this rank."""
        ...

    def is_at(self, values: Array) -> bool:
        """Whether the present iterate is the one that had these values, on all ranks."""
        ...

    def relative_tolerance(self) -> float:
        """Tolerance of the residual relative to its scale, after an iteration with models."""
        ...

    def count(self, name: str, n: int = 1) -> None:
        """Enter what all ranks did together."""
        ...


class ExactNewton:
    """The method, with what it has learnt of its models in earlier steps.

    A step is tried with the learned model, then with the plain one. A model with which sweeps do not bring the residual
    down is left out of the next steps, of twice as many each time. Where no point used the learned model, both lead to
    the same first iterate: if the sweep there has ended the first attempt, it would end the second one, too.

    Args:
        history: whether a closure has history, so that the path may turn, and models fail, in any step.
    """

    def __init__(self, *, history: bool = False) -> None:
        self._hopeless: Array | None = None
        self._trust = {True: _Trust(history), False: _Trust(history)}

    def solve(self, problem: TwoLevelProblem) -> Solved | None:
        """The solution, or None where neither model leads to it; the problem is then back where it was."""
        self._hopeless = None
        for learned in (True, False):
            trust = self._trust[learned]
            if not trust.tries():
                continue
            solved = self._attempt(problem, trust, learned)
            trust.enter(solved is not None)
            if solved is not None:
                return solved
            problem.count("macro/models refused")
            problem.go_back()
        return None

    def _attempt(self, problem: TwoLevelProblem, trust: _Trust, learned: bool) -> Solved | None:
        norms, iterations, setbacks = [1.0], 0, 0
        for sweep in range(1, _MOST_SWEEPS + 1):
            inner = problem.iterate(Level(learned=learned))
            if inner is None or sweep == 1 and self._hopeless is not None and problem.is_at(self._hopeless):
                return None
            self._hopeless = problem.values() if sweep == 1 else None
            iterations += inner.iterations
            measured = self._measured(problem, trust, norms)
            if measured is None:
                return None
            norms.append(measured.relative)
            if measured.norm <= _ENOUGH * measured.target:
                trust.remember(norms)
                return Solved(iterations, f"CONVERGED_EXACT_SWEEPS ({sweep})")
            setbacks += norms[-1] > _SETBACK * norms[-2]
            if setbacks > 1 or norms[-1] > _HOPELESS:
                return None
        return None

    def _measured(self, problem: TwoLevelProblem, trust: _Trust, norms: Sequence[float]) -> Measured | None:
        """Residual at the present iterate, by a sweep, and further ones while it may be nothing but errors of fluxes.

        Sweeps end with one that meets the final tolerance where the residual is small enough for a solution.
        """
        final, tolerance = _FINAL * problem.relative_tolerance(), trust.expected(norms)
        while tolerance > _WORTH * final:
            measured = self._sweep(problem, tolerance)
            if measured is None or measured.error <= final:
                return measured
            if measured.norm <= _ENOUGH * measured.target:
                break
            if measured.relative > tolerance:
                return measured
            tolerance = _extrapolated([*norms, measured.relative])
        return self._sweep(problem, final)

    def _sweep(self, problem: TwoLevelProblem, tolerance: float) -> Measured | None:
        problem.count("macro/exact sweeps")
        return problem.measure(Level(tolerance=tolerance))


class _Trust:
    """Experience with a model: residuals after each sweep of its last step, and how often it failed."""

    def __init__(self, history: bool) -> None:
        self._norms: list[float] = []
        self._failures = self._pause = 0
        self._may_fail = history

    def tries(self) -> bool:
        if self._pause:
            self._pause -= 1
            return False
        return True

    def enter(self, success: bool) -> None:
        self._failures = 0 if success else self._failures + 1
        self._pause = 0 if success else 2**self._failures - 1
        self._may_fail |= not success

    def expected(self, norms: Sequence[float]) -> float:
        """Permitted error of the next sweep's fluxes after residuals ``norms``, the first of them 1.

        By experience that is what the next sweep but one will leave.
        """
        done = len(norms)
        if done == 1 and self._may_fail:
            return _ROUGH
        if not self._norms:
            return _REDUCTION**2 if done == 1 else _extrapolated(norms)
        if done + 1 >= len(self._norms):
            return 0.0
        seen = self._norms[done + 1] * (norms[-1] / self._norms[done - 1])
        return seen if done == 1 else min(seen, _FRACTION * norms[-1] * _rate(norms))

    def remember(self, norms: Sequence[float]) -> None:
        self._norms = list(norms)


def _extrapolated(norms: Sequence[float]) -> float:
    """Permitted error of fluxes after residuals of superlinear convergence, the next of which is about r ρ²."""
    return norms[-1] * max(_FRACTION * _rate(norms) ** 2, _REDUCTION)


def _rate(norms: Sequence[float]) -> float:
    """ρ, the last reduction."""
    return min(norms[-1] / max(norms[-2], _TINY), 1.0)

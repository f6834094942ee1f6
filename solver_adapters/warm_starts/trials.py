"""How the residuals of trial states are evaluated, of which the better one is where a solver starts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias

from petsc4py import PETSc

Evaluate: TypeAlias = Callable[[PETSc.Vec, PETSc.Vec], float]
"""Sets the second vector to F − b at the first; returns a bound of the error that its norm may have."""

Trials: TypeAlias = Callable[[], AbstractContextManager[Evaluate]]
"""Makes a context for the comparison of trial states, the standard start first, that begins."""

_NAME = "twoscale_trials"


def set_trials(snes: PETSc.SNES, trials: Trials | None) -> None:
    """Let trial states of a SNES be evaluated within such a context from now on; None evaluates its function."""
    snes.setAttr(_NAME, trials)


def trials(snes: PETSc.SNES) -> AbstractContextManager[Evaluate]:
    """The context for trial states of a SNES."""
    context: Trials | None = snes.getAttr(_NAME)
    return nullcontext(_exactly(snes)) if context is None else context()


def _exactly(snes: PETSc.SNES) -> Evaluate:
    def evaluate(x: PETSc.Vec, r: PETSc.Vec) -> float:
        snes.computeFunction(x, r)
        return 0.0

    return evaluate

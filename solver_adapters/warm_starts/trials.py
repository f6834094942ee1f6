"""How a solver wants the residuals of trial states to be evaluated, where these only tell which start is better."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias

from petsc4py import PETSc

Trials: TypeAlias = Callable[[], AbstractContextManager[float]]
"""Makes a context for trial states; its value is the share of their residuals that is sure to be there."""

_NAME = "twoscale_trials"


def set_trials(snes: PETSc.SNES, trials: Trials) -> None:
    """Let trial states of a SNES be evaluated within such a context from now on."""
    snes.setAttr(_NAME, trials)


def trials(snes: PETSc.SNES) -> AbstractContextManager[float]:
    """The context for trial states of a SNES; where none is set, their residuals are the true ones."""
    context: Trials | None = snes.getAttr(_NAME)
    return nullcontext(1.0) if context is None else context()

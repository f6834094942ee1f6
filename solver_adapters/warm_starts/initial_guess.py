"""The initial guess function of a SNES, in other hands for a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from petsc4py import PETSc

InitialGuess: TypeAlias = tuple[Callable[..., None], Any, Any] | None
"""As ``snes.getInitialGuess()`` tells it: function, its arguments and keyword arguments; None where there is none."""


def apply_guess(guess: InitialGuess, snes: PETSc.SNES, x: PETSc.Vec) -> None:
    """Set x to the guess; without one it stays as it is."""
    if guess is not None:
        function, args, kargs = guess
        function(snes, x, *args, **kargs)


def set_guess(guess: InitialGuess, snes: PETSc.SNES) -> None:
    """Install the guess; None stands for one that leaves x as it is.

    PETSc does not take an initial guess back (SNESSetComputeInitialGuess ignores NULL).
    """
    snes.setInitialGuess(*(guess or (_keep,)))


def _keep(snes: PETSc.SNES, x: PETSc.Vec) -> None:
    """An initial guess that leaves x as it is."""

"""The initial guess function of a SNES, in other hands for a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from petsc4py import PETSc

InitialGuess: TypeAlias = tuple[Callable[..., None], Any, Any] | None
"""As ``snes.getInitialGuess()`` tells it: function, its arguments and keyword arguments; None where there is none."""

_NAME = "twoscale_no_guess"


def apply_guess(guess: InitialGuess, snes: PETSc.SNES, x: PETSc.Vec) -> None:
    """Set x to the guess; without one it stays as it is."""
    if guess is not None:
        function, args, kargs = guess
        function(snes, x, *args, **kargs)


def set_guess(guess: InitialGuess, snes: PETSc.SNES) -> None:
    """Install the guess, or none: ``snes.getInitialGuess()`` is the same guess from now on.

    PETSc itself takes no initial guess function back once it has had one: SNESSetComputeInitialGuess ignores NULL, and
    nothing else resets it (3.22 to 3.25). petsc4py goes on to call what PETSc has, from an address that it no longer
    keeps alive. So where there is to be none, PETSc is left with a function that does nothing, kept as an attribute.
    """
    if guess is not None:
        snes.setInitialGuess(*guess)
        return
    snes.setInitialGuess(_keep)
    snes.setAttr(_NAME, snes.getInitialGuess())
    snes.setInitialGuess(None)


def _keep(snes: PETSc.SNES, x: PETSc.Vec) -> None:
    """An initial guess that leaves x as it is."""

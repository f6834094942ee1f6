"""A function that is called whenever a solve of a SNES has ended, however it did."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from ctypes import c_void_p
from typing import Any, TypeAlias

from petsc4py import PETSc

from solver_adapters.petsc_versions import ReasonView, set_reason_view

AtEnd: TypeAlias = Callable[[], None] | None

_NAME = "twoscale_at_end"


def at_end(snes: PETSc.SNES) -> AtEnd:
    """What is called at the end of the solves of a SNES."""
    hook: _Hook | None = snes.getAttr(_NAME)
    return None if hook is None else hook.function


def set_at_end(snes: PETSc.SNES, function: AtEnd) -> None:
    """Call the function, and no other, at the end of each solve of a SNES from now on; None calls nothing.

    The first call adds a converged reason view to the SNES, which stays and is idle without a function: all that takes
    views back, SNESConvergedReasonViewCancel, takes those of others too, and that of ``-snes_converged_reason``.

    PETSc calls it after the last iteration of a solve that converged or diverged, with reason, norms and solution in
    place and before it raises an error if not converged. The function may solve again with the same SNES; what the SNES
    has then is how the solve ended. It is not called where a solve ends by an exception, nor for solves inside it, and
    it must not raise: PETSc calls no such function any more once one of them has failed.
    """
    hook: _Hook | None = snes.getAttr(_NAME)
    if hook is None and function is not None:
        hook = _Hook(snes)
        snes.setAttr(_NAME, hook)
    if hook is not None:
        hook.function = function


class _Hook:
    """A view of converged reasons that PETSc keeps as long as the SNES; one for each SNES, as it takes few of them."""

    def __init__(self, snes: PETSc.SNES) -> None:
        self.function: AtEnd = None
        self._view = ReasonView(self._call)  # kept, as PETSc has no more than its address
        set_reason_view(snes, self._view)

    def _call(self, snes: c_void_p, context: Any) -> int:
        try:
            if self.function is not None:
                self.function()
        except BaseException:  # nothing finds its way through C
            traceback.print_exc()
        return 0

"""Solvers that are used without being held, by what hangs on their own callbacks."""

from __future__ import annotations

import weakref
from typing import Any

from petsc4py import PETSc

from coupling.errors import ContractError
from solver_adapters.petsc_versions import wrapper

_NAME = "twoscale_alive"


class Borrowed:
    """A SNES or TS, for an object that is part of the context of a callback of this solver.

    Such an object must not hold petsc4py's wrapper of the solver. The solver would live forever; or, where PETSc alone
    holds it, as a TS its SNES, Python's garbage collector takes the wrapper and with it all contexts of the solver's
    callbacks for garbage, since petsc4py shows it that the wrapper leads to them, but not that PETSc still does. What
    is called next is then whatever lies at the address of a context.

    Args:
        solver: the solver.
    """

    def __init__(self, solver: PETSc.SNES | PETSc.TS) -> None:
        self._kind, self._handle = "TS" if isinstance(solver, PETSc.TS) else "SNES", solver.handle
        token = solver.getAttr(_NAME)
        if token is None:
            token = _Token()
            solver.setAttr(_NAME, token)
        self._token = weakref.ref(token)

    def __call__(self) -> Any:
        """A wrapper of the solver, for as long as it is needed.

        Raises:
            ContractError: the solver has been destroyed.
        """
        if not self.exists:
            raise ContractError(f"the {self._kind} that was to be used has been destroyed: keep it as long as this")
        return wrapper(self._kind, self._handle)

    @property
    def exists(self) -> bool:
        """Whether the solver has not been destroyed."""
        return self._token() is not None


class _Token:
    """An attribute that a solver takes along when it is destroyed."""

"""What differs between PETSc 3.22 and 3.25, of what is used here; all else is the same in them."""

from __future__ import annotations

from ctypes import CDLL, byref, c_int

from petsc4py import PETSc

_NAN = {"DIVERGED_FNORM_NAN", "DIVERGED_FUNCTION_NANORINF"}
DIVERGED_NAN: int = next(value for name, value in vars(PETSc.SNES.ConvergedReason).items() if name in _NAN)
"""SNES's reason for a residual that is not a number: the older and the newer name."""


def option_was_read(name: str) -> bool:
    """Whether an option in PETSc's database was asked for since it was set; the older petsc4py does not wrap that."""
    database = PETSc.Options()
    if hasattr(database, "used"):
        return bool(database.used(name))
    read = c_int(0)
    CDLL(PETSc.__file__).PetscOptionsUsed(None, name.encode(), byref(read))
    return bool(read.value)

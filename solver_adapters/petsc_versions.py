"""What differs between PETSc 3.22 and 3.25 or is missing from petsc4py, of what is used here; all else is the same."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import CDLL, CFUNCTYPE, PYFUNCTYPE, byref, c_char_p, c_int, c_void_p, py_object, pythonapi
from functools import cache
from typing import Any

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


ReasonView = CFUNCTYPE(c_int, c_void_p, c_void_p)
"""Function of a SNES and a context, which returns PETSc's error code."""


def set_reason_view(snes: PETSc.SNES, view: Callable[..., int]) -> None:
    """Add a :data:`ReasonView` at the end of each solve, SNESConvergedReasonViewSet; no petsc4py wraps that."""
    function = CDLL(PETSc.__file__).SNESConvergedReasonViewSet
    function.argtypes = [c_void_p, ReasonView, c_void_p, c_void_p]
    if code := function(snes.handle, view, None, None):
        raise PETSc.Error(code)


def wrapper(kind: str, handle: int) -> Any:
    """A new petsc4py object of a kind, such as "SNES", for a PETSc object at an address that exists."""
    return _new(kind)(handle)


@cache
def _new(kind: str) -> Callable[[int], Any]:
    """PyPetscSNES_New and the like, which petsc4py gives to C only."""
    capsule = PETSc.__pyx_capi__[f"PyPetsc{kind}_New"]
    name, pointer = pythonapi.PyCapsule_GetName, pythonapi.PyCapsule_GetPointer
    name.argtypes, name.restype = [py_object], c_char_p
    pointer.argtypes, pointer.restype = [py_object, c_char_p], c_void_p
    return PYFUNCTYPE(py_object, c_void_p)(pointer(capsule, name(capsule)))

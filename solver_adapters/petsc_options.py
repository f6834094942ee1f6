"""PETSc options that are in the database only while they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ctypes import CDLL, byref, c_int
from typing import Any

from petsc4py import PETSc


@contextmanager
def options_database(prefix: str, options: Mapping[str, Any], unread: set[str] | None = None) -> Iterator[None]:
    """Put options under the prefix into PETSc's database for the enclosed block, where the user has not set them.

    Args:
        prefix: prefix of the options' names.
        options: values by name without prefix.
        unread: set of names, out of which those are taken that somebody read in the block or that the user has set.
    """
    database = PETSc.Options()
    added = {name: value for name, value in options.items() if not database.hasName(prefix + name)}
    for name, value in added.items():
        database[prefix + name] = value
    try:
        yield
    finally:
        if unread is not None:
            unread -= {name for name in unread if name not in added or was_read(prefix + name)}
        for name in added:
            database.delValue(prefix + name)


def was_read(name: str) -> bool:
    """Whether an option in the database was asked for since it was set."""
    database = PETSc.Options()
    if hasattr(database, "used"):
        return bool(database.used(name))
    read = c_int(0)  # petsc4py before 3.25 does not wrap this function
    CDLL(PETSc.__file__).PetscOptionsUsed(None, name.encode(), byref(read))
    return bool(read.value)

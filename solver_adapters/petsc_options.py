"""PETSc options that are in the database only while they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from petsc4py import PETSc

from solver_adapters.petsc_versions import option_was_read


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
            unread -= {name for name in unread if name not in added or option_was_read(prefix + name)}
        for name in added:
            database.delValue(prefix + name)

"""PETSc options that are in the database only while they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from petsc4py import PETSc


@contextmanager
def options_database(prefix: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Put options under the prefix into PETSc's database for the enclosed block, where the user has not set them."""
    database = PETSc.Options()
    added = {prefix + name: value for name, value in options.items() if not database.hasName(prefix + name)}
    for name, value in added.items():
        database[name] = value
    try:
        yield
    finally:
        for name in added:
            database.delValue(name)

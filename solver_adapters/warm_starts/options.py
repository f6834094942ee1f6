"""Warm starts in PETSc's options database."""

from __future__ import annotations

from dataclasses import dataclass

from petsc4py import PETSc

from coupling.errors import ContractError
from coupling.predictors import NAMES

TYPES = ("none", *NAMES, "tangent", "projection")
"""Values of ``-PREFIX_warmstart_type``."""


@dataclass(frozen=True)
class WarmStartOptions:
    """What the database says under the prefix of a SNES.

        -PREFIX_warmstart_type       none, previous, linear, quadratic, tangent, projection, pod, dmd or edmd
        -PREFIX_warmstart_rank       largest number of modes
        -PREFIX_warmstart_window     number of last solutions to learn from
        -PREFIX_warmstart_monitor    one line per solve: residuals at both starts (or bounds), and which was used
        -PREFIX_warmstart_view       type and counts after each solve

    None where it says nothing.
    """

    type: str | None
    rank: int | None
    window: int | None
    monitor: bool
    view: bool

    @classmethod
    def read(cls, prefix: str | None) -> WarmStartOptions:
        """Read them.

        Raises:
            ContractError: unknown type.
        """
        database = PETSc.Options(f"{prefix or ''}warmstart_")

        def number(name: str) -> int | None:
            return database.getInt(name) if database.hasName(name) else None

        kind = database.getString("type", "") or None
        if kind is not None and kind not in TYPES:
            raise ContractError(f"-{prefix or ''}warmstart_type must be one of {', '.join(TYPES)}, got {kind!r}")
        return cls(
            kind, number("rank"), number("window"), database.getBool("monitor", False), database.getBool("view", False)
        )

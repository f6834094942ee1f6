"""Where in time the unknown of a TS's SNES lives."""

from __future__ import annotations

from petsc4py import PETSc

from coupling.errors import ContractError

_AT_END = (PETSc.TS.Type.BEULER, PETSc.TS.Type.CN, PETSc.TS.Type.BDF, PETSc.TS.Type.ALPHA, "alpha2")


def time_of_unknown(ts: PETSc.TS) -> float:
    """T + Δt, or the stage's t + θ Δt of a theta method without endpoint.

    Raises:
        ContractError: a method whose SNES solves for something other than the solution at a known time.
    """
    kind, step = ts.getType(), ts.getTimeStep()
    if kind in _AT_END:
        return float(ts.getTime() + step)
    if kind == PETSc.TS.Type.THETA:
        return float(ts.getTime() + (1.0 if ts.getThetaEndpoint() else ts.getTheta()) * step)
    raise ContractError(
        f"warm starts know the time of the unknown for {', '.join((*_AT_END, 'theta'))}, got a TS of type {kind!r}: "
        "use one of these, or warm_start(ts.getSNES(), parameter=...) with the time of each stage"
    )

"""Predictors of the next converged state of one problem from those found before.

    "previous", "linear", "quadratic"    polynomial through the last states            polynomial.py
    "pod"                                modes of the last states, their coefficients
                                         interpolated over the parameters               pod.py
    "dmd"                                linear dynamics from step to step              dmd.py
    "edmd"                               nonlinear dynamics, linear in observables      edmd.py

All follow :class:`coupling.guess.Predictor` with n = 1 row: x holds the load factor, the time or several parameters, y
the unknowns that this rank owns. The predicted state is always the last one plus a combination of the increments
between states; what is spread over ranks enters only through inner products of these (method of snapshots: L. Sirovich,
Quart. Appl. Math. 45 (1987) 561–571), summed over ``comm``, so that the result does not depend on the number of ranks.
"""

from __future__ import annotations

from typing import Any

from coupling.errors import ContractError
from coupling.guess import Predictor

DEGREES = {"previous": 0, "linear": 1, "quadratic": 2}
"""Names of the polynomial predictors with their degrees."""

NAMES = (*DEGREES, "pod", "dmd", "edmd")
"""Names that :func:`create_predictor` knows."""


def create_predictor(name: str, *, comm: Any = None, rank: int | None = None, window: int | None = None) -> Predictor:
    """The predictor of that name.

    Args:
        name: one of :data:`NAMES`.
        comm: communicator over which the unknowns are spread, None for one process.
        rank: largest number of modes, by default as many as the states resolve ("edmd": 4).
        window: number of last states to learn from, by default the predictor's own.

    Raises:
        ContractError: unknown name.
        MissingPackageError: "dmd" and "edmd" need PyDMD.
    """
    if name in DEGREES:
        from coupling.predictors.polynomial import PolynomialPredictor

        return PolynomialPredictor(DEGREES[name])
    given: dict[str, Any] = {k: v for k, v in (("rank", rank), ("window", window)) if v is not None}
    if name == "pod":
        from coupling.predictors.pod import PODPredictor

        return PODPredictor(comm=comm, **given)
    if name == "dmd":
        from coupling.predictors.dmd import DMDPredictor

        return DMDPredictor(comm=comm, **given)
    if name == "edmd":
        from coupling.predictors.edmd import EDMDPredictor

        return EDMDPredictor(comm=comm, **given)
    raise ContractError(f"no predictor is named {name!r}: choose one of {', '.join(NAMES)}")

"""Two levels of answers: a cheap model of a closure, and exact sweeps that anchor it.

A closure may offer, besides ``evaluate``, a view of itself at two levels. The *model* answers from what is known and
costs next to nothing; a *sweep* solves the fine scale, to a permitted error of the flux and with the tangents that the
model needs, and anchors the model at what it found. A macro solver that knows of the two drives its Newton iteration
with the model and sweeps where that has converged, again and again, until the residual with swept fluxes meets its
tolerance: the answer is that of the fine scale, whatever the model says.

A closure says so by an attribute ``two_level``, None where it has only one level.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from coupling.contract import Array, Closure, Response


@runtime_checkable
class TwoLevel(Protocol):
    """Both levels of one closure; points, states and hints are those of the closure."""

    def model(
        self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None, *, learned: bool
    ) -> Response:
        """Model anchored at ``hint``, else at ``state``, which it returns unchanged; ``learned=False`` for a plain one.

        The plain model is made of earlier answers of the fine scale alone.
        """
        ...

    def sweep(
        self,
        gradient: Array,
        state: Array | None,
        dt: float,
        hint: Array | None = None,
        *,
        tolerance: float,
        trial: bool = False,
    ) -> Response:
        """Flux of the fine scale, with an estimated error (``uncertainty``) of at most ``tolerance``.

        The tangent is that of the model anchored here. ``trial=True``: the flux is wanted where the iteration may never
        be, so that tangents of the fine scale are not worth their time and models are not judged by it.
        """
        ...


@runtime_checkable
class SweepingClosure(Closure, Protocol):
    """A fine scale that can answer with less than ``evaluate`` gives."""

    def sweep(
        self,
        gradient: Array,
        state: Array | None,
        dt: float,
        hint: Array | None = None,
        *,
        tolerance: float,
        tangent: NDArray[np.bool_],
    ) -> Response:
        """Flux with an estimated error (``uncertainty``) of at most ``tolerance``, in its unit.

        The tangent is computed where ``tangent`` (n,) says so, as well as a model needs it; other rows may hold NaN. A
        point that is not solved soon is NOT_CONVERGED: ``evaluate`` is for those.
        """
        ...


@runtime_checkable
class LearningSurrogate(Closure, Protocol):
    """A surrogate that learns from the fine scale's answers while a run goes on."""

    def learn(self, gradient: Array, flux: Array) -> bool:
        """Learn that the fine scale answers ``flux`` (n, m) at ``gradient`` (n, k); whether responses change with that.

        Called at the start of increments only, with the answers at the end of the last one, once or several times.
        Between two calls it responds as any closure.
        """
        ...


def two_level(closure: Closure) -> TwoLevel | None:
    """Both levels of a closure, None where it has one."""
    levels: TwoLevel | None = getattr(closure, "two_level", None)
    return levels

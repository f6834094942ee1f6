"""One outcome on all ranks for a surrogate that may fail on one of them."""

from __future__ import annotations

from typing import Any

from coupling.agreement import together
from coupling.contract import Array, Closure, Response


class CollectiveSurrogate:
    """The inner surrogate, whose ``evaluate`` raises on all ranks of a communicator where it raises on one.

    Then every :class:`coupling.AcceleratedClosure` has its fine scale serve the call, as one whose solves communicate
    needs it. ``evaluate`` is collective: all ranks call it together, those without points too.
    """

    def __init__(self, inner: Closure, comm: Any) -> None:
        self.inner, self.collective, self.spec = inner, comm, inner.spec

    def initial_state(self, n: int) -> Array | None:
        """The inner surrogate's."""
        return self.inner.initial_state(n)

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """The inner surrogate's answer, or an error on every rank."""
        return together(self.collective, lambda: self.inner.evaluate(gradient, state, dt, hint))

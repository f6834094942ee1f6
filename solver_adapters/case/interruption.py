"""Ctrl-C during a run: noticed between two points of a closure, told to all ranks, and nothing is lost by it."""

from __future__ import annotations

from coupling.contract import Array, Closure, Response
from coupling.errors import TwoscaleError
from coupling.interrupts import Interrupts


class RunInterrupted(TwoscaleError, RuntimeError):
    """A signal asked this rank to stop."""


class Interruptible:
    """The inner closure, which Ctrl-C leaves with :class:`RunInterrupted`: an error that all ranks agree on.

    Args:
        inner: the closure.
        interrupts: records signals.
    """

    def __init__(self, inner: Closure, interrupts: Interrupts) -> None:
        self.inner, self.spec = inner, inner.spec
        self._interrupts = interrupts

    def initial_state(self, n: int) -> Array | None:
        """The inner closure's."""
        return self.inner.initial_state(n)

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """The inner closure's answer."""
        try:
            with self._interrupts.raised():
                return self.inner.evaluate(gradient, state, dt, hint)
        except KeyboardInterrupt as error:
            raise RunInterrupted("interrupted") from error

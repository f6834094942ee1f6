"""Ctrl-C during a run: noticed between two points of a closure, told to all ranks, and nothing is lost by it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from coupling.contract import Array, Closure, Response
from coupling.errors import TwoscaleError
from coupling.interrupts import Interrupts
from coupling.two_level import TwoLevel, two_level


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
        return _answer(self._interrupts, lambda: self.inner.evaluate(gradient, state, dt, hint))

    @property
    def two_level(self) -> TwoLevel | None:
        """The inner closure's levels, left in the same way."""
        levels = two_level(self.inner)
        return None if levels is None else _InterruptibleLevels(levels, self._interrupts)


class _InterruptibleLevels:
    def __init__(self, levels: TwoLevel, interrupts: Interrupts) -> None:
        self._levels, self._interrupts = levels, interrupts

    def model(
        self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None, *, learned: bool
    ) -> Response:
        return _answer(self._interrupts, lambda: self._levels.model(gradient, state, dt, hint, learned=learned))

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
        ask = partial(self._levels.sweep, tolerance=tolerance, trial=trial)
        return _answer(self._interrupts, lambda: ask(gradient, state, dt, hint))


def _answer(interrupts: Interrupts, ask: Callable[[], Response]) -> Response:
    try:
        with interrupts.raised():
            return ask()
    except KeyboardInterrupt as error:
        raise RunInterrupted("interrupted") from error

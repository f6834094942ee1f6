"""At which level closures are asked: in full, for their model, or for a sweep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from coupling.contract import Array, Closure, Response
from coupling.two_level import two_level

Ask = Callable[[Array, Array | None, float, Array | None], Response]


@dataclass(frozen=True)
class Level:
    """What is asked of closures that have two levels; all others are asked in full.

    Args:
        tolerance: of a sweep, relative to the magnitude of the flux; None asks for no sweep.
        learned: which model, see :class:`coupling.two_level.TwoLevel`; None asks for no model.
        trial: whether a sweep is of a state where the iteration may never be.
    """

    tolerance: float | None = None
    learned: bool | None = None
    trial: bool = False

    @property
    def solves(self) -> bool:
        """Whether answers come from the fine scale, so that their states are new."""
        return self.learned is None

    def ask(self, closure: Closure, magnitude: float) -> Ask:
        """The closure's function of gradients, states, dt and hints, for fluxes of that magnitude."""
        levels = two_level(closure)
        if levels is None or (self.tolerance is None and self.learned is None):
            return closure.evaluate
        if self.tolerance is None:
            return partial(levels.model, learned=bool(self.learned))
        return partial(levels.sweep, tolerance=self.tolerance * magnitude, trial=self.trial)


EVALUATE = Level()

"""A closure at the points of a solver: what it answered last, and committed against trial states."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from coupling.contract import Array, Closure, Response, Status, check_response, finite_rows, usable
from coupling.errors import ContractError
from solver_adapters.level import EVALUATE, Level


class ClosurePoints(ABC):
    """The points of this rank at which a solver needs a closure; base of what puts fluxes into a solver.

    Args:
        closure: any object of the closure contract.
        n: number of points of this rank.
        name: name in error messages and output files.

    Attributes:
        state: committed state (n, s) of the points, None where the closure has none.
        gradient: gradients (n, k) that the last answer belongs to, None where there is none.
        failed: number of points of this rank that failed then.
        magnitude: size of the flux that the tolerance of a sweep is relative to.
    """

    def __init__(self, closure: Closure, n: int, name: str) -> None:
        self.closure, self.name = closure, name
        self.state = closure.initial_state(n)
        self.gradient: Array | None = None
        self.failed = 0
        self.magnitude = 1.0
        self._n, self._dt, self._level = n, np.nan, EVALUATE
        self._response: Response | None = None
        self._hint: Array | None = None

    @property
    def response(self) -> Response:
        """What the closure answered last, since the last failed solve."""
        if self._response is None:
            raise ContractError(f"{self.name!r} has not been evaluated: solve a step first")
        return self._response

    @abstractmethod
    def operand_values(self) -> Array:
        """Gradients (n, k) at the points for the present values of everything they depend on."""

    @abstractmethod
    def place(self, i: int) -> str:
        """Where point i is, for messages."""

    def is_stale(self, gradient: Array, dt: float, level: Level) -> bool:
        """Whether the last answer belongs to other gradients, another dt, level or committed state."""
        if self.gradient is None or dt != self._dt or level != self._level:
            return True
        return not self._is_same(gradient, self.gradient)

    def _is_same(self, gradient: Array, earlier: Array) -> bool:
        """Whether gradients are those that have been evaluated."""
        return np.array_equal(gradient, earlier)

    def evaluate(self, gradient: Array, dt: float, level: Level = EVALUATE) -> None:
        """Ask the closure, at that level, for the gradients (n, k), all points in one call."""
        self.gradient, self._dt, self._response, self.failed = None, np.nan, None, 0
        answer = level.ask(self.closure, self.magnitude)(gradient, self.state, dt, self._hint)
        response = self._checked(answer)
        self.gradient, self._dt, self._level, self._response = gradient, dt, level, response
        good = usable(response.status)
        if level.solves:
            self._keep_hint(response.state, good)
        self.failed = int(good.size - np.count_nonzero(good))

    def shift(self, change: Array) -> None:
        """Add to the flux (n, m) that was answered last, until the next answer."""
        self.response.flux[:] += change

    def commit(self) -> None:
        """Make the state of the last evaluation the committed one."""
        self.state = self.response.state
        self._hint = None
        if self.closure.spec.history:
            self.gradient = None

    def discard(self) -> None:
        """Forget what the present increment has left; the committed state stays."""
        self._hint, self._response, self.gradient, self.failed = None, None, None, 0

    def failures(self, at_most: int) -> list[str]:
        """One line for each of the first points that failed in the last evaluation."""
        if self._response is None or self.gradient is None:
            return []
        names = ", ".join(self.closure.spec.gradient)
        return [
            f"{self.name}: {self.place(int(i))}, {names} = {numbers(self.gradient[i])}: "
            f"{Status(self._response.status[i]).message}"
            for i in np.flatnonzero(~usable(self._response.status))[:at_most]
        ]

    def _checked(self, response: Response) -> Response:
        """The response, FAILED at points where it has numbers that are not finite."""
        try:
            check_response(self.closure.spec, response, self._n)
        except ContractError as error:
            raise ContractError(f"{type(self.closure).__name__} returned a malformed response: {error}") from error
        unchanged = response.state is self.state or response.state is self._hint
        spoiled = usable(response.status) & ~finite_rows(replace(response, state=None) if unchanged else response)
        if not spoiled.any():
            return response
        return replace(response, status=np.where(spoiled, np.int8(Status.FAILED), response.status))

    def _keep_hint(self, state: Array | None, good: NDArray[np.bool_]) -> None:
        earlier = self.state if self._hint is None else self._hint
        if state is None or earlier is None or good.all():
            self._hint = state
        else:
            self._hint = np.where(good[:, None], state, earlier)


def numbers(values: Array) -> str:
    """(1.5, 2), for messages."""
    return "(" + ", ".join(f"{v:.6g}" for v in values) + ")"

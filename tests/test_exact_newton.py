"""The method of two levels on one equation: what it takes for a solution."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from coupling.contract import Array
from solver_adapters.level import Level
from solver_adapters.macro.exact_newton import ExactNewton, Measured
from solver_adapters.macro.load_stepping import Solved


@dataclass
class Cubic:
    """q(u) = 1, q = u + u³/10; swept fluxes err by as much as they may, models are tangents at the last answer."""

    rtol: float
    atol: float
    u: float = 0.0
    anchor: tuple[float, float, float] = (0.0, 0.0, 1.0)
    swept: list[float] = field(default_factory=list)

    def iterate(self, level: Level) -> Solved:
        at, q, slope = self.anchor
        self.u = at + (1.0 - q) / slope
        return Solved(1, "")

    def measure(self, level: Level) -> Measured:
        error = level.tolerance
        q = self.u + self.u**3 / 10
        self.anchor = self.u, q + min(error, abs(1.0 - q)) * (1.0 if q < 1.0 else -1.0), 1.0 + 0.3 * self.u**2
        self.swept.append(error)
        return Measured(abs(self.anchor[1] - 1.0), max(self.atol, self.rtol), 1.0, error)

    def go_back(self) -> None:
        self.u, self.anchor = 0.0, (0.0, 0.0, 1.0)

    def values(self) -> Array:
        return np.array([self.u])

    def is_at(self, values: Array) -> bool:
        return bool(self.u == values[0])

    def relative_tolerance(self) -> float:
        return self.rtol

    def count(self, name: str, n: int = 1) -> None:
        pass


@pytest.mark.parametrize(("rtol", "atol"), [(1e-9, 1e-30), (1e-9, 1e-4), (1e-9, 1e-2), (1e-3, 1e-30)])
def test_fluxes_of_a_solution_are_as_accurate_as_the_tolerance_says(rtol, atol):
    newton = ExactNewton()
    for _ in range(3):
        problem = Cubic(rtol, atol)
        assert newton.solve(problem) is not None
        assert problem.swept[-1] <= 0.25 * rtol
        assert abs(problem.u + problem.u**3 / 10 - 1.0) <= 1.25 * max(rtol, atol)


@dataclass
class Hopeless(Cubic):
    """Sweeps that find no better residual, and a surrogate that some of the points believe, or none."""

    believed: bool = False

    def iterate(self, level: Level) -> Solved:
        self.u = 2.0 if level.learned and self.believed else 1.0
        return Solved(1, "")

    def measure(self, level: Level) -> Measured:
        self.swept.append(self.u)
        return Measured(0.9, self.rtol, 1.0, level.tolerance)


@pytest.mark.parametrize(("believed", "swept"), [(False, [1.0]), (True, [2.0, 1.0])])
def test_a_failed_attempt_is_not_repeated(believed, swept):
    problem = Hopeless(1e-9, 0.0, believed=believed)
    assert ExactNewton().solve(problem) is None
    assert problem.swept == swept


@dataclass
class Linear(Cubic):
    """q(u) = u, whose sweeps are exact whatever they are asked for."""

    def measure(self, level: Level) -> Measured:
        self.swept.append(level.tolerance)
        return Measured(abs(self.u - 1.0), self.rtol, 1.0, 0.0)


def test_fluxes_that_are_exact_already_are_not_swept_again():
    problem = Linear(1e-9, 0.0)
    assert ExactNewton(history=True).solve(problem) is not None
    assert len(problem.swept) == 1


def test_with_history_every_step_begins_with_a_rough_sweep():
    newton = ExactNewton(history=True)
    for _ in range(3):
        problem = Cubic(1e-9, 0.0)
        assert newton.solve(problem) is not None
        assert problem.swept[0] > 0.01
        assert problem.swept[-1] <= 0.25e-9

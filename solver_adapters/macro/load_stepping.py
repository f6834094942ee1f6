"""Adaptive load stepping over any nonlinear problem with history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from coupling.agreement import together
from coupling.contract import Array
from coupling.errors import ContractError, StepError

PREDICTORS = {"previous": 1, "linear": 2, "quadratic": 3}
"""Predictors by name, with the number of converged solutions each of them passes through."""


@dataclass(frozen=True)
class Solved:
    """How one solve converged: Newton iterations and the solver's reason."""

    iterations: int
    reason: str


@dataclass(frozen=True)
class StepRecord:
    """One converged step: load λ reached, size Δλ, Newton iterations, reason, cut-backs it took before."""

    load: float
    size: float
    iterations: int
    reason: str
    cutbacks: int


class LoadProblem(Protocol):
    """What load stepping needs of a problem."""

    @property
    def comm(self) -> Any:
        """Communicator of the ranks that take part."""
        ...

    @property
    def solution(self) -> Array:
        """The unknowns of this rank, writable in place: initial guess before a solve, solution after it."""
        ...

    def solve(self, dt: float) -> Solved:
        """Solve from the committed state over dt; raises StepError on all ranks or on none."""
        ...

    def commit(self) -> None:
        """Accept the state of the last solve."""
        ...

    def count(self, name: str) -> None:
        """Enter in a ledger, once, what all ranks did together."""
        ...


def load_steps(
    problem: LoadProblem,
    apply_load: Callable[[float], None],
    *,
    steps: int = 8,
    start: float = 0.0,
    end: float = 1.0,
    duration: float = 1.0,
    min_step: float | None = None,
    predictor: str = "linear",
    on_step: Callable[[StepRecord], None] | None = None,
) -> list[StepRecord]:
    """Bring the load from λ = start to λ = end in steps that adapt to what converges.

    Every multiple of (end − start)/steps is reached exactly. A step that does not converge is halved, on all ranks
    together; after a converged one the step doubles again, up to the full size. Initial guess of a step: the polynomial
    through the last converged solutions, evaluated at the new λ. States are committed only on converged steps.

    Args:
        problem: the problem, in equilibrium at λ = start.
        apply_load: sets loads, boundary values and time for a given λ; a StepError from it on any rank cuts back, too.
        steps: number of full steps.
        start: load factor of the present solution.
        end: load factor to reach.
        duration: time from start to end; a step Δλ lasts dt = duration·Δλ/(end − start).
        min_step: smallest |Δλ| that is tried, by default 1/64 of a full step.
        predictor: "previous", "linear" or "quadratic".
        on_step: called with the record of each converged step, after its commit.

    Returns:
        The records of the converged steps.

    Raises:
        StepError: a step of the smallest size did not converge.
        Exception: what else solving, loading or ``on_step`` raises, on its rank; RemoteRankError on the others.
            Whenever a step fails, solution and load are those of the last converged step.
    """
    if predictor not in PREDICTORS:
        raise ContractError(f"predictor must be one of {', '.join(PREDICTORS)}, got {predictor!r}")
    if steps < 1 or start == end:
        raise ContractError(f"load stepping needs steps >= 1 and start != end, got {steps}, {start} and {end}")
    full = (end - start) / steps
    smallest = abs(full) / 64 if min_step is None else min_step
    converged = [(start, problem.solution.copy())]
    records: list[StepRecord] = []
    size = full
    for target in [start + full * i for i in range(1, steps)] + [end]:
        cutbacks = 0
        while converged[-1][0] != target:
            load, solution = converged[-1]
            reached = target if abs(size) >= abs(target - load) * (1 - 1e-9) else load + size
            try:
                problem.solution[:] = _extrapolated(converged, reached)
                together(problem.comm, partial(apply_load, reached))
                solved = problem.solve(duration * (reached - load) / (end - start))
            except Exception as error:
                problem.solution[:] = solution
                size = (reached - load) / 2
                too_far = any(problem.comm.allgather(isinstance(error, StepError)))
                if too_far and abs(size) >= smallest * (1 - 1e-9):
                    cutbacks += 1
                    problem.count("macro/cutbacks")
                    continue
                apply_load(load)
                if too_far:
                    raise StepError(_given_up(load, reached, cutbacks, smallest, error)) from error
                raise
            problem.commit()
            converged = [*converged, (reached, problem.solution.copy())][-PREDICTORS[predictor] :]
            records.append(StepRecord(reached, reached - load, solved.iterations, solved.reason, cutbacks))
            cutbacks, size = 0, np.sign(full) * min(abs(full), 2 * abs(size))
            if on_step is not None:
                together(problem.comm, partial(on_step, records[-1]))
    return records


def _extrapolated(converged: Sequence[tuple[float, Array]], load: float) -> Array:
    """Lagrange polynomial through the converged solutions at a new load."""
    at = [a for a, _ in converged]
    weights = [np.prod([(load - b) / (a - b) for b in at if b != a]) for a in at]
    total: Array = sum(w * x for w, (_, x) in zip(weights, converged, strict=True))  # type: ignore[assignment]
    return total


def _given_up(load: float, reached: float, cutbacks: int, smallest: float, error: Exception) -> str:
    return (
        f"the step from load factor {load:.6g} to {reached:.6g} did not converge, after {cutbacks} cut-backs "
        f"(smallest step {smallest:.3g}): {error}"
    )

"""Adaptive load stepping over any nonlinear problem with history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from mpi4py import MPI

import numpy as np

from coupling.agreement import together
from coupling.contract import Array
from coupling.errors import ContractError, StepError
from coupling.guarded_predictor import GuardedPredictor
from coupling.guess import Bounds, Predictor
from coupling.ledger import Ledger
from coupling.predictors import DEGREES
from coupling.predictors.polynomial import PolynomialPredictor

_ERROR_OF_SOLVES = 1e-6  # relative to the largest change so far
_ROUND_OFF = 1e-10  # relative to the largest unknown


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


class GuardedLoadProblem(LoadProblem, Protocol):
    """What load stepping needs besides, to decide whether to use a guess."""

    ledger: Ledger

    @property
    def owned(self) -> int:
        """N, how many of the unknowns of this rank it owns; they are the first ones."""
        ...

    def residual_bounds(self, values: Array, dt: float) -> Bounds:
        """Bounds of ‖F‖ at the owned unknowns ``values`` (N,), NaN where they are not admissible (collective).

        It is asked for the standard start first, then for the guess.
        """
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
    predictor: str | Predictor = "linear",
    on_step: Callable[[StepRecord], None] | None = None,
) -> list[StepRecord]:
    """Bring the load from λ = start to λ = end in steps that adapt to what converges.

    Every multiple of (end − start)/steps is reached exactly. A step that does not converge is halved, on all ranks
    together; after a converged one the step doubles again, up to the full size. States are committed only on converged
    steps.

    A step starts from the polynomial through the last converged solutions at the new λ, or from the last solution where
    that differs by no more than solves err: a millionth of the largest change so far, of any unknown, so that unknowns
    of different fields should not be of very different magnitudes. A predictor given as an object is asked for a guess
    of the owned unknowns, which takes the place of the linear extrapolation where its residual is lower, or where it is
    admissible and the extrapolation is not (:func:`coupling.guess.better_start`); if the step does not converge from
    there, it starts again from the extrapolation before it is cut back.

    Args:
        problem: the problem, in equilibrium at λ = start.
        apply_load: sets loads, boundary values and time for a given λ; a StepError from it on any rank cuts back, too.
        steps: number of full steps.
        start: load factor of the present solution.
        end: load factor to reach.
        duration: time from start to end; a step Δλ lasts dt = duration·Δλ/(end − start).
        min_step: smallest |Δλ| that is tried, by default 1/64 of a full step.
        predictor: "previous", "linear" or "quadratic", or an object of :class:`coupling.guess.Predictor` (for a problem
            of :class:`GuardedLoadProblem`; the ledger counts under the name "macro").
        on_step: called with the record of each converged step, after its commit.

    Returns:
        The records of the converged steps.

    Raises:
        StepError: a step of the smallest size did not converge.
        Exception: what else solving, loading or ``on_step`` raises, on its rank; RemoteRankError on the others.
            Whenever a step fails, solution and load are those of the last converged step.
    """
    starts = _starts(problem, predictor)
    if steps < 1 or start == end:
        raise ContractError(f"load stepping needs steps >= 1 and start != end, got {steps}, {start} and {end}")
    full = (end - start) / steps
    smallest = abs(full) / 64 if min_step is None else min_step
    load, solution = start, problem.solution.copy()
    starts.learn(load, solution)
    records: list[StepRecord] = []
    size = full
    for target in [start + full * i for i in range(1, steps)] + [end]:
        cutbacks = 0
        while load != target:
            reached = target if abs(size) >= abs(target - load) * (1 - 1e-9) else load + size
            try:
                starts.extrapolate(reached)
                together(problem.comm, partial(apply_load, reached))
                solved = starts.solve(reached, duration * (reached - load) / (end - start))
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
            records.append(StepRecord(reached, reached - load, solved.iterations, solved.reason, cutbacks))
            load, solution = reached, problem.solution.copy()
            starts.learn(load, solution)
            cutbacks, size = 0, np.sign(full) * min(abs(full), 2 * abs(size))
            if on_step is not None:
                together(problem.comm, partial(on_step, records[-1]))
    return records


class _Extrapolation:
    """Solves from the polynomial through the last solutions."""

    def __init__(self, problem: LoadProblem, degree: int) -> None:
        self._problem, self._polynomial = problem, PolynomialPredictor(degree)
        self._largest_change = 0.0

    def extrapolate(self, load: float) -> None:
        """Set the unknowns of the problem, those of the last solution, to the polynomial at a load (collective).

        They are left alone where that changes nothing but by errors of solves: these have no direction, and materials
        with history would answer them by tangents of loading at one quadrature point, of unloading at the next.
        """
        change = self._polynomial.predict(np.array([[load]])).values[0] - self._problem.solution
        largest, magnitude = (
            self._problem.comm.allreduce(np.abs(values).max(initial=0.0), op=MPI.MAX)
            for values in (change, self._problem.solution)
        )
        self._largest_change = max(self._largest_change, largest)
        if largest > max(_ERROR_OF_SOLVES * self._largest_change, _ROUND_OFF * magnitude):
            self._problem.solution[:] += change

    def solve(self, load: float, dt: float) -> Solved:
        """Solve from there over dt, the load applied."""
        return self._problem.solve(dt)

    def learn(self, load: float, solution: Array) -> None:
        """Enter a converged solution."""
        self._polynomial.observe(np.array([[load]]), solution[None])


class _GuardedExtrapolation(_Extrapolation):
    """Solves from a predictor's guess where that is better than linear extrapolation."""

    def __init__(self, problem: GuardedLoadProblem, predictor: Predictor) -> None:
        super().__init__(problem, degree=1)
        self._guarded_problem = problem
        self._predictor = GuardedPredictor(predictor, comm=problem.comm, ledger=problem.ledger, name="macro")

    def solve(self, load: float, dt: float) -> Solved:
        problem = self._guarded_problem
        standard = problem.solution.copy()
        guess, used = self._predictor.start(
            np.array([load]), standard[: problem.owned], partial(problem.residual_bounds, dt=dt)
        )
        problem.solution[:] = standard
        if not used:
            return problem.solve(dt)
        problem.solution[: problem.owned] = guess
        try:
            return problem.solve(dt)
        except StepError:
            problem.count("macro/guesses failed")
            problem.solution[:] = standard
            return problem.solve(dt)

    def learn(self, load: float, solution: Array) -> None:
        super().learn(load, solution)
        self._predictor.learn(np.array([load]), solution[: self._guarded_problem.owned])


def _starts(problem: LoadProblem, predictor: str | Predictor) -> _Extrapolation:
    if isinstance(predictor, str):
        if predictor not in DEGREES:
            raise ContractError(f"predictor must be one of {', '.join(DEGREES)} or an object, got {predictor!r}")
        return _Extrapolation(problem, DEGREES[predictor])
    if not isinstance(predictor, Predictor):
        raise ContractError(f"predictor must be a name or have predict and observe, got {type(predictor).__name__}")
    lacking = [name for name in ("comm", "ledger", "owned", "residual_bounds") if not hasattr(problem, name)]
    if lacking:
        raise ContractError(f"a guess needs a guard, for which {type(problem).__name__} lacks {', '.join(lacking)}")
    return _GuardedExtrapolation(problem, predictor)  # type: ignore[arg-type]


def _given_up(load: float, reached: float, cutbacks: int, smallest: float, error: Exception) -> str:
    return (
        f"the step from load factor {load:.6g} to {reached:.6g} did not converge, after {cutbacks} cut-backs "
        f"(smallest step {smallest:.3g}): {error}"
    )

"""The exact mode in any petsc4py SNES or TS: the classical answer, found by models and exact sweeps.

    exact = ExactSNES(snes, [fluxes])
    exact.solve(b, x)                    # in place of snes.solve(b, x)

    exact_time_steps(ts, [fluxes])       # before ts.solve(u)

The residual and the Jacobian of the SNES, or of the TS, call closures by :class:`solver_adapters.petsc_fd.FaceFlux`.
Where those are accelerated ones in exact mode, Newton's method runs with their models, and exact sweeps in between
tell how good its solution is (:mod:`solver_adapters.macro.exact_newton`). The residual that decides is the swept one,
and it meets the tolerance that a classical run would have to meet from the same start, max(atol, rtol ‖F(x₀)‖). Where
that does not succeed, and for all other closures, it is the classical run.

Warm starts (:mod:`solver_adapters.petsc_snes`) go with it: the guess and the standard start are compared by swept
residuals (:mod:`solver_adapters.macro.swept_starts`), the guess is used where its residual is lower by more than the
errors of both, and the tolerance is that of the least residual that there may be at the standard start.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np

from coupling.agreement import together
from coupling.contract import Array
from coupling.errors import ContractError
from coupling.ledger import Ledger
from coupling.two_level import two_level
from solver_adapters.level import EVALUATE, Level
from solver_adapters.macro.evaluation import largest_error
from solver_adapters.macro.exact_newton import INNER, ExactNewton, Measured
from solver_adapters.macro.load_stepping import Solved
from solver_adapters.macro.snes import newton
from solver_adapters.macro.swept_starts import SweptStarts
from solver_adapters.petsc_fd import FaceFlux
from solver_adapters.warm_starts.borrowed import Borrowed
from solver_adapters.warm_starts.end_of_solve import at_end, set_at_end
from solver_adapters.warm_starts.initial_guess import InitialGuess, apply_guess, set_guess
from solver_adapters.warm_starts.trials import Evaluate, set_trials
from solver_adapters.warm_starts.vectors import owned, set_owned


class ExactSNES:
    """Solves with a SNES, at two levels where closures have them.

    Options, line search, linear solver and monitors stay those of the SNES; monitors see the iterations with models. An
    initial guess function is asked once, at the start. A SNES with a convergence test of its own in Python is solved
    classically, as what it tests is not known.

    After :meth:`solve`, reason, function norm and number of iterations (all of them together) are in the SNES as ever,
    and the fluxes hold what was swept at the solution: accept it as after any solve (``fluxes.accept(x)``).

    Ledger, on rank 0: counts ``macro/iterations``, ``macro/start sweeps``, ``macro/exact sweeps``,
    ``macro/models refused``, ``macro/classical solves`` (of closures with two levels).

    Args:
        snes: the solver, with its function and Jacobian set.
        fluxes: all fluxes that these evaluate.
        ledger: where counts are entered, by default that of the first flux.

    Attributes:
        has_levels: whether closures have two levels.
        starts: residuals at states from which a solve may start.

    Raises:
        ContractError: no fluxes.
    """

    def __init__(self, snes: PETSc.SNES, fluxes: Sequence[FaceFlux], *, ledger: Ledger | None = None) -> None:
        if not fluxes:
            raise ContractError("the exact mode needs the fluxes that the residual evaluates, got none")
        self.snes, self.fluxes = snes, list(fluxes)
        self.ledger = fluxes[0].ledger if ledger is None else ledger
        self.has_levels = any(two_level(flux.closure) is not None for flux in fluxes)
        self._newton = ExactNewton(history=any(flux.closure.spec.history for flux in self.fluxes))
        self._b: PETSc.Vec | None = None
        self.starts = SweptStarts(self._residual, self.fluxes, snes.getComm().tompi4py(), self.ledger)

    def solve(self, b: PETSc.Vec | None, x: PETSc.Vec) -> None:
        """Solve F(x) = b from x; as with ``snes.solve``, the SNES tells how it ended (collective).

        Raises:
            petsc4py.PETSc.Error: what a residual, a Jacobian or a closure raised, on all ranks; also where the SNES did
                not converge and raises errors in that case.
        """
        self._b = b
        self.starts.begin()
        if self.has_levels:
            set_trials(self.snes, self.compared)
        try:
            self.solve_from_chosen(b, x)
        finally:
            set_trials(self.snes, None)

    def solve_from_chosen(self, b: PETSc.Vec | None, x: PETSc.Vec) -> None:
        """As :meth:`solve`, where x may have been chosen by comparison already (collective)."""
        if not self.has_levels or self.snes.getConvergenceTest() is not None:
            self.snes.solve(b, x)
            return
        start, problem = owned(x), _Problem(self, b, x)
        with _borrowed(self.snes, x), self._fully_afterwards():
            solved = self._newton.solve(problem) if problem.begin() else None
        if solved is not None:
            reason = PETSc.SNES.ConvergedReason
            small = problem.norm <= self.snes.getTolerances()[1]
            self.snes.setConvergedReason(reason.CONVERGED_FNORM_ABS if small else reason.CONVERGED_FNORM_RELATIVE)
            self.snes.setIterationNumber(solved.iterations)
            self.snes.setFunctionNorm(problem.norm)
            if ended := at_end(self.snes):
                ended()
            return
        problem.count("macro/classical solves")
        set_owned(x, start)
        self.snes.solve(b, x)

    @contextmanager
    def compared(self) -> Iterator[Evaluate]:
        """Within this context, starts are compared by sweeps; what else is evaluated is the plain models'."""
        self.starts.begin()
        with self._fully_afterwards():
            self.ask_for(Level(learned=False))
            yield self.starts.evaluate

    def ask_for(self, level: Level) -> None:
        """Have closures asked at that level from now on."""
        for flux in self.fluxes:
            flux.level = level

    def _residual(self, x: PETSc.Vec, r: PETSc.Vec, level: Level) -> None:
        """Set r to F(x) − b."""
        self.ask_for(level)
        together(self.snes.getComm().tompi4py(), lambda: self.snes.computeFunction(x, r))
        if known := self.snes.getRhs():  # of its last solve, which PETSc subtracts
            r.axpy(1.0, known)
        if self._b is not None:
            r.axpy(-1.0, self._b)

    @contextmanager
    def _fully_afterwards(self) -> Iterator[None]:
        """Whatever happens, the fluxes are asked in full afterwards."""
        try:
            yield
        finally:
            self.ask_for(EVALUATE)


def exact_time_steps(ts: PETSc.TS, fluxes: Sequence[FaceFlux], *, ledger: Ledger | None = None) -> ExactSNES:
    """Let the stages of an implicit TS be solved as by :class:`ExactSNES` from now on (collective).

    The SNES of the TS becomes one of type "python" around an inner SNES of its former type, with its options, options
    prefix and KSP. Call this when options have been set. Warm starts, ``warm_start(ts, …)``, act on the outer one.

    Args:
        ts: the time stepper, with IFunction and IJacobian set.
        fluxes: all fluxes that these evaluate.
        ledger: where counts are entered, by default that of the first flux.

    Returns:
        The exact mode of the inner SNES.

    Raises:
        ContractError: a closure has history and the TS is none of backward Euler.
    """
    for flux in fluxes:
        flux.check_scheme(ts)
    outer = ts.getSNES()
    inner = PETSc.SNES().create(outer.getComm())
    inner.setOptionsPrefix(outer.getOptionsPrefix())
    inner.setType(outer.getType() or PETSc.SNES.Type.NEWTONLS)
    (r, *_), (J, P, *_) = outer.getFunction(), outer.getJacobian()
    stages = Borrowed(outer)
    inner.setFunction(lambda _, x, f: stages().computeFunction(x, f), r.duplicate())
    inner.setJacobian(lambda _, x, J, P: stages().computeJacobian(x, J, P), J, P)
    inner.setKSP(outer.getKSP())
    inner.setFromOptions()
    exact = ExactSNES(inner, fluxes, ledger=ledger)
    if exact.has_levels:
        set_trials(outer, exact.compared)
    outer.setType(PETSc.SNES.Type.PYTHON)
    outer.setPythonContext(_Stages(exact))
    return exact


class _Stages:
    """Context of the SNES of a TS: each solve is the exact mode's, to the tolerances of the outer SNES."""

    def __init__(self, exact: ExactSNES) -> None:
        self.exact = exact

    def solve(self, outer: PETSc.SNES, b: PETSc.Vec | None, x: PETSc.Vec) -> None:
        """Solve a stage; the outer function has b in it."""
        inner = self.exact.snes
        inner.setTolerances(*outer.getTolerances())
        inner.setDivergenceTolerance(outer.getDivergenceTolerance())
        self.exact.solve_from_chosen(None, x)
        outer.setConvergedReason(inner.getConvergedReason())
        outer.setIterationNumber(inner.getIterationNumber())
        outer.setFunctionNorm(inner.getFunctionNorm())
        outer.monitor(inner.getIterationNumber(), inner.getFunctionNorm())


class _Problem:
    """One solve, as :class:`solver_adapters.macro.exact_newton.TwoLevelProblem`.

    The scale is the residual at the start, or what all of the flux would change where that is more (rows of Dirichlet
    conditions alone may differ from zero at the start, by little).
    """

    def __init__(self, exact: ExactSNES, b: PETSc.Vec | None, x: PETSc.Vec) -> None:
        self._exact, self._snes, self._ledger, self._residual = exact, exact.snes, exact.ledger, exact.starts
        self._b, self._x, self._r = b, x, x.duplicate()
        self._comm = exact.snes.getComm().tompi4py()
        self._start: Array = np.empty(0)
        self._target = 0.0
        self.norm = np.nan

    def begin(self) -> bool:
        """Measure what there is at the start; whether there is something to solve at two levels."""
        self._start = owned(self._x)
        start = self._residual.chosen(self._x, self._r)
        rtol, atol, *_ = self._snes.getTolerances()
        self._target = max(atol, rtol * start.least)
        if start.in_full or self._target == 0.0:
            return False
        self._residual.rescale(max(start.norm, self._residual.whole))
        return True

    def iterate(self, level: Level) -> Solved | None:
        """Newton's method with models, to a part of the tolerance."""
        self._exact.ask_for(level)
        self._snes.setTolerances(rtol=0.0, atol=INNER * self._target, stol=0.0)
        solved = newton(self._snes, self._b, self._x)
        self.count("macro/iterations", self._snes.getIterationNumber())
        return solved

    def measure(self, level: Level) -> Measured | None:
        """The swept residual."""
        self.norm = self._residual.norm(self._x, self._r, level)
        if not np.isfinite(self.norm):
            return None
        return Measured(self.norm, self._target, self._residual.scale, largest_error(self._exact.fluxes, self._comm))

    def go_back(self) -> None:
        """The start and the committed states."""
        set_owned(self._x, self._start)
        self._residual.forget()

    def values(self) -> Array:
        """Those owned."""
        return owned(self._x)

    def is_at(self, values: Array) -> bool:
        """Whether they are these on all ranks."""
        return bool(self._comm.allreduce(np.array_equal(owned(self._x), values), op=MPI.LAND))

    def relative_tolerance(self) -> float:
        """Tolerance of the residual relative to the scale."""
        return self._target / self._residual.scale

    def count(self, name: str, n: int = 1) -> None:
        """On rank 0 only."""
        if self._comm.rank == 0:
            self._ledger.count(name, n)


@contextmanager
def _borrowed(snes: PETSc.SNES, x: PETSc.Vec) -> Iterator[None]:
    """Apply the initial guess to x; give the SNES back with the tolerances, guess, end and strictness it had."""
    (rtol, atol, stol, most), strict = snes.getTolerances(), snes.getErrorIfNotConverged()
    guess: InitialGuess = snes.getInitialGuess()
    apply_guess(guess, snes, x)
    if guess is not None:
        set_guess(None, snes)
    ended = at_end(snes)
    set_at_end(snes, None)
    snes.setErrorIfNotConverged(False)
    try:
        yield
    finally:
        snes.setTolerances(rtol=rtol, atol=atol, stol=stol, max_it=most)
        snes.setErrorIfNotConverged(strict)
        if guess is not None:
            set_guess(guess, snes)
        set_at_end(snes, ended)

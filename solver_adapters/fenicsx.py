"""Closures in DOLFINx forms: Newton's method with fluxes that are computed elsewhere.

    F = ufl.Identity(2) + ufl.grad(u)
    P = ClosureFlux(F, closure, dx)
    residual = ufl.inner(P.value, ufl.grad(v)) * P.dx - ufl.inner(t, v) * ds
    problem = MultiscaleProblem(residual, u, fluxes=[P], bcs=bcs, petsc_options_prefix="cook_")
    load_steps(problem, apply_load, steps=8)

Mesh, boundary conditions, other terms, PETSc options and the MPI launch stay the user's own. (PETSc reads the command
line only where it is handed on: ``import sys, petsc4py; petsc4py.init(sys.argv)`` before DOLFINx is imported.)

Concurrent and hierarchical coupling differ in the closure only. A surrogate that was trained beforehand
(``StretchFrame(load_model(folder))``) stands where the RVE stood, and then no fine scale exists at run time. A point
that leaves the range it was trained for makes the solve fail: load stepping cuts the step back, and where even the
smallest step leads out of the range, its StepError says which points were outside and with which gradient; train it on
a larger box then, or give it a fine scale to fall back on with :class:`coupling.accelerated.AcceleratedClosure`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np
import ufl
from dolfinx import fem, la
from dolfinx.fem import petsc as fem_petsc

from coupling.contract import Array
from coupling.errors import ContractError, StepError
from coupling.guess import Bounds
from coupling.ledger import Ledger
from coupling.two_level import two_level
from solver_adapters.level import EVALUATE, Level
from solver_adapters.macro.closure_flux import ClosureFlux
from solver_adapters.macro.evaluation import evaluate_fluxes, largest_error, measure_magnitudes
from solver_adapters.macro.exact_newton import INNER, ExactNewton, Measured
from solver_adapters.macro.load_stepping import Solved, StepRecord, load_steps
from solver_adapters.macro.quadrature import QuadraturePoints
from solver_adapters.macro.snes import REASONS, ForceScale, check_prefix, default_options, newton
from solver_adapters.macro.swept_starts import SweptStarts
from solver_adapters.mandel import from_mandel, mandel
from solver_adapters.petsc_options import options_database

__all__ = [
    "ClosureFlux",
    "MultiscaleProblem",
    "QuadraturePoints",
    "Solved",
    "StepRecord",
    "from_mandel",
    "load_steps",
    "mandel",
]

_assemble_matrix: Any = fem_petsc.assemble_matrix  # single dispatch hides its signature from type checkers
_ROUND_OFF = 16 * np.finfo(float).eps


class MultiscaleProblem:
    """Find u with F(u, q(g(u)); v) = 0 for all v, with closures q, by PETSc's SNES.

    The Jacobian is derived from the residual: J = ∂F/∂u δu + Σ ∂F/∂q · (∂q/∂g ∂g/∂u δu), with the closures' tangents
    ∂q/∂g. Each closure is evaluated once per Newton iterate, for all points of a rank in one call; where an iterate is
    inadmissible for a point on any rank, the residual is NaN on all of them, so that a line search shortens its step
    and anything else stops.

    Closures with two levels, such as an accelerated one in exact mode, are asked for their models while SNES iterates
    and for exact sweeps in between (:mod:`solver_adapters.macro.exact_newton`); the tolerance is met by the latter.

    Args:
        residual: UFL form of one test function in the space of u.
        u: the solution, in any function space; initial guess of each solve.
        petsc_options_prefix: prefix of this solver's PETSc options, ends in "_".
        fluxes: the closure fluxes in the residual.
        bcs: Dirichlet conditions; their values may change between solves.
        petsc_options: options without prefix. They override the defaults of :mod:`solver_adapters.macro.snes`; options
            given on the command line or in PETSc's database override both. They do not stay in the database. Those that
            PETSc has not read by the end of the first linear solve are warned of, as misspelt.
        J: UFL form of the Jacobian in place of the derived one.
        form_compiler_options: passed to FFCx.
        jit_options: passed to the just-in-time compiler.
        ledger: where counts and times are entered, by default an own one. Counts of what all ranks do together
            ("macro/...") are entered by rank 0 only, so that ``ledger.gathered(comm)`` adds up.

    Attributes:
        snes: the PETSc solver, for monitors and further settings.
        u: the solution.
        fluxes: the closure fluxes.
        bcs: the Dirichlet conditions.
        ledger: counts and times.
        on_sweep: called with the residual of every exact sweep, where closures have two levels.

    Raises:
        ContractError: the arguments do not fit together.
    """

    def __init__(
        self,
        residual: ufl.Form,
        u: fem.Function,
        *,
        petsc_options_prefix: str,
        fluxes: Sequence[ClosureFlux] = (),
        bcs: Sequence[fem.DirichletBC] = (),
        petsc_options: Mapping[str, Any] | None = None,
        J: ufl.Form | None = None,
        form_compiler_options: Mapping[str, Any] | None = None,
        jit_options: Mapping[str, Any] | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        check_prefix(petsc_options_prefix)
        for flux in fluxes:
            if not flux.appears_in(residual):
                raise ContractError(f"flux {flux.name!r} is not in the residual: use its .value there, or leave it out")
        if forgotten := [flux.name for flux in ClosureFlux.all_in(residual) if flux not in fluxes]:
            raise ContractError(f"the residual has the fluxes {forgotten}, which are not in fluxes=: pass them there")
        self.u, self.fluxes, self.bcs = u, list(fluxes), list(bcs)
        self.ledger = Ledger() if ledger is None else ledger
        self.comm = u.function_space.mesh.comm
        compiler = {"form_compiler_options": form_compiler_options, "jit_options": jit_options}
        compiler_options: dict[str, Any] = {name: dict(given) for name, given in compiler.items() if given is not None}
        self._residual = fem.form(residual, **compiler_options)
        self._jacobian = fem.form(self._derived(residual) if J is None else J, **compiler_options)
        self._r, self._mismatch = fem.Function(u.function_space), np.zeros(u.x.array.size)
        self._owned = u.x.index_map.size_local * u.x.block_size
        self._matrix = fem_petsc.create_matrix(self._jacobian)
        self._x, self._b = self._matrix.createVecs()
        self._options = (petsc_options_prefix, default_options(self.comm) | dict(petsc_options or {}))
        self._unread = set(petsc_options or {})
        self._force_scale = ForceScale()
        self._level, self._dt = EVALUATE, 1.0
        has_levels = any(two_level(flux.closure) is not None for flux in self.fluxes)
        history = any(flux.closure.spec.history for flux in self.fluxes)
        self._exact_newton = ExactNewton(history=history) if has_levels else None
        self._starts = SweptStarts(self._residual_at, self.fluxes, self.comm, self.ledger)
        self.on_sweep: Callable[[Measured], None] | None = None
        self._start = self.solution.copy()
        self._error: Exception | None = None
        self._failures: tuple[int, list[str]] = (0, [])
        self.snes = self._create_snes()

    @property
    def solution(self) -> Array:
        """Values of u on this rank, ghosts included; writable in place."""
        values: Array = self.u.x.array
        return values

    @property
    def exact(self) -> bool:
        """Whether a closure has two levels, so that solutions are found by models and exact sweeps."""
        return self._exact_newton is not None

    @property
    def owned(self) -> int:
        """How many of the values of ``solution`` this rank owns; they are the first ones."""
        return int(self._owned)

    def residual_bounds(self, values: Array, dt: float = 1.0) -> Bounds:
        """At least and at most how large ‖F‖ is over dt at the owned unknowns ``values`` (collective).

        Both are the norm where closures have one level; those with two are swept, to errors far below the norm at the
        first of the states that are tried before a solve (:mod:`solver_adapters.macro.swept_starts`). NaN where the
        values are inadmissible at any point. u is at these values afterwards.
        """
        self._dt, self._error = dt, None
        self._x.array_w[:] = values
        if self.exact:
            error = self._starts.evaluate(self._x, self._b)
            norm = self._b.norm()
            return norm - error, norm + error
        return 2 * (self._starts.norm(self._x, self._b, EVALUATE),)

    def solve(self, dt: float = 1.0) -> Solved:
        """Solve from the present u and the committed states over a time increment dt (collective).

        Afterwards fluxes and trial states are those of the solution; they are kept until :meth:`commit`.

        Raises:
            StepError: SNES did not converge, on all ranks; u is then what it was before.
            Exception: what a closure raised, on its rank; RemoteRankError on the others.
        """
        self._start = self.solution.copy()
        self._dt, self._error = dt, None
        self._x.array_w[:] = self._start[: self._owned]
        self._starts.recalled(self._x)
        with self.ledger.phase("step"):
            with options_database(*self._options, self._unread):
                solved = self._exact_newton.solve(self) if self._exact_newton is not None else None
                if solved is None and self._error is None:
                    solved = self.iterate(EVALUATE)
            self._warn_of_unread_options()
            if solved is not None and self._set_iterate(self._x):
                self._force_scale.keep()
                return solved
            explanation = self._explanation()
        self.go_back()
        if self._error is not None:
            raise self._error
        raise StepError(explanation)

    def iterate(self, level: Level) -> Solved | None:
        """Newton's method from the present iterate, closures asked at that level; None where it fails (collective)."""
        self._level, self._failures = level, (0, [])
        self._force_scale.share = 1.0 if level == EVALUATE else INNER
        solved = newton(self.snes, None, self._x)
        self.count("macro/iterations", self.snes.getIterationNumber())
        return solved

    def measure(self, level: Level) -> Measured | None:
        """Residual at the present iterate, closures asked at that level; None where a point fails (collective)."""
        measure_magnitudes(self.fluxes, self.comm)
        norm, (rtol, atol, *_) = self._starts.norm(self._x, self._b, level), self.snes.getTolerances()
        if not np.isfinite(norm):
            return None
        scale, error = self._force_scale.scale, largest_error(self.fluxes, self.comm)
        measured = Measured(norm, max(atol, rtol * scale), scale, error)
        if self.on_sweep is not None:
            self.on_sweep(measured)
        return measured

    def go_back(self) -> None:
        """Return to the start of the last solve and to the committed states."""
        self.solution[:] = self._start
        self._x.array_w[:] = self._start[: self._owned]
        for flux in self.fluxes:
            flux.discard()

    def values(self) -> Array:
        """Copy of the present iterate at the owned unknowns."""
        return np.array(self._x.array_r)

    def is_at(self, values: Array) -> bool:
        """Whether the present iterate is the one that had these values, on all ranks (collective)."""
        return bool(self.comm.allreduce(np.array_equal(self._x.array_r, values), op=MPI.LAND))

    def relative_tolerance(self) -> float:
        """Tolerance of the residual relative to the scale of the forces."""
        (rtol, atol, *_), scale = self.snes.getTolerances(), self._force_scale.scale
        return float(max(rtol, atol / scale) if scale > 0.0 else rtol)

    def commit(self) -> None:
        """Make the states of the last solve the committed ones."""
        for flux in self.fluxes:
            flux.commit()
        self.count("macro/steps")

    def close(self) -> None:
        """Destroy the PETSc objects (collective)."""
        for thing in (self.snes, self._matrix, self._x, self._b):
            thing.destroy()

    def _derived(self, residual: ufl.Form) -> ufl.Form:
        du = ufl.TrialFunction(self.u.function_space)
        shares = [flux.jacobian(residual, self.u, du) for flux in self.fluxes]
        return sum(shares, ufl.derivative(residual, self.u, du))

    def _create_snes(self) -> PETSc.SNES:
        snes = PETSc.SNES().create(self.comm)
        snes.setOptionsPrefix(self._options[0])
        snes.setFunction(self._assemble_residual, self._b)
        snes.setJacobian(self._assemble_jacobian, self._matrix, self._matrix)
        snes.setConvergenceTest(self._force_scale)
        _time_linear_solves(snes.ksp, self.ledger)
        with options_database(*self._options, self._unread):
            snes.setFromOptions()
        return snes

    def _warn_of_unread_options(self) -> None:
        """Once something has been solved, all options have had their chance."""
        if not self._unread or self.snes.getLinearSolveIterations() == 0:
            return
        if self.comm.rank == 0:
            warnings.warn(
                f"PETSc has not read the options {sorted(self._unread)} of petsc_options=: they may be misspelt, or "
                f"belong to a solver that is not in use. The option -{self._options[0]}snes_view shows what is",
                RuntimeWarning,
                stacklevel=3,
            )
        self._unread.clear()

    def _set_iterate(self, x: PETSc.Vec) -> bool:
        """Bring u and the fluxes to an iterate; whether all points of all ranks are usable there (collective)."""
        if self._error is not None:
            return False
        self.u.x.array[: self._owned] = x.array_r
        self.u.x.scatter_forward()
        try:
            failed = evaluate_fluxes(self.fluxes, self._dt, self.comm, self.ledger, self._level)
        except Exception as error:  # raised on all ranks together; kept until SNES has returned
            self._error = error
            return False
        if failed:
            self._failures = (failed, [line for flux in self.fluxes for line in flux.failures(at_most=3)])
        return not failed

    def _assemble_residual(self, snes: PETSc.SNES, x: PETSc.Vec, b: PETSc.Vec) -> None:
        self.count("macro/residuals")
        if not self._set_iterate(x):
            b.set(np.nan)
            return
        with self.ledger.phase("assemble"):
            r = self._r.x.array
            r[:] = 0.0
            fem.assemble_vector(r, self._residual)
            if self._update_mismatch():
                fem.apply_lifting(r, [self._jacobian], [self.bcs], [self.u.x.array], -1.0)
            self._r.x.scatter_reverse(la.InsertMode.add)
            b.array_w[:] = r[: self._owned]
            self._force_scale.enter(b.norm())
            for bc in self.bcs:
                dofs, owned = bc.dof_indices()
                r[dofs[:owned]] = self._mismatch[dofs[:owned]]
            b.array_w[:] = r[: self._owned]

    def _residual_at(self, x: PETSc.Vec, r: PETSc.Vec, level: Level) -> None:
        self._level = level
        self._assemble_residual(self.snes, x, r)

    def _update_mismatch(self) -> bool:
        """Set u − g at the constrained dofs; whether any is beyond round-off, so that lifting changes the residual."""
        u = self.u.x.array
        for bc in self.bcs:
            bc.set(self._mismatch, u, -1.0)
        if not self._mismatch.size:
            return False
        return bool(np.abs(self._mismatch).max() > _ROUND_OFF * np.abs(u).max())

    def _assemble_jacobian(self, snes: PETSc.SNES, x: PETSc.Vec, A: PETSc.Mat, P: PETSc.Mat) -> None:
        self._set_iterate(x)
        with self.ledger.phase("assemble"):
            P.zeroEntries()
            _assemble_matrix(P, self._jacobian, self.bcs)
            P.assemble()
            if A != P:
                A.assemble()

    def _explanation(self) -> str:
        """Why the solve failed, the same text on all ranks (collective)."""
        failed, lines = self._failures
        reason, iterations = REASONS[self.snes.getConvergedReason()], self.snes.getIterationNumber()
        text = f"SNES stopped with {reason} after {iterations} iterations"
        if not failed:
            return text
        first = [line for lines_of_rank in self.comm.allgather(lines) for line in lines_of_rank][:5]
        text += f"; {failed} points failed in its last inadmissible iterate, the first of them:"
        return "\n  ".join([text, *first])

    def count(self, name: str, n: int = 1) -> None:
        """Enter what all ranks did together in the ledger, on rank 0 only."""
        if self.comm.rank == 0:
            self.ledger.count(name, n)


def _time_linear_solves(ksp: PETSc.KSP, ledger: Ledger) -> None:
    """Enter the time of each linear solve, factorisation included, as the phase "linear solve"."""
    phase = ExitStack()
    ksp.setPreSolve(lambda *_: phase.enter_context(ledger.phase("linear solve")))
    ksp.setPostSolve(lambda *_: phase.close())

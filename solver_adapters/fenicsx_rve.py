"""RVEs in DOLFINx as closures."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coupling.contract import Array, ClosureSpec, Response, Status, check_arguments
from coupling.errors import ClosureError, ContractError
from coupling.guess import Predictor
from coupling.ledger import Ledger
from solver_adapters.rve.boundary import Boundary
from solver_adapters.rve.cell_problem import CellProblem
from solver_adapters.rve.factor import SymmetricFactor, refined
from solver_adapters.rve.guesses import FluctuationGuesses
from solver_adapters.rve.histories import Material
from solver_adapters.rve.kinematics import Kinematics, Stretch
from solver_adapters.rve.memory import Memory
from solver_adapters.rve.sweep import Sweep
from solver_adapters.rve.turning_points import turn
from solver_adapters.rve.unit_cells import UnitCell

_FACTOR_SERVES = 1e-4
_SMALLEST_STEP = 2.0**-8
_MOST_ITERATIONS = 12
_ROUND_OFF = 1e-18  # up to which the energy of a correction may be that, where constraints are eliminated
_PRESTRESS = 1e-6  # relative to the stiffness, from which on it is worth a warning
_FEW = 0.1  # of the points may need Newton's method in a sweep


@dataclass(frozen=True)
class Equilibrium:
    """A solved RVE: where it is, how it responds, and how it would move.

    Args:
        gradient: (k,), g.
        fluctuation: (n,), w.
        sensitivity: (n, k), S = dw/dg = −K⁻¹L.
        flux: (m,), condensed flux.
        tangent: (m, k), condensed tangent.
        history: (h,), at the quadrature points of materials that have one, at the end of the increment.
    """

    gradient: Array
    fluctuation: Array
    sensitivity: Array
    flux: Array
    tangent: Array
    history: Array


class PeriodicRVE:
    """Closure whose flux is the average over an RVE in equilibrium: W̄(g) = stat_w W(g, w), q = ± ∂W̄/∂e.

    The fluctuation w is periodic unless another boundary condition is asked for; g = (p, e) and the sign are the
    kinematics'. Finite and small strain and conduction, in 2D and 3D, differ in kinematics and materials alone.

    Newton's method starts from w₀ + S (g − g₀), the last equilibrium of the point and its sensitivity. With the
    residual left at w, the correction δw = −K⁻¹r and S = −K⁻¹L, the condensed flux and tangent

        T̄ = T − LₑᵀK⁻¹r,   ∂T̄/∂g = D − LₑᵀK⁻¹L,   Lₑ = ∂²W/∂w∂e

    are accurate to second and first order in δw (static condensation; Miehe & Koch 2002, Arch. Appl. Mech. 72,
    300–317). The iteration ends when the error estimate of the condensed flux, the energy −r·δw of the correction, is
    below ``tolerance`` times the norm of the tangent in the reference state. When it diverges, the increment is cut
    into steps.

    In a macro Newton iteration that passes hints, the error estimate falls with the macro residual. A loose tolerance
    such as 1e-6 then gives a monolithic scheme, one micro iteration for each macro iterate, with the same final answer.

    The closure's state is a memory of the last equilibrium (g₀, w, S): it shortens the next solve and does not change
    its result beyond the tolerance, for the tangent beyond its square root. Materials with history
    (:mod:`solver_adapters.rve.histories`) add what they remember at the quadrature points. Past an instability of the
    RVE the equilibrium that is found is a stationary point of W, not its minimum; the ledger then counts LU
    factorisations, which stand in where the stiffness is not positive definite.

    Args:
        cell: unit cell, from :mod:`solver_adapters.rve.meshes` or :mod:`solver_adapters.rve.unit_cells`.
        materials: energy density for each cell tag, from :mod:`solver_adapters.rve.energies` or your own, or a material
            with history, from :mod:`solver_adapters.rve.histories` or your own.
        kinematics: kind of problem, from :mod:`solver_adapters.rve.kinematics`; by default finite strain in the stretch
            frame.
        boundary: "periodic", "linear" (displacements or temperatures of the boundary are those of the macroscopic
            gradient) or "uniform" (tractions or fluxes of the boundary are those of one macroscopic flux).
        degree: polynomial degree of the fluctuation.
        quadrature_degree: by default 2(degree − 1), but at least 1; more on cells that are not affine.
        tolerance: permitted error of the flux relative to the reference stiffness. It is the error of an energy, and so
            tolerance/|g|² of that of a gradient g: 1e-6 is too loose at 1 % strain, where 1e-12 serves. With history,
            stresses may have kinks, and √(−r·δw) in units of strain has to be below the tolerance.
        energy: whether responses carry the energy density, where the flux is its derivative and nothing has history.
        flux_unit: unit of the materials' moduli.
        predictor: guesses of fluctuations from gradients, followed by the :meth:`features` of the state. A guess is
            used where det(U + ∇w) > 0 in all of the RVE and the true residual is smaller than at the usual start, or
            that start is not admissible.

    Attributes:
        reference: the equilibrium of the reference state; its ``tangent`` holds the effective properties, with history
            those of a response at once (Δt = 0).
        point_work: (n,) Newton iterations of each point in the last evaluation, for
            :class:`coupling.balance.BalancedClosure`.

    Raises:
        MeshError: the cell does not fit the boundary condition.
        ClosureError: there is no equilibrium in the reference state.
        ContractError: a tag without material, no such boundary condition, an energy where none belongs to the flux.
    """

    def __init__(
        self,
        cell: UnitCell,
        materials: Mapping[int, Material],
        kinematics: Kinematics | None = None,
        *,
        boundary: Boundary = "periodic",
        degree: int = 2,
        quadrature_degree: int | None = None,
        tolerance: float = 1e-12,
        energy: bool = False,
        flux_unit: str = "1",
        predictor: Predictor | None = None,
    ) -> None:
        self.kinematics = kinematics or Stretch()
        self.cell, self.materials = cell, dict(materials)
        self.ledger = Ledger()
        self.tolerance = tolerance
        self.description: dict[str, Any] = {
            **cell.description,
            "materials": {str(tag): repr(law) for tag, law in materials.items()},
            "degree": degree,
            "kinematics": type(self.kinematics).__name__,
            "boundary": boundary,
        }
        if quadrature_degree is None:
            quadrature_degree = max(1, 2 * (degree - 1)) + cell.quadrature_excess
        self.problem = CellProblem(
            cell, materials, self.kinematics, boundary=boundary, degree=degree, quadrature_degree=quadrature_degree
        )
        k, n, h = self.problem.spec.k, self.problem.n, len(self.problem.history)
        if energy and (self.kinematics.sign < 0 or self.problem.spec.m < k or h):
            what = "materials with history" if h else type(self.kinematics).__name__
            raise ContractError(
                f"energy=True, but with {what} the flux is not the derivative of an energy: leave it out"
            )
        size = Memory.size(k, n, h)
        self.spec: ClosureSpec = replace(self.problem.spec, flux_unit=flux_unit, state_size=size, history=h > 0)
        self._with_energy, self.predictor = energy, predictor
        self._guesses = None if predictor is None else FluctuationGuesses(self.problem, predictor, self.ledger)
        border = self.problem.border
        self._factor = SymmetricFactor(self.problem.K, 1 + k + (0 if border is None else border.columns.shape[1]))
        self._scale = 1.0
        self.point_work: Array = np.empty(0)
        self.reference = self._solve_reference()
        self._scale = float(np.linalg.norm(self.reference.tangent))
        if np.linalg.norm(self.reference.flux) > _PRESTRESS * self._scale:
            warnings.warn(
                f"the flux of this RVE is not zero in its reference state: it is prestressed, or not all of its "
                f"materials are laws of {type(self.kinematics).__name__} (those of small strain need SmallStrain())",
                RuntimeWarning,
                stacklevel=2,
            )
        self.ledger.reset()

    def initial_state(self, n: int) -> Array:
        """Memory (n, s) of n points at rest in the reference state."""
        row = np.empty(self.spec.state_size)
        self._remember(self.reference, row)
        return np.tile(row, (n, 1))

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """Condensed flux and tangent at n points; a point that fails keeps its memory and says so in its status."""
        n, k, m = check_arguments(self.spec, gradient, state, hint), self.spec.k, self.spec.m
        flux, tangent = np.full((n, m), np.nan), np.full((n, m, k), np.nan)
        energy = np.full(n, np.nan) if self._with_energy else None
        memory, self.point_work = np.array(state), np.zeros(n)
        self._set_increment(dt)
        status = np.where(self.kinematics.admissible(gradient), Status.OK, Status.INADMISSIBLE).astype(np.int8)
        with self.ledger.phase("rve"):
            good = np.flatnonzero(status == Status.OK)
            rows = memory if hint is None else hint
            if self.spec.history:
                rows = self._start_rows(gradient, rows, memory, good if hint is None else good[:0])
            guessed = self._guessed(gradient, rows, good)
            for i in good:
                row, solved, before = memory[i], None, self._iterations
                if i in guessed:
                    start = replace(self.reference, gradient=gradient[i], fluctuation=guessed[i])
                    solved = self._newton(gradient[i], start, self._history(row))
                solved = solved or self._solve(gradient[i], row if rows is memory else rows[i], row)
                self.point_work[i] = self._iterations - before
                if solved is None:
                    status[i] = Status.NOT_CONVERGED
                    continue
                flux[i], tangent[i] = solved.flux, solved.tangent
                self._remember(solved, memory[i])
                if energy is not None:
                    energy[i] = self.problem.energy(solved.gradient, solved.fluctuation)
        self.ledger.count("rve/points", n)
        self.ledger.count("rve/failed points", int((status != Status.OK).sum()))
        return Response(flux, tangent, status, memory, energy=energy)

    def sweep(
        self,
        gradient: Array,
        state: Array | None,
        dt: float,
        hint: Array | None = None,
        *,
        tolerance: float,
        tangent: NDArray[np.bool_],
    ) -> Response:
        """Flux at n points from stale factors, see :class:`coupling.two_level.SweepingClosure`.

        Residuals alone are assembled, and a few factors serve all points (:mod:`solver_adapters.rve.modified_newton`).
        Where that does not converge, Newton's method stands in, as long as that concerns few points, and with history
        at all of them. Tangents that a sweep with history comes by are told, too, where none was asked for
        (:mod:`solver_adapters.rve.renewing_newton`).
        """
        check_arguments(self.spec, gradient, state, hint)
        assert state is not None
        n, k, m = len(gradient), self.spec.k, self.spec.m
        memory = np.array(state if hint is None else hint)
        self._set_increment(dt)
        flux, tangents = np.full((n, m), np.nan), np.full((n, m, k), np.nan)
        status = np.where(self.kinematics.admissible(gradient), Status.OK, Status.INADMISSIBLE).astype(np.int8)
        error, good = np.full(n, np.inf), np.flatnonzero(status == Status.OK)
        with self.ledger.phase("rve"):
            rows = memory if good.size == n else memory[good]
            if self.spec.history:
                rows = self._start_rows(gradient[good], rows, state[good], np.arange(good.size if hint is None else 0))
            swept = self._sweep(gradient[good], self._memory(rows), tangent[good], tolerance)
            if self.spec.history:
                rows = np.where(np.isnan(swept.flux[:, :1]), memory[good], rows)
            memory[good] = rows
            flux[good], tangents[good], error[good] = swept.flux, swept.tangent, swept.error
            flux *= self.kinematics.sign
            tangents *= self.kinematics.sign
            unsolved = good[np.isnan(swept.flux[:, 0])]
            status[unsolved] = Status.NOT_CONVERGED
            if self.spec.history or unsolved.size <= max(1, n * _FEW):
                for i in unsolved:
                    solved = self._stand_in(gradient[i], memory[i], state[i], tolerance / self._scale)
                    if solved is not None:
                        status[i], error[i] = Status.OK, tolerance
                        flux[i], tangents[i] = solved.flux, solved.tangent
                        self._remember(solved, memory[i])
        self.ledger.count("rve/sweeps")
        self.ledger.count("rve/failed points", int((status != Status.OK).sum()))
        return Response(flux, tangents, status, memory, uncertainty=error)

    def _stand_in(self, gradient: Array, row: Array, committed: Array, tolerance: float) -> Equilibrium | None:
        """Newton's method from a row of state where a sweep has failed, with history by all means there are."""
        if not self.spec.history:
            return self._newton(gradient, self.equilibrium(row), self._history(committed), tolerance)
        start = self._start_rows(gradient[None], row[None], committed[None], np.arange(1))[0]
        return self._solve(gradient, start, committed, tolerance)

    @cached_property
    def _sweep(self) -> Sweep:
        return Sweep(self.problem, self._factor, np.array(self.spec.reference), self._scale, self.ledger, self._guesses)

    def _set_increment(self, dt: float) -> None:
        if self.problem.set_increment(dt):
            vars(self).pop("_sweep", None)  # its factors are those of another dt

    def features(self, state: Array) -> Array:
        """What a predictor is told of the histories in rows of a state (n, s), besides the gradient.

        That is the average of each component over the cells of its material, (n, f); f = 0 without history. A predictor
        for materials with history is fitted to increments along paths like those that a run takes, such as random ones:

            for gradient in path:  # (n, k)
                response = rve.evaluate(gradient, state, dt)
                known.append(np.hstack([gradient, rve.features(state)]))
                fields.append(rve.fluctuations(response.state))
                state = response.state
            FieldPredictor.fit(np.vstack(known), np.vstack(fields), reference=np.zeros(k + f))
        """
        return self.problem.history.averages(self._memory(state).history)

    def fluctuations(self, state: Array) -> Array:
        """Fluctuations (n, N) of the rows of a state, for :func:`surrogates.sample` to keep."""
        return np.array(self._memory(state).fluctuation)

    def equilibrium(self, row: Array) -> Equilibrium:
        """The equilibrium that a row (s,) of a returned state remembers; its flux and tangent are not kept and NaN."""
        known, unknown = self._memory(row[None]), np.full((self.spec.m, self.spec.k), np.nan)
        return Equilibrium(
            known.gradient[0], known.fluctuation[0], known.sensitivity[0], unknown[:, 0], unknown, known.history[0]
        )

    @property
    def _iterations(self) -> int:
        return self.ledger.counts.get("rve/newton iterations", 0)

    def _solve_reference(self) -> Equilibrium:
        k, m, n = self.spec.k, self.spec.m, self.problem.n
        rest, virgin = np.array(self.spec.reference), self.problem.history.virgin
        start = Equilibrium(rest, np.zeros(n), np.zeros((n, k)), np.zeros(m), np.zeros((m, k)), virgin)
        solved = self._newton(rest, start, virgin)
        if solved is None:
            raise ClosureError(
                "the RVE has no equilibrium in its reference state: its energy must be finite there, and its stiffness "
                "regular. Check the moduli and the domain of each material, that all are laws of "
                f"{type(self.kinematics).__name__}, and that boundary condition and mesh hold every part of the cell"
            )
        return solved

    def _start_rows(self, gradient: Array, rows: Array, committed: Array, first: NDArray[np.intp]) -> Array:
        """Rows from which iterations with history start: with committed histories, and turned at the points ``first``.

        These are the points that the increment has not been solved at yet.
        """
        rows = np.array(rows)
        start = self._memory(rows)
        start.history[:] = self._memory(committed).history
        if not self.problem.linear:
            turn(self.problem, gradient, start, self.reference.sensitivity, first)
        return rows

    def _guessed(self, gradient: Array, rows: Array, good: NDArray[np.intp]) -> dict[int, Array]:
        """Guessed fluctuations of those of the good points that have one."""
        if self._guesses is None:
            return {}
        good = good[np.isfinite(rows[good]).all(axis=1)]
        starts = self._guesses.starts(gradient[good], self._memory(rows[good]))
        used = starts.guessed
        return {int(i): start for i, start in zip(good[used], starts.fluctuation[used], strict=True)}

    def _solve(
        self, gradient: Array, start: Array, committed: Array, tolerance: float | None = None
    ) -> Equilibrium | None:
        """Equilibrium at ``gradient``: from the row ``start`` at once, else in steps from the committed one."""
        last, solved = self.equilibrium(committed), None
        if np.isfinite(start).all():
            solved = self._newton(gradient, self.equilibrium(start), last.history, tolerance)
        if self.spec.history:
            last = replace(last, sensitivity=self.reference.sensitivity)
        return solved or self._walk(gradient, last, tolerance, step=0.5 if start is committed else 1.0)

    def _walk(self, gradient: Array, start: Equilibrium, tolerance: float | None, *, step: float) -> Equilibrium | None:
        """Equilibrium at the end of the straight path from ``start``, in steps halved where Newton fails.

        It is one increment all the same: the history of ``start`` is what all steps begin with.
        """
        origin, history, done = start.gradient, start.history, 0.0
        while done < 1.0:
            reached = min(1.0, done + step)
            solved = self._newton(origin + reached * (gradient - origin), start, history, tolerance)
            self.ledger.count("rve/substeps")
            if solved is not None:
                start, done, step = solved, reached, 2 * step
            else:
                step /= 2
                if step < _SMALLEST_STEP:
                    return None
        return start

    def _newton(
        self, gradient: Array, start: Equilibrium, history: Array, tolerance: float | None = None
    ) -> Equilibrium | None:
        """Equilibrium at ``gradient`` after an increment from ``history``, or None where Newton's method diverges.

        It starts from the predictor of ``start``.
        """
        tolerance = self.tolerance if tolerance is None else tolerance
        w, border = start.fluctuation + start.sensitivity @ (gradient - start.gradient), self.problem.border
        if border is not None:
            w = border.feasible(w)
        error = np.inf
        for _ in range(_MOST_ITERATIONS):
            system = self.problem.linearise(gradient, w, history)
            self.ledger.count("rve/newton iterations")
            if not np.isfinite(system.right).all():
                return None
            try:
                solution, condensed = self._condense(system.right, reuse=error < _FACTOR_SERVES)
            except ArithmeticError:
                return None
            previous, error = error, abs(float(condensed[0, 0])) / self._scale
            if not error < 4 * previous and not (self.spec.history and error <= _ROUND_OFF):
                return None
            w = w - solution[:, 0]
            if self._has_converged(error, previous, tolerance):
                (flux, tangent), sign = system.condensed(condensed), self.kinematics.sign
                h = self.problem.updated(gradient, w, history)
                return Equilibrium(gradient, w, -solution[:, 1:], sign * flux, sign * tangent, h)
        return None

    def _has_converged(self, error: float, previous: float, tolerance: float) -> bool:
        """Whether an energy of the correction that follows one of ``previous`` is small enough, or but round-off."""
        if not self.spec.history:
            return error <= tolerance
        return error <= tolerance**2 or 0.25 * previous < error <= _ROUND_OFF

    def _condense(self, B: Array, *, reuse: bool) -> tuple[Array, Array]:
        """X = K⁻¹B and BᵀK⁻¹B/|Y| of the columns B = [r, L], under the constraints of a border where B carries one."""
        X, G = self._solve_columns(B, reuse=reuse or self.problem.constant)
        if self.problem.border is not None:
            X, G = self.problem.border.eliminate(X, G)
            X = self.problem.border.feasible(X)  # which by a factor of an earlier matrix it is but nearly
        return X, np.asarray(G / self.problem.volume)

    def _solve_columns(self, B: Array, *, reuse: bool) -> tuple[Array, Array]:
        """X = K⁻¹B and BᵀK⁻¹B, by the last factor where that serves."""
        if reuse and self._factor.ready:
            answer = refined(B, self._factor.solve, self._factor.product)
            if answer is not None:
                return answer
        self.ledger.count("rve/factorisations")
        if not self._factor.factorise():
            self.ledger.count("rve/LU factorisations")
        X = self._factor.solve(B)
        return X, B.T @ X

    def _remember(self, known: Equilibrium, row: Array) -> None:
        memory = self._memory(row[None])
        memory.gradient[:], memory.fluctuation[:] = known.gradient, known.fluctuation
        memory.sensitivity[:], memory.history[:] = known.sensitivity, known.history
        memory.defect[:] = memory.error[:] = 0.0

    def _history(self, row: Array) -> Array:
        return np.asarray(self._memory(row[None]).history[0])

    def _memory(self, rows: Array) -> Memory:
        return Memory.of(rows, self.spec.k, self.problem.n)

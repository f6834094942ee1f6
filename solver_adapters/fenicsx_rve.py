"""RVEs in DOLFINx as closures."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from coupling.contract import Array, ClosureSpec, Response, Status, check_arguments
from coupling.errors import ClosureError, ContractError
from coupling.ledger import Ledger
from solver_adapters.rve.boundary import Boundary
from solver_adapters.rve.cell_problem import CellProblem, Linearisation
from solver_adapters.rve.energies import Energy
from solver_adapters.rve.factor import SymmetricFactor
from solver_adapters.rve.kinematics import Kinematics, Stretch
from solver_adapters.rve.unit_cells import UnitCell

_FACTOR_SERVES = 1e-4
_LARGEST_REMAINDER = 3e-3
_SMALLEST_STEP = 2.0**-8
_MOST_ITERATIONS = 12


@dataclass(frozen=True)
class Equilibrium:
    """A solved RVE: where it is, how it responds, and how it would move.

    Args:
        gradient: (k,), g.
        fluctuation: (n,), w.
        sensitivity: (n, k), S = dw/dg = −K⁻¹L.
        flux: (m,), condensed flux.
        tangent: (m, k), condensed tangent.
    """

    gradient: Array
    fluctuation: Array
    sensitivity: Array
    flux: Array
    tangent: Array


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
    its result beyond the tolerance, for the tangent beyond its square root. Past an instability of the RVE the
    equilibrium that is found is a stationary point of W, not its minimum; the ledger then counts LU factorisations,
    which stand in where the stiffness is not positive definite.

    Args:
        cell: unit cell, from :mod:`solver_adapters.rve.meshes` or :mod:`solver_adapters.rve.unit_cells`.
        materials: energy density for each cell tag, from :mod:`solver_adapters.rve.energies` or your own.
        kinematics: kind of problem, from :mod:`solver_adapters.rve.kinematics`; by default finite strain in the stretch
            frame.
        boundary: "periodic", "linear" (displacements or temperatures of the boundary are those of the macroscopic
            gradient) or "uniform" (tractions or fluxes of the boundary are those of one macroscopic flux).
        degree: polynomial degree of the fluctuation.
        quadrature_degree: by default 2(degree − 1), but at least 1; more on cells that are not affine.
        tolerance: permitted error of the flux relative to the reference stiffness. It is the error of an energy, and so
            tolerance/|g|² of that of a gradient g: 1e-6 is too loose at 1 % strain, where 1e-12 serves.
        energy: whether responses carry the energy density, where the flux is its derivative.
        flux_unit: unit of the materials' moduli.

    Attributes:
        reference: the equilibrium of the reference state; its ``tangent`` holds the effective properties.
        point_seconds: (n,) processor time of each point in the last evaluation, for
            :class:`coupling.balance.BalancedClosure`.

    Raises:
        MeshError: the cell does not fit the boundary condition.
        ClosureError: there is no equilibrium in the reference state.
        ContractError: a tag without material, no such boundary condition, an energy where none belongs to the flux.
    """

    def __init__(
        self,
        cell: UnitCell,
        materials: Mapping[int, Energy],
        kinematics: Kinematics | None = None,
        *,
        boundary: Boundary = "periodic",
        degree: int = 2,
        quadrature_degree: int | None = None,
        tolerance: float = 1e-12,
        energy: bool = False,
        flux_unit: str = "1",
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
        k, n = self.problem.spec.k, self.problem.n
        if energy and (self.kinematics.sign < 0 or self.problem.spec.m < k):
            raise ContractError(
                f"energy=True, but with {type(self.kinematics).__name__} the flux is not the derivative of an energy: "
                "leave it out"
            )
        self.spec: ClosureSpec = replace(self.problem.spec, flux_unit=flux_unit, state_size=k + n * (1 + k))
        self._with_energy = energy
        border = self.problem.border
        self._factor = SymmetricFactor(self.problem.K, 1 + k + (0 if border is None else border.columns.shape[1]))
        self._scale = 1.0
        self.point_seconds = np.empty(0)
        self.reference = self._solve_reference()
        self._scale = float(np.linalg.norm(self.reference.tangent))
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
        memory, self.point_seconds = np.array(state), np.zeros(n)
        status = np.where(self.kinematics.admissible(gradient), Status.OK, Status.INADMISSIBLE).astype(np.int8)
        with self.ledger.phase("rve"):
            for i in np.flatnonzero(status == Status.OK):
                row, start = memory[i], time.thread_time()
                solved = self._solve(gradient[i], row if hint is None else hint[i], row)
                self.point_seconds[i] = time.thread_time() - start
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

    def equilibrium(self, row: Array) -> Equilibrium:
        """The equilibrium that a row (s,) of a returned state remembers; its flux and tangent are not kept and NaN."""
        k, m, n = self.spec.k, self.spec.m, self.problem.n
        unknown = np.full((m, k), np.nan)
        return Equilibrium(row[:k], row[k : k + n], row[k + n :].reshape(n, k), unknown[:, 0], unknown)

    def _solve_reference(self) -> Equilibrium:
        k, m, n = self.spec.k, self.spec.m, self.problem.n
        rest = np.array(self.spec.reference)
        start = Equilibrium(rest, np.zeros(n), np.zeros((n, k)), np.zeros(m), np.zeros((m, k)))
        solved = self._newton(rest, start)
        if solved is None:
            raise ClosureError(
                "the RVE has no equilibrium in its reference state: its energy must be finite there, and its stiffness "
                "regular. Check the moduli and the domain of each material, and that boundary condition and mesh hold "
                "every part of the cell"
            )
        return solved

    def _solve(self, gradient: Array, hint: Array, committed: Array) -> Equilibrium | None:
        """Equilibrium at ``gradient``: from the hint at once, else in steps from the committed memory."""
        solved = self._newton(gradient, self.equilibrium(hint)) if np.isfinite(hint).all() else None
        return solved or self._walk(gradient, self.equilibrium(committed), step=0.5 if hint is committed else 1.0)

    def _walk(self, gradient: Array, start: Equilibrium, *, step: float) -> Equilibrium | None:
        """Equilibrium at the end of the straight path from ``start``, in steps halved where Newton fails."""
        origin, done = start.gradient, 0.0
        while done < 1.0:
            reached = min(1.0, done + step)
            solved = self._newton(origin + reached * (gradient - origin), start)
            self.ledger.count("rve/substeps")
            if solved is not None:
                start, done, step = solved, reached, 2 * step
            else:
                step /= 2
                if step < _SMALLEST_STEP:
                    return None
        return start

    def _newton(self, gradient: Array, start: Equilibrium) -> Equilibrium | None:
        """Equilibrium at ``gradient``, or None where Newton's method from the predictor of ``start`` diverges."""
        w, border = start.fluctuation + start.sensitivity @ (gradient - start.gradient), self.problem.border
        if border is not None:
            w = border.feasible(w)
        error = np.inf
        for _ in range(_MOST_ITERATIONS):
            system = self.problem.linearise(gradient, w)
            self.ledger.count("rve/newton iterations")
            if not np.isfinite(system.right).all():
                return None
            try:
                solution, condensed = self._condense(system.right, reuse=error < _FACTOR_SERVES)
            except ArithmeticError:
                return None
            previous, error = error, abs(float(condensed[0, 0])) / self._scale
            if not error < 4 * previous:
                return None
            w = w - solution[:, 0]
            if error <= self.tolerance:
                return self._equilibrium_at(gradient, w, system, solution, condensed)
        return None

    def _equilibrium_at(
        self, gradient: Array, w: Array, system: Linearisation, solution: Array, condensed: Array
    ) -> Equilibrium:
        first = 1 + self.spec.k - self.spec.m
        flux, tangent = system.flux - condensed[first:, 0], system.tangent - condensed[first:, 1:]
        if first == 1:
            tangent = (tangent + tangent.T) / 2
        sign = self.kinematics.sign
        return Equilibrium(gradient, w, -solution[:, 1:], sign * flux, sign * tangent)

    def _condense(self, B: Array, *, reuse: bool) -> tuple[Array, Array]:
        """X = K⁻¹B and BᵀK⁻¹B/|Y| of the columns B = [r, L], under the constraints of a border where B carries one."""
        X, G = self._solve_columns(B, reuse=reuse or self.problem.constant)
        if self.problem.border is not None:
            X, G = self.problem.border.eliminate(X, G)
        return X, np.asarray(G / self.problem.volume)

    def _solve_columns(self, B: Array, *, reuse: bool) -> tuple[Array, Array]:
        """X = K⁻¹B and BᵀK⁻¹B.

        The last factor M serves where X₀ = M⁻¹B leaves a small remainder. After one step of iterative refinement,
        X = X₀ + M⁻¹(B − KX₀), the remainder is R = B − KX, and BᵀK⁻¹B = XᵀB + RᵀX + RᵀK⁻¹R; the last term is of fourth
        order and left out.
        """
        if reuse and self._factor.ready:
            X = self._factor.solve(B)
            R = B - self._factor.product(X)
            if np.linalg.norm(R[:, 1:]) <= _LARGEST_REMAINDER * np.linalg.norm(B[:, 1:]):
                X += self._factor.solve(R)
                R = B - self._factor.product(X)
                return X, X.T @ B + R.T @ X
        self.ledger.count("rve/factorisations")
        if not self._factor.factorise():
            self.ledger.count("rve/LU factorisations")
        X = self._factor.solve(B)
        return X, B.T @ X

    def _remember(self, known: Equilibrium, row: Array) -> None:
        k, n = self.spec.k, self.problem.n
        row[:k], row[k : k + n] = known.gradient, known.fluctuation
        row[k + n :] = known.sensitivity.reshape(-1)

"""Options and convergence of the macroscopic SNES."""

from __future__ import annotations

from typing import Any

from mpi4py import MPI
from petsc4py import PETSc

from coupling.errors import ContractError
from solver_adapters.macro.load_stepping import Solved
from solver_adapters.petsc_versions import DIVERGED_NAN

REASONS: dict[int, str] = {
    value: name for name, value in vars(PETSc.SNES.ConvergedReason).items() if isinstance(value, int)
}
"""Names of SNES's converged reasons by number."""

_FACTORS = (PETSc.PC.Type.LU, PETSc.PC.Type.CHOLESKY)


def default_options(comm: MPI.Comm) -> dict[str, Any]:
    """Newton with backtracking and a sparse direct solver.

    The line search gives up early, because load stepping cuts back instead, which costs less than many trials.
    snes_stol is off: a short step is no sign of equilibrium.
    """
    return {
        "snes_type": "newtonls",
        "snes_linesearch_type": "bt",
        "snes_linesearch_max_it": 4,
        "snes_rtol": 1e-9,
        "snes_stol": 0.0,
        "snes_max_it": 15,
        "ksp_type": "preonly",
        "pc_type": "lu",
        "pc_factor_mat_solver_type": direct_solver(comm),
    }


def direct_solver(comm: MPI.Comm) -> str:
    """A sparse LU with pivoting that this PETSc has for the communicator."""
    preferred = ("mumps", "umfpack", "superlu") if comm.size == 1 else ("mumps", "superlu_dist")
    return next((name for name in preferred if PETSc.Sys.hasExternalPackage(name)), "petsc")


def check_prefix(prefix: str) -> None:
    """Raise ContractError unless the options prefix is usable."""
    if not isinstance(prefix, str) or len(prefix) < 2 or not prefix.endswith("_") or prefix.startswith("-"):
        raise ContractError(f"petsc_options_prefix must be a name that ends in '_', such as 'cook_', got {prefix!r}")


def newton(snes: PETSc.SNES, b: PETSc.Vec | None, x: PETSc.Vec) -> Solved | None:
    """Solve F(x) = b from x, None where SNES diverged (collective)."""
    snes.solve(b, x)
    reason = snes.getConvergedReason()
    if reason == PETSc.SNES.ConvergedReason.DIVERGED_LINEAR_SOLVE and snes.ksp.pc.getType() in _FACTORS:
        snes.ksp.pc.reset()  # a factorisation that failed on a singular matrix would go on failing
    return Solved(snes.getIterationNumber(), REASONS[reason]) if reason > 0 else None


class ForceScale:
    """Convergence of a Newton iteration measured on the scale of the forces: ‖F‖ ≤ max(atol, rtol·scale).

    The scale is the norm of the iterate's residual before the rows of Dirichlet conditions are replaced, that is
    including the reactions, or that of the last solution where it is larger (a body that is unloaded has no reactions
    left). PETSc's own test divides by the residual of the initial guess, which a good guess makes so small that
    round-off never gets below. ``-snes_rtol``, ``-snes_atol`` and ``-snes_stol`` are read from SNES as usual.

    Attributes:
        scale: of the forces.
        share: of the tolerance that an iteration has to meet.
    """

    def __init__(self) -> None:
        self.scale = self._least = 0.0
        self.share = 1.0

    def keep(self) -> None:
        """Keep the scale of a solution as the least scale of the next solve."""
        self._least = self.scale

    def enter(self, norm: float) -> None:
        """Enter the norm of the residual with reactions at the present iterate."""
        self.scale = max(self._least, norm)

    def __call__(self, snes: PETSc.SNES, iteration: int, norms: tuple[float, float, float]) -> int:
        """SNES convergence test; norms are those of iterate, last step and residual."""
        x, step, residual = norms
        rtol, atol, stol, _ = snes.getTolerances()
        reason = PETSc.SNES.ConvergedReason
        if residual != residual:
            return DIVERGED_NAN
        if residual <= self.share * atol:
            return int(reason.CONVERGED_FNORM_ABS)
        if residual <= self.share * rtol * self.scale:
            return int(reason.CONVERGED_FNORM_RELATIVE)
        if iteration > 0 and step < stol * x:
            return int(reason.CONVERGED_SNORM_RELATIVE)
        return int(reason.ITERATING)

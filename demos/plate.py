"""A composite plate that is heated and cooled by turns: transient two-scale heat conduction by finite differences."""

from __future__ import annotations

from typing import Any

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np

from coupling import Closure
from coupling.contract import Array
from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.petsc_fd import FaceFlux
from solver_adapters.rve.energies import FieldConduction
from solver_adapters.rve.kinematics import ScalarField
from solver_adapters.rve.meshes import centred_fibre


def composite() -> PeriodicRVE:
    """Fibres that conduct the worse the hotter they are, in a matrix that conducts the better."""
    return PeriodicRVE(
        centred_fibre(fraction=0.3, size=0.15),
        {
            1: FieldConduction(lambda theta: 0.2 + 0.3 * theta, "0.2 + 0.3 θ"),
            2: FieldConduction(lambda theta: 8.0 / (1.0 + theta), "8/(1 + θ)"),
        },
        ScalarField(reference=1.0),
        tolerance=1e-10,
    )


class Plate:
    """θ̇ + div q(θ, ∇θ) = 0 on the unit square, q from a closure, implicit in time.

    The left edge follows θ = (½ + y² (3 − 2y)) (1 + 0.8 sin 2πt), the right edge is kept at ½; top and bottom are
    insulated. Heat capacity is 1 per volume.

    Args:
        comm: communicator of the grid.
        closure: (θ, ∇θ) ↦ q.
        nodes: nodes along each edge.
        dt: time step.

    Attributes:
        ts: PETSc's time stepper, backward Euler unless options say otherwise (prefix ``plate_``).
        fluxes: where the closure enters.
        theta: temperatures.
    """

    def __init__(self, comm: MPI.Comm, closure: Closure, *, nodes: int = 9, dt: float = 0.05) -> None:
        self.da = PETSc.DMDA().create(
            sizes=(nodes, nodes), dof=1, stencil_type=PETSc.DMDA.StencilType.BOX, stencil_width=1, comm=comm
        )
        self.da.setUniformCoordinates(0, 1, 0, 1)
        self.fluxes = FaceFlux(self.da, closure, name="heat flux")
        self.theta = self.da.createGlobalVec()
        self.theta.set(0.5)
        x, y = self.da.getCoordinates().array_r.reshape(-1, 2).T
        self._left, self._right = np.flatnonzero(x < 1e-12), np.flatnonzero(x > 1 - 1e-12)
        self._profile = 0.5 + y[self._left] ** 2 * (3 - 2 * y[self._left])
        first, _ = self.theta.getOwnershipRange()
        self._held = (np.concatenate([self._left, self._right]) + first).astype(PETSc.IntType)
        self._entering = np.zeros(2)
        self.ts = self._stepper(comm, dt)

    def left(self, t: float) -> Array:
        """Temperatures of this rank's nodes on the left edge at time t."""
        values: Array = self._profile * (1 + 0.8 * np.sin(2 * np.pi * t))
        return values

    def entering(self) -> Array:
        """Heat per time (2,) that enters at the left and the right edge, at the last iterate (collective)."""
        total: Array = self.fluxes.comm.allreduce(self._entering)
        return total

    def temperatures(self) -> Array:
        """Temperatures (nodes, nodes) of all ranks, row by row (collective)."""
        natural = self.da.createNaturalVec()
        self.da.globalToNatural(self.theta, natural)
        whole = np.concatenate(self.fluxes.comm.allgather(natural.array_r.copy()))
        natural.destroy()
        temperatures: Array = whole.reshape(self.da.getSizes()[::-1])
        return temperatures

    def close(self) -> None:
        """Destroy the PETSc objects (collective)."""
        for thing in (self.ts, self.theta, self.da):
            thing.destroy()

    def _stepper(self, comm: MPI.Comm, dt: float) -> Any:
        J = self.da.createMatrix()
        J.setOption(PETSc.Mat.Option.KEEP_NONZERO_PATTERN, True)
        ts = PETSc.TS().create(comm)
        ts.setOptionsPrefix("plate_")
        ts.setType("beuler")
        ts.setIFunction(self._residual, self.da.createGlobalVec())
        ts.setIJacobian(self._jacobian, J)
        ts.setTimeStep(dt)
        ts.setExactFinalTime(PETSc.TS.ExactFinalTime.MATCHSTEP)
        ts.snes.setTolerances(rtol=1e-6, stol=0.0)
        ts.snes.ksp.setType("preonly")
        ts.snes.ksp.pc.setType("lu")
        ts.snes.ksp.pc.setFactorSolverType("mumps")
        ts.setPostStep(self.fluxes.after_step)
        ts.setFromOptions()
        return ts

    def _residual(self, ts: Any, t: float, x: Any, xdot: Any, f: Any) -> None:
        f.pointwiseMult(self.fluxes.volumes, xdot)
        self.fluxes.add_divergence(x, f)
        self._entering = np.array([f.array_r[edge].sum() for edge in (self._left, self._right)])
        f.array_w[self._left] = x.array_r[self._left] - self.left(t)
        f.array_w[self._right] = x.array_r[self._right] - 0.5

    def _jacobian(self, ts: Any, t: float, x: Any, xdot: Any, shift: float, J: Any, P: Any) -> None:
        P.zeroEntries()
        self.fluxes.add_jacobian(x, P)
        P.assemble()
        P.setDiagonal(self.fluxes.volumes * shift, addv=PETSc.InsertMode.ADD_VALUES)
        P.assemble()
        P.zeroRows(self._held, 1.0)

"""Closures in finite-difference codes on DMDA: fluxes at cell faces, in one call each for residual and Jacobian.

    fluxes = FaceFlux(da, closure)

    def residual(snes, x, f):            # ∫ div q − s dx over each node's control volume
        f.set(0.0)
        fluxes.add_divergence(x, f)
        f.axpy(-1.0, source)

    def jacobian(snes, x, J, P):
        P.zeroEntries()
        fluxes.add_jacobian(x, P)
        P.assemble()

Grid, ghost exchange, other terms, boundary conditions, solver options and launch stay the user's own, for SNES as for
the IFunction and IJacobian of a TS. A closure with history, or in exact mode (:mod:`solver_adapters.exact_snes`), needs
to be told when an increment has ended: ``ts.setPostStep(fluxes.after_step)``, or ``fluxes.accept(x)`` after a
``snes.solve`` that has converged. History advances by backward Euler, TS of type "beuler"; others are refused.
"""

from __future__ import annotations

from typing import Any

from petsc4py import PETSc

import numpy as np

from coupling.contract import Array, Closure
from coupling.errors import ClosureError, ContractError
from coupling.ledger import Ledger
from solver_adapters.closure_points import ClosurePoints, numbers
from solver_adapters.grid.axes import axes_of
from solver_adapters.grid.faces import Faces
from solver_adapters.level import EVALUATE, Level
from solver_adapters.macro.evaluation import evaluate_fluxes, raising_through_petsc


class FaceFlux(ClosurePoints):
    """The flux q(u, ∇u) or q(∇u) of a closure at the faces between the nodes of a DMDA, in 1D, 2D and 3D.

        r_i = ∮ n·q dA over the control volume of node i,   ∂r/∂u = D (n·∂q/∂g) G

    Each face belongs to one rank, and the closure is called once per iterate for all faces of a rank; the Jacobian of
    the same iterate takes the tangents of that call. No flux enters through the boundary of the grid: add what does to
    f, or replace the rows of Dirichlet nodes. See :mod:`solver_adapters.grid.faces` for the differences.

    Args:
        da: DMDA of one unknown per node with box stencil and coordinates of a rectilinear grid, periodic or not.
        closure: operand (u, ∂u/∂x₁, …) or (∂u/∂x₁, …), told apart by the number of components; flux of d components.
        name: name in error messages.
        ledger: where counts and times are entered, by default an own one.

    Attributes:
        faces: the faces of this rank, their midpoints and operators.
        volumes: global vector of the nodes' control volumes, for storage and source terms.
        level: what closures with two levels are asked for; :class:`solver_adapters.exact_snes.ExactSNES` changes it.
        ledger: counts and times.

    Raises:
        ContractError: the closure does not fit the grid, or the grid is none of the above.
    """

    def __init__(self, da: Any, closure: Closure, *, name: str = "flux", ledger: Ledger | None = None) -> None:
        dim, spec = da.getDim(), closure.spec
        if spec.m != dim or spec.k not in (dim, dim + 1):
            raise ContractError(
                f"a {dim}D grid needs a closure of {dim} flux components and of {dim} gradient components, or "
                f"{dim + 1} with the value first; it takes {', '.join(spec.gradient)} to {', '.join(spec.flux)}"
            )
        self.da, self.comm = da, da.comm.tompi4py()
        self.ledger = Ledger() if ledger is None else ledger
        self.faces = Faces(axes_of(da), value=spec.k > dim)
        super().__init__(closure, self.faces.n, name)
        self.volumes = da.createGlobalVec()
        self.volumes.array_w[:] = self.faces.volumes
        self.level = EVALUATE
        self._magnitudes = abs(self.faces.gradient)
        self._u, self._r = da.createLocalVec(), da.createLocalVec()

    def operand_values(self) -> Array:
        """Gradients (n, k) at the faces for the nodal values last taken in."""
        return np.asarray(self.faces.gradient @ self._u.array_r).reshape(self.faces.n, self.faces.k)

    def _is_same(self, gradient: Array, earlier: Array) -> bool:
        """Whether gradients differ by no more than the round-off of |G||u|.

        Time steppers give back a converged stage with other last digits than they had it evaluated with. A gradient
        that is not a number is never the same.
        """
        round_off = 8 * np.finfo(float).eps * (self._magnitudes @ np.abs(self._u.array_r))
        return bool((np.abs(gradient - earlier).reshape(-1) <= round_off).all())

    def place(self, i: int) -> str:
        """Rank, direction and midpoint of face i."""
        axis = "xyz"[self.faces.direction[i]]
        return f"rank {self.comm.rank}, {axis} face {i}, x = {numbers(self.faces.coordinates[i])}"

    def add_divergence(self, x: PETSc.Vec, f: PETSc.Vec, dt: float = 1.0) -> None:
        """Add the net outflow of every node's control volume to the global vector f (collective).

        Where a point of any rank failed, f is NaN on all of them, so that a line search shortens its step, a time step
        is rejected, and anything else stops. dt is the length of the increment, for closures with history.

        Raises:
            Exception: what the closure raised, on its rank; RemoteRankError on the others.
        """
        if self._take_in(x, dt, self.level):
            f.set(np.nan)
            return
        self._r.array_w[:] = self.faces.divergence @ self.faces.normal(self.response.flux)
        self.da.localToGlobal(self._r, f, addv=PETSc.InsertMode.ADD_VALUES)

    def add_jacobian(self, x: PETSc.Vec, J: PETSc.Mat, dt: float = 1.0, scale: float = 1.0) -> None:
        """Add the derivative of :meth:`add_divergence` times ``scale`` to a matrix of the DMDA (collective).

        The matrix has to be assembled afterwards. It is left as it was where a point failed.
        """
        if self._take_in(x, dt, self.level):
            return
        local = self.faces.stiffness(self.response.tangent)
        index = PETSc.IntType
        J.setValuesLocalCSR(
            local.indptr.astype(index),
            local.indices.astype(index),
            scale * local.data,
            addv=PETSc.InsertMode.ADD_VALUES,
        )

    def accept(self, x: PETSc.Vec) -> None:
        """Commit the state at the solution x of an increment, as long as that of the last evaluation (collective).

        The closure is called once more where the last iterate was another one, as it is with ``-snes_type ksponly``.

        Raises:
            ContractError: nothing has been evaluated.
            ClosureError: points failed there, on all ranks; the committed state stays.
            Exception: what the closure raised, on its rank; RemoteRankError on the others.
        """
        if self._response is None:
            raise ContractError(f"{self.name!r} has not been evaluated: solve first, then accept the solution")
        if failed := self._take_in(x, self._dt, self._level if self._level.solves else EVALUATE):
            first = [line for lines in self.comm.allgather(self.failures(at_most=3)) for line in lines][:5]
            raise ClosureError("\n  ".join([f"{failed} points failed at the solution, the first of them:", *first]))
        self.commit()

    def after_step(self, ts: PETSc.TS) -> None:
        """Accept the solution of a time step, for ``ts.setPostStep`` (collective).

        TS calls it for the step at which it gives up, too: that one leaves the committed state as it is.

        Raises:
            ContractError: a closure with history under another scheme than backward Euler, or asked over another dt
                than the step took.
            Exception: see :meth:`accept`.
        """
        if ts.getConvergedReason() < 0:
            self.discard()
            return
        with raising_through_petsc():
            if self.closure.spec.history:
                self.check_scheme(ts)
                self._check_increment(ts)
            self.accept(ts.getSolution())

    def check_scheme(self, ts: PETSc.TS) -> None:
        """Check that the scheme of a TS asks a closure with history once a step, with what the step began with.

        Raises:
            ContractError: it is another one than backward Euler.
        """
        kind, types = ts.getType(), PETSc.TS.Type
        if self.closure.spec.history and kind != types.BEULER and not (kind == types.THETA and ts.getTheta() == 1.0):
            raise ContractError(
                f"{self.name!r} has history, which advances once a step by backward Euler; a TS of type {kind!r} has "
                "other stages: use the type 'beuler', or 'theta' with θ = 1"
            )

    def _check_increment(self, ts: PETSc.TS) -> None:
        time, step = ts.getTime(), ts.getTime() - ts.getPrevTime()
        if abs(self._dt - step) > 1e-6 * step + 8 * np.finfo(float).eps * abs(time):
            raise ContractError(
                f"{self.name!r} has history and was evaluated over {self._dt:.6g}, where the step took {step:.6g}: "
                "pass dt=ts.getTimeStep() to add_divergence and add_jacobian"
            )

    def _take_in(self, x: PETSc.Vec, dt: float, level: Level) -> int:
        """Bring the fluxes to the nodal values x; number of failed points on all ranks."""
        self.da.globalToLocal(x, self._u)
        return evaluate_fluxes([self], dt, self.comm, self.ledger, level)

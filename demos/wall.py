"""The wall of a square flue: an L of insulating composite, hot inside, cold outside; the macro problem of a demo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mpi4py import MPI

import basix.ufl
import numpy as np
import ufl
from dolfinx import fem, mesh
from numpy.typing import NDArray

from coupling import Closure
from coupling.contract import Array
from solver_adapters.fenicsx import ClosureFlux, MultiscaleProblem

THICKNESS, ARM = 0.1, 0.5  # metres; each arm reaches so far beyond the corner
COLD, HOT = 300.0, 1300.0  # kelvin
CORNER = 1 - 2 / np.pi * np.log(2)
"""Shape factor that the corner adds to those of the two arms, by conformal mapping (0.559; tables round it to 0.54)."""


@dataclass
class Wall:
    """The macro problem with a closure in it.

    Args:
        problem: ready to be stepped from load factor 0 (all at COLD) to 1.
        flux: where the closure enters.
        inside: temperature of the hot faces.
        tests: functions that are 1 on the hot faces and 0 on the cold ones, and the reverse.
    """

    problem: MultiscaleProblem
    flux: ClosureFlux
    inside: fem.Constant
    tests: tuple[fem.Function, fem.Function]

    def apply_load(self, factor: float) -> None:
        """Set the temperature of the hot faces."""
        self.inside.value = COLD + factor * (HOT - COLD)

    def heat_flows(self) -> tuple[float, float]:
        """Heat that enters through the hot faces and leaves through the cold ones, W per metre of flue (collective).

        −∫ q·∇φ dx with φ = 1 there: the reactions of the discrete problem, more accurate than its fluxes on the faces.
        """
        forms = (fem.form(-ufl.dot(self.flux.value, ufl.grad(phi)) * self.flux.dx) for phi in self.tests)
        entering, leaving = (self.problem.comm.allreduce(fem.assemble_scalar(form), op=MPI.SUM) for form in forms)
        return entering, -leaving

    def profile(self) -> Array:
        """Depth and temperature (n, 2) at the nodes across one arm, halfway along it (collective)."""
        V = self.problem.u.function_space
        x = V.tabulate_dof_coordinates()
        halfway = _ticks()[0][np.abs(_ticks()[0] - (THICKNESS + ARM / 2)).argmin()]
        owned = V.dofmap.index_map.size_local
        there = np.flatnonzero(np.isclose(x[:owned, 1], halfway) & (x[:owned, 0] < THICKNESS + 1e-9))
        rows = np.column_stack([x[there, 0], self.problem.u.x.array[there]])
        found = np.vstack(self.problem.comm.allgather(rows))
        return np.asarray(found[np.argsort(found[:, 0])])


def composite_wall(comm: MPI.Comm, closure: Closure) -> Wall:
    """Steady conduction in the wall with P2 temperatures and three points per triangle.

    Args:
        comm: communicator of the macro problem.
        closure: (θ, ∇θ) ↦ heat flux.
    """
    domain = _wall_mesh(comm)
    V = fem.functionspace(domain, ("Lagrange", 2))
    theta, v = fem.Function(V, name="temperature"), ufl.TestFunction(V)
    theta.x.array[:] = COLD
    dx = ufl.Measure("dx", domain, metadata={"quadrature_degree": 2})
    q = ClosureFlux([theta, ufl.grad(theta)], closure, dx, name="q")
    hot = fem.locate_dofs_geometrical(V, _inner)
    cold = fem.locate_dofs_geometrical(V, lambda x: np.minimum(x[0], x[1]) < 1e-9)
    inside, outside = (fem.Constant(domain, np.float64(COLD)) for _ in range(2))
    problem = MultiscaleProblem(
        -ufl.dot(q.value, ufl.grad(v)) * q.dx,
        theta,
        fluxes=[q],
        bcs=[fem.dirichletbc(inside, hot, V), fem.dirichletbc(outside, cold, V)],
        petsc_options_prefix="wall_",
        petsc_options={"snes_rtol": 1e-10},
    )
    return Wall(problem, q, inside, (_indicator(V, hot), _indicator(V, cold)))


def _indicator(V: Any, dofs: NDArray[np.int32]) -> fem.Function:
    phi = fem.Function(V)
    phi.x.array[dofs] = 1.0
    return phi


def _inner(x: Array) -> NDArray[np.bool_]:
    return np.asarray(np.isclose(np.minimum(x[0], x[1]), THICKNESS, atol=1e-9) | (np.minimum(x[0], x[1]) > THICKNESS))


def _ticks() -> tuple[Array, int]:
    """Grid lines, finer towards the inner edge where the flux is singular, and how many of them lie in the wall."""
    across = THICKNESS * (1 - np.linspace(1, 0, 6) ** 1.5)
    along = THICKNESS + ARM * np.linspace(0, 1, 10)[1:] ** 2
    return np.concatenate([across, along]), len(across)


def _wall_mesh(comm: MPI.Comm) -> Any:
    """The L as triangles, from rank 0."""
    t, wall = _ticks()
    n = len(t)
    x = np.array([[a, b] for a in t for b in t])
    squares = [(i, j) for i in range(n - 1) for j in range(n - 1) if min(i, j) < wall - 1]
    cells = [
        corners
        for i, j in squares
        for a, b, c, d in [(i * n + j, (i + 1) * n + j, i * n + j + 1, (i + 1) * n + j + 1)]
        for corners in ((a, b, d), (a, d, c))
    ]
    used, renumbered = np.unique(np.array(cells), return_inverse=True)
    element = basix.ufl.element("Lagrange", "triangle", 1, shape=(2,))
    if comm.rank > 0:
        return mesh.create_mesh(comm, np.empty((0, 3), np.int64), np.empty((0, 2)), element)
    return mesh.create_mesh(comm, renumbered.reshape(-1, 3).astype(np.int64), x[used], element)

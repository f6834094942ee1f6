"""Cook's membrane, a tapered panel clamped on the left and sheared on the right: the macro problem of the demos."""

from __future__ import annotations

import os
from dataclasses import dataclass

from mpi4py import MPI

import numpy as np
import ufl
from dolfinx import fem, mesh

from coupling import Closure
from coupling.contract import Array
from solver_adapters.fenicsx import ClosureFlux, MultiscaleProblem
from solver_adapters.macro.meshes import cooks_membrane

os.environ.setdefault("SCOTCH_DETERMINISTIC", "1")  # so that all runs spread the mesh over the ranks alike

LENGTH, CLAMPED, LOADED = 48.0, 44.0, 16.0


@dataclass
class Membrane:
    """The macro problem with a closure in it.

    Args:
        problem: ready to be stepped from load factor 0 to 1 with :func:`solver_adapters.fenicsx.load_steps`.
        flux: where the closure enters.
        traction: dead load on the right edge, (2,) per unit reference length.
        full_load: its value at load factor 1.
    """

    problem: MultiscaleProblem
    flux: ClosureFlux
    traction: fem.Constant
    full_load: float

    def apply_load(self, factor: float) -> None:
        """Set the dead shear load."""
        self.traction.value[1] = factor * self.full_load

    def tip(self) -> Array:
        """Displacement (2,) of the middle of the right edge (collective)."""
        return point_value(self.problem.u, np.array([LENGTH, CLAMPED + LOADED / 2]))


def membrane(
    comm: MPI.Comm, closure: Closure, *, cells: tuple[int, int] = (6, 3), load: float = 0.06, rtol: float = 1e-10
) -> Membrane:
    """Finite-strain Cook's membrane with P2 displacements and three points per triangle.

    Args:
        comm: communicator of the macro problem.
        closure: deformation gradient ↦ first Piola–Kirchhoff stress.
        cells: divisions along and across the panel.
        load: shear traction at load factor 1, in units of stress.
        rtol: tolerance of the residual relative to the forces.
    """
    panel = cooks_membrane(comm, cells)
    V = fem.functionspace(panel, ("Lagrange", 2, (2,)))
    u, v = fem.Function(V, name="displacement"), ufl.TestFunction(V)
    clamped = fem.locate_dofs_geometrical(V, lambda x: np.isclose(x[0], 0.0))
    right = mesh.locate_entities_boundary(panel, 1, lambda x: np.isclose(x[0], LENGTH))
    tags = mesh.meshtags(panel, 1, np.sort(right), np.ones(len(right), dtype=np.int32))
    ds = ufl.Measure("ds", panel, subdomain_data=tags)
    dx = ufl.Measure("dx", panel, metadata={"quadrature_degree": 2})
    traction = fem.Constant(panel, np.zeros(2))

    P = ClosureFlux(ufl.Identity(2) + ufl.grad(u), closure, dx, name="P")
    residual = ufl.inner(P.value, ufl.grad(v)) * P.dx - ufl.inner(traction, v) * ds(1)
    problem = MultiscaleProblem(
        residual,
        u,
        fluxes=[P],
        bcs=[fem.dirichletbc(np.zeros(2), clamped, V)],
        petsc_options_prefix="cook_",
        petsc_options={"snes_rtol": rtol, "snes_linesearch_type": "basic"},
    )
    return Membrane(problem, P, traction, load)


def point_value(u: fem.Function, point: Array) -> Array:
    """Value of a nodal function at one of its nodes (collective)."""
    V = u.function_space
    at = fem.locate_dofs_geometrical(V, lambda x: np.isclose(x[:2].T, point).all(axis=1))
    owned = at[at < V.dofmap.index_map.size_local]
    values = u.x.array.reshape(-1, V.dofmap.bs)[owned]
    found = [value for rank in V.mesh.comm.allgather(values) for value in rank]
    return np.asarray(found[0])

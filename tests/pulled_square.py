"""A square of RVEs with history, held at a part of its upper side, which is pulled and later let go."""

from itertools import count

from mpi4py import MPI

import numpy as np
import ufl
from dolfinx import fem, mesh

from coupling import AcceleratedClosure, RangeGate
from coupling.closed_forms import lame
from solver_adapters.fenicsx import ClosureFlux, MultiscaleProblem, load_steps, mandel
from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.rve import histories
from solver_adapters.rve.energies import isotropic
from solver_adapters.rve.kinematics import SmallStrain
from solver_adapters.rve.meshes import centred_fibre

MODULI, YIELD, HARDENING = lame(70.0, 0.3), 0.2, 2.0
METAL = histories.VonMisesPlasticity(*MODULI, YIELD, HARDENING)
STIFF = lame(400.0, 0.2)
prefixes = (f"fe2h{i}_" for i in count())


def rve(law=METAL, inclusion=None, tolerance=1e-8, size=0.3):
    materials = {1: law, 2: isotropic(*STIFF) if inclusion is None else inclusion}
    return PeriodicRVE(centred_fibre(size=size), materials, SmallStrain(), tolerance=tolerance)


def exact(fine, surrogate):
    return AcceleratedClosure(fine, surrogate, gate=RangeGate(), mode="exact")


def pulled(closure, steps=4, end=0.8, amount=6e-3, cells=2, **options):
    """Problem, fluxes and records of the steps; the displacement is ``amount`` · sin(πt), up to t = ``end``."""
    square = mesh.create_unit_square(MPI.COMM_WORLD, cells, cells)
    V = fem.functionspace(square, ("Lagrange", 1, (2,)))
    u, v, moved = fem.Function(V), ufl.TestFunction(V), fem.Function(V)
    low = fem.locate_dofs_geometrical(V, lambda x: np.isclose(x[1], 0.0))
    high = fem.locate_dofs_geometrical(V, lambda x: np.isclose(x[1], 1.0) & (x[0] < 0.6))
    sigma = ClosureFlux(mandel(ufl.sym(ufl.grad(u))), closure, ufl.dx(square, degree=1))
    residual = ufl.inner(sigma.vector, mandel(ufl.sym(ufl.grad(v)))) * sigma.dx
    bcs = [fem.dirichletbc(np.zeros(2), low, V), fem.dirichletbc(moved, high)]
    tight = {"snes_rtol": 1e-9}
    problem = MultiscaleProblem(
        residual, u, fluxes=[sigma], bcs=bcs, petsc_options_prefix=next(prefixes), petsc_options=tight
    )

    def move(t):
        moved.interpolate(lambda x: np.stack([0.0 * x[0], amount * np.sin(np.pi * t) + 0.0 * x[0]]))

    return problem, sigma, load_steps(problem, move, steps=steps, end=end, **options)

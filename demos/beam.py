"""A cantilever of a filled polymer: the macro problem of a demo, its fine scale, and what beam theory makes of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mpi4py import MPI

import numpy as np
import ufl
from dolfinx import fem, mesh

from coupling import Closure
from coupling.contract import Array
from solver_adapters.fenicsx import ClosureFlux, MultiscaleProblem, from_mandel, mandel
from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.rve.energies import Energy, isotropic
from solver_adapters.rve.kinematics import SmallStrain
from solver_adapters.rve.meshes import sphere

LENGTH, WIDTH, HEIGHT = 10.0, 1.0, 2.0  # millimetres
FORCE = 0.0046  # kilonewtons, at the tip
GLASS = (30.0, 20.0)  # Lamé's μ and λ, gigapascals
POLYMER = (1.0, 3.0, 0.02)  # μ and bulk modulus, gigapascals, and the strain at which it softens


@dataclass(frozen=True)
class SofteningSolid:
    """Nonlinear elastic solid whose shear stress saturates: the deformation theory of a tough polymer.

    W = K/2 (tr ε)² + 2 μ ε₀² (√(1 + e:e/ε₀²) − 1) with the deviator e of ε: linear elastic for |e| ≪ ε₀, and a
    deviatoric stress below 2 μ ε₀ for |e| ≫ ε₀.

    Args:
        mu: shear modulus at small strain.
        bulk: bulk modulus K.
        softening: ε₀.
    """

    mu: float
    bulk: float
    softening: float

    def __call__(self, strain: Any) -> Any:
        """Energy density at the strain tensor."""
        e = ufl.dev(strain)
        root = ufl.sqrt(1 + ufl.inner(e, e) / self.softening**2)
        return self.bulk / 2 * ufl.tr(strain) ** 2 + 2 * self.mu * self.softening**2 * (root - 1)


def create_rve(*, for_training: bool = False) -> PeriodicRVE:
    """A glass sphere in a cube of polymer, 30 % by volume.

    For training it also tells the energy. The default tolerance, 1e-12, is one of 1e-8 at strains of one per cent: the
    error of an energy goes with their square.
    """
    laws: dict[int, Energy] = {1: SofteningSolid(*POLYMER), 2: isotropic(*GLASS, 3)}
    cell = sphere(fraction=0.3, size=0.5, order=2)
    return PeriodicRVE(cell, laws, SmallStrain(), quadrature_degree=2, energy=for_training, flux_unit="GPa")


@dataclass
class Beam:
    """The macro problem with a closure in it.

    Args:
        problem: ready to be stepped from load factor 0 to 1.
        stress: where the closure enters.
        traction: shear on the end face, (3,).
        end_average: form of the mean of u₃ over the end face.
    """

    problem: MultiscaleProblem
    stress: ClosureFlux
    traction: fem.Constant
    end_average: Any

    def apply_load(self, factor: float) -> None:
        """Set the shear on the end face."""
        self.traction.value[2] = -factor * FORCE / (WIDTH * HEIGHT)

    def deflection(self) -> float:
        """Mean downward displacement of the end face (collective)."""
        return -float(self.problem.comm.allreduce(fem.assemble_scalar(self.end_average), op=MPI.SUM))


def cantilever(comm: MPI.Comm, closure: Closure) -> Beam:
    """Beam of 20-node bricks with reduced integration, clamped on the left.

    Args:
        comm: communicator of the macro problem.
        closure: strain ↦ stress, both in Mandel form.
    """
    corners: list[Any] = [[0.0, 0.0, -HEIGHT / 2], [LENGTH, WIDTH, HEIGHT / 2]]
    domain = mesh.create_box(comm, corners, [8, 1, 2], mesh.CellType.hexahedron)
    V = fem.functionspace(domain, ("Serendipity", 2, (3,)))
    u, v = fem.Function(V, name="displacement"), ufl.TestFunction(V)
    facets = [mesh.locate_entities_boundary(domain, 2, lambda x, at=at: np.isclose(x[0], at)) for at in (0.0, LENGTH)]
    tags = mesh.meshtags(domain, 2, facets[1], np.ones(len(facets[1]), dtype=np.int32))
    ds = ufl.Measure("ds", domain, subdomain_data=tags)
    dx = ufl.Measure("dx", domain, metadata={"quadrature_degree": 3})
    traction = fem.Constant(domain, np.zeros(3))
    stress = ClosureFlux(mandel(ufl.sym(ufl.grad(u))), closure, dx, name="stress")
    sigma = from_mandel(stress.vector)
    problem = MultiscaleProblem(
        ufl.inner(sigma, ufl.sym(ufl.grad(v))) * stress.dx - ufl.dot(traction, v) * ds(1),
        u,
        fluxes=[stress],
        bcs=[fem.dirichletbc(fem.Function(V), fem.locate_dofs_topological(V, 2, facets[0]))],
        petsc_options_prefix="beam_",
        petsc_options={"snes_rtol": 1e-9, "snes_linesearch_type": "basic"},
    )
    return Beam(problem, stress, traction, fem.form(u[2] / (WIDTH * HEIGHT) * ds(1)))


def uniaxial(closure: Closure, strain: Array) -> Array:
    """Stress σ₁₁ (n,) at strains ε₁₁ (n,) where all other stresses vanish, by Newton's method on the other strains."""
    g = np.zeros((len(strain), 6))
    g[:, 0], g[:, 1], g[:, 2] = strain, -0.35 * strain, -0.35 * strain
    state = closure.initial_state(len(g))
    for _ in range(12):
        response = closure.evaluate(g, state, 0.0)
        change = np.linalg.solve(response.tangent[:, 1:, 1:], response.flux[:, 1:, None])[:, :, 0]
        if np.abs(change).max() < 1e-9:
            return np.asarray(response.flux[:, 0])
        g[:, 1:] -= change
        state = response.state
    raise ArithmeticError("no uniaxial stress found: smaller strains")


def beam_theory(strain: Array, stress: Array, shear_modulus: float, forces: Array) -> Array:
    """Tip deflections (m,) of the cantilever at tip forces (m,), plane sections and Timoshenko's shear.

    M(κ) = b ∫ σ(κ z) z dz gives κ(x) for M = F (L − x), and w = ∫ κ (L − x) dx + F L/(k G A) with k = 5/6.

    Args:
        strain: (n,) ascending from 0, strains of the uniaxial law.
        stress: (n,) its stresses; the law is odd.
        shear_modulus: G.
        forces: (m,).
    """
    nodes, weights = np.polynomial.legendre.leggauss(24)
    z, dz = (nodes + 1) * HEIGHT / 4, weights * HEIGHT / 4  # over the upper half
    curvatures = np.linspace(0.0, strain[-1] / (HEIGHT / 2), 200)
    moments = 2 * WIDTH * (np.interp(np.outer(curvatures, z), strain, stress) * z) @ dz
    nodes, weights = np.polynomial.legendre.leggauss(40)
    s, ds = (nodes + 1) * LENGTH / 2, weights * LENGTH / 2  # distance from the tip
    bending = np.array([(np.interp(F * s, moments, curvatures) * s) @ ds for F in forces])
    return np.asarray(bending + forces * LENGTH / (5 / 6 * shear_modulus * WIDTH * HEIGHT))

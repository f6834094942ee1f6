"""Mixed formulations and several fields with closures, in 2D and 3D, against the same laws in UFL or in closed form."""

from dataclasses import replace

from mpi4py import MPI

import basix.ufl
import numpy as np
import pytest
import ufl
from dolfinx import fem, mesh

from coupling.closed_forms import Conduction, LinearElastic, NeoHookean, ThermoElastic
from coupling.contract import ClosureSpec, Response, check_arguments
from solver_adapters.fenicsx import ClosureFlux, from_mandel, mandel
from tests.test_fenicsx_adapter import (
    LMBDA,
    MU,
    Stretched,
    deformation,
    largest,
    measure,
    neo_hookean,
    problem_of,
    square,
)

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(240)]

WORLD = MPI.COMM_WORLD
TRIANGLE, TETRAHEDRON, HEXAHEDRON = mesh.CellType.triangle, mesh.CellType.tetrahedron, mesh.CellType.hexahedron


def strain(u):
    return ufl.sym(ufl.grad(u))


def mixed_space(domain, *elements):
    cell = domain.basix_cell()
    parts = [basix.ufl.element("P", cell, degree, shape=shape) for degree, shape in elements]
    return fem.functionspace(domain, basix.ufl.mixed_element(parts))


def boundary_value(W, i, where, function):
    """Dirichlet condition on part i of a mixed space where ``where(x)`` holds on the boundary; function(x) in it."""
    part, _ = W.sub(i).collapse()
    value, dim = fem.Function(part), W.mesh.topology.dim
    value.interpolate(function)
    facets = mesh.locate_entities_boundary(W.mesh, dim - 1, where)
    dofs = fem.locate_dofs_topological((W.sub(i), part), dim - 1, facets)
    return fem.dirichletbc(value, dofs, W.sub(i))


def everywhere(x):
    return np.ones(x.shape[1], bool)


def parts_of(w):
    return [part.collapse().x.array for part in w.split()]


@pytest.mark.parametrize("cell", [TETRAHEDRON, HEXAHEDRON])
def test_finite_strain_in_3d(cell):
    """Quadratic elements, body force, sheared and stretched: the solution of the law in UFL, quadratic convergence."""
    domain, norms = square(cell), []
    by_closure, in_ufl = (
        Stretched(NeoHookean(MU, LMBDA, 3), domain=domain, degree=4),
        Stretched(domain=domain, degree=4),
    )
    by_closure.problem.snes.setMonitor(lambda snes, iteration, norm: norms.append(norm))
    for run in (by_closure, in_ufl):
        run.run(steps=1)
    assert largest(by_closure.u.x.array - in_ufl.u.x.array) < 1e-12
    assert largest(in_ufl.u.x.array) > 0.1
    r = np.array([norm for norm in norms if norm > 1e-13])[-3:]
    assert np.log(r[2] / r[1]) / np.log(r[1] / r[0]) > 1.7


def test_small_strain_in_3d():
    run = Stretched(
        LinearElastic(MU, LMBDA, 3), domain=square(TETRAHEDRON), degree=4, operand=lambda u: mandel(strain(u))
    )
    assert run.run(steps=1)[0].iterations == 1
    u, v = fem.Function(run.u.function_space), ufl.TestFunction(run.u.function_space)
    stress = 2 * MU * strain(u) + LMBDA * ufl.div(u) * ufl.Identity(3)
    body = ufl.as_vector([0.1] * 3)
    residual = ufl.inner(stress, ufl.grad(v)) * run.dx - ufl.inner(body, v) * run.dx
    problem_of(residual, u, bcs=run.problem.bcs).solve()
    assert largest(run.u.x.array - u.x.array) < 1e-12


class IncompressibleNeoHookean:
    """(P, g) of (F, p): P = μ (F − F⁻ᵀ) + p cof F and g = J − 1, both equations of a u–p formulation in one closure."""

    def __init__(self, mu, dim):
        self.shear, self.dim = NeoHookean(mu, 0.0, dim), dim
        spec = self.shear.spec
        self.spec = replace(
            spec, gradient=(*spec.gradient, "p"), flux=(*spec.flux, "g"), reference=(*spec.reference, 0.0)
        )

    def initial_state(self, n):
        return None

    def evaluate(self, gradient, state, dt, hint=None):
        n, d, k = check_arguments(self.spec, gradient, state, hint), self.dim, self.spec.k
        F, p = np.ascontiguousarray(gradient[:, :-1]), gradient[:, -1]
        shear = self.shear.evaluate(F, None, dt)
        J = np.linalg.det(F.reshape(n, d, d))
        G = np.linalg.inv(F.reshape(n, d, d)).transpose(0, 2, 1)
        cofactor = (J[:, None, None] * G).reshape(n, d * d)
        dual = np.einsum("niJ,nkL->niJkL", G, G) - np.einsum("niL,nkJ->niJkL", G, G)
        tangent = np.zeros((n, k, k))
        tangent[:, :-1, :-1] = shear.tangent + (p * J)[:, None, None] * dual.reshape(n, d * d, d * d)
        tangent[:, :-1, -1] = tangent[:, -1, :-1] = cofactor
        flux = np.column_stack((shear.flux + p[:, None] * cofactor, J - 1.0))
        return Response(flux, tangent, shear.status)


@pytest.mark.parametrize("cell", [TRIANGLE, TETRAHEDRON])
def test_displacement_and_pressure_from_one_closure(cell):
    """Taylor–Hood elements of an incompressible solid; tangent symmetric, indefinite, with a zero block."""
    domain = square(cell)
    dim, dx, solutions = domain.geometry.dim, measure(domain, 4), []
    W = mixed_space(domain, (2, (dim,)), (1, ()))
    bcs = [
        boundary_value(W, 0, lambda x: np.isclose(x[dim - 1], 0.0), lambda x: 0.0 * x[:dim]),
        boundary_value(W, 0, lambda x: np.isclose(x[dim - 1], 1.0), lambda x: 0.1 + 0.0 * x[:dim]),
    ]
    for by_closure in (True, False):
        w = fem.Function(W)
        (u, p), (v, q) = ufl.split(w), ufl.TestFunctions(W)
        F = deformation(u)
        if by_closure:
            fluxes = [ClosureFlux([F, p], IncompressibleNeoHookean(MU, dim), dx)]
            flux = fluxes[0].vector
            P = ufl.as_tensor([[flux[dim * i + j] for j in range(dim)] for i in range(dim)])
            g = flux[dim * dim]
        else:
            fluxes, P, g = [], MU * (F - ufl.inv(F).T) + p * ufl.cofac(F), ufl.det(F) - 1
        residual = ufl.inner(P, ufl.grad(v)) * dx + g * q * dx
        problem_of(residual, w, fluxes, bcs).solve()
        solutions.append(w)
    for ours, theirs in zip(*(parts_of(w) for w in solutions), strict=True):
        assert largest(ours - theirs) < 1e-9 and largest(theirs) > 0.05
    u = solutions[0].sub(0)
    change = fem.assemble_scalar(fem.form((ufl.det(deformation(u)) - 1) * dx))
    assert abs(WORLD.allreduce(change)) < 1e-10


def test_three_fields_with_two_closures():
    """Hu–Washizu–Simo: displacement u, pressure p, volume ratio Θ; deviatoric part of F and volumetric part of Θ."""

    class Volumetric:
        """τ = λ ln Θ / Θ of Θ."""

        spec = ClosureSpec(gradient=("Θ",), flux=("τ",), reference=(1.0,), symmetric=True)

        def initial_state(self, n):
            return None

        def evaluate(self, gradient, state, dt, hint=None):
            tangent = (1e3 * (1 - np.log(gradient)) / gradient**2)[:, :, None]
            return Response(1e3 * np.log(gradient) / gradient, tangent, np.zeros(len(gradient), np.int8))

    domain = square(mesh.CellType.quadrilateral)
    cell, dx, solutions = domain.basix_cell(), measure(domain, 4), []
    parts = [
        basix.ufl.element("P", cell, 2, shape=(2,)),
        *(basix.ufl.element("DPC", cell, 1, discontinuous=True) for _ in range(2)),
    ]
    W = fem.functionspace(domain, basix.ufl.mixed_element(parts))
    bcs = [
        boundary_value(W, 0, lambda x: np.isclose(x[1], 0.0), lambda x: 0.0 * x[:2]),
        boundary_value(W, 0, lambda x: np.isclose(x[1], 1.0), lambda x: np.vstack([0.1 + 0 * x[0], 0.05 * x[0]])),
    ]
    for by_closure in (True, False):
        w = fem.Function(W)
        w.sub(2).interpolate(lambda x: np.ones(x.shape[1]))
        (u, p, theta), (v, q, eta) = ufl.split(w), ufl.TestFunctions(W)
        F = deformation(u)
        if by_closure:
            fluxes = [ClosureFlux(F, NeoHookean(MU, 0.0), dx), ClosureFlux(theta, Volumetric(), dx)]
            P, tau = (flux.value for flux in fluxes)
        else:
            fluxes, P, tau = [], neo_hookean(F, MU, 0.0), 1e3 * ufl.ln(theta) / theta
        residual = ufl.inner(P + p * ufl.cofac(F), ufl.grad(v)) * dx
        residual += (ufl.det(F) - theta) * q * dx + (tau - p) * eta * dx
        problem_of(residual, w, fluxes, bcs, snes_rtol=1e-12).solve()
        solutions.append(parts_of(w))
    for ours, theirs, scale in zip(*solutions, (1.0, 10.0, 1.0), strict=True):
        assert largest(ours - theirs) < 1e-9 * scale and largest(theirs) > 0.05


@pytest.mark.parametrize("cell", [TRIANGLE, HEXAHEDRON])
def test_thermomechanical_patch(cell):
    """Affine displacement and affine temperature of a heated body, in equilibrium with the body force that they need.

    σ = C ε − α (3λ + 2μ) θ 1 with constant ε and ∇θ = c gives div σ = −α (3λ + 2μ) c; the heat flux −κ c is constant.
    """
    domain, expansion = square(cell), 0.01
    dim, dx = domain.geometry.dim, measure(domain)
    W = mixed_space(domain, (1, (dim,)), (1, ()))
    rng = np.random.default_rng(1)
    H, c = 0.1 * rng.uniform(-1, 1, (dim, dim)), rng.uniform(-1, 1, dim)
    bcs = [
        boundary_value(W, 0, everywhere, lambda x: H @ x[:dim]),
        boundary_value(W, 1, everywhere, lambda x: 3.0 + c @ x[:dim]),
    ]
    w = fem.Function(W)
    (u, theta), (v, eta) = ufl.split(w), ufl.TestFunctions(W)
    stress = ClosureFlux([mandel(strain(u)), theta], ThermoElastic(MU, LMBDA, expansion, dim), dx, name="stress")
    heat = ClosureFlux(ufl.grad(theta), Conduction(2.0, dim), dx, name="heat flux")
    body = ufl.as_vector((expansion * (3 * LMBDA + 2 * MU) * c).tolist())
    residual = ufl.inner(from_mandel(stress.vector), ufl.grad(v)) * dx - ufl.inner(body, v) * dx
    residual += ufl.inner(heat.value, ufl.grad(eta)) * dx
    assert problem_of(residual, w, [stress, heat], bcs).solve().iterations == 1
    exact = fem.Function(W)
    exact.sub(0).interpolate(lambda x: H @ x[:dim])
    exact.sub(1).interpolate(lambda x: 3.0 + c @ x[:dim])
    assert largest(w.x.array - exact.x.array) < 1e-12
    assert largest(heat.response.flux + 2.0 * c) < 1e-12
    eps = (H + H.T) / 2
    temperature = 3.0 + stress.points.coordinates() @ c
    normal = (2 * MU * eps[0, 0] + LMBDA * np.trace(eps)) - expansion * (3 * LMBDA + 2 * MU) * temperature
    assert largest(stress.response.flux[:, 0] - normal) < 1e-11


def test_thermal_bending_is_that_of_ufl():
    """Coupled problem with a conductivity of its own temperature, two closures in one form."""

    class Softening(Conduction):
        """q = −(1 + θ/4) g of (θ, g)."""

        def __init__(self):
            super().__init__(1.0)
            self.spec = ClosureSpec(gradient=("θ", "g1", "g2"), flux=("q1", "q2"), reference=(0.0,) * 3)

        def evaluate(self, gradient, state, dt, hint=None):
            k = 1 + gradient[:, :1] / 4
            tangent = np.concatenate([-gradient[:, 1:, None] / 4, -k[:, :, None] * np.eye(2)], axis=2)
            return Response(-k * gradient[:, 1:], tangent, np.zeros(len(gradient), np.int8))

    domain = square()
    dx, W, solutions = measure(domain, 4), mixed_space(domain, (2, (2,)), (2, ())), []
    bcs = [
        boundary_value(W, 0, lambda x: np.isclose(x[0], 0.0), lambda x: 0.0 * x[:2]),
        boundary_value(W, 1, lambda x: np.isclose(x[1], 0.0), lambda x: 0.0 * x[0]),
        boundary_value(W, 1, lambda x: np.isclose(x[1], 1.0), lambda x: 4.0 + 0.0 * x[0]),
    ]
    for by_closure in (True, False):
        w = fem.Function(W)
        (u, theta), (v, eta) = ufl.split(w), ufl.TestFunctions(W)
        if by_closure:
            sigma = ClosureFlux([mandel(strain(u)), theta], ThermoElastic(MU, LMBDA, 0.01), dx)
            q = ClosureFlux([theta, ufl.grad(theta)], Softening(), dx)
            fluxes, stress, heat = [sigma, q], from_mandel(sigma.vector), q.value
        else:
            expansion = 0.01 * (3 * LMBDA + 2 * MU) * theta
            stress = 2 * MU * strain(u) + (LMBDA * ufl.div(u) - expansion) * ufl.Identity(2)
            fluxes, heat = [], -(1 + theta / 4) * ufl.grad(theta)
        residual = ufl.inner(stress, ufl.grad(v)) * dx + ufl.inner(heat, ufl.grad(eta)) * dx + eta * dx
        assert problem_of(residual, w, fluxes, bcs).solve().iterations < 8
        solutions.append(parts_of(w))
    for ours, theirs in zip(*solutions, strict=True):
        assert largest(ours - theirs) < 1e-11 and largest(theirs) > 0.05

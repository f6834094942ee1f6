"""Closures on the boundary against the same laws written in UFL, on any number of ranks."""

from mpi4py import MPI

import numpy as np
import pytest
import ufl
from dolfinx import fem, mesh

from coupling import ClosureSpec, ContractError, Response, Status, StepError
from coupling.closed_forms import Conduction, FailingClosure
from coupling.contract import check_arguments
from solver_adapters.fenicsx import ClosureFlux, load_steps
from solver_adapters.macro.facet_points import FacetPoints
from tests.test_fenicsx_adapter import Recording, largest, measure, problem_of, same_everywhere, side, square

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(240)]

WORLD = MPI.COMM_WORLD
CELLS = [mesh.CellType.triangle, mesh.CellType.quadrilateral, mesh.CellType.tetrahedron, mesh.CellType.hexahedron]


class Radiation:
    """q = h (θ − θ∞) + εσ (θ⁴ − θ∞⁴) of θ: what leaves a surface by convection and radiation."""

    spec = ClosureSpec(gradient=("θ",), flux=("q",), reference=(300.0,), symmetric=True)

    def __init__(self, film, emissivity, ambient=300.0):
        self.film, self.radiation, self.ambient = film, emissivity * 5.670374419e-8, ambient

    def initial_state(self, n):
        return None

    def evaluate(self, gradient, state, dt, hint=None):
        n = check_arguments(self.spec, gradient, state, hint)
        tangent = (self.film + 4 * self.radiation * gradient**3)[:, :, None]
        return Response(self.in_ufl(gradient), tangent, np.zeros(n, np.int8))

    def in_ufl(self, theta):
        return self.film * (theta - self.ambient) + self.radiation * (theta**4 - self.ambient**4)


class Cohesive:
    """t = K a exp(−‖a‖²/δ²) of the opening a of a glued boundary, softening beyond ‖a‖ = δ/√2."""

    def __init__(self, stiffness, opening, dim):
        self.stiffness, self.opening, axes = stiffness, opening, "123"[:dim]
        self.spec = ClosureSpec(tuple("a" + i for i in axes), tuple("t" + i for i in axes), (0.0,) * dim)

    def initial_state(self, n):
        return None

    def evaluate(self, gradient, state, dt, hint=None):
        n = check_arguments(self.spec, gradient, state, hint)
        decay = self.stiffness * np.exp(-(gradient**2).sum(axis=1) / self.opening**2)
        outer = gradient[:, :, None] * gradient[:, None, :] * (2 / self.opening**2)
        tangent = decay[:, None, None] * (np.eye(self.spec.k) - outer)
        return Response(decay[:, None] * gradient, tangent, np.zeros(n, np.int8))

    def in_ufl(self, a):
        return self.stiffness * ufl.exp(-ufl.inner(a, a) / self.opening**2) * a


def boundary(domain, degree=4):
    """Exterior facet measure with tag 1 above (last axis = 1) and 2 on the right (first axis = 1)."""
    dim, last = domain.topology.dim, domain.geometry.dim - 1
    parts = [mesh.locate_entities_boundary(domain, dim - 1, lambda x, i=i: np.isclose(x[i], 1.0)) for i in (last, 0)]
    facets = np.concatenate(parts)
    tags = np.repeat([1, 2], [len(part) for part in parts]).astype(np.int32)
    order = np.argsort(facets)
    facet_tags = mesh.meshtags(domain, dim - 1, facets[order], tags[order])
    return ufl.Measure("ds", domain=domain, subdomain_data=facet_tags, metadata={"quadrature_degree": degree})


class HeatedBlock:
    """A block at 600 below that loses heat through its top and its right side by radiation and convection."""

    def __init__(self, closure=None, cell=mesh.CellType.triangle, parts=(1, 2), law=None):
        domain = square(cell)
        V = fem.functionspace(domain, ("P", 2))
        self.theta, v = fem.Function(V), ufl.TestFunction(V)
        self.theta.x.array[:] = 400.0
        self.below = fem.Constant(domain, np.float64(600.0))
        bcs = [side(V, domain.geometry.dim - 1, 0.0, self.below)]
        ds = boundary(domain)(parts)
        self.flux = None if closure is None else ClosureFlux(self.theta, closure, ds, name="heat loss")
        q = law.in_ufl(self.theta) if closure is None else self.flux.value
        residual = 20.0 * ufl.inner(ufl.grad(self.theta), ufl.grad(v)) * measure(domain, 4) + q * v * ds
        self.ds, self.q = ds, q
        options = {"snes_rtol": 1e-13, "snes_atol": 1e-10}
        self.problem = problem_of(residual, self.theta, [self.flux] if closure else [], bcs, **options)

    def load(self, factor):
        self.below.value = 400.0 + 200.0 * factor


@pytest.mark.parametrize("cell", CELLS)
def test_radiation_and_film(cell):
    law = Radiation(film=8.0, emissivity=0.9)
    by_closure, in_ufl = HeatedBlock(law, cell), HeatedBlock(None, cell, law=law)
    iterations = [run.problem.solve().iterations for run in (by_closure, in_ufl)]
    assert iterations[0] == iterations[1] < 8
    difference = by_closure.theta.x.array - in_ufl.theta.x.array
    assert largest(difference) < 1e-11 * 600
    assert largest(in_ufl.theta.x.array - 600.0) > 50.0
    points = by_closure.flux.points
    x = points.values(fem.Expression(ufl.SpatialCoordinate(points.mesh), points.reference))
    np.testing.assert_allclose(points.coordinates().ravel(), x.ravel(), atol=1e-14)


def test_a_linear_film_is_a_robin_condition():
    """1D: −κ θ' = h θ at x = 1 with θ(0) = θ₀ gives θ = θ₀ (1 − x h/(h + κ))."""
    domain = square()
    V = fem.functionspace(domain, ("P", 1))
    theta, v = fem.Function(V), ufl.TestFunction(V)
    kappa, h, hot = 2.0, 3.0, 10.0
    inside = ClosureFlux(ufl.grad(theta), Conduction(kappa), measure(domain))
    surface = ClosureFlux(theta, Radiation(h, 0.0, ambient=0.0), boundary(domain, 2)(2))
    residual = -ufl.inner(inside.value, ufl.grad(v)) * inside.dx + surface.value * v * surface.dx
    bcs = [side(V, 0, 0.0, fem.Constant(domain, np.float64(hot)))]
    problem = problem_of(residual, theta, [inside, surface], bcs)
    assert problem.solve().iterations == 1
    exact = fem.Function(V)
    exact.interpolate(lambda x: hot * (1 - x[0] * h / (h + kappa)))
    assert largest(theta.x.array - exact.x.array) < 1e-12
    assert largest(surface.response.flux - h * hot * kappa / (h + kappa)) < 1e-11


@pytest.mark.parametrize("cell", CELLS)
def test_a_cohesive_boundary(cell):
    """Vector operand and flux, all of the boundary: glued everywhere, pushed by a body force."""
    solutions = []
    for by_closure in (True, False):
        domain = square(cell)
        dim = domain.geometry.dim
        V = fem.functionspace(domain, ("P", 1, (dim,)))
        u, v = fem.Function(V), ufl.TestFunction(V)
        law, ds = Cohesive(2.0, 0.5, dim), ufl.Measure("ds", domain=domain, metadata={"quadrature_degree": 3})
        flux = ClosureFlux(u, law, ds)
        traction = flux.value if by_closure else law.in_ufl(u)
        body = fem.Constant(domain, np.linspace(0.3, 0.6, dim))
        stress = 2 * ufl.sym(ufl.grad(u)) + ufl.div(u) * ufl.Identity(dim)
        residual = ufl.inner(stress, ufl.grad(v)) * measure(domain) + ufl.inner(traction, v) * ds
        residual -= ufl.inner(body, v) * measure(domain)
        problem_of(residual, u, [flux] if by_closure else []).solve()
        solutions.append(u.x.array.copy())
    assert largest(solutions[0] - solutions[1]) < 1e-12
    assert largest(solutions[1]) > 0.03


def test_gradients_and_normals_as_operands():
    """An operand of the cell's gradient and the facet's normal: Nitsche's normal flux, in a law that is not linear."""

    class Cubic(Radiation):
        def in_ufl(self, g):
            return g + g**3

        def evaluate(self, gradient, state, dt, hint=None):
            return Response(self.in_ufl(gradient), (1 + 3 * gradient**2)[:, :, None], np.zeros(len(gradient), np.int8))

    solutions = []
    for by_closure in (True, False):
        domain = square(mesh.CellType.quadrilateral)
        V = fem.functionspace(domain, ("P", 2))
        w, v = fem.Function(V), ufl.TestFunction(V)
        w.interpolate(lambda x: x[0] ** 2 + x[1])
        n, ds = ufl.FacetNormal(domain), boundary(domain)
        operand = w + 0.1 * ufl.dot(ufl.grad(w), n)
        law = Cubic(0.0, 0.0)
        flux = ClosureFlux(operand, law, ds(2))
        residual = ufl.inner(ufl.grad(w), ufl.grad(v)) * measure(domain, 4) - v * measure(domain, 4)
        residual += (flux.value if by_closure else law.in_ufl(operand)) * v * ds(2)
        bcs = [side(V, 0, 0.0, fem.Constant(domain, np.float64(1.0)))]
        problem_of(residual, w, [flux] if by_closure else [], bcs).solve()
        solutions.append(w.x.array.copy())
    assert largest(solutions[0] - solutions[1]) < 1e-12


def test_each_facet_on_one_rank_and_once_per_iterate():
    closure = Recording(Radiation(film=8.0, emissivity=0.9))
    run = HeatedBlock(closure)
    solved = run.problem.solve()
    assert len(closure.calls) == solved.iterations + 1
    points = run.flux.points
    assert WORLD.allreduce(len(closure.calls[0])) == 8 * len(points.reference)
    rows = [tuple(np.round(x, 9)) for rank in WORLD.allgather(points.coordinates()) for x in rank]
    assert len(set(rows)) == len(rows) == 24
    assert all(np.isclose(max(x), 1.0) for x in rows)
    one = fem.assemble_scalar(fem.form(fem.Constant(points.mesh, np.float64(1.0)) * run.ds))
    assert WORLD.allreduce(one) == pytest.approx(2.0)


def test_corner_cells_have_values_of_their_own_on_each_facet():
    """A mesh of one cell, where all facets belong to the same cell."""
    domain = mesh.create_unit_square(MPI.COMM_SELF, 1, 1, mesh.CellType.quadrilateral)
    V = fem.functionspace(domain, ("P", 1))
    theta = fem.Function(V)
    theta.interpolate(lambda x: 1 + x[0] + 10 * x[1])
    flux = ClosureFlux(theta, Radiation(1.0, 0.0, ambient=0.0), ufl.Measure("ds", domain=domain)(degree=2))
    flux.evaluate(flux.operand_values(), 1.0)
    assert fem.assemble_scalar(fem.form(flux.value * flux.dx)) == pytest.approx(2 * 6.5 + 6 + 7 + 5 + 5 - 13 + 3)


def test_facets_as_a_list_of_cells_and_local_facets():
    domain = square()
    tagged = FacetPoints(domain, boundary(domain)(2))
    listed = ufl.Measure("ds", domain=domain, subdomain_data=[(7, tagged.entities)])(7, degree=4)
    np.testing.assert_array_equal(FacetPoints(domain, listed).entities, tagged.entities)


def test_a_failing_point_cuts_back_everywhere_and_is_named():
    law = Radiation(film=8.0, emissivity=0.9)
    run = HeatedBlock(FailingClosure(law, lambda theta: theta[:, 0] > 430.0), parts=1)
    with pytest.raises(StepError) as caught:
        load_steps(run.problem, run.load, steps=2, min_step=0.2)
    message = str(caught.value)
    assert same_everywhere(message)
    assert "heat loss: rank" in message and ", facet " in message and "θ = (" in message
    assert Status.NOT_CONVERGED.message in message


class Damaging:
    """t = K (1 − d) a of an opening a that never heals: d = 1 − exp(−a_max/δ) with the largest opening so far."""

    spec = ClosureSpec(("a",), ("t",), (0.0,), state_size=1, history=True)
    stiffness, opening = 2.0, 0.5

    def initial_state(self, n):
        return np.zeros((n, 1))

    def evaluate(self, gradient, state, dt, hint=None):
        n, largest_yet = check_arguments(self.spec, gradient, state, hint), np.maximum(state, gradient)
        secant = self.stiffness * np.exp(-largest_yet / self.opening)
        slope = np.where(gradient > state, secant * (1 - gradient / self.opening), secant)
        return Response(secant * gradient, slope[:, :, None], np.zeros(n, np.int8), largest_yet)


def test_history_of_a_surface():
    """A rigid bar (insulated sides, stiff inside) torn off its glue and pushed back: unloading follows the secant."""
    domain = square()
    V = fem.functionspace(domain, ("P", 1))
    u, v, pull = fem.Function(V), ufl.TestFunction(V), fem.Constant(domain, np.float64(0.0))
    ds = boundary(domain, 2)
    glue = ClosureFlux(u, Damaging(), ds(2))
    residual = ufl.inner(ufl.grad(u), ufl.grad(v)) * measure(domain) + glue.value * v * ds(2)
    problem = problem_of(residual, u, [glue], [side(V, 0, 0.0, pull)])

    def opening(held, worst):
        """a with (held − a)·1 = K exp(−max(a, worst)/δ) a by bisection: uniform flux through the unit square."""
        low, high = 0.0, held
        for _ in range(60):
            a = (low + high) / 2
            low, high = (a, high) if held - a > 2.0 * np.exp(-max(a, worst) / 0.5) * a else (low, a)
        return a

    worst = 0.0
    for held in (0.2, 0.5, 0.9, 0.3, 0.0, 0.6, 1.1):
        pull.value = held
        problem.solve()
        a = opening(held, worst)
        assert largest(glue.operand_values() - a) < 1e-12
        assert largest(glue.response.flux - (held - a)) < 1e-12
        problem.solve()
        assert largest(glue.state - worst) < 1e-12
        problem.commit()
        worst = max(a, worst)
        assert largest(glue.state - worst) < 1e-12
    assert worst > 0.4


def test_what_a_surface_cannot_have_is_named():
    domain = square()
    theta = fem.Function(fem.functionspace(domain, ("P", 1)))
    law, ds = Radiation(1.0, 0.0), boundary(domain)
    with pytest.raises(ContractError, match=r'quadrature degree, got None: use ufl.Measure\("ds"'):
        ClosureFlux(theta, law, ufl.ds)
    with pytest.raises(ContractError, match=r"ds\(3,\) has no subdomain_data"):
        ClosureFlux(theta, law, ufl.ds(3, degree=2))
    with pytest.raises(ContractError, match="dimension 1, the measure needs 2"):
        ClosureFlux(theta, law, measure(domain, tags=ds.subdomain_data())(1))
    line = mesh.create_unit_interval(WORLD, 4)
    with pytest.raises(ContractError, match="not points, got a interval"):
        ClosureFlux(fem.Function(fem.functionspace(line, ("P", 1))), law, ufl.ds(degree=2))
    flux = ClosureFlux(theta, law, ds(1))
    with pytest.raises(ValueError, match="quadrature points of its own measure"):
        flux.points.element(()).tabulate(0, np.zeros((2, 2)))
    nowhere = ClosureFlux(theta, law, ds(5))
    assert nowhere.points.n == 0 and nowhere.operand_values().shape == (0, 1)

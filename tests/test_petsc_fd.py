"""Closures on DMDA grids: exactness, manufactured solutions, agreement with finite elements, failures, time steps."""

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np
import pytest
import ufl
from dolfinx import fem, mesh

from coupling import AcceleratedClosure, ClosureSpec, RangeGate
from coupling.closed_forms import Conduction
from coupling.contract import Response, Status, check_arguments
from coupling.errors import ClosureError, ContractError, RemoteRankError
from solver_adapters.exact_snes import exact_time_steps
from solver_adapters.fenicsx import ClosureFlux, MultiscaleProblem
from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.petsc_fd import FaceFlux
from solver_adapters.petsc_versions import DIVERGED_NAN
from solver_adapters.rve.energies import FieldConduction
from solver_adapters.rve.kinematics import ScalarField
from solver_adapters.rve.meshes import centred_fibre

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(240)]

WORLD = MPI.COMM_WORLD
DMDA = PETSc.DMDA
NONE, PERIODIC, GHOSTED = DMDA.BoundaryType.NONE, DMDA.BoundaryType.PERIODIC, DMDA.BoundaryType.GHOSTED
BOX, STAR = DMDA.StencilType.BOX, DMDA.StencilType.STAR


def grid(*sizes, comm=WORLD, boundary=NONE, stencil=BOX, dof=1, coordinates=True):
    kinds = boundary if isinstance(boundary, tuple) else (boundary,) * len(sizes)
    da = DMDA().create(sizes=sizes, dof=dof, boundary_type=kinds, stencil_type=stencil, stencil_width=1, comm=comm)
    if coordinates:
        da.setUniformCoordinates(0, 1, 0, 1, 0, 1)
    return da


def stretched(da):
    """The same grid with graded spacing."""
    x = da.getCoordinates()
    x.array_w[:] = x.array_r + 0.3 * x.array_r**2
    da.setCoordinates(x)
    return da


def nodes(da):
    return da.getCoordinates().array_r.reshape(-1, da.getDim())


def matrix(da):
    J = da.createMatrix()
    J.setOption(PETSc.Mat.Option.KEEP_NONZERO_PATTERN, True)  # for zeroRows
    return J


def vector(da, values):
    x = da.createGlobalVec()
    x.array_w[:] = values
    return x


def boundary_rows(da):
    """Global numbers and owned positions of the boundary nodes of a box with a corner at the origin."""
    X, (_, upper) = nodes(da), np.array(da.getBoundingBox()).T
    where = np.flatnonzero(((X < 1e-12) | (upper - 1e-12 < X)).any(axis=1))
    start, _ = da.createGlobalVec().getOwnershipRange()
    return (where + start).astype(PETSc.IntType), where


class Nonlinear:
    """q = −(1 + θ²) K g with a full, constant K."""

    def __init__(self, dim=2):
        self.K = np.diag(np.arange(1.0, dim + 1)) + 0.3 * (1 - np.eye(dim))
        axes = [str(i + 1) for i in range(dim)]
        flux = tuple("q" + i for i in axes)
        self.spec = ClosureSpec(("θ", *("g" + i for i in axes)), flux, (0.0,) * (dim + 1))

    def initial_state(self, n):
        return None

    def evaluate(self, gradient, state, dt, hint=None):
        n = check_arguments(self.spec, gradient, state, hint)
        theta, g = gradient[:, 0], gradient[:, 1:]
        flux = -(1 + theta**2)[:, None] * (g @ self.K)
        tangent = -(1 + theta**2)[:, None, None] * self.K
        by_value = -(2 * theta)[:, None] * (g @ self.K)
        return Response(flux, np.concatenate([by_value[:, :, None], tangent], axis=2), np.zeros(n, np.int8))


class Relaxing:
    """Cattaneo's law τ q̇ + q = −κ g by backward Euler: q₁ = (τ q₀ − Δt κ g)/(τ + Δt); the state is q."""

    spec = ClosureSpec(("g1",), ("q1",), (0.0,), state_size=1, history=True)

    def __init__(self, tau, kappa):
        self.tau, self.kappa = tau, kappa

    def initial_state(self, n):
        return np.zeros((n, 1))

    def evaluate(self, gradient, state, dt, hint=None):
        n = check_arguments(self.spec, gradient, state, hint)
        q = (self.tau * state - dt * self.kappa * gradient) / (self.tau + dt)
        tangent = np.full((n, 1, 1), -dt * self.kappa / (self.tau + dt))
        return Response(q, tangent, np.zeros(n, np.int8), q.copy())


def steady(da, closure, source=None, dirichlet=None):
    """Solution of div q = source with boundary values; PETSc's own Newton, direct solver."""
    fluxes = FaceFlux(da, closure)
    rows, here = boundary_rows(da)
    volumes, x = fluxes.volumes.array_r, da.createGlobalVec()

    def residual(snes, x, f):
        f.set(0.0)
        fluxes.add_divergence(x, f)
        if source is not None:
            f.array_w[:] -= source * volumes
        if dirichlet is not None:
            f.array_w[here] = x.array_r[here] - dirichlet[here]

    def jacobian(snes, x, J, P):
        P.zeroEntries()
        fluxes.add_jacobian(x, P)
        P.assemble()
        if dirichlet is not None:
            P.zeroRows(rows, 1.0)

    snes = PETSc.SNES().create(da.comm)
    snes.setFunction(residual, da.createGlobalVec())
    snes.setJacobian(jacobian, matrix(da))
    snes.setTolerances(rtol=1e-12, atol=1e-12)
    snes.ksp.setType("preonly")
    snes.ksp.pc.setType("lu")
    snes.ksp.pc.setFactorSolverType("mumps")
    snes.setFromOptions()
    if dirichlet is not None:
        x.array_w[here] = dirichlet[here]
    snes.solve(None, x)
    return x, snes, fluxes


@pytest.mark.parametrize("graded", [False, True])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_affine_fields_have_exact_gradients_and_values(dim, graded):
    da = grid(*(8, 7, 6)[:dim])
    if graded:
        stretched(da)
    slope = np.array([1.5, -0.7, 0.4])[:dim]
    fluxes = FaceFlux(da, Nonlinear(dim))
    fluxes.add_divergence(vector(da, 2.0 + nodes(da) @ slope), da.createGlobalVec())
    assert np.allclose(fluxes.gradient[:, 1:], slope, atol=1e-12)
    assert np.allclose(fluxes.gradient[:, 0], 2.0 + fluxes.faces.coordinates @ slope, atol=1e-12)
    sizes = np.array(da.getSizes())
    faces = sum(np.prod(sizes - np.eye(dim, dtype=int)[a]) for a in range(dim))
    assert WORLD.allreduce(fluxes.faces.n) == faces
    assert fluxes.volumes.sum() == pytest.approx(1.3**dim if graded else 1.0)


@pytest.mark.parametrize("boundary", [NONE, PERIODIC, (PERIODIC, NONE)])
def test_what_leaves_one_volume_enters_another(boundary):
    da = grid(7, 6, boundary=boundary)
    f = da.createGlobalVec()
    FaceFlux(da, Nonlinear()).add_divergence(vector(da, np.sin(3 * nodes(da)).sum(axis=1)), f)
    assert f.norm() > 0.1
    assert abs(f.sum()) < 1e-13


@pytest.mark.parametrize(("dim", "boundary"), [(1, NONE), (2, NONE), (2, PERIODIC), (3, NONE)])
def test_jacobian_is_the_derivative(dim, boundary):
    da = grid(*(6, 5, 5)[:dim], boundary=boundary)
    fluxes, rng = FaceFlux(da, Nonlinear(dim)), np.random.default_rng(1 + WORLD.rank)
    x, d = (vector(da, rng.normal(size=len(nodes(da)))) for _ in range(2))
    J, f, change = da.createMatrix(), da.createGlobalVec(), da.createGlobalVec()
    fluxes.add_jacobian(x, J)
    J.assemble()
    J.mult(d, change)
    for sign in (1.0, -1.0):
        step = da.createGlobalVec()
        fluxes.add_divergence(x + sign * 1e-5 * d, step)
        f.axpy(sign, step)
    f.scale(1 / 2e-5)
    assert (f - change).norm() < 1e-8 * change.norm()


def manufactured(n, dim, graded=False):
    """Error of the solution with boundary values of u = sin(x + 2y + …), whose source is found by the closed form."""
    da = grid(*(n,) * dim)
    if graded:
        stretched(da)
    law, X = Nonlinear(dim), nodes(da)
    a = np.arange(1.0, dim + 1)
    u, slope = np.sin(X @ a), np.cos(X @ a)
    factor = a @ law.K @ a  # div q = −(2 u u' u' + (1 + u²) u'') a·Ka
    source = -(2 * u * slope**2 - (1 + u**2) * u) * factor
    x, snes, fluxes = steady(da, law, source=source, dirichlet=u)
    assert snes.getConvergedReason() > 0
    return np.sqrt(WORLD.allreduce((fluxes.volumes.array_r * (x.array_r - u) ** 2).sum()))


@pytest.mark.parametrize(
    ("dim", "sizes", "graded"), [(2, (9, 17, 33), False), (3, (5, 9, 17), False), (2, (9, 17, 33), True)]
)
def test_manufactured_solution_converges_with_second_order(dim, sizes, graded):
    errors = np.array([manufactured(n, dim, graded) for n in sizes])
    orders = np.log2(errors[:-1] / errors[1:])
    assert 1.8 < orders[-1] < 2.3
    assert errors[-1] < 5e-3


def test_natural_boundaries_converge_with_second_order():
    """κ Δu = −s with u = cos(πx) cos(πy), no flux through the boundary, up to a constant."""
    errors = []
    for n in (9, 17, 33):
        da = grid(n, n)
        X = nodes(da)
        u = np.cos(np.pi * X).prod(axis=1)
        fluxes = FaceFlux(da, Conduction(1.0))
        A, b = da.createMatrix(), da.createGlobalVec()
        fluxes.add_jacobian(b, A)
        A.assemble()
        b.array_w[:] = 2 * np.pi**2 * u * fluxes.volumes.array_r
        A.setNullSpace(PETSc.NullSpace().create(constant=True, comm=WORLD))
        ksp = PETSc.KSP().create(WORLD)
        ksp.setOperators(A)
        ksp.setType("cg")
        ksp.pc.setType("jacobi")
        ksp.setTolerances(rtol=1e-12, max_it=2000)
        x = b.duplicate()
        ksp.solve(b, x)
        mean = x.dot(fluxes.volumes)
        errors.append(np.sqrt(WORLD.allreduce((fluxes.volumes.array_r * (x.array_r - mean - u) ** 2).sum())))
    assert np.log2(errors[1] / errors[2]) > 1.9


def test_results_do_not_depend_on_the_number_of_ranks():
    def solution(comm):
        da = grid(9, 8, comm=comm)
        X = nodes(da)
        x, snes, _ = steady(da, Nonlinear(), source=np.ones(len(X)), dirichlet=X[:, 0] * X[:, 1])
        assert snes.getConvergedReason() > 0
        natural = da.createNaturalVec()
        da.globalToNatural(x, natural)
        return np.concatenate(natural.comm.tompi4py().allgather(natural.array_r))

    assert np.abs(solution(WORLD) - solution(MPI.COMM_SELF)).max() < 1e-12


def composite():
    laws = {1: FieldConduction(lambda theta: 1 + 0.5 * theta), 2: FieldConduction(lambda theta: 8 + theta**2)}
    return PeriodicRVE(centred_fibre(fraction=0.25, size=0.3), laws, ScalarField())


def by_finite_elements(n, closure):
    """Temperatures at the nodes of the same grid, bilinear elements."""
    domain = mesh.create_unit_square(MPI.COMM_SELF, n - 1, n - 1, mesh.CellType.quadrilateral)
    V = fem.functionspace(domain, ("Lagrange", 1))
    theta, v = fem.Function(V), ufl.TestFunction(V)
    q = ClosureFlux([theta, ufl.grad(theta)], closure, ufl.dx(domain, degree=2))
    facets = mesh.locate_entities_boundary(domain, 1, lambda x: np.isclose(x[0], 0) | np.isclose(x[0], 1))
    value = fem.Function(V)
    value.interpolate(lambda x: 3 * x[0] * (1 + x[1] ** 2 * (3 - 2 * x[1])))
    bc = fem.dirichletbc(value, fem.locate_dofs_topological(V, 1, facets))
    problem = MultiscaleProblem(
        ufl.inner(q.vector, ufl.grad(v)) * q.dx, theta, fluxes=[q], bcs=[bc], petsc_options_prefix="fd_reference_"
    )
    problem.solve()
    order = np.lexsort(np.round(V.tabulate_dof_coordinates()[:, :2], 9).T)
    return theta.x.array[order].reshape(n, n)


def by_finite_differences(n, closure):
    da = grid(n, n, comm=MPI.COMM_SELF)
    fluxes, X = FaceFlux(da, closure), nodes(da)
    here = np.flatnonzero((X[:, 0] < 1e-12) | (X[:, 0] > 1 - 1e-12))
    value = 3 * X[:, 0] * (1 + X[:, 1] ** 2 * (3 - 2 * X[:, 1]))

    def residual(snes, x, f):
        f.set(0.0)
        fluxes.add_divergence(x, f)
        f.array_w[here] = x.array_r[here] - value[here]

    def jacobian(snes, x, J, P):
        P.zeroEntries()
        fluxes.add_jacobian(x, P)
        P.assemble()
        P.zeroRows(here.astype(PETSc.IntType), 1.0)

    snes = PETSc.SNES().create(MPI.COMM_SELF)
    snes.setFunction(residual, da.createGlobalVec())
    snes.setJacobian(jacobian, matrix(da))
    snes.setTolerances(rtol=1e-10)
    snes.ksp.setType("preonly")
    snes.ksp.pc.setType("lu")
    x = da.createGlobalVec()
    snes.solve(None, x)
    assert snes.getConvergedReason() > 0
    return x.array_r.reshape(n, n)


def test_finite_differences_and_finite_elements_agree_to_discretisation_error():
    """Two scales, phases that depend on temperature; the difference falls with the square of the spacing."""
    rve = composite()
    differences = [np.abs(by_finite_elements(n, rve) - by_finite_differences(n, rve)).max() for n in (4, 7, 13)]
    assert differences[2] < 0.02
    assert np.log2(differences[1] / differences[2]) > 1.9


def test_accelerated_closure_falls_back_where_it_has_to():
    """A surrogate with a range: the same answer as the fine scale, which serves the faces outside of the range."""

    class Ranged(Nonlinear):
        def evaluate(self, gradient, state, dt, hint=None):
            response = super().evaluate(gradient, state, dt, hint)
            response.status[gradient[:, 0] > 0.5] = Status.OUTSIDE_RANGE
            return response

    closure = AcceleratedClosure(Nonlinear(), Ranged(), gate=RangeGate())
    da = grid(8, 8)
    value = nodes(da)[:, 0]
    x, snes, _ = steady(da, closure, dirichlet=value)
    y, _, _ = steady(da, Nonlinear(), dirichlet=value)
    assert snes.getConvergedReason() > 0
    assert (x - y).norm() < 1e-12
    counts = closure.ledger.gathered(WORLD).counts
    assert 0 < counts["fallback/points"] < counts["accelerated/points"]


def test_one_closure_call_serves_residual_and_jacobian():
    da = grid(8, 8)
    _, snes, fluxes = steady(da, Nonlinear(), dirichlet=nodes(da)[:, 0])
    assert fluxes.ledger.counts["closure/calls"] == snes.getIterationNumber() + 1


def test_without_a_jacobian_the_matrix_free_newton_method_finds_the_same():
    da = grid(8, 8)
    value = nodes(da)[:, 0] + nodes(da)[:, 1] ** 2
    x, _, _ = steady(da, Nonlinear(), dirichlet=value)
    fluxes, (_, here) = FaceFlux(da, Nonlinear()), boundary_rows(da)

    def residual(snes, x, f):
        f.set(0.0)
        fluxes.add_divergence(x, f)
        f.array_w[here] = x.array_r[here] - value[here]

    snes = PETSc.SNES().create(WORLD)
    snes.setFunction(residual, da.createGlobalVec())
    snes.setUseMF(True)
    snes.ksp.pc.setType("none")
    snes.ksp.setTolerances(rtol=1e-6)
    snes.setTolerances(rtol=1e-10)
    y = vector(da, 0.0)
    snes.solve(None, y)
    assert snes.getConvergedReason() > 0
    assert (x - y).norm() < 1e-7


def heat(closure, n, dt, dt_of_fluxes=None):
    """TS of u_t = −div q on [0, 1], backward Euler; its fluxes; and cos πx, where it starts."""
    da = grid(n)
    fluxes = FaceFlux(da, closure)

    def ifunction(ts, t, x, xdot, f):
        f.pointwiseMult(fluxes.volumes, xdot)
        fluxes.add_divergence(x, f, dt=dt_of_fluxes or ts.getTimeStep())

    def ijacobian(ts, t, x, xdot, shift, J, P):
        P.zeroEntries()
        fluxes.add_jacobian(x, P, dt=dt_of_fluxes or ts.getTimeStep())
        P.assemble()
        P.setDiagonal(fluxes.volumes * shift, addv=PETSc.InsertMode.ADD_VALUES)
        P.assemble()

    ts = PETSc.TS().create(WORLD)
    ts.setType("beuler")
    ts.setIFunction(ifunction, da.createGlobalVec())
    ts.setIJacobian(ijacobian, da.createMatrix())
    ts.setTimeStep(dt)
    ts.setMaxTime(1e9)
    ts.setPostStep(fluxes.after_step)
    ts.snes.ksp.setType("preonly")
    ts.snes.ksp.pc.setType("lu")
    ts.snes.ksp.pc.setFactorSolverType("mumps")
    ts.snes.setTolerances(rtol=1e-13, atol=1e-14)
    ts.setFromOptions()
    return ts, fluxes, vector(da, np.cos(np.pi * nodes(da)[:, 0]))


def heat_steps(closure, n, steps, dt, problem=PETSc.TS.ProblemType.NONLINEAR):
    """Values at the owned nodes after so many steps, and their coordinates."""
    ts, fluxes, x = heat(closure, n, dt)
    ts.setProblemType(problem)
    ts.setMaxSteps(steps)
    ts.solve(x)
    assert ts.getStepNumber() == steps
    return x.array_r, nodes(fluxes.da)[:, 0]


def test_time_steps_damp_a_discrete_eigenmode_by_the_closed_form():
    """cos πx is an eigenmode, with halved volumes at the ends: u₁ = u₀/(1 + Δt κ λ), λ = 2 (1 − cos πh)/h²."""
    n, steps, dt, kappa = 17, 5, 0.02, 1.5
    values, x = heat_steps(Conduction(kappa, 1), n, steps, dt)
    h = 1 / (n - 1)
    factor = 1 / (1 + dt * kappa * 2 * (1 - np.cos(np.pi * h)) / h**2)
    assert np.allclose(values, factor**steps * np.cos(np.pi * x), atol=1e-12)


def amplitudes(law, n, steps):
    """Cattaneo's law by hand: u and q of the mode, u' = √λ q, τ q' + q = −κ √λ u by backward Euler over these steps."""
    root = 2 * np.sin(np.pi / (n - 1) / 2) * (n - 1)
    u, q = 1.0, 0.0
    for dt in steps:  # q₁ = (τ q₀ + Δt κ √λ u₁)/(τ + Δt), u₁ = u₀ − Δt √λ q₁
        u = (u - dt * root * law.tau * q / (law.tau + dt)) / (1 + dt**2 * law.kappa * root**2 / (law.tau + dt))
        q = (law.tau * q + dt * law.kappa * root * u) / (law.tau + dt)
    return u, q


@pytest.mark.parametrize("problem", ["NONLINEAR", "LINEAR"])
def test_history_is_committed_once_a_time_step(problem):
    """LINEAR takes one linear solve, after which TS evaluates nothing at the solution."""
    n, steps, dt, law = 17, 6, 0.02, Relaxing(0.1, 1.5)
    values, x = heat_steps(law, n, steps, dt, getattr(PETSc.TS.ProblemType, problem))
    u, _ = amplitudes(law, n, steps * [dt])
    assert np.allclose(values, u * np.cos(np.pi * x), atol=1e-12)


@pytest.mark.parametrize("kind", ["cn", "theta", "bdf", "alpha", "arkimex"])
def test_history_needs_backward_euler(kind):
    ts, fluxes, x = heat(Relaxing(0.1, 1.5), 9, 0.02)
    ts.setType(kind)
    ts.setMaxSteps(3)
    with pytest.raises(PETSc.Error) as caught:
        ts.solve(x)
    with pytest.raises(ContractError, match=f"TS of type '{kind}'.*'beuler'"):
        raise caught.value.__cause__
    assert np.abs(fluxes.state).max(initial=0.0) == 0.0
    with pytest.raises(ContractError, match="'beuler'"):
        exact_time_steps(ts, [fluxes])


def test_history_needs_increments_as_long_as_the_steps():
    ts, _, x = heat(Relaxing(0.1, 1.5), 9, 0.02, dt_of_fluxes=1.0)
    with pytest.raises(PETSc.Error) as caught:
        ts.solve(x)
    with pytest.raises(ContractError, match="over 1, .* took 0.02: pass dt=ts.getTimeStep()"):
        raise caught.value.__cause__


def test_other_schemes_are_welcome_without_history():
    ts, _, x = heat(Conduction(1.5, 1), 9, 0.02)
    ts.setType("cn")
    ts.setMaxSteps(3)
    ts.solve(x)
    assert ts.getStepNumber() == 3


def test_backward_euler_by_another_name():
    n, dt, law = 17, 0.02, Relaxing(0.1, 1.5)
    ts, fluxes, x = heat(law, n, dt)
    ts.setType("theta")
    ts.setTheta(1.0)
    ts.setMaxSteps(4)
    ts.solve(x)
    u, _ = amplitudes(law, n, 4 * [dt])
    assert np.allclose(x.array_r, u * np.cos(np.pi * nodes(fluxes.da)[:, 0]), atol=1e-12)


class Impatient(Relaxing):
    """Fails where the increment is too long, or where the flux was too large at its beginning."""

    def __init__(self, tau, kappa, *, longest=np.inf, largest=np.inf):
        super().__init__(tau, kappa)
        self.longest, self.largest = longest, largest

    def evaluate(self, gradient, state, dt, hint=None):
        response = super().evaluate(gradient, state, dt, hint)
        response.status[(dt > self.longest) | (np.abs(state[:, 0]) > self.largest)] = Status.NOT_CONVERGED
        return response


def test_rejected_time_steps_leave_no_trace_in_the_history():
    n, law = 17, Impatient(0.1, 1.5, longest=0.01)
    ts, fluxes, x = heat(law, n, 0.02)
    times = [0.0]
    ts.setMonitor(lambda ts, step, t, u: times.append(t) if step else None)
    ts.setMaxSteps(8)
    ts.setMaxSNESFailures(-1)
    ts.solve(x)
    assert ts.getStepRejections() + ts.getSNESFailures() > 0
    assert max(np.diff(times)) <= 0.01
    u, _ = amplitudes(law, n, np.diff(times))
    assert np.allclose(x.array_r, u * np.cos(np.pi * nodes(fluxes.da)[:, 0]), atol=1e-12)


def test_a_step_that_fails_for_good_leaves_the_committed_state():
    n, dt, law = 17, 0.02, Impatient(0.1, 1.5, largest=1.0)
    ts, fluxes, x = heat(law, n, dt)
    ts.setMaxSNESFailures(1)
    ts.setErrorIfStepFails(False)
    ts.setMaxSteps(20)
    ts.solve(x)
    assert ts.getConvergedReason() < 0 < ts.getStepNumber()
    u, q = amplitudes(law, n, ts.getStepNumber() * [dt])
    assert np.allclose(x.array_r, u * np.cos(np.pi * nodes(fluxes.da)[:, 0]), atol=1e-12)
    assert np.allclose(fluxes.state[:, 0], q * np.sin(np.pi * fluxes.faces.coordinates[:, 0]), atol=1e-12)


def test_a_solution_at_which_points_fail_is_not_accepted():
    fluxes = FaceFlux(da := grid(9, 9), Failing())
    with pytest.raises(ContractError, match="has not been evaluated"):
        fluxes.accept(vector(da, 0.0))
    fluxes.add_divergence(vector(da, 0.0), da.createGlobalVec())
    with pytest.raises(ClosureError, match="did not converge"):
        fluxes.accept(vector(da, nodes(da)[:, 0]))


def test_values_that_are_not_numbers_are_no_old_iterate():
    da = grid(9, 9)
    fluxes, f = FaceFlux(da, Nonlinear()), da.createGlobalVec()
    fluxes.add_divergence(vector(da, nodes(da)[:, 0]), f)
    f.set(0.0)
    fluxes.add_divergence(vector(da, np.nan), f)
    assert np.isnan(f.norm())


class Failing(Nonlinear):
    """Fails at warm points; raises where told to."""

    def __init__(self, raising=False):
        super().__init__()
        self.raising = raising

    def evaluate(self, gradient, state, dt, hint=None):
        warm = gradient[:, 0] > 0.8
        if self.raising and warm.any():
            raise ValueError("too warm")
        response = super().evaluate(gradient, state, dt, hint)
        response.status[warm] = Status.NOT_CONVERGED
        return response


def test_a_failed_face_stops_all_ranks():
    da = grid(9, 9)
    f = da.createGlobalVec()
    fluxes = FaceFlux(da, Failing(), name="heat")
    fluxes.add_divergence(vector(da, nodes(da)[:, 0]), f)
    assert np.isnan(f.norm())
    lines = [line for lines in WORLD.allgather(fluxes.failures(2)) for line in lines]
    assert lines and "did not converge" in lines[0] and "heat: rank" in lines[0] and "θ, g1, g2" in lines[0]
    _, snes, _ = steady(da, Failing(), dirichlet=nodes(da)[:, 0])
    assert snes.getConvergedReason() == DIVERGED_NAN


def test_a_closure_that_raises_on_one_rank_raises_on_all():
    da = grid(9, 9)
    fluxes = FaceFlux(da, Failing(raising=True))
    with pytest.raises((ValueError, RemoteRankError), match="too warm"):
        fluxes.add_divergence(vector(da, nodes(da)[:, 0]), da.createGlobalVec())


def curved():
    da = grid(6, 6)
    x = da.getCoordinates()
    x.array_w[:] = x.array_r + 0.1 * np.sin(3 * x.array_r[::-1])
    da.setCoordinates(x)
    return da


@pytest.mark.parametrize(
    ("make", "law", "message"),
    [
        (lambda: grid(6, 6, stencil=STAR), Conduction(1.0), "stencil_type BOX"),
        (lambda: grid(6, 6, dof=2), Conduction(1.0), "2 unknowns per node"),
        (lambda: grid(6, 6, coordinates=False), Conduction(1.0), "setUniformCoordinates"),
        (lambda: grid(6, 6, boundary=GHOSTED), Conduction(1.0), "NONE or PERIODIC"),
        (curved, Conduction(1.0), "rectilinear"),
        (lambda: grid(6, 6), Conduction(1.0, 3), "2 flux components"),
    ],
    ids=["star", "dof", "coordinates", "ghosted", "curved", "closure"],
)
def test_unfit_grids_are_refused(make, law, message):
    with pytest.raises((ContractError, RemoteRankError), match=message):
        FaceFlux(make(), law)

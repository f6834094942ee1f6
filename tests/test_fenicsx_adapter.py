"""Closures in DOLFINx forms against the same laws written in UFL, on any number of ranks."""

from contextlib import nullcontext
from dataclasses import replace
from itertools import count

from mpi4py import MPI
from petsc4py import PETSc

import basix.ufl
import numpy as np
import pytest
import ufl
from dolfinx import fem, mesh

from coupling import ClosureSpec, ContractError, RemoteRankError, Response, Status, StepError, StretchFrame
from coupling.closed_forms import FailingClosure, LinearElastic, NeoHookean, StandardLinearSolid, StretchNeoHookean
from coupling.contract import tensor_components
from solver_adapters.fenicsx import ClosureFlux, MultiscaleProblem, from_mandel, load_steps, mandel

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(240)]

WORLD = MPI.COMM_WORLD
MU, LMBDA = 1.0, 2.0
TIGHT = {"snes_rtol": 1e-13, "snes_atol": 1e-14}
prefixes = (f"test{i}_" for i in count())


def square(cell=mesh.CellType.triangle, n=4, comm=WORLD):
    """Unit square or cube with an uneven mesh."""
    if cell in (mesh.CellType.tetrahedron, mesh.CellType.hexahedron):
        domain = mesh.create_unit_cube(comm, 2, 2, 2, cell)
    else:
        domain = mesh.create_unit_square(comm, n, n, cell)
    x = domain.geometry.x
    bubble = np.prod([4 * x[:, i] * (1 - x[:, i]) for i in range(domain.geometry.dim)], axis=0)
    for i in range(domain.geometry.dim):
        x[:, i] += 0.05 * bubble * np.sin(3 * x[:, (i + 1) % 3] + i)
    return domain


def measure(domain, degree=2, tags=None):
    return ufl.Measure("dx", domain=domain, subdomain_data=tags, metadata={"quadrature_degree": degree})


def neo_hookean(F, mu=MU, lmbda=LMBDA):
    return mu * (F - ufl.inv(F).T) + lmbda * ufl.ln(ufl.det(F)) * ufl.inv(F).T


def deformation(u):
    return ufl.Identity(len(u)) + ufl.grad(u)


def vector_space(domain, degree=2):
    return fem.functionspace(domain, ("P", degree, (domain.geometry.dim,)))


def side(V, axis, value, bc_value):
    """Dirichlet condition on the side x[axis] = value of the unit square; bc_value is a Constant or Function."""
    facets = mesh.locate_entities_boundary(V.mesh, V.mesh.topology.dim - 1, lambda x: np.isclose(x[axis], value))
    dofs = fem.locate_dofs_topological(V, V.mesh.topology.dim - 1, facets)
    return fem.dirichletbc(bc_value, dofs, V) if isinstance(bc_value, fem.Constant) else fem.dirichletbc(bc_value, dofs)


def pulled(V):
    """The square held on the left and displaced on the right."""
    ends = np.zeros(2), np.array([0.2, 0.1])
    return [side(V, 0, float(x), fem.Constant(V.mesh, value)) for x, value in enumerate(ends)]


def problem_of(residual, u, fluxes=(), bcs=(), **options):
    return MultiscaleProblem(
        residual, u, fluxes=fluxes, bcs=bcs, petsc_options_prefix=next(prefixes), petsc_options=TIGHT | options
    )


class Stretched:
    """A block clamped below, pulled and sheared above by a displacement that grows with the load."""

    def __init__(self, closure=None, *, domain=None, degree=2, operand=deformation, **options):
        domain = square() if domain is None else domain
        dim = domain.geometry.dim
        V = vector_space(domain)
        self.u, v = fem.Function(V), ufl.TestFunction(V)
        self.top = fem.Constant(domain, np.zeros(dim))
        bcs = [side(V, dim - 1, 0.0, fem.Constant(domain, np.zeros(dim))), side(V, dim - 1, 1.0, self.top)]
        dx = measure(domain, degree)
        if closure is None:
            P = neo_hookean(deformation(self.u))
        else:
            self.flux = ClosureFlux(operand(self.u), closure, dx, name="stress")
            P = self.flux.value if self.flux.value.ufl_shape == (dim, dim) else from_mandel(self.flux.vector)
        self.traction = P
        force = fem.Constant(domain, np.full(dim, 0.1))
        residual = ufl.inner(P, ufl.grad(v)) * dx - ufl.inner(force, v) * dx
        self.problem = problem_of(residual, self.u, [self.flux] if closure else [], bcs, **options)
        self.domain, self.dx = domain, dx

    def load(self, factor):
        self.top.value[:] = 0.0
        self.top.value[0], self.top.value[-1] = 0.15 * factor, 0.2 * factor

    def run(self, steps=2, **options):
        return load_steps(self.problem, self.load, steps=steps, **options)

    def integral(self, expression):
        return self.domain.comm.allreduce(fem.assemble_scalar(fem.form(expression * self.dx)))


class Recording:
    """The inner closure; keeps what it was asked."""

    def __init__(self, inner):
        self.inner, self.spec = inner, inner.spec
        self.calls, self.hints = [], []

    def initial_state(self, n):
        return self.inner.initial_state(n)

    def evaluate(self, gradient, state, dt, hint=None):
        self.calls.append(gradient.copy())
        self.hints.append(hint)
        return self.inner.evaluate(gradient, state, dt, hint)


class Timid(NeoHookean):
    """Neo-Hookean law that fails where F moves most on one rank, if that is beyond ``reach`` in an increment."""

    def __init__(self, reach, rank, dim=2):
        super().__init__(MU, LMBDA, dim)
        self.reach, self.here = reach, rank == WORLD.rank
        self.spec = replace(self.spec, state_size=self.spec.k, history=True)

    def initial_state(self, n):
        return np.tile(self.spec.reference, (n, 1))

    def evaluate(self, gradient, state, dt, hint=None):
        stateless = NeoHookean(self.mu, self.lmbda, self.dim).evaluate(gradient, None, dt)
        status = stateless.status.copy()
        moved = np.abs(gradient - state).max(axis=1, initial=0.0)
        if self.here and moved.max(initial=0.0) > self.reach:
            status[moved.argmax()] = Status.NOT_CONVERGED
        return replace(stateless, status=status, state=gradient.copy())


class ConductionWithTemperature:
    """q = −(1 + θ²) g of (θ, g)."""

    spec = ClosureSpec(gradient=("θ", "g1", "g2"), flux=("q1", "q2"), reference=(0.0, 0.0, 0.0))

    def initial_state(self, n):
        return None

    def evaluate(self, gradient, state, dt, hint=None):
        theta, g = gradient[:, :1], gradient[:, 1:]
        tangent = np.concatenate([(-2 * theta * g)[:, :, None], -(1 + theta**2)[:, :, None] * np.eye(2)], axis=2)
        return Response(-(1 + theta**2) * g, tangent, np.zeros(len(g), np.int8))


def same_everywhere(value):
    return len({repr(v) for v in WORLD.allgather(value)}) == 1


def largest(local):
    return WORLD.allreduce(np.abs(local).max() if np.size(local) else 0.0, op=MPI.MAX)


@pytest.mark.parametrize(
    "cell", [mesh.CellType.triangle, mesh.CellType.quadrilateral, mesh.CellType.tetrahedron, mesh.CellType.hexahedron]
)
def test_patch(cell):
    """Affine boundary values give the affine field and one and the same flux everywhere."""
    domain = square(cell)
    dim = domain.geometry.dim
    H = 0.2 * np.random.default_rng(0).uniform(-1, 1, (dim, dim))
    V = vector_space(domain, 1)
    u, v, affine = fem.Function(V), ufl.TestFunction(V), fem.Function(V)
    affine.interpolate(lambda x: H @ x[:dim])
    domain.topology.create_connectivity(dim - 1, dim)
    boundary = fem.locate_dofs_topological(V, dim - 1, mesh.exterior_facet_indices(domain.topology))
    P = ClosureFlux(deformation(u), NeoHookean(MU, LMBDA, dim), measure(domain))
    problem = problem_of(ufl.inner(P.value, ufl.grad(v)) * P.dx, u, [P], [fem.dirichletbc(affine, boundary)])
    problem.solve()
    assert largest(u.x.array - affine.x.array) < 1e-13
    exact = NeoHookean(MU, LMBDA, dim).evaluate((np.eye(dim) + H).reshape(1, -1), None, 0.0).flux
    assert largest(P.response.flux - exact) < 1e-12
    owned = domain.topology.index_map(dim).size_local
    assert largest(P.cell_average().x.array.reshape(-1, dim * dim)[:owned] - exact) < 1e-12


@pytest.mark.parametrize("cell", [mesh.CellType.triangle, mesh.CellType.quadrilateral, mesh.CellType.tetrahedron])
def test_same_solution_as_the_law_in_ufl(cell):
    domain = square(cell)
    dim = domain.geometry.dim
    with_closure, in_ufl = Stretched(NeoHookean(MU, LMBDA, dim), domain=domain), Stretched(domain=domain)
    for run in (with_closure, in_ufl):
        run.run()
    assert largest(with_closure.u.x.array - in_ufl.u.x.array) < 1e-12
    assert largest(in_ufl.u.x.array) > 0.1


@pytest.mark.parametrize("degree", [3, 4, 6])
def test_any_quadrature_degree(degree):
    runs = Stretched(NeoHookean(MU, LMBDA), degree=degree), Stretched(degree=degree)
    for run in runs:
        run.run()
    assert largest(runs[0].u.x.array - runs[1].u.x.array) < 1e-12


def test_stretch_frame_inside_the_form():
    runs = Stretched(StretchFrame(StretchNeoHookean(MU, LMBDA))), Stretched()
    for run in runs:
        run.run()
    assert largest(runs[0].u.x.array - runs[1].u.x.array) < 1e-11


def test_independent_of_the_number_of_ranks():
    parallel = Stretched(NeoHookean(MU, LMBDA))
    parallel.run()
    for turn in range(WORLD.size):  # one after another: they share the cache of compiled forms
        if turn == WORLD.rank:
            serial = Stretched(NeoHookean(MU, LMBDA), domain=square(comm=MPI.COMM_SELF))
            serial.run()
        WORLD.barrier()
    for quantity in (
        lambda run: run.traction[0, 1],
        lambda run: run.traction[1, 1],
        lambda run: ufl.inner(run.u, run.u),
    ):
        assert parallel.integral(quantity(parallel)) == pytest.approx(serial.integral(quantity(serial)), rel=1e-10)


def test_ranks_without_cells():
    domain = mesh.create_unit_square(WORLD, 1, 1)
    V = vector_space(domain)
    u, v = fem.Function(V), ufl.TestFunction(V)
    P = ClosureFlux(deformation(u), NeoHookean(MU, LMBDA), measure(domain))
    problem_of(ufl.inner(P.value, ufl.grad(v)) * P.dx, u, [P], pulled(V)).solve()
    assert WORLD.allreduce(P.points.n) == 6
    assert np.isfinite(u.x.array).all() and largest(u.x.array) > 0.19
    assert largest(P.cell_average(ufl.det(deformation(u))).x.array) > 1.0
    assert P.points.coordinates().shape == (P.points.n, 2)


def test_newton_converges_quadratically():
    run = Stretched(NeoHookean(MU, LMBDA))
    norms = []
    run.problem.snes.setMonitor(lambda snes, iteration, norm: norms.append(norm))
    run.load(1.0)
    run.problem.solve()
    r = np.array([n for n in norms if n > 1e-13])[-3:]
    assert len(norms) <= 8 and r[-1] < 1e-4
    assert np.log(r[2] / r[1]) / np.log(r[1] / r[0]) > 1.8


def test_two_closures_on_two_subdomains():
    domain = square()
    owned = domain.topology.index_map(2)
    cells = np.arange(owned.size_local + owned.num_ghosts, dtype=np.int32)
    middle = mesh.compute_midpoints(domain, 2, cells)
    tags = mesh.meshtags(
        domain, 2, cells, np.select([middle[:, 0] < 0.4, middle[:, 0] < 0.7], [1, 2], 3).astype(np.int32)
    )
    dx = measure(domain, tags=tags)
    V = vector_space(domain)
    bcs = pulled(V)
    solutions = []
    for closures in (True, False):
        u, v = fem.Function(V), ufl.TestFunction(V)
        F, stiff = deformation(u), (10 * MU, 5 * LMBDA)
        if closures:
            left, right = ClosureFlux(F, NeoHookean(MU, LMBDA), dx(1)), ClosureFlux(F, NeoHookean(*stiff), dx((2, 3)))
            residual = ufl.inner(left.value, ufl.grad(v)) * left.dx + ufl.inner(right.value, ufl.grad(v)) * right.dx
        else:
            residual = ufl.inner(neo_hookean(F), ufl.grad(v)) * dx(1)
            residual += ufl.inner(neo_hookean(F, *stiff), ufl.grad(v)) * dx((2, 3))
        problem_of(residual, u, [left, right] if closures else [], bcs).solve()
        solutions.append(u.x.array.copy())
    assert largest(solutions[0] - solutions[1]) < 1e-12
    assert WORLD.allreduce(left.points.n + right.points.n) == 3 * owned.size_global
    assert np.isin(left.points.cells, tags.find(1)).all()
    average = left.cell_average()
    local = np.abs(average.x.array.reshape(-1, 4)[: owned.size_local]).max(axis=1)
    np.testing.assert_array_equal(local > 0, np.isin(np.arange(owned.size_local), left.points.cells))


def test_several_operands():
    """Conductivity that depends on the temperature: operands θ and ∇θ."""
    domain = square()
    V = fem.functionspace(domain, ("P", 2))
    dx, solutions = measure(domain, 4), []
    bcs = [
        side(V, 0, 0.0, fem.Constant(domain, np.float64(0.0))),
        side(V, 0, 1.0, fem.Constant(domain, np.float64(2.0))),
    ]
    for closure in (ConductionWithTemperature(), None):
        theta, v = fem.Function(V), ufl.TestFunction(V)
        fluxes = [ClosureFlux([theta, ufl.grad(theta)], closure, dx)] if closure else []
        q = fluxes[0].value if closure else -(1 + theta**2) * ufl.grad(theta)
        problem = problem_of(ufl.inner(q, ufl.grad(v)) * dx + v * dx, theta, fluxes, bcs)
        assert problem.solve().iterations < 10
        solutions.append(theta.x.array.copy())
    assert largest(solutions[0] - solutions[1]) < 1e-12


def test_mixed_space():
    """Displacement and pressure of a nearly incompressible solid; the closure takes the displacement's part only."""
    domain = square()
    displacement, pressure = basix.ufl.element("P", "triangle", 2, shape=(2,)), basix.ufl.element("P", "triangle", 1)
    W = fem.functionspace(domain, basix.ufl.mixed_element([displacement, pressure]))
    V, _ = W.sub(0).collapse()
    top, clamped = fem.Function(V), fem.Function(V)
    top.interpolate(lambda x: np.vstack([0.1 + 0 * x[0], 0.1 * x[0]]))
    bcs = []
    for value, where in ((clamped, 0.0), (top, 1.0)):
        facets = mesh.locate_entities_boundary(domain, 1, lambda x, y=where: np.isclose(x[1], y))
        bcs.append(fem.dirichletbc(value, fem.locate_dofs_topological((W.sub(0), V), 1, facets), W.sub(0)))
    dx, solutions = measure(domain, 4), []
    for closure in (NeoHookean(MU, 0.0), None):
        w = fem.Function(W)
        (u, p), (v, q) = ufl.split(w), ufl.TestFunctions(W)
        F = deformation(u)
        fluxes = [ClosureFlux(F, closure, dx)] if closure else []
        P = (fluxes[0].value if closure else neo_hookean(F, MU, 0.0)) + p * ufl.inv(F).T
        residual = ufl.inner(P, ufl.grad(v)) * dx + (ufl.ln(ufl.det(F)) - p / 1e3) * q * dx
        problem_of(residual, w, fluxes, bcs).solve()
        solutions.append(w.x.array.copy())
    assert largest(solutions[0] - solutions[1]) < 1e-10  # pressures are of order 1 and their rows scaled by 1e-3
    assert largest(solutions[1]) > 0.05


def test_mandel_operand():
    def strain(u):
        return mandel(ufl.sym(ufl.grad(u)))

    run = Stretched(LinearElastic(MU, LMBDA), operand=strain)
    assert run.run(steps=1)[0].iterations == 1
    u, v = run.u, ufl.TestFunction(run.u.function_space)
    sigma = 2 * MU * ufl.sym(ufl.grad(u)) + LMBDA * ufl.div(u) * ufl.Identity(2)
    residual = ufl.inner(sigma, ufl.grad(v)) * run.dx - 0.1 * (v[0] + v[1]) * run.dx
    by_closure = u.x.array.copy()
    problem_of(residual, u, bcs=run.problem.bcs).solve()
    assert largest(by_closure - u.x.array) < 1e-12


def test_mandel_keeps_scalar_products():
    a, b = (ufl.sym(ufl.as_tensor(np.random.default_rng(i).normal(size=(3, 3)).tolist())) for i in range(2))
    point = (0.0, 0.0, 0.0)
    assert ufl.dot(mandel(a), mandel(b))(point) == pytest.approx(ufl.inner(a, b)(point))
    assert (from_mandel(mandel(a)) - a)[1, 2](point) == pytest.approx(0.0, abs=1e-15)
    assert (from_mandel(mandel(a)) - a)[0, 0](point) == pytest.approx(0.0, abs=1e-15)


def test_owned_cells_only_and_once_per_iterate():
    closure = Recording(NeoHookean(MU, LMBDA))
    run = Stretched(closure, snes_linesearch_type="basic")
    run.load(0.3)
    solved = run.problem.solve()
    assert len(closure.calls) == solved.iterations + 1
    assert WORLD.allreduce(len(closure.calls[0])) == 3 * run.domain.topology.index_map(2).size_global
    counts = run.problem.ledger.gathered(WORLD).counts
    assert counts["closure/calls"] == WORLD.size * len(closure.calls)
    assert counts["macro/iterations"] == solved.iterations


def test_a_repeated_iterate_is_answered_from_the_cache():
    closure = Recording(StandardLinearSolid(MU, LMBDA, branch_mu=1.0, branch_lmbda=1.0, relaxation_time=1.0))
    run = Stretched(closure, operand=lambda u: mandel(ufl.sym(ufl.grad(u))))
    snes, calls = run.problem.snes, closure.calls
    run.load(0.5)
    run.problem.solve(0.1)
    done, x, b = len(calls), run.problem._x.copy(), run.problem._b.copy()
    for _ in range(3):
        snes.computeFunction(x, b)
        snes.computeJacobian(x, run.problem._matrix)
    assert len(calls) == done
    if WORLD.rank == 0:  # one dof of one rank: all ranks evaluate
        x.array_w[0] += 1e-9
    x.assemble()
    snes.computeFunction(x, b)
    assert same_everywhere(len(calls)) and len(calls) == done + 1
    run.problem.solve(0.2)
    done = len(calls)
    run.problem.solve(0.3)  # same gradients, other dt
    assert len(calls) > done and np.array_equal(calls[done], calls[done - 1])
    done = len(calls)
    run.problem.commit()
    run.problem.solve(0.3)  # same gradients, other history
    assert len(calls) > done and np.array_equal(calls[done], calls[done - 1])


def test_hint_is_the_last_trial_state_of_the_increment():
    closure = Recording(Timid(np.inf, rank=0))
    run = Stretched(closure)
    run.run(steps=2)
    starts = [i for i, hint in enumerate(closure.hints) if hint is None]
    assert len(starts) == 2 and starts[0] == 0
    for i, hint in enumerate(closure.hints):
        if hint is not None:
            np.testing.assert_array_equal(hint, closure.calls[i - 1])


@pytest.mark.parametrize("line_search", ["bt", "basic"])
def test_one_failing_point_on_one_rank_cuts_back_everywhere(line_search):
    run, reference = Stretched(Timid(0.15, rank=WORLD.size - 1), snes_linesearch_type=line_search), Stretched()
    records = run.run(steps=1)
    reference.run(steps=1)
    assert same_everywhere(records)
    assert records[0].cutbacks > 0 and len(records) > 2
    assert largest(run.u.x.array - reference.u.x.array) < 1e-12


def test_giving_up_says_which_points_and_why_on_all_ranks():
    rank = WORLD.size - 1

    def fails(F):
        return (np.arange(len(F)) == 4) & (WORLD.rank == rank) & (np.abs(F[:, 3] - 1) > 1e-4)

    run = Stretched(FailingClosure(NeoHookean(MU, LMBDA), fails))
    with pytest.raises(StepError) as caught:
        run.run(steps=2, min_step=0.2)
    message = str(caught.value)
    assert same_everywhere(message)
    assert "from load factor 0 to 0.25" in message and "1 cut-backs" in message and "DIVERGED" in message
    cell = run.flux.points.cells[1] if WORLD.rank == rank else None
    assert "1 points failed" in message and f"rank {rank}, cell {WORLD.bcast(cell, rank)}, point 1" in message
    assert "F11, F12, F21, F22 = (" in message and Status.NOT_CONVERGED.message in message
    x = WORLD.bcast(run.flux.points.coordinates()[4] if WORLD.rank == rank else None, rank)
    assert f"x = ({x[0]:.6g}, {x[1]:.6g})" in message
    assert largest(run.u.x.array) == 0.0 and run.top.value[1] == 0.0


def test_an_exception_on_one_rank_stops_all_and_leaves_the_problem_usable():
    armed = [True]

    def fails(F):
        if armed and WORLD.rank == WORLD.size - 1:
            raise ZeroDivisionError("broken law")
        return np.zeros(len(F), bool)

    run, reference = Stretched(FailingClosure(NeoHookean(MU, LMBDA), fails)), Stretched()
    with pytest.raises(ZeroDivisionError if WORLD.rank == WORLD.size - 1 else RemoteRankError, match="broken law"):
        run.run()
    assert largest(run.u.x.array) == 0.0
    with pytest.raises(ContractError, match="solve a step first"):
        run.problem.commit()
    armed.clear()
    for r in (run, reference):
        r.run()
    assert largest(run.u.x.array - reference.u.x.array) < 1e-12


def test_a_flux_that_is_not_finite_counts_as_failed():
    class Poisoned(NeoHookean):
        def evaluate(self, gradient, state, dt, hint=None):
            response = super().evaluate(gradient, state, dt, hint)
            response.flux[:1] = np.nan
            return response

    run = Stretched(Poisoned(MU, LMBDA))
    with pytest.raises(StepError, match=f"{WORLD.size} points failed(.|\n)*{Status.FAILED.message}"):
        run.problem.solve()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_state_that_is_not_finite_counts_as_failed(value):
    """Else the flux of this step is right, and those of all later ones are not."""

    class Poisoned:
        inner, spoils = NeoHookean(MU, LMBDA), True
        spec = replace(inner.spec, state_size=2, history=True)

        def initial_state(self, n):
            return np.zeros((n, 2))

        def evaluate(self, gradient, state, dt, hint=None):
            state = state + 1.0
            if self.spoils and WORLD.rank == WORLD.size - 1:
                state[-1, 1] = value
            return replace(self.inner.evaluate(gradient, None, dt), state=state)

    law = Poisoned()
    run = Stretched(law)
    with pytest.raises(StepError, match=f" 1 points failed(.|\n)*{Status.FAILED.message}"):
        run.problem.solve()
    law.spoils = False
    run.run()
    assert np.isfinite(run.flux.state).all()


def test_history_advances_on_converged_steps_only():
    """Homogeneous strain that grows with time: the state is that of the 0-D recurrence over the converged steps."""
    tau, rate = 0.4, np.array([0.02, -0.01, 0.03 / np.sqrt(2)])
    solid = StandardLinearSolid(MU, LMBDA, branch_mu=3.0, branch_lmbda=1.0, relaxation_time=tau)
    attempts = count()

    def fails(strain):
        return np.full(len(strain), WORLD.rank == 0 and next(attempts) in (0, 7, 8))

    domain = square()
    V = vector_space(domain, 1)
    u, v, path = fem.Function(V), ufl.TestFunction(V), fem.Function(V)
    domain.topology.create_connectivity(1, 2)
    facets = mesh.exterior_facet_indices(domain.topology)
    bc = fem.dirichletbc(path, fem.locate_dofs_topological(V, 1, facets))
    sigma = ClosureFlux(mandel(ufl.sym(ufl.grad(u))), FailingClosure(solid, fails), measure(domain))
    problem = problem_of(ufl.inner(from_mandel(sigma.vector), ufl.grad(v)) * sigma.dx, u, [sigma], [bc])

    def apply_load(time):
        e = time * rate
        path.interpolate(lambda x: np.vstack([e[0] * x[0] + np.sqrt(2) * e[2] * x[1], e[1] * x[1]]))

    records = load_steps(problem, apply_load, steps=5, duration=1.0)
    alpha = np.zeros(3)
    for record in records:
        alpha[:] = (alpha + record.size / tau * record.load * rate) / (1 + record.size / tau)
    assert sum(r.cutbacks for r in records) >= 2
    assert problem.ledger.gathered(WORLD).counts["macro/steps"] == len(records)
    assert sigma.state is not None and largest(sigma.state - alpha) < 1e-13
    stress = rate @ solid.stiffness + (rate - alpha) @ solid.branch_stiffness
    assert largest(sigma.response.flux - stress) < 1e-12


def test_options_come_from_the_database_then_the_user_then_the_defaults():
    database, prefix = PETSc.Options(), next(prefixes)
    database[f"{prefix}snes_max_it"] = 1
    domain = square()
    V = vector_space(domain)
    u, v = fem.Function(V), ufl.TestFunction(V)
    P = ClosureFlux(deformation(u), NeoHookean(MU, LMBDA), measure(domain))
    bcs = pulled(V)
    options = {"snes_max_it": 7, "snes_atol": 1e-13}
    residual = ufl.inner(P.value, ufl.grad(v)) * P.dx
    problem = MultiscaleProblem(residual, u, fluxes=[P], bcs=bcs, petsc_options_prefix=prefix, petsc_options=options)
    rtol, atol, _, max_it = problem.snes.getTolerances()
    assert (rtol, atol, max_it) == (1e-9, 1e-13, 1)
    assert problem.snes.getOptionsPrefix() == prefix
    with pytest.raises(StepError, match="DIVERGED_MAX_IT after 1 iterations"):
        problem.solve()
    assert largest(u.x.array) == 0.0
    assert [name for name in database.getAll() if name.startswith(prefix)] == [f"{prefix}snes_max_it"]
    database.delValue(f"{prefix}snes_max_it")
    problem.close()


@pytest.mark.filterwarnings("error")
def test_options_that_petsc_never_reads_are_warned_of_once():
    right = Stretched(NeoHookean(MU, LMBDA), mat_mumps_icntl_14=30, ksp_converged_reason="ascii:/dev/null")
    right.run(steps=1)
    wrong = Stretched(NeoHookean(MU, LMBDA), snes_max_iter=7, pc_gamg_type="agg")
    warned = pytest.warns(RuntimeWarning, match=r"\['pc_gamg_type', 'snes_max_iter'\] of petsc_options=")
    with warned if WORLD.rank == 0 else nullcontext():
        wrong.load(0.5)
        wrong.problem.solve()
    wrong.problem.solve()


def test_a_quadrature_degree_may_come_from_numpy():
    domain = square()
    u = fem.Function(vector_space(domain))
    for degree in (np.int64(2), np.uint8(2)):
        points = ClosureFlux(deformation(u), NeoHookean(MU, LMBDA), ufl.dx(domain, degree=degree)).points
        assert len(points.reference) == 3


@pytest.mark.parametrize("cell", [mesh.CellType.triangle, mesh.CellType.hexahedron])
def test_coordinates_of_the_points(cell):
    domain = square(cell)
    V = fem.functionspace(domain, ("P", 1))
    x, dim = ufl.SpatialCoordinate(domain), domain.geometry.dim
    flux = ClosureFlux([fem.Function(V), *x], _Affine(dim + 1), measure(domain, 3))
    np.testing.assert_allclose(flux.points.coordinates(), flux.operand_values()[:, 1:], atol=1e-14)


class _Affine:
    """q = g."""

    def __init__(self, k):
        self.spec = ClosureSpec(tensor_components("g", k)[:k], tensor_components("q", k)[:k], (0.0,) * k)

    def initial_state(self, n):
        return None

    def evaluate(self, gradient, state, dt, hint=None):
        return Response(
            gradient.copy(), np.tile(np.eye(self.spec.k), (len(gradient), 1, 1)), np.zeros(len(gradient), np.int8)
        )


def test_arguments_that_do_not_fit_are_named():
    domain = square()
    V = vector_space(domain)
    u, v = fem.Function(V), ufl.TestFunction(V)
    F, law, dx = deformation(u), NeoHookean(MU, LMBDA), measure(domain)
    with pytest.raises(ContractError, match=r"4 components .* takes 3: ε11, ε22, √2·ε12\. .* mandel"):
        ClosureFlux(F, LinearElastic(MU, LMBDA), dx)
    with pytest.raises(ContractError, match="quadrature degree, got None"):
        ClosureFlux(F, law, ufl.dx)
    with pytest.raises(ContractError, match="interior_facet"):
        ClosureFlux(F, law, ufl.dS(degree=2))
    with pytest.raises(ContractError, match="no subdomain_data"):
        ClosureFlux(F, law, dx(3))
    with pytest.raises(ContractError, match="depends on no Function"):
        ClosureFlux(ufl.Identity(2), law, dx)
    with pytest.raises(ContractError, match=r"shape \(3,\) does not have the 4 components"):
        ClosureFlux(F, law, dx, shape=(3,))
    P, other = ClosureFlux(F, law, dx), ClosureFlux(F, law, dx, name="other")
    residual = ufl.inner(P.value, ufl.grad(v)) * dx
    with pytest.raises(ContractError, match="'other' is not in the residual"):
        MultiscaleProblem(residual, u, fluxes=[P, other], petsc_options_prefix="a_")
    with pytest.raises(ContractError, match=r"has the fluxes \['flux'\], which are not in fluxes="):
        MultiscaleProblem(residual, u, petsc_options_prefix="a_")
    for prefix in ("cook", "", "_", "-cook_"):
        with pytest.raises(ContractError, match=f"ends in '_', .* got {prefix!r}"):
            MultiscaleProblem(residual, u, fluxes=[P], petsc_options_prefix=prefix)
    with pytest.raises(ContractError, match="'flux' has not been evaluated"):
        MultiscaleProblem(residual, u, fluxes=[P], petsc_options_prefix="a_").commit()
    for tensor in (u, F[0, 0], ufl.Identity(4)):
        with pytest.raises(ContractError, match="square tensor"):
            mandel(tensor)
    with pytest.raises(ContractError, match="length 1, 3 or 6"):
        from_mandel(u)

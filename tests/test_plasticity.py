"""Von Mises plasticity: the return mapping against its equations, and the limit load of a thick cylinder."""

from itertools import count
from typing import Any

from mpi4py import MPI

import numpy as np
import pytest
import ufl
from dolfinx import fem, mesh

from coupling import ContractError, Status, StepError
from coupling.closed_forms import FailingClosure, LinearElastic, VonMisesPlasticity, lame
from coupling.conformance import assert_conforms
from solver_adapters.fenicsx import ClosureFlux, MultiscaleProblem, StepRecord, from_mandel, load_steps, mandel

WORLD = MPI.COMM_WORLD
MU, LMBDA = lame(200.0, 0.3)
VOCE: dict[str, Any] = {"hardening": 2.0, "saturation_stress": 0.6, "saturation_rate": 80.0}
prefixes = (f"plastic{i}_" for i in count())


def strains(k, n=12, seed=0):
    """Half of them elastic, half far beyond yield, none near it."""
    directions = np.random.default_rng(seed).normal(size=(n, k))
    directions[:, :2] -= directions[:, :2].mean(axis=1)[:, None] * 0.5
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    return directions * np.where(np.arange(n) % 2, 8e-3, 2e-4)[:, None]


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("hardening", [{}, {"hardening": 5.0}, VOCE])
def test_conforms(dim, hardening):
    law = VonMisesPlasticity(MU, LMBDA, 0.3, dim=dim, **hardening)
    gradients = strains(law.spec.k)
    assert_conforms(law, gradients=gradients)
    yielded = law.evaluate(gradients, law.initial_state(len(gradients)), 1.0).state[:, -1] > 0.0
    np.testing.assert_array_equal(yielded, np.arange(len(gradients)) % 2 == 1)


def path(law, n=40, seed=3):
    """Random walks in strain space, ten steps; yields state before, strain and response."""
    rng = np.random.default_rng(seed)
    strain, state = np.zeros((n, law.spec.k)), law.initial_state(n)
    for _ in range(10):
        strain = strain + rng.normal(size=strain.shape) * 7e-4
        response = law.evaluate(strain, state, 1.0)
        yield state, strain, response
        state = response.state


@pytest.mark.parametrize("hardening", [{}, {"hardening": 5.0}, VOCE])
def test_equations_of_the_law_along_random_paths(hardening):
    """Elasticity, yield condition, loading condition, flow rule, p = ∫ √(2/3) ‖ε̇ᵖ‖, incompressible plastic flow."""
    law = VonMisesPlasticity(MU, LMBDA, 0.3, dim=3, **hardening)
    C = 2 * MU * np.eye(6) + LMBDA * np.outer([1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0])
    seen = np.zeros(2, int)
    for before, strain, response in path(law):
        after, stress = response.state, response.flux
        np.testing.assert_allclose(stress, (strain - after[:, :-1]) @ C, atol=1e-13)
        s = stress - stress[:, :3].mean(axis=1)[:, None] * [1, 1, 1, 0, 0, 0]
        norm = np.linalg.norm(s, axis=1)
        q, increment, flow = np.sqrt(1.5) * norm, after[:, -1] - before[:, -1], (after - before)[:, :-1]
        assert (increment >= 0).all() and (q <= law.strength(after[:, -1]) * (1 + 1e-12)).all()
        loading = increment > 0
        np.testing.assert_allclose(q[loading], law.strength(after[loading, -1]), rtol=1e-12)
        np.testing.assert_allclose(np.sqrt(2 / 3) * np.linalg.norm(flow, axis=1), increment, atol=1e-16)
        np.testing.assert_allclose(flow, np.sqrt(1.5) * increment[:, None] * s / norm[:, None], atol=1e-15)
        np.testing.assert_allclose(flow[:, :3].sum(axis=1), 0.0, atol=1e-16)
        seen += [loading.sum(), (~loading).sum()]
    assert seen.min() > 20


@pytest.mark.parametrize("hardening", [{}, VOCE])
def test_plane_strain_is_3d_without_out_of_plane_strain(hardening):
    plane, solid = (VonMisesPlasticity(MU, LMBDA, 0.3, dim=dim, **hardening) for dim in (2, 3))
    state = solid.initial_state(40)
    for _, strain, response in path(plane):
        full = np.zeros((40, 6))
        full[:, [0, 1, 5]] = strain
        in_3d = solid.evaluate(full, state, 1.0)
        state = in_3d.state
        np.testing.assert_allclose(response.flux, in_3d.flux[:, [0, 1, 5]], atol=1e-14)
        np.testing.assert_allclose(response.state, state[:, [0, 1, 2, 5, 6]], atol=1e-16)
        np.testing.assert_allclose(response.tangent, in_3d.tangent[:, [0, 1, 5]][:, :, [0, 1, 5]], atol=1e-11)
    assert np.abs(state[:, 2]).max() > 1e-3


def test_uniaxial_tension_follows_the_hardening_curve():
    """Under uniaxial stress σ = σ_y(p) with ε = σ/E + p; the lateral strain is found by Newton with the tangent."""
    law = VonMisesPlasticity(MU, LMBDA, 0.3, dim=3, **VOCE)
    strain, state = np.zeros((1, 6)), law.initial_state(1)
    for axial in np.linspace(1e-3, 2e-2, 8):
        strain[0, 0] = axial
        for _ in range(20):
            response = law.evaluate(strain, state, 1.0)
            strain[0, 1:] -= np.linalg.solve(response.tangent[0, 1:, 1:], response.flux[0, 1:])
        state = response.state
        stress, p = response.flux[0, 0], state[0, -1]
        assert stress == pytest.approx(min(200.0 * axial, law.strength(p)), rel=1e-11)
        assert axial == pytest.approx(stress / 200.0 + p, rel=1e-11)
    assert p > 0.01


def test_free_energy_and_dissipation():
    """Work = free energy + σ₀ p along a proportional path, up to the error of the time steps."""
    law = VonMisesPlasticity(MU, LMBDA, 0.3, dim=3, **VOCE)
    end = strains(6, 6)[1::2]
    excess = []
    for steps in (50, 100):
        state, work, last = law.initial_state(len(end)), np.zeros(len(end)), np.zeros_like(end)
        for i in range(1, steps + 1):
            response = law.evaluate(end * i / steps, state, 1.0)
            work = work + ((response.flux + last) / 2 * end / steps).sum(axis=1)
            state, last = response.state, response.flux
        excess.append(np.abs(work - response.energy - law.yield_stress * state[:, -1]).max() / work.max())
    assert excess[1] < 2e-4 and excess[1] < 0.6 * excess[0]


def test_extreme_steps_and_parameters():
    law = VonMisesPlasticity(MU, LMBDA, 0.3, dim=2, **VOCE)
    response = law.evaluate(np.array([[1e3, -1e3, 1e2], [np.nan, 0, 0], [0, 0, 0]]), law.initial_state(3), 1.0)
    assert response.status.tolist() == [Status.OK, Status.INADMISSIBLE, Status.OK]
    assert np.isfinite(response.flux[0]).all() and not response.state[1:].any()
    wrong: list[dict[str, Any]] = [{"hardening": -1.0}, {"saturation_stress": 0.2}, {"saturation_rate": -1.0}]
    for parameters in wrong:
        with pytest.raises(ContractError, match="yield_stress > 0, hardening >= 0"):
            VonMisesPlasticity(MU, LMBDA, 0.3, **parameters)


R_IN, R_OUT, YIELD = 1.0, 2.0, 0.3
LIMIT = 2 / np.sqrt(3) * YIELD * np.log(R_OUT / R_IN)  # Hill 1950, The Mathematical Theory of Plasticity, chap. V


class Cylinder:
    """Quarter of a thick cylinder in plane strain, P2 triangles with three points each, loaded at its inner wall."""

    def __init__(self, closure, radial=4, around=6, pressure=False, **options):
        domain = mesh.create_rectangle(WORLD, [(R_IN, 0.0), (R_OUT, np.pi / 2)], [radial, around])
        r, angle = domain.geometry.x[:, 0].copy(), domain.geometry.x[:, 1].copy()
        domain.geometry.x[:, 0], domain.geometry.x[:, 1] = r * np.cos(angle), r * np.sin(angle)
        V = fem.functionspace(domain, ("P", 2, (2,)))
        self.u, v, self.wall = fem.Function(V), ufl.TestFunction(V), fem.Function(V)
        dx = ufl.Measure("dx", domain=domain, metadata={"quadrature_degree": 2})
        self.flux = ClosureFlux(mandel(ufl.sym(ufl.grad(self.u))), closure, dx, name="stress")
        self.stress = from_mandel(self.flux.vector)
        bcs = [self._fixed(V, component) for component in (0, 1)]
        inner = mesh.locate_entities_boundary(domain, 1, lambda x: np.hypot(x[0], x[1]) < R_IN + 1e-9)
        tags = mesh.meshtags(domain, 1, inner, np.full(len(inner), 1, np.int32))
        ds = ufl.Measure("ds", domain=domain, subdomain_data=tags)
        self.p = fem.Constant(domain, np.float64(0.0))
        residual = ufl.inner(self.stress, ufl.grad(v)) * dx
        residual += self.p * ufl.dot(ufl.FacetNormal(domain), v) * ds(1)
        if not pressure:
            bcs.append(fem.dirichletbc(self.wall, fem.locate_dofs_topological(V, 1, inner)))
        self.radial = fem.Function(V)
        self.radial.interpolate(lambda x: x[:2] / np.hypot(x[0], x[1]))
        self.problem = MultiscaleProblem(
            residual,
            self.u,
            fluxes=[self.flux],
            bcs=bcs,
            petsc_options_prefix=next(prefixes),
            petsc_options=options,
        )
        self.work = fem.form(ufl.inner(self.stress, ufl.grad(self.radial)) * dx)
        self.length = fem.form(-ufl.dot(ufl.FacetNormal(domain), self.radial) * ds(1))

    def _fixed(self, V, component):
        """Symmetry: no displacement across the side x_component = 0."""
        facets = mesh.locate_entities_boundary(V.mesh, 1, lambda x: np.isclose(x[component], 0.0))
        dofs = fem.locate_dofs_topological(V.sub(component), 1, facets)
        return fem.dirichletbc(fem.Constant(V.mesh, np.float64(0.0)), dofs, V.sub(component))

    def push(self, displacement):
        self.wall.x.array[:] = displacement * self.radial.x.array

    def pressurise(self, pressure):
        self.p.value = pressure

    def pressure(self):
        """By virtual work of the field e_r: p ∫ e_r·n ds = ∫ σ : ∇e_r dx."""
        work, length = (WORLD.allreduce(fem.assemble_scalar(form)) for form in (self.work, self.length))
        return work / length

    def plastic_share(self):
        share = np.array([np.count_nonzero(self.flux.state[:, -1] > 0.0), self.flux.points.n])
        return np.divide(*WORLD.allreduce(share))


def largest(local):
    return WORLD.allreduce(np.abs(local).max(initial=0.0), op=MPI.MAX)


@pytest.mark.mpi
def test_limit_load_of_a_thick_cylinder():
    """Fully plastic under a prescribed displacement; the error of the mesh is 0.6 % (12 triangles) and 0.08 % (48)."""
    errors = []
    for radial, around in ((2, 3), (4, 6)):
        run = Cylinder(VonMisesPlasticity(MU, LMBDA, YIELD), radial, around)
        load_steps(run.problem, run.push, steps=5, end=0.015)
        before = run.pressure()
        load_steps(run.problem, run.push, steps=1, start=0.015, end=0.02)
        assert run.plastic_share() == 1.0
        assert run.pressure() == pytest.approx(before, rel=1e-3)
        errors.append(abs(run.pressure() / LIMIT - 1.0))
    assert errors[0] < 0.01 and errors[1] < 0.002 and errors[1] < errors[0] / 4


@pytest.mark.mpi
def test_no_equilibrium_beyond_the_limit_load():
    """Under a prescribed pressure, steps are cut back up to the limit load, and then there is none small enough."""
    run = Cylinder(VonMisesPlasticity(MU, LMBDA, YIELD), pressure=True)
    records: list[StepRecord] = []
    with pytest.raises(StepError, match="did not converge, after . cut-backs"):
        load_steps(run.problem, run.pressurise, steps=6, end=1.2 * LIMIT, min_step=LIMIT / 100, on_step=records.append)
    assert 0.985 < records[-1].load / LIMIT < 1.005
    assert run.problem.ledger.gathered(WORLD).counts["macro/cutbacks"] >= 3


@pytest.mark.mpi
def test_cut_backs_leave_no_trace_in_the_history():
    """A run with failing increments ends in the same state as one that takes its converged steps directly."""
    attempts = count()

    def fails(strain):
        return np.full(len(strain), WORLD.rank == 0 and next(attempts) in (0, 8, 9))

    law = VonMisesPlasticity(MU, LMBDA, YIELD, **VOCE)
    disturbed = Cylinder(FailingClosure(law, fails), snes_linesearch_type="basic")
    direct = Cylinder(law)
    records = load_steps(disturbed.problem, disturbed.push, steps=4, end=0.02)
    assert sum(record.cutbacks for record in records) >= 3
    for record in records:
        direct.push(record.load)
        direct.problem.solve()
        direct.problem.commit()
    assert largest(direct.flux.state[:, -1]) > 5e-3
    assert largest(disturbed.flux.state - direct.flux.state) < 1e-9
    assert largest(disturbed.u.x.array - direct.u.x.array) < 1e-9


@pytest.mark.mpi
def test_unloading_is_elastic():
    run = Cylinder(VonMisesPlasticity(MU, LMBDA, YIELD), pressure=True)
    elastic = Cylinder(LinearElastic(MU, LMBDA), pressure=True)
    load_steps(run.problem, run.pressurise, steps=4, end=0.8 * LIMIT)
    loaded, state = run.u.x.array.copy(), run.flux.state.copy()
    assert 0.2 < run.plastic_share() < 0.8
    load_steps(run.problem, run.pressurise, steps=1, start=0.8 * LIMIT, end=0.0)
    elastic.pressurise(0.8 * LIMIT)
    elastic.problem.solve()
    assert largest(run.flux.state - state) == 0.0
    assert largest(loaded - run.u.x.array - elastic.u.x.array) < 1e-9
    assert largest(run.u.x.array) > 1e-4


@pytest.mark.mpi
@pytest.mark.parametrize("cell", [mesh.CellType.tetrahedron, mesh.CellType.hexahedron])
def test_uniaxial_bar_in_3d(cell):
    """Tension and unloading of a bar with free sides: σ = σ_y(p), ε = σ/E + p, and p stays while it unloads."""
    law = VonMisesPlasticity(MU, LMBDA, YIELD, dim=3, **VOCE)
    domain = mesh.create_box(WORLD, [np.zeros(3), np.array([2.0, 1.0, 1.0])], [2, 1, 1], cell)
    V = fem.functionspace(domain, ("P", 1, (3,)))
    u, v, end = fem.Function(V), ufl.TestFunction(V), fem.Constant(domain, np.float64(0.0))
    dx = ufl.Measure("dx", domain=domain, metadata={"quadrature_degree": 2})
    stress = ClosureFlux(mandel(ufl.sym(ufl.grad(u))), law, dx)
    bcs = []
    for axis, place, value in ((0, 0.0, None), (1, 0.0, None), (2, 0.0, None), (0, 2.0, end)):
        facets = mesh.locate_entities_boundary(domain, 2, lambda x, i=axis, at=place: np.isclose(x[i], at))
        dofs = fem.locate_dofs_topological(V.sub(axis), 2, facets)
        held = fem.Constant(domain, np.float64(0.0)) if value is None else value
        bcs.append(fem.dirichletbc(held, dofs, V.sub(axis)))
    residual = ufl.inner(from_mandel(stress.vector), ufl.grad(v)) * dx
    problem = MultiscaleProblem(residual, u, fluxes=[stress], bcs=bcs, petsc_options_prefix=next(prefixes))

    def pull(strain):
        end.value = 2.0 * strain

    load_steps(problem, pull, steps=3, end=0.015)
    p = WORLD.allreduce(stress.state[:, -1].max(initial=0.0), op=MPI.MAX)
    axial = law.strength(p)
    assert axial / 200.0 + p == pytest.approx(0.015, rel=1e-9)
    assert largest(stress.response.flux - axial * np.eye(6)[0]) < 1e-9
    load_steps(problem, pull, steps=2, start=0.015, end=0.014)
    assert largest(stress.state[:, -1] - p) < 1e-12
    assert largest(stress.response.flux[:, 0] - (axial - 0.001 * 200.0)) < 1e-9

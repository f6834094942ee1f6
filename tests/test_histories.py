"""RVEs whose materials have history: closed forms, tangents, contract, sweeps."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import ufl
from scipy.optimize import root

from coupling import ContractError, Status, StretchFrame
from coupling.closed_forms import StandardLinearSolid, lame
from coupling.closed_forms import VonMisesPlasticity as ClosedPlasticity
from coupling.conformance import assert_conforms
from coupling.contract import Array, Closure
from coupling.ledger import Ledger
from coupling.polar import mandel_basis
from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.rve import shared_factors
from solver_adapters.rve.energies import NeoHookean, isotropic
from solver_adapters.rve.fields import local_flux
from solver_adapters.rve.histories import GeneralisedMaxwell, HistoryMaterial, VonMisesPlasticity
from solver_adapters.rve.kinematics import ScalarGradient, SmallStrain
from solver_adapters.rve.meshes import centred_fibre, laminate, sphere
from solver_adapters.rve.shared_factors import SharedFactors

MODULI, YIELD, HARDENING = lame(70.0, 0.3), 0.2, 1.0
METAL = VonMisesPlasticity(*MODULI, YIELD, HARDENING)
STIFF = lame(400.0, 0.2)
SOLID = {"branch_mu": 40.0, "branch_lmbda": 25.0, "relaxation_time": 0.7}
POLYMER = GeneralisedMaxwell(*MODULI, ((40.0, 25.0, 0.7),))
THERE_AND_BACK = (0.2, 0.7, 1.0, 0.9, 0.1, -0.8, -0.3, 0.6)


def small_cell(dim):
    return centred_fibre(size=0.4) if dim == 2 else sphere(size=0.6)


@cache
def composite(law=METAL, **options):
    return PeriodicRVE(centred_fibre(size=0.2), {1: law, 2: isotropic(*STIFF)}, SmallStrain(), **options)


def directions(n, k, seed=0):
    return 6e-3 * np.random.default_rng(seed).uniform(-1.0, 1.0, (n, k))


def walked(rve, n, steps=2, seed=1):
    """A state of n points after a random walk, and the gradient at which it ends."""
    state = rve.initial_state(n)
    for g in np.cumsum(np.random.default_rng(seed).uniform(-4e-3, 4e-3, (steps, n, rve.spec.k)), axis=0):
        response = rve.evaluate(g, state, 1.0)
        assert (response.status == Status.OK).all()
        state = response.state
    return state, g


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("law", ["plastic", "viscous"])
def test_homogeneous_cell_is_the_closed_form(law, dim):
    """Flux, tangent and history to round-off over loading, unloading, reverse loading and increments of any length."""
    cases: dict[str, tuple[HistoryMaterial, Closure]] = {
        "plastic": (METAL, ClosedPlasticity(*MODULI, YIELD, hardening=HARDENING, dim=dim)),
        "viscous": (POLYMER, StandardLinearSolid(*MODULI, **SOLID, dim=dim)),
    }
    material, closed = cases[law]
    rve = PeriodicRVE(small_cell(dim), {1: material, 2: material}, SmallStrain(), degree=4 - dim)
    end = directions(3, rve.spec.k)
    state, exact = rve.initial_state(3), closed.initial_state(3)
    independent = {2: [0, 1, 3, 4], 3: [0, 1, 3, 4, 5, 6]}[dim] if law == "plastic" else slice(None)
    for t, dt in zip(THERE_AND_BACK, (0.1, 0.5, 0.1, 2.0, 0.3, 0.3, 1.0, 0.01), strict=True):
        ours, theirs = rve.evaluate(t * end, state, dt), closed.evaluate(t * end, exact, dt)
        np.testing.assert_allclose(ours.flux, theirs.flux, atol=1e-13)
        np.testing.assert_allclose(ours.tangent, theirs.tangent, atol=1e-11)
        state, exact = ours.state, theirs.state
        np.testing.assert_allclose(rve.features(state), np.hstack([exact[:, independent]] * 2), atol=1e-15)
        stress = local_flux(rve, state[0]).x.array.reshape(-1, dim**2)
        average = (ours.flux[0] @ mandel_basis(dim).reshape(-1, dim**2))[None]
        np.testing.assert_allclose(stress, np.tile(average, (len(stress), 1)), atol=1e-12)
    assert np.abs(exact).max() > 5e-4


def test_tangents_where_an_increment_begins_are_elastic():
    """Points that have yielded lie on the yield surface; round-off must not decide which side they are on."""
    rve = composite(tolerance=1e-10)
    g = directions(6, 3)
    state = rve.evaluate(g, rve.initial_state(6), 1.0).state
    assert (rve.features(state)[:, -1] > 1e-5).all()
    elastic = rve.evaluate(np.zeros((1, 3)), rve.initial_state(1), 1.0).tangent[0]
    again = rve.evaluate(g, state, 1.0)
    np.testing.assert_allclose(again.tangent, np.tile(elastic, (6, 1, 1)), rtol=1e-9, atol=1e-8)


def test_two_branches_relax_on_their_own():
    """At constant strain each overstress shrinks by 1/(1 + Δt/τ) in a step."""
    branches = ((20.0, 10.0, 0.5), (5.0, 3.0, 4.0))
    material = GeneralisedMaxwell(*MODULI, branches)
    rve = PeriodicRVE(centred_fibre(size=0.4), {1: material, 2: material}, SmallStrain())
    g, state = np.array([[1e-3, -2e-3, 5e-4]]), rve.initial_state(1)
    left: Array = np.ones(2)
    for dt in (0.0, 0.1, 1.0, 0.3):
        response = rve.evaluate(g, state, dt)
        state, left = response.state, left / (1.0 + dt / np.array([0.5, 4.0]))
        sides = [
            closed_stiffness(*MODULI),
            *(a * closed_stiffness(*b[:2]) for a, b in zip(left, branches, strict=True)),
        ]
        np.testing.assert_allclose(response.flux[0], sum(sides) @ g[0], rtol=1e-12)


def closed_stiffness(mu, lmbda):
    return isotropic(mu, lmbda).stiffness


def test_viscous_composite_between_its_elastic_limits():
    """At once it responds with all springs, after long with those beside the branches; in between it relaxes."""
    cell, g = centred_fibre(size=0.25), np.array([[2e-3, -1e-3, 1e-3]])
    visco = PeriodicRVE(cell, {1: POLYMER, 2: isotropic(*STIFF)}, SmallStrain())
    summed = MODULI[0] + SOLID["branch_mu"], MODULI[1] + SOLID["branch_lmbda"]
    elastic = [PeriodicRVE(cell, {1: isotropic(*m), 2: isotropic(*STIFF)}, SmallStrain()) for m in (summed, MODULI)]
    limits = [rve.evaluate(g, rve.initial_state(1), 0.0) for rve in elastic]
    state = visco.initial_state(1)
    for dt, limit in ((0.0, limits[0]), (1e13, limits[1])):
        response = visco.evaluate(g, state, dt)
        np.testing.assert_allclose(response.flux, limit.flux, rtol=1e-11)
        np.testing.assert_allclose(response.tangent, limit.tangent, rtol=1e-9, atol=1e-12)
    works = []
    for dt in (0.0, 0.5, 0.5, 1.0, 1e13):
        response = visco.evaluate(g, state, dt)
        works.append((response.flux @ g[0])[0])
        state = response.state
    assert (np.diff(works) < 0).all()
    assert works[-1] == pytest.approx((limits[1].flux @ g[0])[0], rel=1e-11)


@pytest.mark.parametrize("degree", [1, 2])
def test_plastic_laminate_is_exact(degree):
    """Strains are constant per layer, ε₁ = ε + c₂ sym(a ⊗ n), ε₂ = ε − c₁ sym(a ⊗ n), with (σ₁ − σ₂) n = 0."""
    soft, hard = (ClosedPlasticity(*MODULI, s, hardening=HARDENING) for s in (YIELD, 3 * YIELD))
    materials = {1: METAL, 2: VonMisesPlasticity(*MODULI, 3 * YIELD, HARDENING)}
    rve = PeriodicRVE(laminate(fraction=0.3, size=0.25), materials, SmallStrain(), degree=degree)
    shares = 0.3, -0.7
    end, state = np.array([2e-2, -1e-2, 1.5e-2]), rve.initial_state(1)
    histories = [soft.initial_state(1), hard.initial_state(1)]

    def layers_at(strain, a):
        jump = np.array([a[0], 0.0, a[1] / np.sqrt(2)])
        cases = zip((soft, hard), shares, histories, strict=True)
        return [law.evaluate((strain + s * jump)[None], h, 1.0) for law, s, h in cases]

    def jump_of_traction(a, strain):
        first, second = layers_at(strain, a)
        return (first.flux - second.flux)[0, [0, 2]]

    for t in THERE_AND_BACK:
        found = root(jump_of_traction, np.zeros(2), args=(t * end,), tol=1e-14)
        np.testing.assert_allclose(found.fun, 0.0, atol=1e-13)
        layers = layers_at(t * end, found.x)
        response = rve.evaluate(t * end[None], state, 1.0)
        exact = 0.7 * layers[0].flux + 0.3 * layers[1].flux
        np.testing.assert_allclose(response.flux, exact, atol=1e-11)
        state, histories = response.state, [layer.state for layer in layers]
        expected = np.hstack([h[:, [0, 1, 3, 4]] for h in histories])
        np.testing.assert_allclose(rve.features(state), expected, atol=1e-13)
    assert (expected[0, [3, 7]] > 1e-3).all()


def test_tangent_of_a_plastic_composite():
    rve = composite()
    state, g = walked(rve, 4)
    g = g + directions(4, 3, seed=3)
    answer = rve.evaluate(g, state, 1.0)
    assert (np.abs(rve.features(answer.state) - rve.features(state))[:, -1] > 1e-4).all()
    h = 1e-8
    for j in range(3):
        plus, minus = (rve.evaluate(g + s * h * np.eye(3)[j], state, 1.0, answer.state).flux for s in (1, -1))
        np.testing.assert_allclose((plus - minus) / (2 * h), answer.tangent[:, :, j], atol=2e-5 * 70)


@pytest.mark.parametrize("boundary", ["periodic", "uniform", "linear"])
def test_conforms(boundary):
    """Central differences over 1e-4 of strain reach across the kinks of some points, hence their tolerance."""
    rve = composite(boundary=boundary)
    assert_conforms(rve, amplitude=5e-3, samples=4, tolerance=1e-6, tangent_tolerance=2e-2)


@dataclass(frozen=True)
class Creeping:
    """A law of a user's own at finite strain: neo-Hookean, with an overstress of the Green strain that relaxes."""

    elastic: NeoHookean
    branch: float
    time: float

    def virgin(self, dim):
        return [0.0] * dim**2

    def increment(self, F, history, dt):
        E = (F.T * F - ufl.Identity(2)) / 2
        alpha, ratio = ufl.as_matrix([[history[2 * i + j] for j in range(2)] for i in range(2)]), dt / self.time
        new = (alpha + ratio * E) / (1 + ratio)
        potential = self.elastic(F) + self.branch * ufl.inner(E - alpha, E - alpha) / (1 + ratio)
        return potential, ufl.as_vector([new[i, j] for i in range(2) for j in range(2)])


def test_own_law_at_finite_strain():
    law = Creeping(NeoHookean(1.0, 2.0), 0.5, 0.3)
    assert isinstance(law, HistoryMaterial) and not isinstance(NeoHookean(1.0, 2.0), HistoryMaterial)
    rve = PeriodicRVE(centred_fibre(size=0.3), {1: law, 2: NeoHookean(20.0, 40.0)})
    assert_conforms(StretchFrame(rve), samples=3)
    g, state = np.array([[1.1, 0.95, 0.05]]), rve.initial_state(1)
    for dt in (0.1, 1.0, 0.2):
        exact, answer = rve.evaluate(g, state, dt), swept(rve)(g, state, dt)
        np.testing.assert_allclose(answer.flux, exact.flux, atol=1e-8)
        np.testing.assert_allclose(histories(rve, answer), histories(rve, exact), atol=1e-8)
        state = exact.state
    slow, fast = (rve.evaluate(np.array([[1.1, 0.95, 0.05]]), rve.initial_state(1), dt).flux for dt in (1e-6, 1e6))
    assert np.abs(slow - fast).max() > 1e-2


def test_sub_steps_belong_to_one_increment():
    """Where Newton's method fails on a long way and takes several, the history is that of the whole increment."""
    rve = composite()
    state, _ = walked(rve, 30)
    g = 2e-2 * np.random.default_rng(4).uniform(-1.0, 1.0, (30, 3))
    before = rve.ledger.counts.get("rve/substeps", 0)
    answer = rve.evaluate(g, state, 1.0)
    assert rve.ledger.counts["rve/substeps"] > before
    again = rve.evaluate(g, state, 1.0, answer.state)
    np.testing.assert_allclose(again.flux, answer.flux, atol=1e-10)
    np.testing.assert_allclose(rve.features(again.state), rve.features(answer.state), atol=1e-12)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_a_point_that_fails_keeps_its_history():
    rve = composite()
    state, g = walked(rve, 3)
    g[1] = [np.nan, 0.0, 0.0]
    g[2] = [1e200, 0.0, 0.0]
    for ask in (rve.evaluate, swept(rve)):
        response = ask(g, state, 1.0)
        assert response.status.tolist() == [Status.OK, Status.INADMISSIBLE, Status.NOT_CONVERGED]
        np.testing.assert_array_equal(response.state[1:], state[1:])


def swept(rve, tolerance=1e-9, tangent=False):
    def ask(gradient, state, dt, hint=None):
        wanted = np.full(len(gradient), tangent)
        return rve.sweep(gradient, state, dt, hint, tolerance=tolerance, tangent=wanted)

    return ask


def histories(rve, response):
    return np.array([rve.equilibrium(row).history for row in response.state])


def test_points_with_new_factors_tell_their_tangents():
    """Where all flow, the factor of the reference state is too stiff; nobody has asked for tangents."""
    rve, g = composite(), 2.0 * directions(4, 3, seed=3)
    state = rve.initial_state(4)
    before = rve.ledger.counts.get("rve/factorisations", 0)
    answer, exact = swept(rve)(g, state, 1.0), rve.evaluate(g, state, 1.0)
    assert rve.ledger.counts["rve/factorisations"] > before
    assert np.isfinite(answer.tangent).all()
    size = np.linalg.norm(rve.reference.tangent)
    assert (np.linalg.norm(exact.tangent - rve.reference.tangent, axis=(1, 2)) > 0.1 * size).all()
    assert (np.linalg.norm(answer.tangent - exact.tangent, axis=(1, 2)) < 0.02 * size).all()
    ours, theirs = (np.array([rve.equilibrium(row).sensitivity for row in r.state]) for r in (answer, exact))
    assert np.linalg.norm(ours - theirs) < 0.1 * np.linalg.norm(theirs)


@pytest.mark.parametrize("tangent", [False, True])
@pytest.mark.parametrize("name", ["plastic", "uniform", "viscous"])
def test_sweep_is_evaluate(name, tangent):
    """From the committed state and from hints on the other side of the yield surface; increments of two lengths."""
    rve = composite(POLYMER if name == "viscous" else METAL, boundary="uniform" if name == "uniform" else "periodic")
    n = 5
    state, g = walked(rve, n)
    ask, forth = swept(rve, tangent=tangent), directions(n, 3, seed=7)
    hint = None
    for step, dt in ((0.5 * forth, 1.0), (forth, 1.0), (-forth, 1.0), (-0.2 * forth, 0.25), (0.1 * forth, 0.25)):
        exact = rve.evaluate(g + step, state, dt)
        for start in (None, hint):
            answer = ask(g + step, state, dt, start)
            assert (answer.status == Status.OK).all()
            np.testing.assert_allclose(answer.flux, exact.flux, atol=1e-8)
            np.testing.assert_allclose(histories(rve, answer), histories(rve, exact), atol=1e-9)
            told = np.isfinite(answer.tangent).all(axis=(1, 2))
            np.testing.assert_allclose(answer.tangent[told], exact.tangent[told], rtol=1e-2, atol=0.5)
            assert told.all() or not tangent or name == "uniform"
        hint = exact.state


def test_linear_rves_are_swept_by_one_correction():
    """Of one factor for each length of increments, and tell their tangents unasked; nothing is left but round-off."""
    rve, n = composite(POLYMER), 5
    state, g = walked(rve, n)
    for dt, factors in ((1.0, 1), (0.25, 1), (0.25 * (1.0 + 1e-15), 0)):
        counts = [rve.ledger.counts.get(f"rve/{what}", 0) for what in ("corrections", "factorisations")]
        answer = swept(rve, tolerance=1e-12)(g + directions(n, 3, seed=7), state, dt)
        now = [rve.ledger.counts[f"rve/{what}"] for what in ("corrections", "factorisations")]
        assert now[0] - counts[0] == n and now[1] - counts[1] <= factors
        exact = rve.evaluate(g + directions(n, 3, seed=7), state, dt)
        np.testing.assert_allclose(answer.flux, exact.flux, atol=1e-13)
        np.testing.assert_allclose(answer.tangent, exact.tangent, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(histories(rve, answer), histories(rve, exact), atol=1e-13)


def test_energies_are_refused():
    with pytest.raises(ContractError, match="with materials with history the flux is not the derivative of an energy"):
        PeriodicRVE(centred_fibre(size=0.4), {1: METAL, 2: METAL}, SmallStrain(), energy=True)
    with pytest.raises(ContractError, match="yield_stress > 0"):
        VonMisesPlasticity(*MODULI, 0.0)
    with pytest.raises(ContractError, match="relaxation time > 0"):
        GeneralisedMaxwell(*MODULI, ((1.0, 1.0, 0.0),))


class Miscounted:
    """A law that begins with one number and goes on with another number of them."""

    def __init__(self, begins, updated):
        self.begins, self.updated = begins, updated

    def virgin(self, dim):
        return [0.0] * self.begins

    def increment(self, gradient, history, dt):
        return ufl.dot(gradient, gradient), ufl.as_vector([gradient[0]] * self.updated)


def test_updated_histories_have_the_length_of_virgin_ones():
    """Two wrong ones may have the right number of components in all."""
    with pytest.raises(ContractError, match=r"begins with shape \(1,\) and is updated to shape \(2,\)"):
        PeriodicRVE(laminate(size=0.5), {1: Miscounted(1, 2), 2: Miscounted(2, 1)}, ScalarGradient())


def test_laws_of_small_strain_in_finite_kinematics_are_told():
    """They take F for a strain, and answer something."""
    for law in (METAL, isotropic(*MODULI)):
        with pytest.warns(RuntimeWarning, match="not zero in its reference state.* need SmallStrain"):
            PeriodicRVE(centred_fibre(size=0.4), {1: law, 2: NeoHookean(1.0, 2.0)})


def renewed(factors, gradient, fluctuation):
    factors.problem.linearise(gradient, fluctuation)
    return factors.renewed(gradient)


def test_factors_are_renewed_in_the_place_of_idle_ones():
    """The first one stays, and one that cannot be made leaves the others as they are."""
    phases = {1: NeoHookean(1.0, 2.0), 2: NeoHookean(20.0, 40.0)}
    problem, rest = PeriodicRVE(centred_fibre(size=0.4), phases).problem, np.array([1.0, 1.0, 0.0])
    far, w = rest + 0.1 * np.eye(3), np.zeros(problem.n)
    factors = SharedFactors(problem, rest, Ledger())
    assert [renewed(factors, g, w) for g in far[:2]] == [1, 2]
    for _ in range(4):
        assert factors.assigned(far[1:2]).tolist() == [2]
    assert renewed(factors, far[2], w) == 1
    assert factors.nearest(np.vstack([rest, far])).tolist() == [0, 0, 2, 1]
    for _ in range(4):
        factors.assigned(far[1:2])
    folded = np.random.default_rng(0).normal(size=problem.n)
    with pytest.raises(ArithmeticError):
        renewed(factors, far[0], folded)
    assert factors.nearest(np.vstack([far[1:], far[:1]])).tolist() == [2, 0, 0]
    right = np.random.default_rng(0).normal(size=(3, problem.n))
    solved = factors.solve(np.array([0, 1, 2]), right)
    problem.linearise(far[1], w)
    np.testing.assert_allclose(problem.K.to_scipy() @ solved[2], right[2], atol=1e-10)
    assert np.isfinite(solved).all()


def test_the_oldest_factor_gives_way_where_memory_ends(monkeypatch):
    phases = {1: NeoHookean(1.0, 2.0), 2: NeoHookean(20.0, 40.0)}
    problem, rest = PeriodicRVE(centred_fibre(size=0.4), phases).problem, np.array([1.0, 1.0, 0.0])
    size = SharedFactors(problem, rest, Ledger())._factors[0].memory
    assert size >= 8 * problem.n
    monkeypatch.setattr(shared_factors, "_MEMORY", 4 * size)
    factors = SharedFactors(problem, rest, Ledger())
    states = rest + 0.01 * np.arange(1, 8)[:, None] * [1.0, -0.5, 0.2]
    assert [renewed(factors, g, np.zeros(problem.n)) for g in states] == [1, 2, 3, 1, 2, 3, 1]
    assert len(factors) == 4

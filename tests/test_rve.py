"""The periodic RVE against exact solutions, bounds and the identities of homogenisation."""

import resource

import numpy as np
import pytest
import ufl
from dolfinx import fem

from coupling import ClosureError, ContractError, Status, StretchFrame
from coupling.closed_forms import NeoHookean as ClosedNeoHookean
from coupling.closed_forms import StretchNeoHookean
from coupling.conformance import assert_conforms
from coupling.polar import mandel_basis
from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.rve.energies import NeoHookean, SaintVenantKirchhoff
from solver_adapters.rve.fields import fluctuation, local_flux
from solver_adapters.rve.meshes import centred_fibre, centred_void, laminate

SOFT, STIFF = (1.0, 2.0), (20.0, 40.0)
PHASES = {1: NeoHookean(*SOFT), 2: NeoHookean(*STIFF)}
GRADIENTS = np.array([[1.1, 0.95, 0.05], [0.9, 1.05, -0.1], [1.02, 1.15, 0.12], [1.0, 1.0, 0.0]])


@pytest.fixture(scope="module")
def fibre():
    return PeriodicRVE(centred_fibre(size=0.15), PHASES, tolerance=1e-16, energy=True)


def laminate_stress(F, fractions, laws):
    """Exact first Piola–Kirchhoff stress (4,) of a two-layer laminate with normal e₁.

    Fields are constant in each layer: F₁ = F + c₂ a⊗n, F₂ = F − c₁ a⊗n, and a is found from (P₁ − P₂) n = 0.
    """
    c1, c2 = fractions
    a = np.zeros(2)
    for _ in range(50):
        jump = np.array([a[0], 0.0, a[1], 0.0])
        first, second = (law.evaluate((F + s * jump)[None], None, 0.0) for law, s in zip(laws, (c2, -c1), strict=True))
        traction = (first.flux - second.flux)[0, [0, 2]]
        stiffness = (c2 * first.tangent + c1 * second.tangent)[0][np.ix_([0, 2], [0, 2])]
        a -= np.linalg.solve(stiffness, traction)
        if np.abs(traction).max() < 1e-14:
            break
    return c1 * first.flux[0] + c2 * second.flux[0]


@pytest.mark.parametrize("degree", [1, 2])
def test_laminate_is_exact(degree):
    fraction = 0.3
    rve = PeriodicRVE(laminate(fraction=fraction, size=0.25), PHASES, degree=degree, tolerance=1e-14)
    closure = StretchFrame(rve)
    F = np.array([[1.1, 0.2, -0.1, 0.9], [0.9, -0.15, 0.3, 1.2], [1.0, 0.3, 0.0, 1.0]])
    response = closure.evaluate(F, closure.initial_state(3), 0.0)
    laws = ClosedNeoHookean(*SOFT), ClosedNeoHookean(*STIFF)
    exact = np.array([laminate_stress(f, (1 - fraction, fraction), laws) for f in F])
    assert response.status.tolist() == [Status.OK] * 3
    np.testing.assert_allclose(response.flux, exact, atol=2e-11)


def test_homogeneous_cell_is_its_material():
    rve = PeriodicRVE(centred_fibre(size=0.3), {1: NeoHookean(*SOFT), 2: NeoHookean(*SOFT)}, energy=True)
    exact = StretchNeoHookean(*SOFT).evaluate(GRADIENTS, None, 0.0)
    response = rve.evaluate(GRADIENTS, rve.initial_state(4), 0.0)
    np.testing.assert_allclose(response.flux, exact.flux, atol=1e-12)
    np.testing.assert_allclose(response.tangent, exact.tangent, atol=1e-11)
    np.testing.assert_allclose(response.energy, exact.energy, atol=1e-13)


def test_conforms(fibre):
    assert_conforms(fibre)


def test_conforms_in_the_stretch_frame(fibre):
    assert_conforms(StretchFrame(fibre))


def test_objectivity(fibre):
    closure, c, s = StretchFrame(fibre), np.cos(1.2), np.sin(1.2)
    F = np.array([[1.1, 0.2], [-0.1, 0.9]])
    Q = np.array([[c, -s], [s, c]])
    pair = np.stack([F, Q @ F]).reshape(2, 4)
    P = closure.evaluate(pair, closure.initial_state(2), 0.0).flux.reshape(2, 2, 2)
    np.testing.assert_allclose(P[1], Q @ P[0], atol=1e-12)


def test_tangent_matches_central_differences_and_is_symmetric(fibre):
    h = 1e-5
    start = fibre.evaluate(GRADIENTS, fibre.initial_state(4), 0.0)
    differences = np.empty_like(start.tangent)
    for j in range(3):
        step = h * np.eye(3)[j]
        plus, minus = (fibre.evaluate(GRADIENTS + s * step, start.state, 0.0).flux for s in (1, -1))
        differences[:, :, j] = (plus - minus) / (2 * h)
    np.testing.assert_allclose(start.tangent, differences, atol=2e-8)
    np.testing.assert_allclose(differences, differences.transpose(0, 2, 1), atol=2e-8)
    np.testing.assert_array_equal(start.tangent, start.tangent.transpose(0, 2, 1))


def test_flux_is_the_derivative_of_the_energy(fibre):
    h = 1e-5
    start = fibre.evaluate(GRADIENTS, fibre.initial_state(4), 0.0)
    for j in range(3):
        step = h * np.eye(3)[j]
        plus, minus = (fibre.evaluate(GRADIENTS + s * step, start.state, 0.0).energy for s in (1, -1))
        np.testing.assert_allclose(start.flux[:, j], (plus - minus) / (2 * h), atol=1e-9)


def test_hill_mandel(fibre):
    """⟨P : δF⟩ = T̄ : δU for a macroscopic variation δU and any periodic one, here the change of the fluctuation."""
    gradient, change = GRADIENTS[:1], np.array([0.3, -0.2, 0.5])
    state = fibre.evaluate(gradient, fibre.initial_state(1), 0.0).state
    response = fibre.evaluate(gradient, state, 0.0)
    w = fluctuation(fibre, response.state[0])
    dw = fluctuation(fibre, fibre.evaluate(gradient + 1e-2 * change, state, 0.0).state[0])
    dw.x.array[:] = (dw.x.array - w.x.array) / 1e-2
    mesh, tags = w.function_space.mesh, fibre.cell.tags
    dx = ufl.Measure("dx", mesh, subdomain_data=tags, metadata={"quadrature_degree": 2})
    U, dU = (ufl.as_tensor(np.tensordot(g, mandel_basis(2), 1).tolist()) for g in (gradient[0], change))
    F = ufl.variable(U + ufl.grad(w))
    power = sum(ufl.inner(ufl.diff(law(F), F), dU + ufl.grad(dw)) * dx(tag) for tag, law in PHASES.items())
    assert fem.assemble_scalar(fem.form(power)) == pytest.approx(response.flux[0] @ change, abs=1e-10)


def test_local_flux_averages_to_the_flux(fibre):
    response = fibre.evaluate(GRADIENTS[:1], fibre.initial_state(1), 0.0)
    P = local_flux(fibre, response.state[0])
    average = [fem.assemble_scalar(fem.form(P[i, j] * ufl.dx)) for i, j in ((0, 0), (1, 1), (0, 1), (1, 0))]
    biot = [average[0], average[1], (average[2] + average[3]) / 2**0.5]
    np.testing.assert_allclose(biot, response.flux[0], atol=1e-11)


@pytest.mark.parametrize("cell", [centred_fibre, laminate])
def test_reference_tangent_between_voigt_and_reuss(cell):
    built = cell(size=0.12, fraction=0.25)
    areas = fem.assemble_scalar(fem.form(1.0 * ufl.Measure("dx", built.mesh, subdomain_data=built.tags)(2)))
    rve = PeriodicRVE(built, PHASES)
    effective = rve.evaluate(GRADIENTS[3:], rve.initial_state(1), 0.0).tangent[0]
    soft, stiff = (StretchNeoHookean(*law).evaluate(GRADIENTS[3:], None, 0.0).tangent[0] for law in (SOFT, STIFF))
    voigt = (1 - areas) * soft + areas * stiff
    reuss = np.linalg.inv((1 - areas) * np.linalg.inv(soft) + areas * np.linalg.inv(stiff))
    assert np.linalg.eigvalsh(voigt - effective).min() > -1e-9
    assert np.linalg.eigvalsh(effective - reuss).min() > -1e-9


def test_reference_bulk_modulus_within_hashin_shtrikman():
    """Plane strain bulk modulus of a fibre composite (Hashin & Rosen 1964): a square array lies between the bounds."""
    built = centred_fibre(size=0.06, fraction=0.25)
    c2 = fem.assemble_scalar(fem.form(1.0 * ufl.Measure("dx", built.mesh, subdomain_data=built.tags)(2)))
    rve = PeriodicRVE(built, PHASES)
    A = rve.evaluate(GRADIENTS[3:], rve.initial_state(1), 0.0).tangent[0]
    bulk = A[:2, :2].sum() / 4
    (mu1, lmbda1), (mu2, lmbda2) = SOFT, STIFF
    k1, k2, c1 = lmbda1 + mu1, lmbda2 + mu2, 1 - c2
    lower = k1 + c2 / (1 / (k2 - k1) + c1 / (k1 + mu1))
    upper = k2 + c1 / (1 / (k1 - k2) + c2 / (k2 + mu2))
    assert lower - 1e-9 <= bulk <= upper + 1e-9
    assert bulk == pytest.approx(lower, rel=0.02)


def test_energy_converges_under_refinement():
    g = GRADIENTS[:1]
    energies = []
    for size in (0.3, 0.15, 0.075):
        rve = PeriodicRVE(centred_fibre(size=size), PHASES, quadrature_degree=4, energy=True)
        energies.append(rve.evaluate(g, rve.initial_state(1), 0.0).energy[0])
    assert abs(energies[2] - energies[1]) < abs(energies[1] - energies[0])


def test_user_material_in_two_lines():
    def linear_in_green(F):
        E = (F.T * F - ufl.Identity(2)) / 2
        return ufl.tr(E) ** 2 + ufl.inner(E, E)

    built = centred_fibre(size=0.3)
    own, shipped = (
        PeriodicRVE(built, {1: law, 2: NeoHookean(*STIFF)}) for law in (linear_in_green, SaintVenantKirchhoff(1.0, 2.0))
    )
    responses = [rve.evaluate(GRADIENTS, rve.initial_state(4), 0.0) for rve in (own, shipped)]
    np.testing.assert_allclose(responses[0].flux, responses[1].flux, atol=1e-12)


def test_large_increment_is_cut_into_steps_and_agrees_with_small_ones():
    rve = PeriodicRVE(centred_void(size=0.15), PHASES, tolerance=1e-14)
    target = np.array([[0.8, 2.5, 0.8]])
    cold = rve.evaluate(target, rve.initial_state(1), 0.0)
    assert rve.ledger.counts["rve/substeps"] > 1
    state = rve.initial_state(1)
    for fraction in np.linspace(0, 1, 33)[1:]:
        response = rve.evaluate(np.array([[1.0, 1.0, 0.0]]) * (1 - fraction) + fraction * target, state, 0.0)
        state = response.state
    assert cold.status[0] == response.status[0] == Status.OK
    np.testing.assert_allclose(cold.flux, response.flux, atol=1e-9)


def test_one_failing_point_leaves_the_others_alone(fibre):
    mixed = np.vstack([GRADIENTS[:2], [[np.nan, 1.0, 0.0]], [[1.0, -0.2, 0.0]], [[1e-3, 1e-3, 0.0]], GRADIENTS[2:]])
    response = fibre.evaluate(mixed, fibre.initial_state(7), 0.0)
    assert response.status[[2, 3]].tolist() == [Status.INADMISSIBLE] * 2
    assert response.status[4] == Status.NOT_CONVERGED
    good = [0, 1, 5, 6]
    alone = fibre.evaluate(GRADIENTS, fibre.initial_state(4), 0.0)
    np.testing.assert_allclose(response.flux[good], alone.flux, atol=1e-13)
    assert (response.status[good] == Status.OK).all()
    assert np.isnan(response.flux[[2, 3, 4]]).all()
    np.testing.assert_array_equal(response.state[[2, 3, 4]], fibre.initial_state(3))


def test_an_rve_past_its_instability_does_not_eat_memory():
    """CHOLMOD refuses an indefinite stiffness, and PETSc loses memory each time, 0.2 MB for this cell."""
    rve = PeriodicRVE(laminate(size=0.08, fraction=0.1), {1: NeoHookean(1.0, 2.0), 2: NeoHookean(100.0, 200.0)})
    g, state = np.array([[0.94, 0.94, 0.0]]), rve.initial_state(1)
    rve.evaluate(g, state, 0.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rve.ledger.reset()
    for _ in range(200):
        rve.evaluate(g, state, 0.0)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert rve.ledger.counts["rve/LU factorisations"] >= 200
    assert grown < 5.0


def test_useless_hint_does_not_change_the_result(fibre):
    state = fibre.initial_state(4)
    expected = fibre.evaluate(GRADIENTS, state, 0.0)
    noise = np.random.default_rng(0).normal(size=state.shape)
    for hint in (np.full_like(state, np.nan), noise, 3 * expected.state):
        response = fibre.evaluate(GRADIENTS, state, 0.0, hint)
        assert (response.status == Status.OK).all()
        np.testing.assert_allclose(response.flux, expected.flux, atol=1e-11)


def test_tag_without_material_is_named():
    with pytest.raises(ContractError, match=r"tag \[2\] have no material"):
        PeriodicRVE(centred_fibre(size=0.3), {1: NeoHookean(*SOFT)})


def test_no_equilibrium_in_the_reference_state_is_said():
    with pytest.raises(ClosureError, match="no equilibrium in its reference state.* moduli"):
        PeriodicRVE(centred_fibre(size=0.3), PHASES | {2: lambda F: ufl.ln(ufl.det(F) - 1.0)})


@pytest.mark.parametrize("law", [NeoHookean(0.0, 0.0), lambda F: 0.0 * F[0, 0], lambda F: F[0, 0]])
def test_a_material_without_stiffness_is_named(law):
    with pytest.raises(ContractError, match="material of tag 2 has no stiffness"):
        PeriodicRVE(centred_fibre(size=0.3), PHASES | {2: law})

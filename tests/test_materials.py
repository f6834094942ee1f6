"""Closures as materials by themselves, and in quadrature maps of dolfinx_materials where it is installed."""

from mpi4py import MPI

import numpy as np
import pytest
import ufl
from dolfinx import fem, la, mesh

from coupling import ClosureError, ClosureSpec, ContractError, Response
from coupling.closed_forms import Conduction, FailingClosure, NeoHookean, StandardLinearSolid
from coupling.contract import mandel_components, tensor_components
from coupling.polar import mandel_basis
from solver_adapters.fenicsx import ClosureFlux, mandel
from solver_adapters.materials import ClosureMaterial
from solver_adapters.rotation import component_rotation

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(240)]

WORLD = MPI.COMM_WORLD
LAW = NeoHookean(1.0, 2.0)
SOLID = StandardLinearSolid(1.0, 2.0, branch_mu=0.7, branch_lmbda=0.3, relaxation_time=0.4)


class Thermoelastic:
    """σ and q of (ε, θ, g) in 2D with all blocks of the tangent, linear in (ε, θ, g)."""

    def __init__(self):
        rng = np.random.default_rng(3)
        gradient = (*mandel_components("ε", 2), "θ", "g1", "g2")
        flux = (*mandel_components("σ", 2), "q1", "q2")
        self.spec = ClosureSpec(gradient, flux, (0.0,) * 6)
        self.matrix = rng.normal(size=(5, 6))

    def initial_state(self, n):
        return None

    def evaluate(self, gradient, state, dt, hint=None):
        n = len(gradient)
        tangent = np.repeat(self.matrix[None], n, axis=0)
        return Response(gradient @ self.matrix.T, tangent, np.zeros(n, np.int8))


class Started:
    """The viscous solid with a dashpot that starts from another state than zero."""

    spec, start = SOLID.spec, np.array([0.01, -0.02, 0.03])

    def initial_state(self, n):
        return np.tile(self.start, (n, 1))

    def evaluate(self, gradient, state, dt, hint=None):
        return SOLID.evaluate(gradient, state, dt, hint)


def rotations(n, dim=3):
    Q = np.linalg.qr(np.random.default_rng(1).normal(size=(n, dim, dim))).Q
    Q[:, :, 0] *= np.sign(np.linalg.det(Q))[:, None]
    R = np.tile(np.eye(3), (n, 1, 1))
    R[:, :dim, :dim] = Q
    return R


def test_blocks_are_the_quantities_of_the_specification():
    material = ClosureMaterial(Thermoelastic(), WORLD, names={"ε": "Strain", "σ": "Stress"})
    assert material.gradients == {"Strain": 3, "θ": 1, "g": 2}
    assert material.fluxes == {"Stress": 3, "q": 2}
    assert material.internal_state_variables == {}
    assert list(material.tangent_blocks.items())[:2] == [(("Stress", "Strain"), (3, 3)), (("Stress", "θ"), (3, 1))]
    assert list(material.tangent_blocks) == [(f, g) for f in ("Stress", "q") for g in ("Strain", "θ", "g")]
    assert ClosureMaterial(SOLID, WORLD).internal_state_variables == {"State": 3}
    assert ClosureMaterial(LAW, WORLD).name == "NeoHookean"


def test_integration_is_the_closure_block_after_block():
    closure = Thermoelastic()
    material = ClosureMaterial(closure, WORLD)
    g = np.random.default_rng(WORLD.rank).normal(size=(4 + WORLD.rank, 6))
    material.set_data_manager(len(g))
    flux, state, tangent = material.integrate(g)
    expected = closure.evaluate(g, None, 1.0)
    np.testing.assert_array_equal(flux, expected.flux)
    assert state.shape == (len(g), 0)
    first = 0
    columns = {"ε": slice(0, 3), "θ": slice(3, 4), "g": slice(4, 6), "σ": slice(0, 3), "q": slice(3, 5)}
    for (f, g_name), (m, k) in material.tangent_blocks.items():
        block = tangent[:, first : first + m * k].reshape(-1, m, k)
        np.testing.assert_array_equal(block, expected.tangent[:, columns[f], columns[g_name]])
        first += m * k
    assert first == tangent.shape[1] == 30
    np.testing.assert_array_equal(material.get_final_state_dict()["q"], expected.flux[:, 3:])


def test_state_is_advanced_by_update_only():
    closure = Started()
    material = ClosureMaterial(closure, WORLD, dt=0.1)
    material.set_data_manager(4)
    zeros = {name: np.zeros((4, size)) for name, size in material.variables.items()}
    material.set_initial_state_dict(zeros)  # as a QuadratureMap does at the start
    strain = 0.1 * np.random.default_rng(WORLD.rank).normal(size=(4, 3))
    state = closure.initial_state(4)
    for step in range(3):
        for trial in (0.4, 1.0):
            flux, isv, _ = material.integrate(trial * (step + 1) * strain)
            expected = SOLID.evaluate(trial * (step + 1) * strain, state, 0.1)
            np.testing.assert_allclose(flux, expected.flux, rtol=1e-13)
            np.testing.assert_allclose(isv + closure.start, expected.state, rtol=1e-13)
        material.data_manager.update()
        state = expected.state
    material.integrate(5.0 * strain)
    material.data_manager.revert()
    np.testing.assert_allclose(material.get_final_state_dict()["State"] + closure.start, state, rtol=1e-13)
    shorter, _, _ = material.integrate(strain, 0.05)
    np.testing.assert_allclose(shorter, SOLID.evaluate(strain, state, 0.05).flux, rtol=1e-12)


def test_hints_are_of_the_same_increment():
    hints = []

    class Recording(Started):
        def evaluate(self, gradient, state, dt, hint=None):
            hints.append(hint)
            return super().evaluate(gradient, state, dt, hint)

    material = ClosureMaterial(Recording(), WORLD)
    material.set_data_manager(2)
    for _ in range(2):
        trial = material.integrate(np.ones((2, 3)))[1]
        material.integrate(2.0 * np.ones((2, 3)))
        np.testing.assert_allclose(hints[-1], trial + Started.start, rtol=1e-14)
        material.data_manager.update()
    assert [hint is None for hint in hints] == [True, False, True, False]


def test_failed_points_stop_all_ranks():
    last = WORLD.rank == WORLD.size - 1
    material = ClosureMaterial(FailingClosure(LAW, lambda F: last & (F[:, 0] > 1.5)), WORLD)
    F = np.tile(np.eye(2).ravel(), (3, 1))
    material.set_data_manager(3)
    material.integrate(F)
    F[1, 0] = 2.0
    with pytest.raises(ClosureError, match=rf"FailingClosure failed at 1 points.*\n.*rank {WORLD.size - 1}, point 1"):
        material.integrate(F)


def test_wrong_use_is_refused():
    with pytest.raises(ContractError, match=r"names has \['P2'\], but the closure's quantities are \['F', 'P'\]"):
        ClosureMaterial(LAW, WORLD, names={"P2": "Stress"})
    with pytest.raises(ContractError, match="need distinct names"):
        ClosureMaterial(LAW, WORLD, names={"P": "F"})
    material = ClosureMaterial(LAW, WORLD)
    with pytest.raises(ContractError, match="no variable 'T'"):
        material.set_initial_state_dict({"T": 1.0})
    material.set_data_manager(3)
    with pytest.raises(ContractError, match="given at 2 points, but there are 3"):
        material.rotate_gradients(np.zeros(12), np.zeros(18))
    with pytest.raises(ContractError, match="cannot be rotated"):
        component_rotation(("a1", "a2", "a3", "a4", "a5"), np.eye(3)[None])


# ---- rotation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 3])
def test_rotated_components_are_those_of_the_rotated_tensors(dim):
    rng, n = np.random.default_rng(0), 5
    R = rotations(n, dim)
    Q = R[:, :dim, :dim]
    D = mandel_basis(dim)
    A, v, theta = rng.normal(size=(n, dim, dim)), rng.normal(size=(n, dim)), rng.normal(size=n)
    S = A + A.transpose(0, 2, 1)
    names = (*tensor_components("F", dim), *mandel_components("U", dim), "θ", *(f"g{i + 1}" for i in range(dim)))

    def components(A, S, v):
        return np.hstack([A.reshape(n, -1), np.einsum("nij,aij->na", S, D), theta[:, None], v])

    T = component_rotation(names, R)
    turned = components(Q @ A @ Q.transpose(0, 2, 1), Q @ S @ Q.transpose(0, 2, 1), (Q @ v[..., None])[..., 0])
    np.testing.assert_allclose((T @ components(A, S, v)[..., None])[..., 0], turned, atol=1e-14)
    np.testing.assert_allclose(T @ T.transpose(0, 2, 1), np.tile(np.eye(len(names)), (n, 1, 1)), atol=1e-14)


def test_rotation_of_flux_and_tangent_is_that_of_the_law_in_material_axes():
    closure, n = Thermoelastic(), 4
    material = ClosureMaterial(closure, WORLD)
    material.set_data_manager(n)
    R = rotations(n, 2)
    g = np.random.default_rng(5).normal(size=(n, 6))
    turned = g.copy()
    material.rotate_gradients(turned.ravel(), R.ravel())
    flux, _, tangent = material.integrate(turned)
    material.rotate_fluxes(flux.ravel(), R.ravel())
    material.rotate_tangent_operator(tangent.ravel(), R.ravel())
    np.testing.assert_array_equal(material.get_final_state_dict()["q"], flux[:, 3:])
    T_g, T_q = component_rotation(closure.spec.gradient, R), component_rotation(closure.spec.flux, R)
    whole = T_q.transpose(0, 2, 1) @ closure.matrix @ T_g
    np.testing.assert_allclose(flux, (whole @ g[..., None])[..., 0], atol=1e-13)
    np.testing.assert_allclose(tangent[:, :9].reshape(n, 3, 3), whole[:, :3, :3], atol=1e-13)
    np.testing.assert_allclose(tangent[:, 26:].reshape(n, 2, 2), whole[:, 3:, 4:], atol=1e-13)


# ---- in quadrature maps of the package ---------------------------------------------------------------------------


@pytest.fixture
def quadrature_map():
    reason = "dolfinx_materials is not installed; it is on no package index"
    pytest.importorskip("dolfinx_materials", reason=reason)
    return pytest.importorskip("dolfinx_materials.quadrature_map", reason=reason).QuadratureMap


class Case:
    """A vector or scalar field on an uneven square."""

    def __init__(self, shape=(2,)):
        self.mesh = mesh.create_unit_square(WORLD, 3, 3, ghost_mode=mesh.GhostMode.shared_facet)
        self.mesh.geometry.x[:, 0] += 0.1 * self.mesh.geometry.x[:, 1] ** 2
        V = fem.functionspace(self.mesh, ("P", 2, shape))
        self.u, self.v, self.du = fem.Function(V), ufl.TestFunction(V), ufl.TrialFunction(V)

    def displace(self, factor=1.0):
        self.u.interpolate(lambda x: factor * np.array([0.2 * x[0] * x[1], 0.1 * np.sin(3 * x[0]) - 0.1 * x[1] ** 2]))

    def vector(self, form):
        """Entries of this rank's dofs."""
        b = fem.assemble_vector(fem.form(form))
        b.scatter_reverse(la.InsertMode.add)
        return b.array[: b.index_map.size_local * b.block_size].copy()

    def matrix(self, form):
        """Rows of this rank's dofs."""
        A = fem.assemble_matrix(fem.form(form))
        A.scatter_reverse()
        return A.to_scipy().toarray()[: A.index_map(0).size_local * A.block_size[0]]

    def assert_same(self, residual, jacobian, expected, expected_jacobian):
        np.testing.assert_allclose(self.vector(residual), self.vector(expected), rtol=0, atol=1e-13)
        np.testing.assert_allclose(self.matrix(jacobian), self.matrix(expected_jacobian), rtol=0, atol=1e-12)


def row_by_row(A):
    return ufl.as_vector([A[i, j] for i in range(2) for j in range(2)])


def neo_hookean(F):
    return LAW.mu * (F - ufl.inv(F).T) + LAW.lmbda * ufl.ln(ufl.det(F)) * ufl.inv(F).T


def test_neo_hookean_material_is_the_ufl_form(quadrature_map):
    case = Case()
    F = ufl.Identity(2) + ufl.grad(case.u)
    qmap = quadrature_map(case.mesh, 2, ClosureMaterial(LAW, WORLD))
    qmap.register_gradient("F", row_by_row(F))
    residual = ufl.dot(qmap.fluxes["P"], row_by_row(ufl.grad(case.v))) * qmap.dx
    jacobian = qmap.derivative(residual, case.u, case.du)
    case.displace()
    qmap.update()
    explicit = ufl.inner(neo_hookean(F), ufl.grad(case.v)) * qmap.dx
    case.assert_same(residual, jacobian, explicit, ufl.derivative(explicit, case.u, case.du))


def test_history_agrees_with_the_closure_flux(quadrature_map):
    case, dt = Case(), 0.1
    strain, test = mandel(ufl.sym(ufl.grad(case.u))), mandel(ufl.sym(ufl.grad(case.v)))
    material = ClosureMaterial(Started(), WORLD, names={"ε": "Strain", "σ": "Stress"}, dt=dt)
    qmap = quadrature_map(case.mesh, 2, material)
    qmap.register_gradient("Strain", strain)
    residual = ufl.dot(qmap.fluxes["Stress"], test) * qmap.dx
    jacobian = qmap.derivative(residual, case.u, case.du)
    flux = ClosureFlux(strain, Started(), qmap.dx)
    explicit = ufl.dot(flux.vector, test) * qmap.dx
    derivative = flux.jacobian(explicit, case.u, case.du)
    for factor in (0.5, 1.0, 0.7):
        for trial in (0.9, 1.0):
            case.displace(trial * factor)
            qmap.update()
        flux.evaluate(flux.operand_values(), dt)
        case.assert_same(residual, jacobian, explicit, derivative)
        qmap.advance()
        flux.commit()
        owned = qmap.internal_state_variables["State"].x.array.reshape(-1, 3)[: flux.points.n]
        np.testing.assert_allclose(owned + Started.start, flux.state, rtol=0, atol=1e-14)


def test_material_axes_turn_an_anisotropic_conductivity(quadrature_map):
    case, kappa = Case(()), np.array([[3.0, 0.4], [0.4, 1.0]])
    x = ufl.SpatialCoordinate(case.mesh)
    c, s = ufl.cos(x[0] + 0.3), ufl.sin(x[0] + 0.3)
    R = ufl.as_matrix([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    qmap = quadrature_map(case.mesh, 2, ClosureMaterial(Conduction(kappa), WORLD, rotation_matrix=R))
    qmap.register_gradient("g", ufl.grad(case.u))
    residual = ufl.dot(qmap.fluxes["q"], ufl.grad(case.v)) * qmap.dx
    jacobian = qmap.derivative(residual, case.u, case.du)
    case.u.interpolate(lambda x: x[0] ** 2 - x[1])
    qmap.update()
    Q = ufl.as_matrix([[c, s], [-s, c]])
    explicit = -ufl.dot(Q.T * ufl.as_matrix(kappa.tolist()) * Q * ufl.grad(case.u), ufl.grad(case.v)) * qmap.dx
    case.assert_same(residual, jacobian, explicit, ufl.derivative(explicit, case.u, case.du))

"""Closures as external functions by themselves, and in forms of dolfinx-external-operator where it is installed."""

from mpi4py import MPI

import basix.ufl
import numpy as np
import pytest
import ufl
from dolfinx import fem, la, mesh

try:  # before any form is made, as it adds a type to UFL
    import dolfinx_external_operator as external_operators
except ImportError:
    external_operators = None

from coupling import ClosureError, ClosureSpec, ContractError, RemoteRankError, Response
from coupling.closed_forms import Conduction, FailingClosure, NeoHookean, StandardLinearSolid
from solver_adapters.external_operator import ExternalClosure
from solver_adapters.fenicsx import ClosureFlux, mandel

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(240)]

WORLD = MPI.COMM_WORLD
LAW = NeoHookean(1.0, 2.0)
SOLID = StandardLinearSolid(1.0, 2.0, branch_mu=0.7, branch_lmbda=0.3, relaxation_time=0.4)


class Counting:
    """The inner closure; counts its calls and keeps their hints."""

    def __init__(self, inner):
        self.inner, self.spec, self.calls, self.hints, self.points = inner, inner.spec, 0, [], 0

    def initial_state(self, n):
        return self.inner.initial_state(n)

    def evaluate(self, gradient, state, dt, hint=None):
        self.calls += 1
        self.hints.append(hint)
        self.points = len(gradient)
        return self.inner.evaluate(gradient, state, dt, hint)


class TwoOperands:
    """q = (1 + θ²) g of (θ, g1, g2), with ∂q/∂θ = 2θ g."""

    spec = ClosureSpec(("θ", "g1", "g2"), ("q1", "q2"), (0.0, 0.0, 0.0))

    def initial_state(self, n):
        return None

    def evaluate(self, gradient, state, dt, hint=None):
        theta, g = gradient[:, :1], gradient[:, 1:]
        tangent = np.empty((len(g), 2, 3))
        tangent[:, :, 0] = 2.0 * theta * g
        tangent[:, :, 1:] = (1.0 + theta**2)[:, :, None] * np.eye(2)
        return Response((1.0 + theta**2) * g, tangent, np.zeros(len(g), np.int8))


def deformations(cells=3, points=4):
    rng = np.random.default_rng(WORLD.rank)
    return np.eye(2) + 0.1 * rng.uniform(-1.0, 1.0, (cells, points, 2, 2))


def test_flux_and_derivative_come_from_one_evaluation():
    closure = Counting(LAW)
    external = ExternalClosure(closure, WORLD)
    F = deformations()
    expected = LAW.evaluate(F.reshape(-1, 4), None, 1.0)
    np.testing.assert_array_equal(external((0,))(F), expected.flux.ravel())
    np.testing.assert_array_equal(external((1,))(F), expected.tangent.ravel())
    assert closure.calls == 1
    external((1,))(F + 1e-9)
    assert closure.calls == 2


@pytest.mark.parametrize("shape", [(3, 16), (48,), (3, 4, 4)])
def test_operands_may_be_flat(shape):
    F = deformations()
    expected = ExternalClosure(LAW, WORLD)((0,))(F)
    np.testing.assert_array_equal(ExternalClosure(LAW, WORLD)((0,))(F.reshape(shape)), expected)


def test_a_rank_without_new_operands_evaluates_with_the_others():
    closure = Counting(LAW)
    external = ExternalClosure(closure, WORLD)
    F = deformations()
    external((0,))(F)
    external((0,))(F + 0.01 * (WORLD.rank == WORLD.size - 1))
    assert closure.calls == 2


def test_a_rank_may_have_no_cells():
    cells = 0 if WORLD.rank == WORLD.size - 1 else 2
    external = ExternalClosure(LAW, WORLD)
    assert external((0,))(np.zeros((cells, 16)) + np.tile(np.eye(2).ravel(), 4)).shape == (cells * 16,)
    assert external((1,))(np.zeros((cells, 16)) + np.tile(np.eye(2).ravel(), 4)).shape == (cells * 64,)


def test_only_the_given_cells_are_evaluated():
    closure = Counting(LAW)
    F = deformations(cells=5)
    F[3] = np.nan
    external = ExternalClosure(closure, WORLD, cells=[4, 1])
    flux = external((0,))(F).reshape(5, 4, 4)
    tangent = external((1,))(F).reshape(5, 4, 4, 4)
    expected = LAW.evaluate(F[[1, 4]].reshape(-1, 4), None, 1.0)
    np.testing.assert_array_equal(flux[[1, 4]].reshape(-1, 4), expected.flux)
    np.testing.assert_array_equal(tangent[[1, 4]].reshape(-1, 4, 4), expected.tangent)
    assert not flux[[0, 2, 3]].any() and not tangent[[0, 2, 3]].any()
    assert closure.points == 8 and closure.calls == 1


def test_derivatives_to_each_of_two_operands():
    rng = np.random.default_rng(WORLD.rank)
    theta, g = rng.uniform(size=(3, 2)), rng.uniform(size=(3, 2, 2))
    external = ExternalClosure(TwoOperands(), WORLD)
    np.testing.assert_allclose(external((0, 0))(theta, g), ((1 + theta**2)[..., None] * g).ravel(), rtol=1e-15)
    np.testing.assert_allclose(external((1, 0))(theta, g), (2 * theta[..., None] * g).ravel(), rtol=1e-15)
    identities = (1 + theta**2)[..., None, None] * np.eye(2)
    np.testing.assert_allclose(external((0, 1))(theta, g), identities.ravel(), rtol=1e-15)


def test_history_moves_with_commit_only():
    closure = Counting(SOLID)
    external = ExternalClosure(closure, WORLD, dt=0.1)
    strain = 0.1 * np.random.default_rng(WORLD.rank).uniform(size=(2, 3, 3))
    state = SOLID.initial_state(6)
    for step in range(3):
        for trial in (0.5, 1.0):
            flux = external((0,))(trial * (step + 1) * strain)
            expected = SOLID.evaluate(trial * (step + 1) * strain.reshape(-1, 3), state, 0.1)
            np.testing.assert_array_equal(flux, expected.flux.ravel())
            np.testing.assert_array_equal(external.state, state)
        state = expected.state
        external.commit()
        np.testing.assert_array_equal(external.state, state)
    assert closure.calls == 6
    assert [hint is None for hint in closure.hints] == [True, False] * 3
    external((0,))(3 * strain)
    assert closure.calls == 7  # another committed state
    external.dt = 0.2
    external((0,))(3 * strain)
    assert closure.calls == 8
    external.discard()
    np.testing.assert_array_equal(external.state, state)
    with pytest.raises(ContractError, match="evaluate the external operators first"):
        external.commit()


def test_failed_points_stop_all_ranks_with_one_message():
    fails = (
        (lambda gradient: gradient[:, 0] > 1.5) if WORLD.rank == WORLD.size - 1 else (lambda g: np.zeros(len(g), bool))
    )
    external = ExternalClosure(FailingClosure(LAW, fails), WORLD, name="fibre RVE")
    F = deformations()
    good = external((0,))(F)
    bad = F.copy()
    bad[1, 2, 0, 0] = 2.0
    message = rf"fibre RVE failed at 1 points.*\n.*rank {WORLD.size - 1}, point 6, F11, .* = \(2, .*did not converge"
    with pytest.raises(ClosureError, match=message):
        external((0,))(bad)
    with pytest.raises(ClosureError):  # nor is the derivative there answered from before
        external((1,))(bad)
    np.testing.assert_array_equal(external((0,))(F), good)


def test_an_exception_of_the_closure_stops_all_ranks():
    class Broken:
        spec = LAW.spec

        def initial_state(self, n):
            return None

        def evaluate(self, gradient, state, dt, hint=None):
            if WORLD.rank == 0:
                raise OSError("licence server is down")
            return LAW.evaluate(gradient, state, dt)

    with pytest.raises(OSError if WORLD.rank == 0 else RemoteRankError, match="licence server is down"):
        ExternalClosure(Broken(), WORLD)((0,))(deformations())


def test_wrong_use_is_refused():
    external = ExternalClosure(LAW, WORLD)
    with pytest.raises(ContractError, match=r"first derivatives, but derivatives \(2,\)"):
        external((2,))
    with pytest.raises(ContractError, match=r"F11, F12, F21, F22.*operands have shapes \(3, 5, 3\)"):
        external((0,))(np.zeros((3, 5, 3)))
    external((0,))(deformations(3))
    with pytest.raises(ContractError, match="first evaluated at 12 points and now at 16"):
        external((0,))(deformations(4))
    with pytest.raises(ContractError, match="cells go up to 7, but the operands have values on 3 cells"):
        ExternalClosure(LAW, WORLD, cells=[7])((0,))(deformations(3))
    for cells in ([0, 0], [-1], [[1]], [0.5]):
        with pytest.raises(ContractError, match="distinct positions"):
            ExternalClosure(LAW, WORLD, cells=cells)


# ---- in forms ----------------------------------------------------------------------------------------------------

DEGREE = 2


class Case:
    """A vector or scalar field on an uneven square."""

    def __init__(self, shape=(2,)):
        self.mesh = mesh.create_unit_square(WORLD, 3, 3, ghost_mode=mesh.GhostMode.shared_facet)
        self.mesh.geometry.x[:, 0] += 0.1 * self.mesh.geometry.x[:, 1] ** 2
        self.dx = ufl.Measure("dx", domain=self.mesh, metadata={"quadrature_degree": DEGREE})
        V = fem.functionspace(self.mesh, ("P", 2, shape))
        self.u, self.v, self.du = fem.Function(V), ufl.TestFunction(V), ufl.TrialFunction(V)
        self.points = self.space(()).ufl_element().custom_quadrature()[0]
        self.owned = np.arange(self.mesh.topology.index_map(2).size_local)

    def displace(self, factor=1.0):
        self.u.interpolate(lambda x: factor * np.array([0.2 * x[0] * x[1], 0.1 * np.sin(3 * x[0]) - 0.1 * x[1] ** 2]))

    def space(self, shape):
        element = basix.ufl.quadrature_element(self.mesh.basix_cell(), value_shape=shape, degree=DEGREE)
        return fem.functionspace(self.mesh, element)

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


def neo_hookean(F):
    return LAW.mu * (F - ufl.inv(F).T) + LAW.lmbda * ufl.ln(ufl.det(F)) * ufl.inv(F).T


@pytest.mark.parametrize("owned_only", [False, True])
def test_values_placed_as_the_interface_says_give_the_ufl_form(owned_only):
    case = Case()
    F = ufl.Identity(2) + ufl.grad(case.u)
    P, A = fem.Function(case.space((2, 2))), fem.Function(case.space((2, 2, 2, 2)))
    cells = np.arange(len(case.owned) + case.mesh.topology.index_map(2).num_ghosts, dtype=np.int32)
    external = ExternalClosure(LAW, WORLD, cells=case.owned if owned_only else None)
    case.displace()
    operand = fem.Expression(F, case.points).eval(case.mesh, cells)
    P.x.array[:] = external((0,))(operand)
    A.x.array[:] = external((1,))(operand)
    residual = ufl.inner(P, ufl.grad(case.v)) * case.dx
    i, j, k, m = ufl.indices(4)
    dP = ufl.as_tensor(A[i, j, k, m] * ufl.grad(case.du)[k, m], (i, j))
    explicit = ufl.inner(neo_hookean(F), ufl.grad(case.v)) * case.dx
    derivative = ufl.derivative(explicit, case.u, case.du)
    np.testing.assert_allclose(case.vector(residual), case.vector(explicit), rtol=0, atol=1e-13)
    jacobian = ufl.inner(dP, ufl.grad(case.v)) * case.dx
    np.testing.assert_allclose(case.matrix(jacobian), case.matrix(derivative), rtol=0, atol=1e-12)


# ---- in forms of the package -------------------------------------------------------------------------------------


@pytest.fixture
def package():
    if external_operators is None:
        pytest.skip("dolfinx-external-operator is not installed; it needs DOLFINx 0.10 or later")
    return external_operators


class Operator:
    """q(operands) of a closure as an external operator in a form, with the form's derivative."""

    def __init__(self, package, case, closure, operands, shape, form, **options):
        self.package, self.external = package, ExternalClosure(closure, WORLD, **options)
        q = package.FEMExternalOperator(*operands, function_space=case.space(shape))
        q.external_function = self.external
        residual = form(q)
        jacobian = ufl.algorithms.expand_derivatives(ufl.derivative(residual, case.u, case.du))
        self.residual, self.values = package.replace_external_operators(residual)
        self.jacobian, self.derivatives = package.replace_external_operators(jacobian)

    def evaluate(self):
        operands = self.package.evaluate_operands(self.values)
        self.package.evaluate_external_operators(self.values, operands)
        self.package.evaluate_external_operators(self.derivatives, operands)


@pytest.mark.parametrize("owned_only", [False, True])
def test_neo_hookean_operator_is_the_ufl_form(package, owned_only):
    case, closure = Case(), Counting(LAW)
    F = ufl.Identity(2) + ufl.grad(case.u)

    def form(P):
        return ufl.inner(P, ufl.grad(case.v)) * case.dx

    cells = case.owned if owned_only else None
    operator = Operator(package, case, closure, [F], (2, 2), form, cells=cells)
    case.displace()
    operator.evaluate()
    explicit = form(neo_hookean(ufl.variable(F)))
    derivative = ufl.derivative(explicit, case.u, case.du)
    np.testing.assert_allclose(case.vector(operator.residual), case.vector(explicit), rtol=0, atol=1e-13)
    np.testing.assert_allclose(case.matrix(operator.jacobian), case.matrix(derivative), rtol=0, atol=1e-12)
    assert closure.calls == 1
    if owned_only:
        assert closure.points == 3 * len(case.owned)


def test_operator_of_two_operands_is_the_ufl_form(package):
    case = Case(())

    def form(q):
        return ufl.inner(q, ufl.grad(case.v)) * case.dx

    operator = Operator(package, case, TwoOperands(), [case.u, ufl.grad(case.u)], (2,), form)
    case.u.interpolate(lambda x: 1.0 + x[0] * x[1])
    operator.evaluate()
    explicit = form((1 + case.u**2) * ufl.grad(case.u))
    derivative = ufl.derivative(explicit, case.u, case.du)
    np.testing.assert_allclose(case.vector(operator.residual), case.vector(explicit), rtol=0, atol=1e-13)
    np.testing.assert_allclose(case.matrix(operator.jacobian), case.matrix(derivative), rtol=0, atol=1e-12)


def test_linear_operator_is_the_ufl_form(package):
    case, kappa = Case(()), np.array([[2.0, 0.3], [0.3, 1.0]])

    def form(q):
        return ufl.inner(q, ufl.grad(case.v)) * case.dx

    operator = Operator(package, case, Conduction(kappa), [ufl.grad(case.u)], (2,), form)
    case.u.interpolate(lambda x: x[0] ** 2 - x[1])
    operator.evaluate()
    explicit = form(-ufl.as_matrix(kappa.tolist()) * ufl.grad(case.u))
    derivative = ufl.derivative(explicit, case.u, case.du)
    np.testing.assert_allclose(case.vector(operator.residual), case.vector(explicit), rtol=0, atol=1e-13)
    np.testing.assert_allclose(case.matrix(operator.jacobian), case.matrix(derivative), rtol=0, atol=1e-13)


def test_history_agrees_with_the_closure_flux(package):
    case, dt = Case(), 0.1
    # Expanded, as versions before 0.11 look up the operands of a derivative by their expanded form.
    strain = ufl.algorithms.expand_derivatives(mandel(ufl.sym(ufl.grad(case.u))))

    def form(sigma):
        return ufl.dot(sigma, mandel(ufl.sym(ufl.grad(case.v)))) * case.dx

    operator = Operator(package, case, SOLID, [strain], (3,), form, dt=dt, cells=case.owned)
    flux = ClosureFlux(strain, SOLID, case.dx)
    residual = form(flux.vector)
    jacobian = flux.jacobian(residual, case.u, case.du)
    for factor in (0.5, 1.0, 0.7):
        case.displace(factor)
        operator.evaluate()
        flux.evaluate(flux.operand_values(), dt)
        np.testing.assert_allclose(case.vector(operator.residual), case.vector(residual), rtol=0, atol=1e-13)
        np.testing.assert_allclose(case.matrix(operator.jacobian), case.matrix(jacobian), rtol=0, atol=1e-12)
        operator.external.commit()
        flux.commit()
        np.testing.assert_array_equal(operator.external.state, flux.state)

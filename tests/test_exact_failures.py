"""The exact mode where something fails: one outcome on all ranks, and no warnings from arithmetic on what failed."""

from dataclasses import replace
from itertools import count

from mpi4py import MPI

import numpy as np
import pytest
import ufl
from dolfinx import fem, mesh

from coupling import AcceleratedClosure, CollectiveSurrogate, RangeGate, RemoteRankError, StretchFrame
from coupling.anchors import Anchors
from coupling.closed_forms import ClosedFormSurrogate, FailingClosure, LinearElastic, StretchNeoHookean, lame
from coupling.contract import Status, check_arguments
from demos.cook import membrane
from solver_adapters.fenicsx import ClosureFlux, MultiscaleProblem, load_steps, mandel
from tests.hostile_surrogates import HOSTILE, Hostile

WORLD = MPI.COMM_WORLD
LAST = WORLD.rank == WORLD.size - 1
LAW = StretchNeoHookean(1.0, 2.0)
prefixes = (f"failures{i}_" for i in count())


def exact(fine, surrogate):
    return AcceleratedClosure(fine, surrogate, gate=RangeGate(), mode="exact")


def close(law):
    return ClosedFormSurrogate(law, 1e-3, [-10.0] * law.spec.k, [10.0] * law.spec.k)


class Raising:
    """A law that raises, or answers in another shape, on the last rank once it is told to."""

    def __init__(self, inner, malformed=False):
        self.inner, self.spec, self.malformed, self.armed = inner, inner.spec, malformed, False

    def initial_state(self, n):
        return self.inner.initial_state(n)

    def evaluate(self, gradient, state, dt, hint=None):
        answer = self.inner.evaluate(gradient, state, dt, hint)
        if not (self.armed and LAST):
            return answer
        if self.malformed:
            return replace(answer, flux=answer.flux[:, :-1])
        raise ArithmeticError("the fine scale is broken")


def ways(levels, closure, g, state):
    return {
        "evaluate": lambda: closure.evaluate(g, state, 1.0),
        "sweep": lambda: levels.sweep(g, state, 1.0, tolerance=1e-9),
    }


@pytest.mark.mpi
@pytest.mark.timeout(60)
@pytest.mark.parametrize("started", [True, False])
@pytest.mark.parametrize("malformed", [True, False])
@pytest.mark.parametrize("way", ["evaluate", "sweep"])
def test_a_fine_scale_that_fails_on_one_rank_keeps_none_waiting_in_the_surrogate(way, malformed, started):
    fine = Raising(LAW, malformed)
    closure = exact(fine, CollectiveSurrogate(close(LAW), WORLD))
    g = np.tile(LAW.spec.reference, (3 if LAST else 2, 1)) + 0.02
    state = closure.initial_state(len(g))
    if started:
        ways(closure.two_level, closure, g, state)[way]()
    fine.armed = True
    with pytest.raises((ArithmeticError, ValueError) if LAST else RemoteRankError):
        ways(closure.two_level, closure, g, state)[way]()
    fine.armed = False
    answer = ways(closure.two_level, closure, g, state)[way]()
    np.testing.assert_array_equal(answer.flux, LAW.evaluate(g, None, 1.0).flux)


@pytest.mark.mpi
@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("ignore:surrogate failed:RuntimeWarning")
def test_a_surrogate_malformed_on_one_rank_keeps_none_waiting():
    surrogate = Raising(close(LAW), malformed=True)
    levels = exact(LAW, CollectiveSurrogate(surrogate, WORLD)).two_level
    g = np.tile(LAW.spec.reference, (3 if LAST else 2, 1)) + 0.02
    state = levels.initial_state(len(g))
    surrogate.armed = True
    state = levels.sweep(g, state, 1.0, tolerance=1e-9).state
    surrogate.armed = False
    for _ in range(2):
        g = g + 0.01
        answer = levels.sweep(g, state, 1.0, tolerance=1e-9)
        state = answer.state
        WORLD.barrier()
    np.testing.assert_array_equal(answer.flux, LAW.evaluate(g, None, 1.0).flux)


@pytest.mark.mpi
@pytest.mark.timeout(120)
def test_a_run_whose_fine_scale_fails_on_one_rank_ends_on_all():
    fine = Raising(LAW)
    closure = StretchFrame(exact(fine, CollectiveSurrogate(close(LAW), WORLD)))
    macro = membrane(WORLD, closure, cells=(3, 2), load=0.05)

    def arm(record):
        fine.armed = True

    with pytest.raises(ArithmeticError if LAST else RemoteRankError, match="the fine scale is broken"):
        load_steps(macro.problem, macro.apply_load, steps=2, on_step=arm)


class KelvinVoigt(LinearElastic):
    """σ = C (ε + τ (ε − εₙ)/Δt); the state is ε. Nobody can ask it for an increment of no length."""

    def __init__(self, mu, lmbda, tau):
        super().__init__(mu, lmbda)
        self.spec = replace(self.spec, state_size=self.spec.k, history=True, symmetric=True)
        self.elastic, self.tau, self.asked = LinearElastic(mu, lmbda), tau, []

    def initial_state(self, n):
        return np.zeros((n, self.spec.k))

    def evaluate(self, gradient, state, dt, hint=None):
        check_arguments(self.spec, gradient, state, hint)
        self.asked.append(dt)
        rate = float(self.tau) / dt
        answer = self.elastic.evaluate((1.0 + rate) * gradient - rate * state, None, dt)
        return replace(answer, tangent=(1.0 + rate) * answer.tangent, state=gradient.copy(), energy=None)


def crept(closure, duration):
    """A strip under a load that is applied over a duration: the problem, and whether its models found the solution."""
    strip = mesh.create_unit_square(WORLD, 3, 3)
    V = fem.functionspace(strip, ("Lagrange", 1, (2,)))
    u, v = fem.Function(V), ufl.TestFunction(V)
    low = fem.locate_dofs_geometrical(V, lambda x: np.isclose(x[1], 0.0))
    traction = fem.Constant(strip, np.zeros(2))
    sigma = ClosureFlux(mandel(ufl.sym(ufl.grad(u))), closure, ufl.dx(strip, degree=1))
    residual = ufl.inner(sigma.vector, mandel(ufl.sym(ufl.grad(v)))) * sigma.dx - ufl.inner(traction, v) * ufl.ds
    problem = MultiscaleProblem(
        residual, u, fluxes=[sigma], bcs=[fem.dirichletbc(np.zeros(2), low, V)], petsc_options_prefix=next(prefixes)
    )

    def pull(t):
        traction.value[:] = 0.0, 0.3 * t

    load_steps(problem, pull, steps=3, duration=duration)
    return problem


@pytest.mark.mpi
@pytest.mark.parametrize("duration", [0.3, 300.0])
def test_closures_of_rates_are_asked_for_true_increments_only(duration):
    mu, lmbda = lame(200.0, 0.3)
    law = KelvinVoigt(mu, lmbda, tau=1.0)
    expected = crept(KelvinVoigt(mu, lmbda, tau=1.0), duration).solution
    ours = crept(exact(law, close(KelvinVoigt(mu, lmbda, tau=1.0))), duration)
    np.testing.assert_allclose(ours.solution, expected, atol=1e-9 * np.abs(expected).max(initial=1e-9))
    np.testing.assert_allclose(law.asked, duration / 3, rtol=1e-9)
    counts = ours.ledger.gathered(WORLD).counts
    assert "macro/models refused" not in counts and counts["macro/exact sweeps"] <= 2 * 3


WILD = HOSTILE | {
    "infinite": lambda spec: _constant(spec, np.inf),
    "beyond floating point": lambda spec: _constant(spec, 1e308),
}


def _constant(spec, value):
    return Hostile(spec, lambda g: (np.full((len(g), spec.m), value), np.full((len(g), spec.m, spec.k), -value)))


@pytest.mark.filterwarnings("ignore:surrogate failed:RuntimeWarning")
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", WILD)
def test_no_warnings_from_points_that_failed(name):
    """Failed points, gradients that are no numbers and surrogates that answer none: states stay numbers, in silence."""
    closure = exact(FailingClosure(LAW, lambda u: u[:, 0] > 1.5), WILD[name](LAW.spec))
    levels, n = closure.two_level, 40
    g = np.tile(LAW.spec.reference, (n, 1))
    state = closure.initial_state(n)
    hint = levels.sweep(g + 0.01, state, 1.0, tolerance=1e-9).state
    g[::4, 0], g[1::4], g[2::8, 2] = 2.0, np.nan, 1e200
    for ask in (
        lambda: levels.model(g, state, 1.0, learned=True),
        lambda: levels.model(g, state, 1.0, hint, learned=False),
        lambda: levels.sweep(g, state, 1.0, hint, tolerance=1e-9),
        lambda: closure.evaluate(g, state, 1.0),
    ):
        answer = ask()
        assert np.isfinite(answer.state).all()
        assert np.isfinite(answer.flux[3::4]).all()
    assert (answer.status[::4] == Status.NOT_CONVERGED).all()


def test_a_surrogate_that_leaves_a_point_takes_no_tangent_with_it():
    """Good at one sweep and without an answer at the next: the plain model goes on with its own tangent."""
    gone: list[bool] = []

    def answer(g):
        told = LAW.evaluate(g, None, 1.0)
        return told.flux + 0.01 * (g - 1.0), told.tangent * (np.nan if gone else 1.0)

    levels = exact(_Secretive(), Hostile(LAW.spec, answer)).two_level
    g = np.tile(LAW.spec.reference, (3, 1))
    state, hint = levels.initial_state(3), None
    for size in (0.1, 0.101, 0.1011):
        gone += [True] * (size == 0.1011)
        hint = levels.sweep(g + size, state, 1.0, hint, tolerance=1e-9).state
    model = levels.model(g + 0.1011, state, 1.0, hint, learned=True)
    exactly = LAW.evaluate(g + 0.1011, None, 1.0)
    np.testing.assert_allclose(model.flux, exactly.flux, atol=1e-12)
    np.testing.assert_allclose(model.tangent, exactly.tangent, atol=0.3 * np.abs(exactly.tangent).max())
    assert not Anchors.unpack(hint, LAW.spec.k, LAW.spec.m).told.any()


class _Secretive:
    """The law as a fine scale that never tells its tangent."""

    spec, initial_state, evaluate = LAW.spec, LAW.initial_state, LAW.evaluate

    def sweep(self, gradient, state, dt, hint=None, *, tolerance, tangent):
        answer = LAW.evaluate(gradient, state, dt)
        return replace(answer, tangent=np.full_like(answer.tangent, np.nan), uncertainty=np.zeros(len(gradient)))

"""Surrogates that learn from the run itself: fits that extrapolate, lessons between increments, the exact mode."""

from dataclasses import replace

from mpi4py import MPI

import numpy as np
import pytest

from coupling import AcceleratedClosure, RangeGate, StretchFrame
from coupling.closed_forms import NeoHookean, StretchNeoHookean
from coupling.conformance import assert_conforms
from coupling.contract import ClosureSpec, Status
from coupling.two_level import LearningSurrogate
from demos.cook import membrane
from solver_adapters.fenicsx import load_steps
from surrogates import OnlinePolynomial
from surrogates.extrapolation import fit_to_extrapolate
from tests.hostile_surrogates import constant
from tests.test_exact_mode import PLASTIC, pulled

WORLD = MPI.COMM_WORLD
LAW = StretchNeoHookean(1.0, 2.0)
ORIGIN = np.array(LAW.spec.reference)
CONDUCTION = ClosureSpec(("θ", "g1", "g2"), ("q1", "q2"), (300.0, 0.0, 0.0), "K", "W/m²")


def stretches(n, size, seed=0):
    return ORIGIN + size * np.random.default_rng(seed).uniform(-1, 1, (n, 3))


def flux(g):
    return LAW.evaluate(g, None, 0.0).flux


def conduction(g):
    """A flux without potential, cubic in gradients of very different units."""
    kappa = 1.0 + ((g[:, :1] - 300.0) / 50.0) ** 2
    return -kappa * g[:, 1:] @ np.array([[2.0, 0.3], [-0.5, 1.0]])


def thermal(n, size=1.0, seed=0):
    return np.array([300.0, 0.0, 0.0]) + size * np.random.default_rng(seed).uniform(-1, 1, (n, 3)) * [20.0, 1e3, 2e3]


def test_polynomials_of_any_units_are_recovered_and_extrapolated():
    x = thermal(120)
    fitted = fit_to_extrapolate(CONDUCTION, x, conduction(x))
    far = thermal(20, size=2.0, seed=1)
    answer = fitted.evaluate(far, None, 0.0)
    assert (answer.status == Status.OK).all() and fitted.card.errors.flux_rms < 1e-6
    np.testing.assert_allclose(answer.flux, conduction(far), atol=1e-6 * np.abs(conduction(far)).max())
    assert (fitted.evaluate(thermal(9) + [500.0, 0.0, 0.0], None, 0.0).status == Status.OUTSIDE_RANGE).all()


def test_fluxes_with_a_potential_are_extrapolated_to_twice_the_distance():
    g = stretches(100, 0.03)
    fitted = fit_to_extrapolate(LAW.spec, g, flux(g))
    assert_conforms(fitted, gradients=stretches(6, 0.03, seed=1), tolerance=1e-8)
    far = stretches(50, 0.06, seed=2)
    error = np.linalg.norm(fitted.evaluate(far, None, 0.0).flux - flux(far)) / np.linalg.norm(flux(far))
    assert error < 1e-4 and fitted.card.errors.flux_rms < 1e-5


def test_what_cannot_be_extrapolated_is_not():
    noise = np.random.default_rng(0).normal(size=(100, 3))
    g = stretches(100, 0.05)
    assert fit_to_extrapolate(LAW.spec, g, noise) is None
    assert fit_to_extrapolate(LAW.spec, g[:3], flux(g[:3])) is None
    assert fit_to_extrapolate(LAW.spec, np.tile(ORIGIN, (50, 1)), np.zeros((50, 3))) is None
    assert fit_to_extrapolate(LAW.spec, g[:0], noise[:0]) is None


def test_a_direction_without_samples_is_outside_of_the_range():
    g = stretches(100, 0.05) * [1.0, 1.0, 0.0]
    fitted = fit_to_extrapolate(LAW.spec, g, flux(g))
    assert fitted.evaluate(g, None, 0.0).status.max() == Status.OK
    assert fitted.evaluate(stretches(1, 0.05), None, 0.0).status.tolist() == [Status.OUTSIDE_RANGE]


def test_lessons_are_deterministic_and_are_taken_once():
    one, two = OnlinePolynomial(LAW.spec), OnlinePolynomial(LAW.spec)
    assert isinstance(one, LearningSurrogate)
    at = stretches(5, 0.05, seed=9)
    assert (one.evaluate(at, None, 0.0).status == Status.OUTSIDE_RANGE).all()
    for size in (0.02, 0.04):
        g = stretches(60, size)
        assert one.learn(g, flux(g)) and not one.learn(g, flux(g)) and two.learn(g, flux(g))
    answer = one.evaluate(at, None, 0.0)
    np.testing.assert_array_equal(answer.flux, two.evaluate(at, None, 0.0).flux)
    np.testing.assert_allclose(answer.flux, flux(at), atol=1e-4)
    assert_conforms(one, gradients=stretches(6, 0.03, seed=1), tolerance=1e-8)


def test_many_samples_and_numbers_that_are_none():
    online, g = OnlinePolynomial(LAW.spec), stretches(5000, 0.05)
    q = flux(g)
    q[::7] = np.nan
    assert online.learn(g, q)
    np.testing.assert_allclose(online.evaluate(g[:9], None, 0.0).flux, flux(g[:9]), atol=1e-6)


def exact(fine, surrogate):
    return AcceleratedClosure(fine, surrogate, gate=RangeGate(), mode="exact")


def test_a_model_is_exact_at_its_anchors_after_a_lesson_too():
    online = OnlinePolynomial(LAW.spec)
    closure = exact(LAW, online)
    levels, state, before = closure.two_level, closure.initial_state(60), np.empty((0, 3))
    for increment in range(4):
        g = stretches(60, 0.02 * (1 + increment))
        model = levels.model(g, state, 1.0, learned=True)
        error = np.linalg.norm(model.flux - flux(g)) / np.linalg.norm(flux(g))
        assert error < 1e-4 or increment == 0
        if increment > 0:
            at = levels.model(before, state, 1.0, learned=True)
            np.testing.assert_allclose(at.flux, flux(before), atol=1e-13)
        first = levels.sweep(g, state, 1.0, tolerance=1e-12)
        within = levels.model(g, state, 1.0, first.state, learned=True)
        np.testing.assert_allclose(within.flux, first.flux, atol=1e-13)
        state, before = first.state, g
    assert closure.ledger.counts["exact/lessons"] == 3


def bent(surrogate, steps=6):
    macro = membrane(WORLD, StretchFrame(exact(LAW, surrogate)), cells=(5, 3), load=0.15, rtol=1e-9)
    load_steps(macro.problem, macro.apply_load, steps=steps)
    return macro


@pytest.mark.mpi
def test_a_run_that_teaches_itself_sweeps_less_and_finds_the_same():
    classical = membrane(WORLD, NeoHookean(1.0, 2.0), cells=(5, 3), load=0.15, rtol=1e-11)
    load_steps(classical.problem, classical.apply_load, steps=6)
    taught, untaught = bent(OnlinePolynomial(LAW.spec)), bent(constant(LAW.spec))
    largest = WORLD.allreduce(np.abs(classical.problem.solution).max(), op=MPI.MAX)
    for run in (taught, untaught):
        error = np.abs(run.problem.solution - classical.problem.solution).max()
        assert WORLD.allreduce(error, op=MPI.MAX) < 1e-8 * largest
    sweeps = [WORLD.bcast(run.problem.ledger.counts.get("macro/exact sweeps")) for run in (taught, untaught)]
    refused = WORLD.bcast(taught.problem.ledger.counts.get("macro/models refused", 0))
    assert refused == 0 and sweeps[0] <= sweeps[1] - 3


class BadStudent(OnlinePolynomial):
    def learn(self, gradient, flux):
        super().learn(gradient, flux)
        if WORLD.rank == WORLD.size - 1:
            raise ZeroDivisionError("of all things")
        return True


@pytest.mark.mpi
def test_a_surrogate_that_cannot_learn_is_taught_no_more():
    last = WORLD.rank == WORLD.size - 1
    usual = bent(OnlinePolynomial(LAW.spec), steps=2)
    if last:
        with pytest.warns(RuntimeWarning, match="taught no more: ZeroDivisionError") as warned:
            misled = bent(BadStudent(LAW.spec), steps=2)
        assert len([w for w in warned if "taught" in str(w.message)]) == 1
    else:
        misled = bent(BadStudent(LAW.spec), steps=2)
    np.testing.assert_allclose(misled.problem.solution, usual.problem.solution, atol=1e-8)


class BadClass(BadStudent):
    """Ranks meet in it, and a lesson fails on the last of them."""

    collective = WORLD

    def evaluate(self, gradient, state, dt, hint=None):
        WORLD.Barrier()
        return super().evaluate(gradient, state, dt, hint)


@pytest.mark.mpi
@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("ignore:surrogate cannot learn")
def test_a_lesson_that_fails_on_one_rank_keeps_none_waiting():
    misled = bent(BadClass(LAW.spec), steps=2)
    np.testing.assert_allclose(misled.problem.solution, bent(constant(LAW.spec), steps=2).problem.solution, atol=1e-8)


@pytest.mark.mpi
def test_history_is_not_misread():
    """Fluxes with history are no function of the strain: whatever is learned, the answer is the classical one."""
    _, expected, _ = pulled(PLASTIC)
    _, found, _ = pulled(exact(PLASTIC, OnlinePolynomial(PLASTIC.spec)))
    np.testing.assert_allclose(found.response.flux, expected.response.flux, atol=1e-8)
    assert replace(PLASTIC.spec, state_size=0, history=False) == OnlinePolynomial(PLASTIC.spec).spec

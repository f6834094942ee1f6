"""The accelerated closure: who serves which point, and that a surrogate cannot spoil a run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from coupling.accelerated import AcceleratedClosure
from coupling.closed_forms import (
    ClosedFormSurrogate,
    Conduction,
    FailingClosure,
    LinearElastic,
    NeoHookean,
    StandardLinearSolid,
    StretchNeoHookean,
)
from coupling.contract import Array, Closure, Response, Status, check_arguments
from coupling.errors import ContractError
from coupling.gate import Gate, RangeGate, ToleranceGate
from coupling.ledger import Ledger
from coupling.stretch import StretchFrame

SOLID = StandardLinearSolid(1.0, 2.0, branch_mu=0.5, branch_lmbda=0.3, relaxation_time=0.7)
LAW = LinearElastic(1.0, 2.0)
strains = arrays(np.float64, st.tuples(st.integers(0, 6), st.just(3)), elements=st.floats(-0.2, 0.2))


class Chosen:
    """A gate that accepts the points it is told to."""

    def __init__(self, mask):
        self.mask = np.asarray(mask)

    def accepts(self, gradient, response):
        return self.mask


class Guess:
    """A path-independent fine scale with a state, as an RVE has: it counts its solves."""

    def __init__(self):
        self.spec = replace(LAW.spec, state_size=2)
        self.gradients = []

    def initial_state(self, n):
        return np.zeros((n, 2))

    def evaluate(self, gradient, state, dt, hint=None):
        check_arguments(self.spec, gradient, state, hint)
        self.gradients.append(gradient.copy())
        return replace(LAW.evaluate(gradient, None, dt), state=(state if hint is None else hint) + 1.0)


def surrogate_of(closure, error=0.01, box=0.1):
    return ClosedFormSurrogate(closure, error, [-box] * closure.spec.k, [box] * closure.spec.k)


def strain(n, size=0.05, seed=0):
    return np.random.default_rng(seed).uniform(-size, size, (n, 3))


def assert_rows_equal(response, expected, rows):
    for name in ("flux", "tangent", "state", "energy"):
        ours, theirs = getattr(response, name), getattr(expected, name)
        if theirs is not None:
            np.testing.assert_array_equal(ours[rows], theirs[rows], err_msg=name)


def test_protocols():
    accelerated = AcceleratedClosure(LAW, surrogate_of(LAW), gate=RangeGate())
    assert isinstance(accelerated, Closure)
    assert isinstance(RangeGate(), Gate) and isinstance(ToleranceGate(1.0), Gate)
    assert accelerated.spec == LAW.spec


def test_off_is_the_fine_scale_and_never_asks_the_surrogate():
    class Unasked:
        spec = SOLID.spec
        initial_state = SOLID.initial_state

        def evaluate(self, *args, **kwargs):
            raise AssertionError("asked")

    accelerated = AcceleratedClosure(SOLID, Unasked(), gate=RangeGate(), mode="off")
    e, h = strain(5), SOLID.initial_state(5)
    response, expected = accelerated.evaluate(e, h, 0.1), SOLID.evaluate(e, h, 0.1)
    assert_rows_equal(response, expected, slice(None))
    assert response.status.tolist() == [Status.OK] * 5 and response.uncertainty is None


@given(e=strains, seed=st.integers(0, 2**31))
def test_every_point_is_served_by_the_one_the_gate_chose(e, seed):
    n = len(e)
    mask = np.random.default_rng(seed).random(n) < 0.5
    surrogate, ledger = surrogate_of(SOLID, box=0.2), Ledger()
    state = np.random.default_rng(seed).normal(size=(n, 3))
    before = e.copy(), state.copy()
    accelerated = AcceleratedClosure(SOLID, surrogate, gate=Chosen(mask), ledger=ledger)
    response = accelerated.evaluate(e, state, 0.3)
    assert_rows_equal(response, surrogate.evaluate(e, state, 0.3), mask)
    assert_rows_equal(response, SOLID.evaluate(e, state, 0.3), ~mask)
    assert response.status.tolist() == np.where(mask, Status.OK, Status.FALLBACK).tolist()
    assert response.uncertainty is not None and (response.uncertainty[~mask] == 0).all()
    assert (
        ledger.counts["surrogate/points"] + ledger.counts.get("fallback/points", 0)
        == ledger.counts["accelerated/points"]
        == n
    )
    np.testing.assert_array_equal(e, before[0])
    np.testing.assert_array_equal(state, before[1])


def test_rejected_points_go_to_the_fine_scale_in_one_batch_with_their_state_and_hint():
    fine, mask = Guess(), [True, False, True, False]
    accelerated = AcceleratedClosure(fine, surrogate_of(LAW), gate=Chosen(mask))
    e, state = strain(4), np.arange(8, dtype=float).reshape(4, 2)
    response = accelerated.evaluate(e, state, 1.0)
    assert len(fine.gradients) == 1
    np.testing.assert_array_equal(fine.gradients[0], e[[1, 3]])
    np.testing.assert_array_equal(response.state, state + [[0.0], [1.0], [0.0], [1.0]])
    hinted = accelerated.evaluate(e, state, 1.0, hint=10 * state)
    assert hinted.state is not None
    np.testing.assert_array_equal(hinted.state[[1, 3]], 10 * state[[1, 3]] + 1.0)
    np.testing.assert_array_equal(state, np.arange(8.0).reshape(4, 2))


def test_nothing_is_copied_where_no_point_falls_back():
    fine, state = Guess(), np.ones((4, 2))
    response = AcceleratedClosure(fine, surrogate_of(LAW), gate=RangeGate()).evaluate(strain(4), state, 1.0)
    assert response.state is state and not fine.gradients


def test_range_and_tolerance_decide():
    e = np.array([[0.01, 0, 0], [0.05, 0, 0], [0.2, 0, 0]])
    surrogate, ledger = surrogate_of(LAW), Ledger()
    stated = surrogate.evaluate(e, None, 1.0).uncertainty
    by_range = AcceleratedClosure(LAW, surrogate, gate=RangeGate()).evaluate(e, None, 1.0)
    assert by_range.status.tolist() == [Status.OK, Status.OK, Status.FALLBACK]
    assert stated is not None
    gate = ToleranceGate(0.5 * (stated[0] + stated[1]))
    by_tolerance = AcceleratedClosure(LAW, surrogate, gate=gate, ledger=ledger).evaluate(e, None, 1.0)
    assert by_tolerance.status.tolist() == [Status.OK, Status.FALLBACK, Status.FALLBACK]
    np.testing.assert_array_equal(by_tolerance.uncertainty, [stated[0], 0.0, 0.0])
    calls = {"accelerated/calls": 1, "accelerated/points": 3}
    assert ledger.counts == calls | {"surrogate/points": 1, "fallback/points": 2}
    assert set(ledger.seconds) == {"surrogate", "fine"} and min(ledger.seconds.values()) > 0
    error = np.linalg.norm(by_tolerance.flux - LAW.evaluate(e, None, 1.0).flux, axis=1)
    assert (error <= gate.flux_tolerance).all()


def test_where_all_points_fall_back_the_answer_is_the_fine_scales():
    bare = Broken(lambda response: replace(response, energy=None))
    response = AcceleratedClosure(LAW, bare, gate=Chosen([False] * 3)).evaluate(strain(3), None, 1.0)
    assert_rows_equal(response, LAW.evaluate(strain(3), None, 1.0), slice(None))
    assert response.uncertainty is not None and response.uncertainty.tolist() == [0.0] * 3
    mixed = AcceleratedClosure(LAW, bare, gate=Chosen([True, False, False])).evaluate(strain(3), None, 1.0)
    assert mixed.uncertainty is None and mixed.energy is None


@pytest.mark.parametrize("error", [0.01, -0.01])
def test_the_closed_form_surrogate_makes_the_error_it_states(error):
    exact, response = LAW.evaluate(strain(5), None, 1.0), surrogate_of(LAW, error).evaluate(strain(5), None, 1.0)
    assert response.uncertainty is not None
    np.testing.assert_allclose(np.linalg.norm(response.flux - exact.flux, axis=1), response.uncertainty, rtol=1e-12)


def test_failure_of_the_fine_scale_keeps_its_status():
    fine = FailingClosure(LAW, lambda g: g[:, 0] > 0.15)
    e = np.array([[0.01, 0, 0], [0.12, 0, 0], [0.2, 0, 0]])
    response = AcceleratedClosure(fine, surrogate_of(LAW), gate=RangeGate()).evaluate(e, None, 1.0)
    assert response.status.tolist() == [Status.OK, Status.FALLBACK, Status.NOT_CONVERGED]


class Broken:
    """A surrogate that spoils its answers."""

    def __init__(self, spoil):
        self.spec, self.spoil = LAW.spec, spoil

    def initial_state(self, n):
        return None

    def evaluate(self, gradient, state, dt, hint=None):
        return self.spoil(LAW.evaluate(gradient, state, dt))


def fails(response):
    raise KeyError("weights")


@pytest.mark.parametrize(
    "spoil",
    [
        fails,
        lambda r: None,
        lambda r: replace(r, flux=r.flux[:-1]),
        lambda r: replace(r, flux=r.flux.astype(np.float32)),
        lambda r: replace(r, tangent=r.tangent[:, :2]),
        lambda r: replace(r, status=r.status.astype(float)),
        lambda r: replace(r, state=r.flux),
        lambda r: replace(r, uncertainty=r.flux),
    ],
)
def test_a_surrogate_that_raises_or_answers_in_the_wrong_shape(spoil):
    accelerated = AcceleratedClosure(LAW, Broken(spoil), gate=RangeGate())
    e = strain(4)
    with pytest.warns(RuntimeWarning, match="surrogate failed, the fine scale serves all its points"):
        response = accelerated.evaluate(e, None, 1.0)
    assert_rows_equal(response, LAW.evaluate(e, None, 1.0), slice(None))
    assert response.status.tolist() == [Status.FALLBACK] * 4
    assert accelerated.ledger.counts["surrogate/faults"] == 1 and accelerated.ledger.counts["fallback/points"] == 4


@pytest.mark.parametrize("name", ["flux", "tangent", "energy"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_numbers_fall_back(name, value):
    def spoil(response):
        getattr(response, name)[2] = value
        return response

    accelerated = AcceleratedClosure(LAW, Broken(spoil), gate=Chosen([True] * 4))
    e = strain(4)
    response = accelerated.evaluate(e, None, 1.0)
    assert_rows_equal(response, LAW.evaluate(e, None, 1.0), slice(None))
    assert response.status.tolist() == [Status.OK, Status.OK, Status.FALLBACK, Status.OK]
    assert accelerated.ledger.counts["surrogate/non-finite points"] == 1


@pytest.mark.parametrize("status", [Status.OUTSIDE_RANGE, Status.FAILED, -1, 99])
def test_a_gate_cannot_accept_what_is_not_usable(status):
    def spoil(response):
        response.status[0] = status
        return response

    response = AcceleratedClosure(LAW, Broken(spoil), gate=Chosen([True, True])).evaluate(strain(2), None, 1.0)
    assert response.status.tolist() == [Status.FALLBACK, Status.OK]


def test_tolerance_gate_needs_an_uncertainty():
    with pytest.raises(ContractError, match="needs a surrogate that states its uncertainty"):
        AcceleratedClosure(LAW, LAW, gate=ToleranceGate(1.0)).evaluate(strain(2), None, 1.0)
    with pytest.raises(ContractError, match="flux_tolerance must be positive, got 0.0"):
        ToleranceGate(0.0)


def test_a_gate_of_the_wrong_shape_is_an_error():
    with pytest.raises(ContractError, match=r"Chosen.accepts must return \(3,\) booleans, got bool of shape \(2,\)"):
        AcceleratedClosure(LAW, LAW, gate=Chosen([True, True])).evaluate(strain(3), None, 1.0)


def with_spec(closure, **changes):
    other = Broken(lambda response: response)
    other.spec = replace(closure.spec, **changes)
    return other


@pytest.mark.parametrize(
    ("fine", "surrogate", "message"),
    [
        (LAW, Conduction(1.0, 3), "differ in gradient: .*ε11.* and .*g1"),
        (LAW, with_spec(LAW, flux_unit="Pa"), "differ in flux_unit: 1 and Pa"),
        (LAW, with_spec(LAW, gradient_unit="%"), "differ in gradient_unit"),
        (LAW, with_spec(LAW, reference=(1.0, 1.0, 0.0)), "differ in reference"),
        (SOLID, LAW, "fine scale has history and the surrogate has none"),
        (LAW, SOLID, "surrogate has history and the fine scale has none"),
        (SOLID, with_spec(SOLID, state_size=4), "keep 3 and 4 numbers per point"),
        (LAW, with_spec(LAW, state_size=4), "keep 0 and 4 numbers per point"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(fine, surrogate, message):
    with pytest.raises(ContractError, match=message):
        AcceleratedClosure(fine, surrogate, gate=RangeGate())


def test_unknown_mode():
    with pytest.raises(ContractError, match="mode must be one of .*, got 'on'"):
        AcceleratedClosure(LAW, LAW, gate=RangeGate(), mode="on")  # type: ignore[arg-type]


def test_symmetric_only_where_both_are():
    surrogate = with_spec(LAW, symmetric=False)
    assert not AcceleratedClosure(LAW, surrogate, gate=RangeGate()).spec.symmetric
    assert AcceleratedClosure(LAW, surrogate, gate=RangeGate(), mode="off").spec.symmetric


def test_inside_and_outside_of_the_stretch_frame_agree():
    fine = StretchNeoHookean(1.3, 2.1)
    surrogate = ClosedFormSurrogate(fine, 1e-3, [0.9, 0.9, -0.1], [1.1, 1.1, 0.1])
    F = np.eye(2).ravel() + np.random.default_rng(0).uniform(-0.15, 0.15, (30, 4))
    inside = StretchFrame(AcceleratedClosure(fine, surrogate, gate=RangeGate())).evaluate(F, None, 1.0)
    outside = AcceleratedClosure(NeoHookean(1.3, 2.1), StretchFrame(surrogate), gate=RangeGate()).evaluate(F, None, 1.0)
    assert inside.uncertainty is not None and outside.uncertainty is not None
    assert set(inside.status) == {Status.OK, Status.FALLBACK}
    np.testing.assert_array_equal(inside.status, outside.status)
    np.testing.assert_allclose(inside.flux, outside.flux, atol=1e-13)
    np.testing.assert_allclose(inside.uncertainty, outside.uncertainty, atol=1e-15)


def test_nested():
    """A coarse surrogate in front of a better one in front of the fine scale."""
    better = AcceleratedClosure(LAW, surrogate_of(LAW, 0.001, 0.2), gate=RangeGate())
    both = AcceleratedClosure(better, surrogate_of(LAW, 0.1, 0.1), gate=RangeGate())
    response = both.evaluate(np.array([[0.05, 0, 0], [0.15, 0, 0], [0.3, 0, 0]]), None, 1.0)
    exact = LAW.evaluate(np.array([[0.05, 0, 0], [0.15, 0, 0], [0.3, 0, 0]]), None, 1.0).flux
    np.testing.assert_allclose(response.flux[:, 0] / exact[:, 0], [1.1, 1.001, 1.0], rtol=1e-12)
    assert response.status.tolist() == [Status.OK, Status.FALLBACK, Status.FALLBACK]
    assert response.uncertainty is not None and (response.uncertainty > 0).tolist() == [True, True, False]


def test_relaxation_is_the_same_through_an_exact_surrogate():
    """Stress relaxation at constant strain, σ_n = C ε + C_v ε/(1 + Δt/τ)ⁿ, with points that change sides on the way."""
    rng, e, dt = np.random.default_rng(0), strain(6), 0.2
    state: Array | None = SOLID.initial_state(6)
    for step in range(1, 9):
        gate = Chosen(rng.random(6) < 0.5)
        response: Response = AcceleratedClosure(SOLID, surrogate_of(SOLID, 0.0), gate=gate).evaluate(e, state, dt)
        state = response.state
        factor = (1.0 + dt / SOLID.relaxation_time) ** -step
        np.testing.assert_allclose(
            response.flux, e @ SOLID.stiffness + factor * (e @ SOLID.branch_stiffness), atol=1e-15
        )

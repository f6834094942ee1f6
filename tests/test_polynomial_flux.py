"""Polynomial fluxes: exact where the law is a polynomial, a contract that holds, on any kind of gradient."""

from typing import Any

from mpi4py import MPI

import numpy as np
import pytest

from coupling import AcceleratedClosure, ContractError, RangeGate, Status
from coupling.closed_forms import Conduction, ThermoElastic
from coupling.conformance import assert_conforms
from coupling.contract import ClosureSpec, Response
from surrogates import Dataset, box_design, fit_polynomial, fit_polynomial_flux, sample

BOX: tuple[Any, Any] = ((300.0, -10.0, -20.0), (1300.0, 10.0, 20.0))


class Heated:
    """q = −κ(θ) g of (θ, g), a polynomial of third degree where κ is one of second."""

    spec = ClosureSpec(("θ", "g1", "g2"), ("q1", "q2"), (600.0, 0.0, 0.0))

    def __init__(self, conductivity):
        self.conductivity = conductivity

    def initial_state(self, n):
        return None

    def evaluate(self, gradient, state, dt, hint=None):
        kappa, slope = self.conductivity(gradient[:, :1])
        tangent = np.concatenate([(-slope * gradient[:, 1:])[:, :, None], -kappa[:, :, None] * np.eye(2)], axis=2)
        return Response(-kappa * gradient[:, 1:], tangent, np.zeros(len(gradient), np.int8))


class Hardening:
    """Small strain with the potential Φ = ½ |ε|² + ¼ |ε|⁴."""

    spec = ClosureSpec(("ε11", "ε22", "√2·ε12"), ("σ11", "σ22", "√2·σ12"), (0.0,) * 3, symmetric=True)

    def initial_state(self, n):
        return None

    def evaluate(self, gradient, state, dt, hint=None):
        square = (gradient**2).sum(axis=1)[:, None]
        tangent = (1 + square)[:, :, None] * np.eye(3) + 2 * gradient[:, :, None] * gradient[:, None, :]
        return Response((1 + square) * gradient, tangent, np.zeros(len(gradient), np.int8))


def quadratic(theta):
    return 1 + (theta / 1000) ** 2, 2 * theta / 1e6


def data_of(closure, lower, upper, n=60):
    return sample(closure, box_design(lower, upper, n, seed=0), comm=MPI.COMM_SELF, progress=False)


def test_polynomial_laws_are_reproduced_exactly():
    cases: list[tuple[Any, Any, Any, int]] = [
        (Heated(quadratic), *BOX, 3),
        (Hardening(), (-1.0, -0.5, -0.2), (0.5, 1.0, 0.4), 3),
        (ThermoElastic(1.0, 2.0, 0.01), (-0.1,) * 3 + (-5.0,), (0.1,) * 3 + (30.0,), 1),
    ]
    for closure, lower, upper, degree in cases:
        surrogate = fit_polynomial_flux(data_of(closure, lower, upper), degree=degree)
        g = np.random.default_rng(5).uniform(lower, upper, (300, len(lower)))
        exact, ours = closure.evaluate(g, None, 0.0), surrogate.evaluate(g, None, 0.0)
        np.testing.assert_allclose(ours.flux, exact.flux, atol=1e-10 * np.abs(exact.flux).max())
        np.testing.assert_allclose(ours.tangent, exact.tangent, atol=1e-10 * np.abs(exact.tangent).max())
        assert surrogate.card.errors.flux_max < 1e-11 and (ours.status == Status.OK).all()


def test_errors_fall_with_the_degree_at_the_rate_of_chebyshev():
    """κ = 1/θ on (300, 1300) has its pole at x = −1.6: errors fall by 1.6 + √(1.6² − 1) = 2.85 with each degree."""
    data = data_of(Heated(lambda theta: (1 / theta, -1 / theta**2)), *BOX, n=400)
    errors = [fit_polynomial_flux(data, degree=degree).card.errors.flux_rms for degree in (3, 5, 7)]
    for before, after in zip(errors[:-1], errors[1:], strict=True):
        assert before / after == pytest.approx(2.85**2, rel=0.4)


@pytest.mark.parametrize("closure", [Heated(quadratic), Hardening()])
def test_closure_contract(closure):
    lower, upper = BOX if isinstance(closure, Heated) else ((-1.0,) * 3, (1.0,) * 3)
    surrogate = fit_polynomial_flux(data_of(closure, lower, upper), degree=2)
    assert_conforms(surrogate)
    if closure.spec.symmetric:
        tangent = surrogate.evaluate(np.full((1, 3), 0.3), None, 0.0).tangent[0]
        np.testing.assert_allclose(tangent, tangent.T, rtol=1e-13)


def test_outside_the_box_the_fine_scale_answers():
    fine = Heated(quadratic)
    surrogate = fit_polynomial_flux(data_of(fine, *BOX), degree=3)
    closure = AcceleratedClosure(fine, surrogate, gate=RangeGate())
    g = np.array([[400.0, 1.0, 2.0], [299.0, 1.0, 2.0], [400.0, np.nan, 0.0]])
    alone = surrogate.evaluate(g, None, 0.0)
    assert alone.status.tolist() == [Status.OK, Status.OUTSIDE_RANGE, Status.INADMISSIBLE]
    assert np.isinf(alone.uncertainty[1]) and alone.uncertainty[0] == surrogate.card.errors.flux_max_absolute
    both = closure.evaluate(g[:2], None, 0.0)
    assert both.status.tolist() == [Status.OK, Status.FALLBACK]
    np.testing.assert_array_equal(both.flux[1], fine.evaluate(g[1:2], None, 0.0).flux[0])


def test_data_without_energies(tmp_path):
    data = data_of(Conduction(2.0), (-1.0, -1.0), (1.0, 1.0), n=20)
    data.save(tmp_path / "data.safetensors")
    loaded = Dataset.load(tmp_path / "data.safetensors")
    assert loaded.energy is None and loaded.box == data.box and loaded.fingerprint == data.fingerprint
    design = box_design((-1.0, -1.0), (1.0, 1.0), 20, seed=0)
    for _ in range(2):  # the second time from the folder
        again = sample(Conduction(2.0), design, comm=MPI.COMM_SELF, progress=False, keep=tmp_path / "kept")
        np.testing.assert_array_equal(again.flux, data.flux)
    with pytest.raises(ContractError, match="trained on stretches, the data set has g1, g2: fit a polynomial flux"):
        fit_polynomial(loaded)


def test_too_little_data():
    data = data_of(Conduction(2.0), (-1.0, -1.0), (1.0, 1.0), n=12)
    with pytest.raises(ContractError, match="4 samples give 24 equations for the 35 coefficients of degree 6"):
        fit_polynomial_flux(data.subset(slice(0, 10)), degree=6, hold_out=0.6)
    with pytest.raises(ContractError, match="10 samples or more"):
        fit_polynomial_flux(data.subset(slice(0, 5)))
    with pytest.raises(ContractError, match="below its upper bound"):
        box_design((0.0, 1.0), (1.0, 1.0), 4, seed=0)

"""Polynomial energies: derivatives against automatic differentiation, and fits that must be exact."""

from dataclasses import replace
from math import comb

import numpy as np
import pytest
import torch

from coupling import ContractError, ModelError, Status
from coupling.closed_forms import StretchNeoHookean
from coupling.conformance import assert_conforms
from surrogates import Dataset, PolynomialEnergy, StretchBox, fit_polynomial
from surrogates.polynomial_energy import Monomials
from surrogates.potential import evaluate_chunks
from surrogates.stretch_space import stretch_reference
from tests.surrogate_cases import (
    BOX,
    TORCH,
    autodiff,
    neo_hookean_data,
    random_polynomial,
    random_stretches,
    stretch_spec,
)


def plain_energy(polynomial):
    """Σ c_α x^α for one stretch, from elementary torch operations."""
    exponents = torch.from_numpy(Monomials.up_to(polynomial.degree, polynomial.k).exponents)
    c, s = (torch.from_numpy(polynomial.weights[name]) for name in ("coefficients", "scale"))
    identity = torch.from_numpy(stretch_reference(polynomial.k))

    def energy(U):
        return (c * ((U - identity) / s).pow(exponents).prod(dim=1)).sum()

    return energy


def data_of(potential, n):
    box = StretchBox.of(*BOX[2 if potential.k == 3 else 3])
    U = np.clip(random_stretches(potential.k, n), box.lower, box.upper)
    return Dataset(stretch_spec(potential.k), box, U, *evaluate_chunks(potential, U, n), {})


@pytest.mark.parametrize(("degree", "k"), [(2, 3), (5, 3), (8, 3), (4, 6)])
def test_derivatives_are_those_of_automatic_differentiation(degree, k):
    polynomial = random_polynomial(degree, k)
    U = random_stretches(k, 23)
    oracle = autodiff(plain_energy(polynomial), torch.from_numpy(U))
    for ours, exact in zip(evaluate_chunks(polynomial, U, 23), oracle, strict=True):
        np.testing.assert_allclose(ours, exact.numpy(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("degree", "k"), [(2, 3), (8, 3), (4, 6)])
@pytest.mark.parametrize("n", [1, 300])
def test_torch_agrees_with_numpy(degree, k, n):
    U = random_stretches(k, n)
    ours, exact = (evaluate_chunks(random_polynomial(degree, k, 0, device), U, n) for device in (TORCH, "cpu"))
    for mine, expected in zip(ours, exact, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    for tangent in (ours[2], exact[2]):
        np.testing.assert_array_equal(tangent, tangent.transpose(0, 2, 1))


@pytest.mark.parametrize(("degree", "k"), [(0, 3), (4, 3), (3, 6)])
def test_monomials_are_complete_and_distinct(degree, k):
    monomials = Monomials.up_to(degree, k)
    assert len({tuple(e) for e in monomials.exponents}) == len(monomials.exponents) == comb(degree + k, k)
    x = random_stretches(k, 5)
    np.testing.assert_allclose(monomials.evaluate(x), (x[:, None, :] ** monomials.exponents).prod(axis=2), rtol=1e-13)


@pytest.mark.parametrize(("degree", "k", "n"), [(4, 3, 40), (8, 3, 200), (3, 6, 60)])
def test_fit_reproduces_a_polynomial_exactly(degree, k, n):
    exact = random_polynomial(degree, k)
    fitted = fit_polynomial(data_of(exact, n), degree=degree)
    U = random_stretches(k, 50, seed=3)
    ours, theirs = (evaluate_chunks(potential, U, 50) for potential in (fitted.potential, exact))
    for mine, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-8, atol=1e-8)
    assert fitted.card.errors.tangent_max < 1e-9


def test_errors_fall_with_the_degree():
    data = neo_hookean_data(150)
    errors = [fit_polynomial(data, degree=degree).card.errors.flux_rms for degree in (3, 5, 7)]
    assert errors[0] < 5e-2
    assert errors[1] < errors[0] / 5
    assert errors[2] < errors[1] / 5


@pytest.mark.parametrize("dim", [2, 3])
def test_closure_contract(dim):
    surrogate = fit_polynomial(neo_hookean_data(80, dim), degree=4)
    assert_conforms(surrogate)
    at_rest = surrogate.evaluate(np.array([surrogate.spec.reference]), None, 0.0)
    assert np.abs(at_rest.flux).max() == at_rest.energy[0] == 0.0
    assert at_rest.status[0] == Status.OK


def test_weights_that_do_not_fit_are_refused():
    good = random_polynomial(3, 3)
    with pytest.raises(ModelError, match="coefficients must be"):
        PolynomialEnergy(good.weights, 4, 3)
    with pytest.raises(ModelError, match="no constant or linear"):
        PolynomialEnergy(good.weights | {"coefficients": np.ones(20)}, 3, 3)
    with pytest.raises(ModelError, match="must be float64 .166666"):
        PolynomialEnergy(good.weights, 10**9, 3)  # found by counting, not by making all monomials
    with pytest.raises(ModelError, match="degree 2 or more"):
        PolynomialEnergy(good.weights, 1, 3)


def test_too_few_samples_for_the_degree():
    data = replace(neo_hookean_data(12), provenance={})
    with pytest.raises(ContractError, match="lower the degree"):
        fit_polynomial(data, degree=8)


def test_only_the_status_tells_of_collapse():
    """No growth at det U → 0: the law's energy rises beyond all bounds, the polynomial's converges."""
    fitted = fit_polynomial(neo_hookean_data(100), degree=5)
    U = np.array([[1e-8, 1.0, 0.0], [1e-16, 1.0, 0.0], [1e-32, 1.0, 0.0]])
    law = StretchNeoHookean(1.0, 1.5).evaluate(U, None, 0.0)
    answer = fitted.evaluate(U, None, 0.0)
    assert (np.diff(law.energy) > 100.0).all()
    assert np.ptp(answer.energy) < 1e-6 * abs(answer.energy[0])
    assert (answer.status == Status.OUTSIDE_RANGE).all()
    assert np.isinf(answer.uncertainty).all()

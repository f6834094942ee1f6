"""Physics checks against closed forms: acoustic tensors, energies that are unstable, bounded, or stressed at rest."""

import numpy as np
import pytest

from coupling.closed_forms import StretchNeoHookean
from surrogates import PolynomialEnergy, fit_polynomial, train_energy_network
from surrogates.physics_checks import (
    acoustic_minimum,
    conformance_checks,
    ellipticity,
    ellipticity_check,
    growth_check,
    rest_checks,
)
from surrogates.stretch_space import stretch_reference
from tests.surrogate_cases import neo_hookean_data


@pytest.mark.parametrize("dim", [2, 3])
def test_acoustic_tensor_of_a_neo_hookean_solid(dim):
    """Q(N) = μ 1 + (μ + λ − λ ln J) v⊗v, v = F⁻ᵀN: its smallest eigenvalue is μ while the bracket is positive."""
    law = StretchNeoHookean(1.0, 1.5, dim)
    U = stretch_reference(law.spec.k) + np.random.default_rng(0).uniform(-0.2, 0.2, (20, law.spec.k))
    response = law.evaluate(U, None, 0.0)
    np.testing.assert_allclose(acoustic_minimum(U, response.flux, response.tangent), 1.0, rtol=1e-10)


def test_lost_ellipticity_is_found_in_the_right_direction():
    """At rest with a longitudinal modulus in direction 1 that is negative: Q(e₁)₁₁ = A₁₁₁₁ < 0."""
    U, tangent = stretch_reference(3)[None], np.diag([-0.5, 3.0, 1.0])[None]
    smallest = acoustic_minimum(U, np.zeros((1, 3)), tangent)
    assert smallest[0] <= -0.5
    assert acoustic_minimum(U, np.zeros((1, 3)), np.diag([3.0, 3.0, 1.0])[None])[0] > 0.0


@pytest.mark.parametrize("dim", [2, 3])
def test_a_fitted_polynomial_passes_all_but_growth(dim):
    model = fit_polynomial(neo_hookean_data(150, dim), degree=4)
    results = [*conformance_checks(model), *rest_checks(model), ellipticity_check(ellipticity(model), None)]
    assert [result.name for result in results if not result.passed] == []
    assert not growth_check(model).passed


def test_a_network_grows():
    model = train_energy_network(neo_hookean_data(60), hidden=(4,), max_iterations=10, progress=False)
    assert growth_check(model).passed


def test_an_unstable_energy_is_found():
    model = fit_polynomial(neo_hookean_data(150), degree=4)
    coefficients = -model.potential.weights["coefficients"]
    model.potential = PolynomialEnergy({**model.potential.weights, "coefficients": coefficients}, 4, 3)
    failed = [result.name for result in rest_checks(model) if not result.passed]
    data = neo_hookean_data(20)
    elliptic = ellipticity_check(ellipticity(model), acoustic_minimum(data.gradient, data.flux, data.tangent))
    assert failed == ["stable at rest"]
    assert not elliptic.passed
    assert "lost at 100.0%" in elliptic.explanation
    assert "at 0 of 20 samples" in elliptic.explanation

"""Training: exact Jacobians, a law learned to stated errors, honest hold-out errors, reproducibility."""

from dataclasses import replace

import numpy as np
import pytest

from coupling import ContractError
from coupling.polar import positive_definite
from surrogates import EnergyNetwork, fit_polynomial, train_energy_network
from surrogates.levenberg_marquardt import levenberg_marquardt
from surrogates.network_fit import NetworkFit, initial_parameters, unpack
from surrogates.potential import evaluate_chunks
from surrogates.training import _Scaling
from tests.surrogate_cases import BOX, neo_hookean_data


@pytest.mark.parametrize(("dim", "hidden"), [(2, (5, 4)), (2, (6,)), (3, (4, 3, 5))])
def test_normal_equations_are_the_derivative_of_the_cost(dim, hidden):
    data = neo_hookean_data(70, dim)  # more than one block
    layers = (data.spec.k, *hidden)
    fit = NetworkFit(*_Scaling(data).problem(data), layers)
    theta = initial_parameters(layers, 1)
    gram, gradient = fit.normal_equations(theta)
    rng = np.random.default_rng(0)
    for _ in range(3):
        direction = rng.normal(size=len(theta))
        h = 1e-6
        slope = (fit.cost(theta + h * direction) - fit.cost(theta - h * direction)) / (2 * h)
        assert slope == pytest.approx(2 * gradient @ direction, rel=1e-6)
    assert np.linalg.eigvalsh(gram, UPLO="U")[0] > -1e-10 * np.trace(gram)


def test_gram_matrix_is_the_square_of_the_jacobian():
    """Where the residual vanishes, the second derivative of the cost is 2 JᵀJ."""
    data = neo_hookean_data(20)
    layers = (3, 4, 3)
    x, targets, weights = _Scaling(data).problem(data)
    theta = initial_parameters(layers, 2)
    scales = {"scale": np.ones(3), "energy_scale": np.array(1.0), "growth": np.array(0.0)}
    W, b, output = unpack(theta, layers)
    network = EnergyNetwork({"W0": W[0], "b0": b[0], "W1": W[1], "b1": b[1], "output": output} | scales, layers)
    energy, flux, tangent = evaluate_chunks(network, x + [1.0, 1.0, 0.0], 20)
    jets = np.hstack((energy[:, None], flux, tangent[:, *np.triu_indices(3)]))
    fit = NetworkFit(x, jets, weights, layers)
    assert fit.cost(theta) < 1e-25
    gram = fit.normal_equations(theta)[0]
    direction = np.random.default_rng(0).normal(size=len(theta))
    h = 1e-5
    curvature = (fit.cost(theta + h * direction) + fit.cost(theta - h * direction)) / h**2
    assert curvature == pytest.approx(2 * direction @ (np.triu(gram) + np.triu(gram, 1).T) @ direction, rel=1e-6)


class Rosenbrock:
    """r = (10 (y − x²), 1 − x), the classical curved valley with its minimum at (1, 1)."""

    def residual(self, theta):
        return np.array([10 * (theta[1] - theta[0] ** 2), 1 - theta[0]])

    def cost(self, theta):
        return float(self.residual(theta) @ self.residual(theta))

    def normal_equations(self, theta):
        J = np.array([[-20 * theta[0], 10.0], [-1.0, 0.0]])
        return np.asfortranarray(J.T @ J), J.T @ self.residual(theta)


def test_levenberg_marquardt_finds_the_end_of_the_valley():
    path = list(levenberg_marquardt(Rosenbrock(), np.array([-1.2, 1.0])))
    costs = [cost for _, cost in path]
    assert all(later < earlier for earlier, later in zip(costs, costs[1:], strict=False))
    np.testing.assert_allclose(path[-1][0], [1.0, 1.0], rtol=1e-10)
    assert len(path) < 60


@pytest.fixture(scope="module", params=[2, 3])
def trained(request):
    data = neo_hookean_data(200, request.param)
    return request.param, data, train_energy_network(data, hidden=(14, 14), max_iterations=60, progress=False)


def test_network_learns_a_neo_hookean_law(trained):
    dim, _, surrogate = trained
    errors = surrogate.card.errors
    limit = 2e-4 if dim == 2 else 1.5e-3
    assert errors.flux_rms < limit
    assert errors.energy_rms < limit
    assert errors.tangent_rms < 10 * limit


def exceeding(surrogate, fresh):
    """Fraction of the samples whose flux error exceeds the stated uncertainty, and the root mean square error."""
    response = surrogate.evaluate(fresh.gradient, None, 0.0)
    error = np.linalg.norm(response.flux - fresh.flux, axis=1)
    return (error > response.uncertainty).mean(), np.sqrt(np.mean(error**2) / np.mean(np.sum(fresh.flux**2, axis=1)))


def test_uncertainty_is_exceeded_by_few_fresh_samples(trained):
    dim, _, surrogate = trained
    assert exceeding(surrogate, neo_hookean_data(400, dim, seed=99))[0] < 3 / (surrogate.card.errors.samples + 1)


def test_errors_of_the_card_are_those_of_fresh_samples():
    """The largest of m errors is exceeded with probability 1/(m + 1), on average over many fits."""
    fresh = neo_hookean_data(1000, seed=999)
    fits = [fit_polynomial(neo_hookean_data(100, seed=seed), degree=4, seed=seed) for seed in range(40)]
    fractions, errors = np.transpose([exceeding(surrogate, fresh) for surrogate in fits])
    m = fits[0].card.errors.samples
    assert m == 15
    assert 0.5 / (m + 1) < fractions.mean() < 2 / (m + 1)
    assert np.mean([surrogate.card.errors.flux_rms for surrogate in fits]) == pytest.approx(errors.mean(), rel=0.2)


@pytest.mark.parametrize("family", ["network", "polynomial"])
def test_held_out_samples_have_no_say_in_the_fit(family):
    def fit(data):
        if family == "polynomial":
            return fit_polynomial(data, degree=3, seed=5)
        return train_energy_network(data, hidden=(6, 5), seed=5, max_iterations=30, patience=3, progress=False)

    data = neo_hookean_data(60)
    held = data.split((0.15,), 5)[-1].gradient
    others = (data.gradient[:, None] != held).any(axis=2).all(axis=1)
    assert others.sum() == 51
    wrong = replace(data, flux=np.where(others[:, None], data.flux, 2.0 * data.flux))
    right, wronged = fit(data), fit(wrong)
    for name, array in right.potential.weights.items():
        np.testing.assert_array_equal(wronged.potential.weights[name], array)
    assert wronged.card.errors.flux_rms > 2 * right.card.errors.flux_rms


def test_card_says_where_the_model_comes_from(trained):
    dim, data, surrogate = trained
    card = surrogate.card
    assert card.dataset == data.fingerprint
    assert card.box.lower == BOX[dim][0]
    assert card.spec == data.spec == surrogate.spec
    assert card.errors.samples == 30
    assert card.provenance["closure"] == "StretchNeoHookean"
    assert card.training["method"] == "Levenberg–Marquardt"
    assert (card.training["hold_out"], card.training["validation"]) == (0.15, 0.15)


def test_same_seed_same_weights_other_seed_others():
    data = neo_hookean_data(60)
    runs = [
        train_energy_network(data, hidden=(6, 5), seed=seed, max_iterations=5, progress=False).potential.weights
        for seed in (0, 0, 1)
    ]
    assert all(np.array_equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert not np.array_equal(runs[0]["W0"], runs[2]["W0"])


def test_training_stops_early_when_nothing_is_gained():
    data = neo_hookean_data(20)
    surrogate = train_energy_network(data, hidden=(20, 20), max_iterations=400, patience=3, progress=False)
    assert surrogate.card.training["iterations"] < 400


def test_too_little_data():
    for fraction in (0.0, 1.0):
        with pytest.raises(ContractError, match="leave something to train on"):
            train_energy_network(neo_hookean_data(30), progress=False, hold_out=fraction)
    with pytest.raises(ContractError, match="0.5 and 0.5"):
        train_energy_network(neo_hookean_data(30), progress=False, hold_out=0.5, validation=0.5)
    with pytest.raises(ContractError, match="10 samples"):
        fit_polynomial(neo_hookean_data(9), degree=2)


def test_networks_grow_where_their_data_end(trained):
    dim, _, surrogate = trained
    U = np.array([surrogate.spec.reference] * 3)
    U[:, 0] = [0.1, 0.01, 0.001]
    assert positive_definite(U).all()
    energy = surrogate.evaluate(U, None, 0.0).energy
    assert energy[2] > 50 * energy[1] > 0

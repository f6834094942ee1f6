"""Energy networks: hand-batched derivatives against automatic differentiation, and what holds by construction."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coupling import ModelError, Status, StretchFrame
from coupling.conformance import assert_conforms
from coupling.polar import mandel_basis
from surrogates import EnergyNetwork, EnergySurrogate, HoldOutErrors, ModelCard, StretchBox
from surrogates.energy_network import weight_shapes
from surrogates.growth import Growth
from surrogates.stretch_space import positive_definite, stretch_reference
from tests.surrogate_cases import autodiff, network_energy, random_network, random_stretches, stretch_spec

LAYERS = [(3, 16, 16), (3, 5), (3, 7, 12, 4), (6, 16, 16), (6, 3, 9, 5)]


def surrogate_of(network, **arguments):
    k = network.layers[0]
    identity = stretch_reference(k)
    box = StretchBox.of(identity - 0.25, identity + 0.25)
    errors = HoldOutErrors(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3e-3, 10)
    return EnergySurrogate(network, ModelCard(stretch_spec(k), box, errors, "", {}, {}), **arguments)


@pytest.mark.parametrize("layers", LAYERS)
def test_derivatives_are_those_of_automatic_differentiation(layers):
    network = random_network(layers)
    U = torch.from_numpy(random_stretches(layers[0], 23))
    oracle = autodiff(network_energy(network), U)
    for ours, exact in zip(network.evaluate(U), oracle, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layers", LAYERS)
def test_reference_state_is_free_of_energy_and_stress(layers):
    energy, flux, tangent = random_network(layers).evaluate(torch.from_numpy(stretch_reference(layers[0]))[None])
    assert abs(energy.item()) < 1e-14
    assert flux.abs().max() < 1e-14
    assert tangent.abs().max() > 1e-3


@pytest.mark.parametrize("k", [3, 6])
def test_tangent_is_symmetric_to_the_bit(k):
    tangent = random_network((k, 9, 8)).evaluate(torch.from_numpy(random_stretches(k, 40)))[2]
    assert torch.equal(tangent, tangent.transpose(1, 2))


@pytest.mark.parametrize("k", [3, 6])
def test_energy_grows_without_bound_as_a_stretch_collapses(k):
    network = random_network((k, 9, 8))
    for direction in range(2 if k == 3 else 3):
        U = np.tile(stretch_reference(k), (3, 1))
        U[:, direction] = [1e-3, 1e-5, 1e-7]
        energy, flux, _ = network.evaluate(torch.from_numpy(U))
        c = float(network.weights["growth"])
        np.testing.assert_allclose(energy.numpy() * U[:, direction] ** 2, c, rtol=2e-2)  # c/J² dominates
        assert (flux[:, direction] < -1.0).all()


@pytest.mark.parametrize("k", [3, 6])
def test_growth_leaves_the_reference_stiffness_alone(k):
    for part in Growth(2.0, k, torch.device("cpu")).evaluate(torch.from_numpy(stretch_reference(k))[None]):
        assert part.abs().max() == 0.0


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_chunks_do_not_change_the_answer(chunk):
    network = random_network((3, 16, 16))
    U = random_stretches(3, 130)
    whole = surrogate_of(network, chunk=130).evaluate(U, None, 0.0)
    parts = surrogate_of(network, chunk=chunk).evaluate(U, None, 0.0)
    for name in ("energy", "flux", "tangent"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=0, atol=1e-13)


@given(n=st.integers(0, 40), k=st.sampled_from([3, 6]), chunk=st.integers(1, 17))
def test_shapes_of_any_number_of_points(n, k, chunk):
    U = random_stretches(k, n)
    response = surrogate_of(random_network((k, 5, 4)), chunk=chunk).evaluate(U, None, 0.0)
    assert response.flux.shape == (n, k)
    assert response.tangent.shape == (n, k, k)
    assert response.energy.shape == response.uncertainty.shape == response.status.shape == (n,)
    assert all(a.flags.c_contiguous for a in (response.flux, response.tangent, response.energy))


@given(seed=st.integers(0, 10_000))
def test_answers_are_fresh_and_repeatable(seed):
    surrogate = surrogate_of(random_network((3, 6, 5)), chunk=8)
    first = surrogate.evaluate(random_stretches(3, 11, seed), None, 0.0)
    kept = [array.copy() for array in (first.flux, first.tangent, first.energy)]
    surrogate.evaluate(random_stretches(3, 19, seed + 1), None, 0.0)
    again = surrogate.evaluate(random_stretches(3, 11, seed), None, 0.0)
    for name, old in zip(("flux", "tangent", "energy"), kept, strict=True):
        np.testing.assert_array_equal(getattr(first, name), old)
        np.testing.assert_array_equal(getattr(again, name), old)


@pytest.mark.parametrize("k", [3, 6])
def test_closure_contract(k):
    surrogate = surrogate_of(random_network((k, 9, 8)))
    assert_conforms(surrogate)
    assert_conforms(StretchFrame(surrogate))


def test_status_and_uncertainty_inside_and_outside():
    inside, outside, broken, collapsed = [1.1, 0.9, 0.1], [1.3, 1.0, 0.0], [np.nan, 1.0, 0.0], [0.8, 0.8, 1.2]
    response = surrogate_of(random_network((3, 8))).evaluate(np.array([inside, outside, broken, collapsed]), None, 0.0)
    assert response.status.tolist() == [Status.OK, Status.OUTSIDE_RANGE, Status.INADMISSIBLE, Status.INADMISSIBLE]
    assert response.uncertainty[0] == 3e-3
    assert response.uncertainty[1] == np.inf
    assert np.isfinite(response.flux[:2]).all()
    assert np.isnan(response.flux[2:]).all()


def test_positive_definite_agrees_with_eigenvalues():
    rng = np.random.default_rng(0)
    for k, dim in ((3, 2), (6, 3)):
        U = stretch_reference(k) + rng.uniform(-1.5, 1.5, (500, k))
        eigenvalues = np.linalg.eigvalsh(np.einsum("np,pij->nij", U, mandel_basis(dim)))
        assert 50 < (eigenvalues[:, 0] > 0).sum() < 450
        np.testing.assert_array_equal(positive_definite(U), eigenvalues[:, 0] > 0)


def test_weights_that_do_not_fit_are_refused():
    good = random_network((3, 6, 5)).weights
    for name, array, message in (
        ("W1", np.zeros((6, 5)), "W1 must be float64"),
        ("b0", np.full(6, np.nan), "not finite"),
        ("output", np.zeros(5, dtype=np.float32), "float32"),
        ("scale", np.array([1.0, 0.0, 1.0]), "positive scale"),
        ("extra", np.zeros(1), "do not belong together"),
    ):
        with pytest.raises(ModelError, match=message):
            EnergyNetwork(good | {name: array}, (3, 6, 5))
    with pytest.raises(ModelError, match="activation"):
        EnergyNetwork.from_architecture({"layers": [3, 6, 5], "activation": "relu"}, good)


def test_weight_shapes_name_every_parameter():
    shapes = {"W0": (4, 3), "b0": (4,), "W1": (2, 4), "b1": (2,), "output": (2,)}
    assert weight_shapes((3, 4, 2)) == shapes | {"scale": (3,), "energy_scale": (), "growth": ()}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_agrees_with_cpu():
    cpu = random_network((3, 16, 16))
    gpu = EnergyNetwork(cpu.weights, cpu.layers, "cuda")
    U = random_stretches(3, 300)
    ours, exact = (surrogate_of(network).evaluate(U, None, 0.0) for network in (gpu, cpu))
    np.testing.assert_allclose(ours.tangent, exact.tangent, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(ours.flux, exact.flux, rtol=1e-10, atol=1e-10)

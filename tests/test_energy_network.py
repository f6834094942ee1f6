"""Energy networks: hand-batched derivatives against automatic differentiation, and what holds by construction."""

import itertools
import subprocess
import sys
import textwrap
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coupling import ModelError, Status, StretchFrame
from coupling.conformance import assert_conforms
from coupling.polar import mandel_basis
from surrogates import EnergyNetwork, EnergySurrogate, HoldOutErrors, ModelCard, StretchBox
from surrogates.backend import NumpyBackend
from surrogates.energy_network import weight_shapes
from surrogates.growth import Growth
from surrogates.potential import evaluate_chunks
from surrogates.stretch_space import stretch_reference
from tests.surrogate_cases import (
    TORCH,
    autodiff,
    network_energy,
    random_network,
    random_polynomial,
    random_stretches,
    stretch_spec,
)

LAYERS = [(3, 16, 16), (3, 5), (3, 7, 12, 4), (6, 16, 16), (6, 3, 9, 5)]


def surrogate_of(network, **arguments):
    k = len(network.weights["scale"])
    identity = stretch_reference(k)
    box = StretchBox.of(identity - 0.25, identity + 0.25)
    errors = HoldOutErrors(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3e-3, 10)
    return EnergySurrogate(network, ModelCard(stretch_spec(k), box, errors, "", {}, {}), **arguments)


def evaluated(potential, U):
    return evaluate_chunks(potential, U, len(U))


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("device", ["cpu", TORCH])
def test_derivatives_are_those_of_automatic_differentiation(layers, device):
    network = random_network(layers, device=device)
    U = random_stretches(layers[0], 23)
    oracle = autodiff(network_energy(network), torch.from_numpy(U))
    for ours, exact in zip(evaluated(network, U), oracle, strict=True):
        np.testing.assert_allclose(ours, exact.numpy(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layers", LAYERS)
def test_reference_state_is_free_of_energy_and_stress(layers):
    energy, flux, tangent = evaluated(random_network(layers), stretch_reference(layers[0])[None])
    assert abs(energy[0]) < 1e-14
    assert np.abs(flux).max() < 1e-14
    assert np.abs(tangent).max() > 1e-3


@pytest.mark.parametrize("k", [3, 6])
@pytest.mark.parametrize("device", ["cpu", TORCH])
def test_tangent_is_symmetric_to_the_bit(k, device):
    tangent = evaluated(random_network((k, 9, 8), device=device), random_stretches(k, 40))[2]
    np.testing.assert_array_equal(tangent, tangent.transpose(0, 2, 1))


@pytest.mark.parametrize("k", [3, 6])
def test_energy_grows_without_bound_as_a_stretch_collapses(k):
    network = random_network((k, 9, 8))
    for direction in range(2 if k == 3 else 3):
        U = np.tile(stretch_reference(k), (3, 1))
        U[:, direction] = [1e-3, 1e-5, 1e-7]
        energy, flux, _ = evaluated(network, U)
        c = float(network.weights["growth"])
        np.testing.assert_allclose(energy * U[:, direction] ** 2, c, rtol=2e-2)  # c/J² dominates
        assert (flux[:, direction] < -1.0).all()


@pytest.mark.parametrize("k", [3, 6])
def test_growth_leaves_the_reference_stiffness_alone(k):
    parts = np.zeros(1), np.zeros((1, k)), np.zeros((1, k, k))
    Growth(2.0, k, NumpyBackend()).add(stretch_reference(k)[None], *parts)
    assert all((part == 0.0).all() for part in parts)


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


@pytest.mark.parametrize(
    ("lower", "upper", "expected"),
    [
        ((0.8, 0.8, -0.2), (1.2, 1.2, 0.2), True),
        ((0.2, 0.2, -0.3), (1.5, 1.5, 0.28), False),  # 0.2 · 0.2 < ½ 0.3²
        ((0.2, 0.2, -0.28), (1.5, 1.5, 0.28), True),
        ((0.0, 0.8, -0.2), (1.2, 1.2, 0.2), False),
        ((0.8,) * 3 + (-0.5,) * 3, (1.2,) * 3 + (0.5,) * 3, True),
        ((0.6,) * 3 + (-0.5,) * 3, (1.2,) * 3 + (0.5,) * 3, False),
    ],
)
def test_boxes_of_positive_definite_stretches(lower, upper, expected):
    box = StretchBox.of(lower, upper)
    U = np.random.default_rng(0).uniform(lower, upper, (20_000, box.k))
    corners = np.array(list(itertools.product(*zip(lower, upper, strict=True))))
    U = np.vstack((U, corners))
    eigenvalues = np.linalg.eigvalsh(np.einsum("np,pij->nij", U, mandel_basis(2 if box.k == 3 else 3)))
    assert box.positive_definite is expected
    assert (eigenvalues[:, 0] > 0).all() == expected


def test_points_of_a_box_that_is_not_positive_definite_are_sorted_out():
    box = StretchBox.of((0.2, 0.2, -0.5), (1.5, 1.5, 0.5))
    network = random_network((3, 8))
    card = replace(surrogate_of(network).card, box=box)
    response = EnergySurrogate(network, card).evaluate(np.array([[0.3, 0.3, 0.45], [1.0, 1.0, 0.1]]), None, 0.0)
    assert response.status.tolist() == [Status.INADMISSIBLE, Status.OK]


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


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("n", [1, 40, 300])
def test_torch_agrees_with_numpy(layers, n):
    numpy_network, torch_network = random_network(layers), random_network(layers, device=TORCH)
    assert numpy_network.backend.xp is np
    assert torch_network.backend.xp is torch
    U = random_stretches(layers[0], n)
    for ours, exact in zip(evaluated(torch_network, U), evaluated(numpy_network, U), strict=True):
        np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-12 * np.abs(exact).max())


def test_huge_and_tiny_stretches_are_no_warning():
    U = np.array([[1e200, 1e200, 0.0], [1e-200, 1.0, 0.0], [1e150, 1.0, 0.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        response = surrogate_of(random_network((3, 8))).evaluate(U, None, 0.0)
    assert (response.status != Status.OK).all()


def test_the_cpu_needs_no_torch():
    program = """
        import sys
        from importlib.abc import MetaPathFinder

        class WithoutTorch(MetaPathFinder):
            def find_spec(self, name, path, target=None):
                if name.partition(".")[0] == "torch":
                    raise ModuleNotFoundError(name)

        sys.meta_path.insert(0, WithoutTorch())
        import numpy as np
        from coupling import ModelError
        from surrogates import PolynomialEnergy
        weights = {"coefficients": np.zeros(10), "scale": np.ones(3)}
        PolynomialEnergy(weights, 2, 3)
        try:
            PolynomialEnergy(weights, 2, 3, "cuda")
        except ModelError as error:
            print(error)
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert "the device 'cuda' cannot be used" in result.stdout, result.stderr


def test_device_that_is_none():
    with pytest.raises(ModelError, match="'abacus' cannot be used"):
        random_network((3, 4), device="abacus")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("family", ["network", "polynomial"])
def test_gpu_agrees_with_cpu(family):
    def potential(device):
        return random_network((3, 16, 16), device=device) if family == "network" else random_polynomial(8, 3, 0, device)

    U = random_stretches(3, 300)
    ours, exact = (surrogate_of(potential(device)).evaluate(U, None, 0.0) for device in ("cuda", "cpu"))
    for name in ("energy", "flux", "tangent"):
        expected = getattr(exact, name)
        np.testing.assert_allclose(getattr(ours, name), expected, rtol=0, atol=1e-12 * np.abs(expected).max())

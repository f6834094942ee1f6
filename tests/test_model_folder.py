"""Model folders: bit-exact round trips, and a readable error for every kind of damage."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from coupling import ModelError
from surrogates import fit_polynomial, load_model, save_model, train_energy_network
from tests.surrogate_cases import neo_hookean_data, random_stretches


@pytest.fixture(scope="module", params=["network", "polynomial", "polynomial 3D"])
def surrogate(request):
    if request.param == "network":
        return train_energy_network(neo_hookean_data(60), hidden=(7, 6), max_iterations=5, progress=False)
    return fit_polynomial(neo_hookean_data(60, 3 if "3D" in request.param else 2), degree=4)


@pytest.fixture(scope="module")
def network():
    return train_energy_network(neo_hookean_data(60), hidden=(7, 6), max_iterations=5, progress=False)


@pytest.fixture
def folder(network, tmp_path):
    save_model(network, tmp_path / "model")
    return tmp_path / "model"


def assert_same(first, second):
    assert first.card == second.card
    assert first.spec == second.spec
    U = random_stretches(first.spec.k, 33)
    ours, theirs = (s.evaluate(U, None, 0.0) for s in (first, second))
    for name in ("energy", "flux", "tangent", "status", "uncertainty"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_round_trip_is_bit_exact(surrogate, tmp_path):
    save_model(surrogate, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    for name, array in surrogate.potential.weights.items():
        np.testing.assert_array_equal(loaded.potential.weights[name], array)
    assert_same(loaded, surrogate)
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["card.json", "weights.safetensors"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_card_reads_like_a_card(network, folder):
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert card["family"] == "energy-network"
    assert card["architecture"] == {"layers": [3, 7, 6], "activation": "tanh"}
    assert card["inputs"]["components"] == ["U11", "U22", "√2·U12"]
    assert card["range"] == {"lower": [0.8, 0.8, -0.2], "upper": [1.2, 1.2, 0.2]}
    assert card["dataset"]["sha256"] == network.card.dataset
    assert card["hold_out_errors"]["flux_rms"] == network.card.errors.flux_rms
    assert {"torch", "numpy", "safetensors"} <= card["versions"].keys()
    assert card["weights_sha256"] == hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()


def test_saving_again_replaces_the_model(surrogate, folder):
    save_model(surrogate, folder)
    assert_same(load_model(folder), surrogate)
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_a_failed_save_leaves_the_old_model(network, folder, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("surrogates.model_folder.write_atomically", full)
    with pytest.raises(OSError, match="no space"):
        save_model(network, folder)
    assert_same(load_model(folder), network)


def refuse(folder, message):
    with pytest.raises(ModelError, match=message) as caught:
        load_model(folder)
    assert folder.name in str(caught.value)


def change_card(folder, **changes):
    """Change top-level keys of the card; None removes one."""
    card = json.loads((folder / "card.json").read_text(encoding="utf-8")) | changes
    card = {key: value for key, value in card.items() if value is not None}
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")


def change_weights(folder, change):
    """Rewrite the weights, with the right hash in the card."""
    weights = load((folder / "weights.safetensors").read_bytes())
    content = change(weights)
    content = content if isinstance(content, bytes) else save(content)
    (folder / "weights.safetensors").write_bytes(content)
    change_card(folder, weights_sha256=hashlib.sha256(content).hexdigest())


def test_missing_folder_and_files(folder):
    refuse(folder.parent / "elsewhere", "not a model folder")
    (folder / "weights.safetensors").unlink()
    refuse(folder, "cannot be read")
    (folder / "card.json").unlink()
    refuse(folder, "has no card.json")


@pytest.mark.parametrize("cut", [0, 1, 8, 60, -1])
def test_truncated_weights(folder, cut):
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    refuse(folder, "truncated or changed")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0.0, 0.999), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_in_the_weights(folder, position, bit):
    path = folder / "weights.safetensors"
    good = path.read_bytes()
    bad = bytearray(good)
    bad[int(position * len(good))] ^= 1 << bit
    path.write_bytes(bad)
    try:
        refuse(folder, "SHA-256")
    finally:
        path.write_bytes(good)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0.0, 1.0), junk=st.binary(max_size=3))
def test_a_card_cut_anywhere(folder, position, junk):
    path = folder / "card.json"
    good = path.read_bytes()
    path.write_bytes(good[: int(position * (len(good) - 2))] + junk)
    try:
        refuse(folder, "card.json")
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w | {"W0": w["W0"][:, :2].copy()}, "W0 must be float64 .7, 3., got float64 .7, 2."),
        (lambda w: w | {"b1": w["b1"].astype(np.float32)}, "got float32"),
        (lambda w: {name: array for name, array in w.items() if name != "output"}, "do not belong together"),
        (lambda w: w | {"other": np.zeros(2)}, "do not belong together"),
        (lambda w: w | {"W1": w["W1"] * np.nan}, "not finite"),
        (lambda w: w | {"output": w["output"] + np.inf}, "not finite"),
        (lambda w: w | {"scale": -w["scale"]}, "positive scale"),
        (lambda _: b"", "not a safetensors file"),
        (lambda _: b"\x80\x04\x95 this could be a pickle", "not a safetensors file"),
        (lambda w: save(w)[:-8], "not a safetensors file"),
    ],
)
def test_wrong_weights_under_the_right_hash(folder, change, message):
    change_weights(folder, change)
    refuse(folder, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "oracle"}, "unknown family 'oracle': known are energy-network, polynomial-energy"),
        ({"family": ["energy-network"]}, "unknown family"),
        ({"family": "polynomial-energy"}, "architecture"),
        ({"format": 2}, "newer than 1"),
        ({"format": "1"}, "expected a number"),
        ({"format": 0}, "expected a number"),
        ({"architecture": {"layers": [3, 7, 6], "activation": "relu"}}, "activation"),
        ({"architecture": {"layers": [3, 9, 6], "activation": "tanh"}}, "W0 must be"),
        ({"architecture": {"layers": "3, 7", "activation": "tanh"}}, "architecture"),
        ({"architecture": {"layers": [], "activation": "tanh"}}, "hidden widths"),
        ({"architecture": {"layers": [5, 7, 6], "activation": "tanh"}}, "3 or 6 inputs"),
        ({"architecture": {"activation": "tanh"}}, "architecture"),
        ({"architecture": 3}, "architecture"),
        ({"inputs": 3}, "wrong value"),
        ({"inputs": {"components": ["U11"], "unit": "1", "reference": [1.0, 1.0, 0.0]}}, "wrong value"),
        ({"range": {"lower": [0.8, 0.8], "upper": [1.2, 1.2]}}, "wrong value"),
        ({"range": {"lower": ["a", "b", "c"], "upper": [1, 2, 3]}}, "wrong value"),
        ({"range": {"lower": [0.9] * 3 + [-0.1] * 3, "upper": [1.1] * 3 + [0.1] * 3}}, "a range of 6"),
        ({"hold_out_errors": {"flux_rms": 1e-4}}, "lacks"),
        ({"weights_sha256": "0" * 64}, "SHA-256"),
    ],
)
def test_wrong_card(folder, changes, message):
    change_card(folder, **changes)
    refuse(folder, message)


@pytest.mark.parametrize(
    "key",
    ["format", "family", "architecture", "weights_sha256", "inputs", "outputs", "range", "hold_out_errors", "dataset"],
)
def test_missing_key_in_the_card(folder, key):
    change_card(folder, **{key: None})
    refuse(folder, f"lacks '?{key}")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"null", b"\xff\xfe\x00", b'{"format": NaN}'])
def test_card_that_is_no_card(folder, content):
    (folder / "card.json").write_bytes(content)
    refuse(folder, "card.json")

"""Model folders: bit-exact round trips, and a readable error for every kind of damage."""

import hashlib
import json
import os
import threading
from dataclasses import replace
from functools import reduce
from importlib.metadata import PackageNotFoundError, version
from operator import getitem

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

import surrogates.model_folder
from coupling import ModelError
from surrogates import EnergySurrogate, HoldOutErrors, fit_polynomial, load_model, save_model, train_energy_network
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
    for name, array in surrogate.weights.items():
        np.testing.assert_array_equal(loaded.weights[name], array)
    assert_same(loaded, surrogate)
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["card.json", "weights.safetensors"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_weights_in_any_order_of_memory(network, tmp_path):
    weights = {name: np.asarray(array, order="F") for name, array in network.weights.items()}
    assert not all(array.flags.c_contiguous for array in weights.values())
    transposed = type(network.potential).from_architecture(network.architecture, weights)
    save_model(EnergySurrogate(transposed, network.card), tmp_path / "model")
    assert_same(load_model(tmp_path / "model"), network)


def installed(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def test_card_reads_like_a_card(network, folder):
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert card["family"] == "energy-network"
    assert card["architecture"] == {"layers": [3, 7, 6], "activation": "tanh"}
    assert card["inputs"]["components"] == ["U11", "U22", "√2·U12"]
    assert card["range"] == {"lower": [0.8, 0.8, -0.2], "upper": [1.2, 1.2, 0.2]}
    assert card["dataset"]["sha256"] == network.card.dataset
    assert card["hold_out_errors"]["flux_rms"] == network.card.errors.flux_rms
    assert {"torch", "numpy", "safetensors"} <= card["versions"].keys()
    assert card["versions"] == {name: installed(name) for name in card["versions"]}
    assert ("twoscale" in card["versions"]) == (installed("twoscale") is not None)
    assert card["weights_sha256"] == hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()


def test_saving_again_replaces_the_model(surrogate, folder):
    save_model(surrogate, folder)
    assert_same(load_model(folder), surrogate)
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_a_failed_save_leaves_the_old_model(network, folder, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("surrogates.folders.write_atomically", full)
    with pytest.raises(OSError, match="no space"):
        save_model(network, folder)
    assert_same(load_model(folder), network)
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


@pytest.fixture(params=["exchange", "two renames"])
def replacing(request, monkeypatch, tmp_path):
    """Both ways to replace a folder; the first where the file system has it."""
    if request.param == "two renames":
        monkeypatch.setattr("surrogates.folders._exchange", lambda *_: False)
        return request.param
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    if not surrogates.folders._exchange(tmp_path / "first", tmp_path / "second"):
        pytest.skip("this system cannot exchange two folders")
    (tmp_path / "first").rmdir()
    (tmp_path / "second").rmdir()
    return request.param


def test_both_ways_replace_the_model(network, folder, replacing):
    other = replace_errors(network, flux_rms=0.25)
    save_model(other, folder)
    assert load_model(folder).card.errors.flux_rms == 0.25
    assert_same(load_model(folder), other)
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def replace_errors(surrogate, **figures):
    card = surrogate.card
    return EnergySurrogate(surrogate.potential, replace(card, errors=replace(card.errors, **figures)))


def test_a_second_rename_that_fails_is_rolled_back(network, folder, monkeypatch):
    """The folder is aside already: it must come back, and nothing may be left over."""
    renames, rename = [], os.rename

    def failing_second(source, target):
        renames.append(target)
        if len(renames) == 2:
            raise OSError("no permission any more")
        rename(source, target)

    monkeypatch.setattr("surrogates.folders._exchange", lambda *_: False)
    monkeypatch.setattr(os, "rename", failing_second)
    with pytest.raises(OSError, match="no permission any more"):
        save_model(replace_errors(network, flux_rms=0.25), folder)
    assert len(renames) == 3
    assert_same(load_model(folder), network)
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_loading_while_another_thread_saves(network, folder, replacing):
    """Each load gives one of the two models, whole; only two renames leave an instant without a folder."""
    polynomial = fit_polynomial(neo_hookean_data(60), degree=4)
    done, found = threading.Event(), []

    def save_in_turn():
        for turn in range(60):
            save_model((polynomial, network)[turn % 2], folder)
        done.set()

    saving = threading.Thread(target=save_in_turn)
    saving.start()
    while not done.is_set():
        try:
            found.append(load_model(folder))
        except ModelError as error:
            assert replacing == "two renames" and "has no card.json" in str(error)
    saving.join()
    families = {surrogate.family: surrogate for surrogate in found}
    assert found and all(surrogate.card in (network.card, polynomial.card) for surrogate in found)
    for surrogate in families.values():
        assert_same(surrogate, network if surrogate.card == network.card else polynomial)


def test_a_card_that_would_not_load_is_not_written(network, folder):
    with pytest.raises(ModelError, match="hold_out_errors.flux_rms .* got nan"):
        save_model(replace_errors(network, flux_rms=float("nan")), folder)
    assert_same(load_model(folder), network)
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("value", [float("nan"), {1, 2}])
def test_provenance_that_is_no_json_is_not_written(network, folder, value):
    card = replace(network.card, provenance={"size": value})
    with pytest.raises((TypeError, ValueError), match="JSON"):
        save_model(EnergySurrogate(network.potential, card), folder)
    assert_same(load_model(folder), network)
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def refuse(folder, message):
    with pytest.raises(ModelError, match=message) as caught:
        load_model(folder)
    assert folder.name in str(caught.value)


def change_card(folder, **changes):
    """Change top-level keys of the card; None removes one."""
    card = json.loads((folder / "card.json").read_text(encoding="utf-8")) | changes
    card = {key: value for key, value in card.items() if value is not None}
    write_card(folder, card)


def write_card(folder, card):
    """Write a card with the right hash of its content."""
    content = {key: value for key, value in card.items() if key != "card_sha256"}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    card = content | {"card_sha256": hashlib.sha256(canonical.encode()).hexdigest()}
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")


def change_entry(folder, path, value):
    """Change the entry of the card under keys that dots separate."""
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    *parents, last = path.split(".")
    reduce(getitem, parents, card)[last] = value
    write_card(folder, card)


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
        ({"format": "1"}, "expected a whole number"),
        ({"format": 0}, "expected a whole number"),
        ({"format": True}, "format True, expected a whole number .* copy the model again"),
        ({"format": 1.0}, "format 1.0, expected a whole number"),
        ({"architecture": {"layers": [3, 7, 6], "activation": "relu"}}, "activation"),
        ({"architecture": {"layers": [3, 9, 6], "activation": "tanh"}}, "W0 must be"),
        ({"architecture": {"layers": "3, 7", "activation": "tanh"}}, "layers .* got '3, 7'"),
        ({"architecture": {"layers": [3, 7.5, 6], "activation": "tanh"}}, "layers .* got .3, 7.5, 6."),
        ({"architecture": {"layers": [3, "7", 6], "activation": "tanh"}}, "layers .* got .3, '7', 6."),
        ({"architecture": {"layers": [3, True, 6], "activation": "tanh"}}, "layers .* got .3, True, 6."),
        ({"architecture": {"layers": [], "activation": "tanh"}}, "hidden widths"),
        ({"architecture": {"layers": [5, 7, 6], "activation": "tanh"}}, "3 or 6 inputs"),
        ({"architecture": {"activation": "tanh"}}, "architecture"),
        ({"architecture": 3}, "architecture"),
        ({"inputs": 3}, "lacks inputs.components"),
        ({"inputs": {"components": ["U11"], "unit": "1", "reference": [1.0, 1.0, 0.0]}}, "do not fit"),
        ({"range": {"lower": [0.8, 0.8], "upper": [1.2, 1.2]}}, "range .* wrong"),
        ({"range": {"lower": ["a", "b", "c"], "upper": [1, 2, 3]}}, "range.lower .* got"),
        ({"range": {"lower": [0.9] * 3 + [-0.1] * 3, "upper": [1.1] * 3 + [0.1] * 3}}, "a range of 6"),
        ({"hold_out_errors": {"flux_rms": 1e-4}}, "lacks"),
        ({"weights_sha256": "0" * 64}, "SHA-256"),
    ],
)
def test_wrong_card(folder, changes, message):
    change_card(folder, **changes)
    refuse(folder, message)


FIGURES = [name for name in HoldOutErrors.__dataclass_fields__ if name != "samples"]


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("value", ["0.1", None, -1e-3, float("nan"), float("inf"), True, [0.1], 10**400])
def test_figures_that_are_none(folder, name, value):
    change_entry(folder, f"hold_out_errors.{name}", value)
    refuse(folder, f"hold_out_errors.{name} of the model card must be a finite number .* got .*: .* copy the model")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("hold_out_errors.samples", 0, "samples .* got 0: .* copy"),
        ("hold_out_errors.samples", 9.0, "samples .* got 9.0: .* copy"),
        ("hold_out_errors.samples", None, "samples .* got None: .* copy"),
        ("range.lower", [1.1, 0.8, -0.2], "range .*1.1.* contain the reference .* copy"),
        ("range.lower", [0.8, 0.8, None], "range.lower .* None.*: .* copy"),
        ("range.upper", [1.2, 1.2, float("inf")], "range.upper .* inf.*: .* copy"),
        ("range.upper", "1.2", "range.upper .* got '1.2': .* copy"),
        ("inputs.components", ["U22", "U11", "√2·U12"], "got .'U22', 'U11'.* copy"),
        ("inputs.components", ["F11", "F22", "F12"], "got .'F11'.* copy"),
        ("inputs.components", "U11", "inputs.components .* got 'U11': .* copy"),
        ("inputs.components", ["U11", 2, "√2·U12"], "inputs.components .* 2.* copy"),
        ("outputs.components", ["T22", "T11", "√2·T12"], "Biot stress .* got .'T22', 'T11'.* copy"),
        ("outputs.components", ["P11", "P22", "P12"], "Biot stress .* got .'P11'.* copy"),
        ("inputs.reference", [0.0, 0.0, 0.0], "reference .0.0, 0.0, 0.0.* copy"),
        ("inputs.reference", ["1", "1", "0"], "inputs.reference .* got .'1'.* copy"),
        ("inputs.unit", None, "inputs.unit .* got None: .* copy"),
        ("outputs.unit", None, "outputs.unit .* got None: .* copy"),
        ("outputs.unit", 1, "outputs.unit .* got 1: .* copy"),
        ("dataset.sha256", None, "dataset.sha256 .* got None: .* copy"),
        ("dataset.provenance", "an RVE", "dataset.provenance .* got 'an RVE': .* copy"),
        ("training", [], "training .* got ..: .* copy"),
    ],
)
def test_wrong_entry_under_the_right_hash(folder, path, value, message):
    change_entry(folder, path, value)
    refuse(folder, message)


@pytest.mark.parametrize(
    ("old", "new"),
    [("1.2", "1.3"), ('"samples": 9', '"samples": 900'), ('"unit": "1"', '"unit": "MPa"'), ('"seed": 0', '"seed": 1')],
)
def test_a_card_edited_by_hand(folder, old, new):
    """Plausible values, such as a wider range, are caught by the hash of the card."""
    path = folder / "card.json"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    refuse(folder, "card_sha256 says .* edited or damaged, copy the model again")


def test_a_card_that_only_looks_different(network, folder):
    """Order of keys and blanks are no content."""
    path = folder / "card.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(dict(reversed(card.items()))), encoding="utf-8")
    assert_same(load_model(folder), network)


@pytest.mark.parametrize(
    "key",
    ["format", "family", "architecture", "weights_sha256", "inputs", "outputs", "range", "hold_out_errors", "dataset"],
)
def test_missing_key_in_the_card(folder, key):
    change_card(folder, **{key: None})
    refuse(folder, f"lacks '?{key}")


def test_card_without_its_hash(folder):
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    del card["card_sha256"]
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    refuse(folder, "lacks card_sha256")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b"null", b"\xff\xfe\x00", b'{"format": NaN}', b"[" * 100_000]
)
def test_card_that_is_no_card(folder, content):
    (folder / "card.json").write_bytes(content)
    refuse(folder, "card.json")


def test_a_folder_that_is_no_model_is_left_alone(tmp_path, surrogate):
    precious = tmp_path / "thesis" / "chapter.tex"
    precious.parent.mkdir()
    precious.write_text("\\section{}")
    with pytest.raises(ModelError, match="no model folder, and is left alone"):
        save_model(surrogate, precious.parent)
    assert precious.read_text() == "\\section{}"
    (tmp_path / "empty").mkdir()
    save_model(surrogate, tmp_path / "empty")
    load_model(tmp_path / "empty")

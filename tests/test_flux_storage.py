"""Polynomial fluxes kept: round trips, damage, servers, programs, ONNX."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save

from coupling import ModelError, Status
from coupling.closed_forms import Conduction
from coupling.conformance import assert_conforms
from coupling.serving import RemoteSurrogate
from surrogates import PolynomialFlux, fit_polynomial_flux, load_model, save_model
from surrogates.flux_checks import all_checks
from surrogates.loading import load_folder
from surrogates.onnx_model import onnx_model, served
from surrogates.program import program_of
from surrogates.program_folder import save_program
from tests.serving_processes import running
from tests.surrogate_cases import TORCH
from tests.test_model_folder import change_card, change_entry, change_weights, refuse
from tests.test_polynomial_flux import BOX, Hardening, Heated, data_of, quadratic

KINDS = {
    "conduction": (Conduction(2.0), (-1.0, -1.0), (1.0, 1.0), 1),
    "field": (Heated(quadratic), *BOX, 3),
    "small strain": (Hardening(), (-1.0, -0.5, -0.2), (0.5, 1.0, 0.4), 2),
}


def fitted(kind):
    closure, lower, upper, degree = KINDS[kind]
    return fit_polynomial_flux(data_of(closure, lower, upper), degree=degree)


@pytest.fixture(scope="module", params=KINDS)
def surrogate(request):
    return fitted(request.param)


@pytest.fixture
def folder(tmp_path):
    save_model(fitted("field"), tmp_path / "model")
    return tmp_path / "model"


def gradients(surrogate, n=300):
    """In the range, two outside of it and one that is none."""
    box = surrogate.card.box
    g = np.random.default_rng(7).uniform(box.lower, box.upper, (n, box.k))
    g[1] = box.upper + 0.1 * box.half_width
    g[2, 0] = np.nan
    return g


def assert_same(found, expected, rtol=0.0):
    np.testing.assert_array_equal(found.status, expected.status)
    inside = expected.status == Status.OK
    for name in ("flux", "tangent", "uncertainty"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        scale = np.abs(theirs[inside]).max()
        np.testing.assert_allclose(ours[inside], theirs[inside], rtol=rtol, atol=rtol * scale)
    assert found.energy is expected.energy is None


def test_round_trip_is_bit_exact(surrogate, tmp_path):
    save_model(surrogate, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert isinstance(loaded, PolynomialFlux)
    assert loaded.card == surrogate.card and loaded.spec == surrogate.spec
    g = gradients(surrogate)
    assert_same(loaded.evaluate(g, None, 0.0), surrogate.evaluate(g, None, 0.0))
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["card.json", "weights.safetensors"]


def test_on_torch_it_is_the_same(surrogate, tmp_path):
    save_model(surrogate, tmp_path / "model")
    g = gradients(surrogate)
    found = load_model(tmp_path / "model", device=TORCH).evaluate(g, None, 0.0)
    assert_same(found, surrogate.evaluate(g, None, 0.0), rtol=1e-12)
    with pytest.raises(ModelError, match="float64: nobody has measured"):
        load_model(tmp_path / "model", precision="float32")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {"coefficients": w["coefficients"][:, 1:].copy()}, "coefficients must be float64 .2, 20., got"),
        (lambda w: {"coefficients": w["coefficients"].astype(np.float32)}, "got float32"),
        (lambda w: {"coefficients": w["coefficients"] * np.nan}, "not finite"),
        (lambda w: w | {"centre": np.zeros(3)}, "do not belong together"),
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
        ({"architecture": {"degree": 4}}, "coefficients must be float64 .2, 35."),
        ({"architecture": {"degree": 10**9}}, "coefficients must be"),  # found by counting
        ({"architecture": {"degree": 2.5}}, "degree of 1 or more, got 2.5"),
        ({"architecture": {"degree": True}}, "degree of 1 or more, got True"),
        ({"architecture": {}}, "architecture"),
        ({"family": "polynomial-energy"}, "hold_out_errors.energy_rms"),
        ({"hold_out_errors": {"flux_rms": 1e-4}}, "lacks"),
        ({"range": {"lower": [0.0, 0.0], "upper": [1.0, 1.0]}}, "3 components and a range of 2"),
        ({"range": {"lower": [0.0, 1.0, 0.0], "upper": [1.0, 1.0, 1.0]}}, "range .* wrong"),
        ({"weights_sha256": "0" * 64}, "SHA-256"),
    ],
)
def test_wrong_card(folder, changes, message):
    change_card(folder, **changes)
    refuse(folder, message)


def test_entries_of_the_card(folder):
    change_entry(folder, "outputs.symmetric_tangent", 1)
    refuse(folder, "outputs.symmetric_tangent .* true or false, got 1")
    change_entry(folder, "outputs.symmetric_tangent", True)
    refuse(folder, "a symmetric tangent needs as many flux as gradient components")


def test_a_hand_edited_card(folder):
    path = folder / "card.json"
    path.write_text(path.read_text(encoding="utf-8").replace("1300.0", "1400.0"), encoding="utf-8")
    refuse(folder, "card_sha256 says .* edited or damaged")


def test_exported_programs_and_onnx_are_the_same(surrogate, tmp_path):
    save_program(*program_of(surrogate), tmp_path / "program")
    g = gradients(surrogate)
    loaded = load_folder(tmp_path / "program")
    assert_same(loaded.evaluate(g, None, 0.0), surrogate.evaluate(g, None, 0.0), rtol=1e-11)
    pytest.importorskip("onnxscript")
    assert len(onnx_model(served(surrogate))) > 100  # which compares it with the module


@pytest.mark.timeout(60)
def test_a_server_serves_the_folders(tmp_path):
    models = {kind: fitted(kind) for kind in KINDS}
    folders = {kind: tmp_path / kind.replace(" ", "_") for kind in KINDS}
    for kind, folder in folders.items():
        save_model(models[kind], folder)
    with running(*map(str, folders.values())) as server:
        for kind, folder in folders.items():
            with server.surrogate(str(folder)) as remote:
                assert isinstance(remote, RemoteSurrogate) and remote.spec == models[kind].spec
                g = gradients(models[kind])
                assert_same(remote.evaluate(g, None, 0.0), models[kind].evaluate(g, None, 0.0), rtol=1e-14)
                if kind != "field":  # whose components are alike in size
                    assert_conforms(remote)


def test_checks_find_a_conductivity_that_turns_negative():
    """κ = 1 − θ on (0.5, 1.5): heat runs uphill beyond θ = 1, in the fine scale's samples as well."""
    law = Heated(lambda theta: (1 - theta, -np.ones_like(theta)))
    data = data_of(law, (0.5, -1.0, -1.0), (1.5, 1.0, 1.0))
    data = replace(data, spec=replace(data.spec, reference=(0.8, 0.0, 0.0)))
    results, _ = all_checks(fit_polynomial_flux(data, degree=2), data)
    (failed,) = [result for result in results if not result.passed]
    assert failed.name == "strong ellipticity"
    lost = int((data.gradient[:, 0] >= 1.0).sum())
    assert f"the fine scale loses it at {lost} of 60 samples" in failed.explanation


def test_checks_find_a_reference_outside_the_range():
    law = Heated(quadratic)
    results, _ = all_checks(fit_polynomial_flux(data_of(law, (700.0, -1.0, -1.0), (900.0, 1.0, 1.0)), degree=3), None)
    assert [result.name for result in results if not result.passed] == ["reference state"]


def test_a_flux_that_nobody_knows_has_no_ellipticity():
    model = fitted("conduction")
    spec = replace(model.spec, gradient=("a", "b"))
    unknown = PolynomialFlux(model.weights, model.degree, replace(model.card, spec=spec))
    results, found = all_checks(unknown, None)
    assert found is None and all(result.passed for result in results)
    assert not next(result for result in results if result.name == "strong ellipticity").applies

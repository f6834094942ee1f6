"""Models as torch.export programs, and users' own torch functions, are surrogates like any other."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from coupling import ContractError, ModelError, Status
from coupling.conformance import assert_conforms
from coupling.serving.models import probes
from surrogates import load_model
from surrogates.folders import CARD, read_card, sealed
from surrogates.loading import load_folder
from surrogates.program import program_of
from surrogates.program_archive import read_program
from surrogates.program_card import ProgramCard
from surrogates.program_folder import PROGRAM, load_program, save_program
from surrogates.torch_surrogate import TorchSurrogate
from tests.serving_processes import running
from tests.surrogate_cases import random_network, random_polynomial, random_stretches, surrogate_of
from tests.triton_models import LAW, LOWER, UPPER, NeoHookeanEnergy, NeoHookeanFlux, own_energy, own_flux

pytestmark = pytest.mark.timeout(120)
POTENTIALS = {
    "network 2D": lambda: random_network((3, 16, 16)),
    "network 3D": lambda: random_network((6, 8)),
    "polynomial 2D": lambda: random_polynomial(8, 3),
    "polynomial 3D": lambda: random_polynomial(4, 6),
}


def assert_close(one, other, tolerance=1e-12):
    for name in ("flux", "tangent", "energy", "uncertainty", "status"):
        mine, its = getattr(one, name), getattr(other, name)
        assert (mine is None) == (its is None), name
        if mine is not None:
            scale = np.abs(mine[np.isfinite(mine)]).max(initial=1.0)
            np.testing.assert_allclose(mine, its, rtol=tolerance, atol=tolerance * scale, err_msg=name)


# ---- programs of trained energies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", POTENTIALS)
def test_the_program_of_an_energy_is_the_energy(name, tmp_path):
    surrogate = surrogate_of(POTENTIALS[name]())
    save_program(*program_of(surrogate), tmp_path / "program")
    loaded = load_program(tmp_path / "program")
    assert loaded.spec == surrogate.spec
    for n in (0, 1, 2, 1000, 2500):
        gradient = random_stretches(surrogate.spec.k, n)
        assert_close(loaded.evaluate(gradient, None, 1.0), surrogate.evaluate(gradient, None, 1.0))
    assert_conforms(loaded)


def test_range_and_admissibility(tmp_path):
    surrogate = surrogate_of(random_network((3, 8)))
    save_program(*program_of(surrogate), tmp_path / "program")
    gradient = np.array([[1.0, 1.0, 0.0], [3.0, 1.0, 0.0], [np.nan, 1.0, 0.0], [1.0, np.inf, 0.0]])
    response = load_program(tmp_path / "program").evaluate(gradient, None, 1.0)
    expected = surrogate.evaluate(gradient, None, 1.0)
    np.testing.assert_array_equal(response.status, expected.status)
    np.testing.assert_array_equal(response.uncertainty, expected.uncertainty)


def test_the_server_loads_program_folders(tmp_path):
    surrogate = surrogate_of(random_network((3, 16, 16)))
    save_program(*program_of(surrogate), tmp_path / "program")
    gradient = random_stretches(3, 500)
    with running(str(tmp_path / "program")) as server, server.surrogate(tmp_path / "program") as remote:
        assert_close(remote.evaluate(gradient, None, 1.0), surrogate.evaluate(gradient, None, 1.0))


def test_the_server_serves_a_function_of_ones_own():
    name = "tests.triton_models:own_energy"
    gradient = probes(LAW.spec, 300, 0.2)
    with running(name) as server, server.surrogate(name) as remote:
        answer, exact = remote.evaluate(gradient, None, 1.0), LAW.evaluate(gradient, None, 1.0)
        np.testing.assert_allclose(answer.flux, exact.flux, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(answer.tangent, exact.tangent, rtol=1e-11, atol=1e-12)


# ---- users' own functions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [own_energy, own_flux])
def test_derivatives_of_ones_own_function_are_those_of_the_closed_form(make):
    surrogate, gradient = make(), probes(LAW.spec, 2000, 0.3)
    answer, exact = surrogate.evaluate(gradient, None, 1.0), LAW.evaluate(gradient, None, 1.0)
    assert_close(replace(answer, energy=None, uncertainty=None), replace(exact, energy=None), 1e-11)
    if answer.energy is not None:
        np.testing.assert_allclose(answer.energy, exact.energy, rtol=1e-11, atol=1e-13)
    assert_conforms(surrogate)


@pytest.mark.parametrize("make", [own_energy, own_flux])
def test_programs_of_ones_own_function(make, tmp_path):
    surrogate, gradient = make(), probes(LAW.spec, 300, 0.2)
    save_program(*program_of(surrogate), tmp_path / "derived")
    save_program(NeoHookeanEnergy(), ProgramCard(LAW.spec, ("energy",)), tmp_path / "bare")
    assert load_program(tmp_path / "derived").card.results[:2] == ("flux", "tangent")
    assert_close(
        load_folder(tmp_path / "derived").evaluate(gradient, None, 1.0), surrogate.evaluate(gradient, None, 1.0)
    )
    bare = load_folder(tmp_path / "bare").evaluate(gradient, None, 1.0)
    np.testing.assert_allclose(bare.tangent, LAW.evaluate(gradient, None, 1.0).tangent, rtol=1e-11, atol=1e-12)


class Single(NeoHookeanFlux):
    def forward(self, U):
        return super().forward(U).float()


class Wide(NeoHookeanFlux):
    def forward(self, U):
        return torch.cat([super().forward(U)] * 2, 1)


class Normalised(NeoHookeanFlux):
    def forward(self, U):
        return super().forward(U) - super().forward(U).mean(0)


class Diverging(NeoHookeanFlux):
    def forward(self, U):
        return super().forward(U) / 0.0


class Raising(NeoHookeanFlux):
    def forward(self, U):
        raise KeyError("no such law")


class Two(NeoHookeanFlux):
    def forward(self, U):
        return super().forward(U), U


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Single, r"must be \(3, 3\) float64, got \(3, 3\) torch.float32.*\.double\(\)"),
        (Wide, r"must be \(3, 3\) float64, got \(3, 6\)"),
        (Normalised, "depends on which other points"),
        (Diverging, "not finite"),
        (Raising, "KeyError: 'no such law'"),
        (Two, "gives 2 results, its card names flux"),
    ],
)
def test_functions_that_do_not_do_what_their_card_says(module, message, tmp_path):
    with pytest.raises(ModelError, match=message):
        TorchSurrogate(module(), ProgramCard(LAW.spec, ("flux",)))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"results": ("stress",)}, "names out of"),
        ({"results": ("tangent",)}, "must have the flux"),
        ({"lower": LOWER}, "both or none"),
        ({"lower": (2.0, 2.0, 0.0), "upper": (3.0, 3.0, 1.0)}, "must contain the reference"),
        ({"lower": (0.5,), "upper": (2.0,)}, "needs 3 lower and upper bounds"),
        ({"flux_error": -1.0}, "not negative"),
    ],
)
def test_cards_that_contradict_themselves(change, message):
    with pytest.raises(ContractError, match=message):
        replace(ProgramCard(LAW.spec), **change)


def test_out_of_the_range_and_not_finite():
    gradient = np.array([[1.0, 1.0, 0.0], [UPPER[0] + 0.1, 1.0, 0.0], [np.nan, 1.0, 0.0]])
    response = own_energy().evaluate(gradient, None, 1.0)
    assert response.status.tolist() == [Status.OK, Status.OUTSIDE_RANGE, Status.INADMISSIBLE]
    assert response.uncertainty[:2].tolist() == [1e-3, np.inf]


# ---- files that are not what they seem -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs") / "flux"
    save_program(NeoHookeanFlux(), ProgramCard(LAW.spec, ("flux",)), folder)
    return folder


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def changed_archive(data, **members):
    """The archive with the members whose names contain the key replaced, or added."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            wanted = [content for key, content in members.items() if key in name]
            content = wanted[0](old.read(name)) if wanted else old.read(name)
            new.writestr(name, content)
        for key, content in members.items():
            if not any(key in name for name in old.namelist()):
                new.writestr(f"{key}.so", content(b""))
    return out.getvalue()


def members(folder):
    with zipfile.ZipFile(folder / PROGRAM) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_pickle_in_a_program_is_not_run(folder, tmp_path):
    mark = tmp_path / "was here"
    evil = io.BytesIO()
    torch.save({"weight": Evil(mark)}, evil)
    pickles = [name for name in members(folder) if name.endswith(".pt")]
    assert pickles
    for member in pickles:
        data = changed_archive((folder / PROGRAM).read_bytes(), **{member: lambda _: evil.getvalue()})
        with pytest.raises(ModelError, match="pickles more than tensors"):
            read_program(data)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Evil(mark)))  # as it would have been
    assert mark.exists()


def test_tables_that_call_for_pickles_are_refused(folder):
    """As programs of torch 2.9 and newer may have them."""
    data = io.BytesIO((folder / PROGRAM).read_bytes())
    with zipfile.ZipFile(data, "a") as archive:
        table = {"config": {"layer": {"path_name": "weight_0", "use_pickle": True}}}
        archive.writestr("archive/data/weights/other_weights_config.json", json.dumps(table))
    with pytest.raises(ModelError, match="calls for pickled tensors"):
        read_program(data.getvalue())


@pytest.mark.parametrize(
    "expression", ["__import__('os').getcwd()", "exit()", "s0.real", "[s0]", "Symbol('os')", "(lambda: 1)()"]
)
def test_an_expression_in_a_program_is_not_evaluated(folder, expression):
    def poison(content):
        text = content.decode()
        begin = text.index('"expr_str": "') + len('"expr_str": "')
        return text[:begin] + expression + text[text.index('"', begin) :]

    member = next(name for name, content in members(folder).items() if b'"expr_str": "' in content)
    with pytest.raises(ModelError, match="is no arithmetic"):
        read_program(changed_archive((folder / PROGRAM).read_bytes(), **{member: poison}))


def test_native_code_in_a_program_is_refused(folder):
    with pytest.raises(ModelError, match="could run code"):
        read_program(changed_archive((folder / PROGRAM).read_bytes(), library=lambda _: b"\x7fELF"))


def rewritten(folder, target, **changes):
    shutil.copytree(folder, target)
    card = {key: value for key, value in read_card(folder).items() if key != "card_sha256"}
    (target / CARD).write_text(json.dumps(sealed(card | changes)))
    return target


def test_damaged_folders(folder, tmp_path):
    cut = shutil.copytree(folder, tmp_path / "cut")
    (cut / PROGRAM).write_bytes((cut / PROGRAM).read_bytes()[:-10])
    with pytest.raises(ModelError, match="truncated or changed"):
        load_program(cut)
    edited = shutil.copytree(folder, tmp_path / "edited")
    (edited / CARD).write_text((edited / CARD).read_text().replace("U11", "F11"))
    with pytest.raises(ModelError, match="edited or damaged"):
        load_program(edited)
    with pytest.raises(ModelError, match="newer than 1"):
        load_program(rewritten(folder, tmp_path / "newer", format=2))
    with pytest.raises(ModelError, match="does not describe a program"):
        load_program(rewritten(folder, tmp_path / "other", program={"spec": {}}))
    with pytest.raises(ModelError, match="of the family 'energy-network'"):
        load_program(rewritten(folder, tmp_path / "family", family="energy-network"))
    with pytest.raises(ModelError, match="is a program"):
        load_model(folder)
    with pytest.raises(ModelError, match="left alone"):
        save_program(NeoHookeanFlux(), ProgramCard(LAW.spec, ("flux",)), tmp_path)


def test_a_program_that_is_none():
    with pytest.raises(ModelError, match=r"no torch\.export program"):
        read_program(b"PK")

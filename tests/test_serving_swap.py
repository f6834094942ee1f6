"""Models are replaced while they are being used: no answer is lost, none is a mixture, nothing is left behind."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager

import numpy as np
import pytest

from coupling.errors import ContractError, ServerRefusedError
from coupling.serving import Breaker, ask
from coupling.serving.loading import fingerprint, load_with_fingerprint
from coupling.serving.models import ModelTable, prepare, probes
from surrogates import EnergySurrogate, save_model
from tests import serving_models
from tests.serving_processes import MODELS, NEO_HOOKEAN, running, wait_for

pytestmark = pytest.mark.timeout(60)
STIFFER = f"{MODELS}stiffer"
GRADIENT = probes(serving_models.neo_hookean().spec, 8000, 0.05)
OLD, NEW = (law.evaluate(GRADIENT, None, 1.0).flux for law in (serving_models.neo_hookean(), serving_models.stiffer()))


def swap(server, source, **options):
    return ask(server.address, {"want": "swap", "model": "m", "source": source, **options})["version"]


def same(flux, expected):
    return np.allclose(flux, expected, rtol=1e-13)


@pytest.fixture
def server():
    with running(f"m={NEO_HOOKEAN}", deaths=100) as server:
        yield server


def test_a_client_keeps_its_version_until_it_adopts_another(server):
    with server.surrogate("m") as remote:
        assert remote.version == remote.current == 1
        assert swap(server, STIFFER) == 2
        assert same(remote.evaluate(GRADIENT, None, 1.0).flux, OLD)
        assert (remote.version, remote.current) == (1, 2)
        with server.surrogate("m") as other:
            assert other.version == 2
            assert same(other.evaluate(GRADIENT, None, 1.0).flux, NEW)
        assert remote.adopt() == remote.version == 2
        assert same(remote.evaluate(GRADIENT, None, 1.0).flux, NEW)
        assert ask(server.address, {"want": "rollback", "model": "m"})["version"] == 1
        assert same(remote.evaluate(GRADIENT, None, 1.0).flux, NEW)
        assert remote.adopt() == 1
        assert same(remote.evaluate(GRADIENT, None, 1.0).flux, OLD)
        assert remote.adopt(2) == 2
        with pytest.raises(ServerRefusedError, match="is not served in version 9; there are: 1 .*, 2"):
            remote.adopt(9)
        assert same(remote.evaluate(GRADIENT, None, 1.0).flux, NEW)


def test_no_adoption_in_the_middle_of_an_evaluation(server):
    with server.surrogate("m") as remote:
        ticket = remote.submit(GRADIENT, None, 1.0)
        with pytest.raises(ContractError, match="collect all tickets first"):
            remote.adopt()
        assert same(remote.collect(ticket).flux, OLD)


def test_what_is_worse_is_not_switched_to(server):
    for source, options, message in (
        (STIFFER, {"tolerance": 1e-3}, "differs from version 1 by 5"),
        (f"{MODELS}linear_elastic", {}, "has another specification"),
        (f"{MODELS}Useless", {}, "no usable answer"),
        (f"{MODELS}nothing", {}, "cannot load"),
    ):
        with pytest.raises(ServerRefusedError, match=message):
            swap(server, source, **options)
    with server.surrogate("m") as remote:
        assert remote.version == 1
        assert same(remote.evaluate(GRADIENT, None, 1.0).flux, OLD)


def test_swaps_under_load(server):
    """Two clients adopt what is current after each of their calls; every answer is one version's."""
    done, faults, seen = threading.Event(), [], set()

    def load():
        with server.surrogate("m") as remote:
            while not done.is_set():
                flux = remote.evaluate(GRADIENT, None, 1.0).flux
                seen.add(remote.version)
                if not same(flux, NEW if remote.version % 2 == 0 else OLD):
                    faults.append(remote.version)
                if remote.current != remote.version:
                    remote.adopt()

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    versions = [swap(server, (STIFFER, NEO_HOOKEAN)[i % 2]) for i in range(20)]
    wait_for(lambda: 21 in seen)
    done.set()
    for thread in threads:
        thread.join()
    assert versions == list(range(2, 22))
    assert not faults
    assert len(seen) > 2


def test_versions_survive_the_death_of_the_server(server):
    with server.surrogate("m", breaker=Breaker(100)) as old:
        swap(server, STIFFER)
        with server.surrogate("m", breaker=Breaker(100)) as new:
            for _ in range(3):
                server.signal(signal.SIGKILL)
                assert same(old.evaluate(GRADIENT, None, 1.0).flux, OLD)
                assert same(new.evaluate(GRADIENT, None, 1.0).flux, NEW)
                assert (old.version, new.version) == (1, 2)


def test_a_folder_with_other_files_is_another_version(tmp_path):
    """A model trained anew into the same folder is not mistaken for the one that is being served."""
    folder, answers = tmp_path / "model", []
    with running(NEO_HOOKEAN) as server:
        for widths in ((8,), (16,), (8,)):
            local = serving_models.energy_network(widths=widths)
            save_model(local, folder)
            with server.surrogate(folder) as remote:
                answers.append((remote.version, remote.evaluate(GRADIENT[:64], None, 1.0).flux))
            assert same(answers[-1][1], local.evaluate(GRADIENT[:64], None, 1.0).flux)
    assert [version for version, _ in answers] == [1, 2, 1]


def test_a_thousand_swaps_leave_nothing_behind(server):
    """A version takes 25 kB or more; of the last 800, fewer than 160 can have been kept."""
    with server.surrogate("m") as remote:
        memory = []
        for number in range(1000):
            swap(server, (STIFFER, NEO_HOOKEAN)[number % 2])
            if number % 100 == 99:
                assert same(remote.evaluate(GRADIENT, None, 1.0).flux, OLD)
                memory.append(server.status()["memory_bytes"])
        versions = server.status()["models"][0]["versions"]
    assert [v["number"] for v in versions] == [1, 1000, 1001]
    assert memory[-1] - memory[1] < 4 << 20


# ---- model folders that are exchanged --------------------------------------------------------------------------------


@contextmanager
def exchanging(folder, models):
    """Save the models into one folder in turn, as fast as can be, while the block runs."""
    done, saved = threading.Event(), list[int]()

    def exchange():
        while not done.is_set():
            save_model(models[len(saved) % len(models)], folder)
            saved.append(1)

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        yield saved
    finally:
        done.set()
        thread.join()


def test_what_is_loaded_from_a_folder_under_exchange_is_what_its_fingerprint_says(tmp_path):
    models = [serving_models.energy_network(widths=(w,)) for w in (4, 8)]
    known, seen = dict[str, list[int]](), set[str]()
    for model in models:
        save_model(model, tmp_path / "model")
        known[fingerprint(str(tmp_path / "model"))] = model.potential.architecture["layers"]
    with exchanging(tmp_path / "model", models) as saved:
        while len(saved) < 40 or len(seen) < 2:
            closure, print_ = load_with_fingerprint(str(tmp_path / "model"), "cpu")
            assert isinstance(closure, EnergySurrogate)
            assert closure.potential.architecture["layers"] == known[print_]
            seen.add(print_)


def test_clients_of_a_folder_under_exchange_get_one_of_its_models(tmp_path):
    models = [serving_models.energy_network(widths=(w,)) for w in (4, 8)]
    answers = [model.evaluate(GRADIENT[:64], None, 1.0).flux for model in models]
    save_model(models[0], tmp_path / "model")
    with running(NEO_HOOKEAN) as server, exchanging(tmp_path / "model", models):
        for _ in range(10):
            with server.surrogate(tmp_path / "model") as remote:
                flux = remote.evaluate(GRADIENT[:64], None, 1.0).flux
            assert same(flux, answers[0]) or same(flux, answers[1])


def test_after_a_death_other_files_are_another_version(tmp_path):
    folder = str(tmp_path / "model")
    save_model(serving_models.energy_network(widths=(4,)), folder)
    before, after = ModelTable(), ModelTable()
    before.add("m", prepare(folder, 1, "cpu"))
    save_model(serving_models.energy_network(widths=(8,)), folder)
    assert after.restore(before.plan(), "cpu") == []
    (version,) = after.models["m"].versions.values()
    assert (version.number, after.models["m"].current) == (2, 2)
    assert version.fingerprint == fingerprint(folder)

"""Models are replaced while they are being used: no answer is lost, none is a mixture, nothing is left behind."""

from __future__ import annotations

import signal
import threading

import numpy as np
import pytest

from coupling.errors import ContractError, ServerRefusedError
from coupling.serving import Breaker, ask
from coupling.serving.models import probes
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
    from surrogates import save_model

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

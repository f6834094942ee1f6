"""Surrogates that a real Triton serves: values, ranks, what does not fit, and what happens when it dies."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager

from mpi4py import MPI

import numpy as np
import pytest

from coupling import (
    AcceleratedClosure,
    CollectiveSurrogate,
    MissingPackageError,
    ModelError,
    RangeGate,
    ServerRefusedError,
    ServerUnavailableError,
    Status,
    Tls,
    TritonSurrogate,
)
from coupling.closed_forms import NeoHookean
from coupling.conformance import assert_conforms
from coupling.serving import Breaker
from coupling.serving.models import probes
from surrogates import save_model
from surrogates.triton_repository import export_triton
from tests.kserve_server import kserve
from tests.serving_processes import wait_for
from tests.surrogate_cases import random_network, random_polynomial, random_stretches, surrogate_of
from tests.test_programs import assert_close
from tests.triton_models import LAW, own_energy, own_flux
from tests.triton_server import triton

pytestmark = pytest.mark.timeout(180)
comm = MPI.COMM_WORLD
MODELS = {
    "network": lambda: surrogate_of(random_network((3, 16, 16))),
    "polynomial": lambda: surrogate_of(random_polynomial(4, 6)),
    "energy": own_energy,
    "flux": own_flux,
}
GRADIENT = probes(LAW.spec, 640, 0.1)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    for name, make in MODELS.items():
        export_triton(make(), folder, name=name)
    write_foreign_model(folder / "single")
    return folder


@pytest.fixture(scope="module")
def server(repository):
    with triton(repository) as server:
        yield server


def write_foreign_model(folder):
    """A model of single precision, which nobody exported with twoscale."""
    from onnx import TensorProto, helper, save

    shape: list[str | int | None] = ["n", 3]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("gradient", "flux")]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["gradient"], ["flux"])], "single", tensors[:1], tensors[1:]
    )
    (folder / "1").mkdir(parents=True)
    save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10),
        folder / "1" / "model.onnx",
    )
    words = [f'{{ name: "{name}" data_type: TYPE_FP32 dims: [3] }}' for name in ("gradient", "flux")]
    (folder / "config.pbtxt").write_text(
        f'platform: "onnxruntime_onnx"\nmax_batch_size: 8\ninput [{words[0]}]\noutput [{words[1]}]\n'
    )


def assert_right(answer, gradient=GRADIENT):
    exact = LAW.evaluate(gradient, None, 1.0)
    np.testing.assert_allclose(answer.flux, exact.flux, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(answer.tangent, exact.tangent, rtol=1e-11, atol=1e-12)


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", ["message", "system"])
@pytest.mark.parametrize("name", MODELS)
def test_values_are_the_local_ones(server, name, memory):
    local = MODELS[name]()
    with TritonSurrogate(name, server.address, memory=memory) as remote:
        assert remote.spec == local.spec
        for n in (0, 1, 1000, 20_000, 3):
            gradient = random_stretches(local.spec.k, n)
            answer = remote.evaluate(gradient, None, 1.0)
            assert_close(answer, local.evaluate(gradient, None, 1.0), 1e-11)
        assert remote.ledger.counts == {"server/calls": 5, "server/points": 21_004}


@pytest.mark.parametrize("name", ["network", "flux"])
def test_conforms(server, name):
    with TritonSurrogate(name, server.address) as remote:
        assert_conforms(remote)


def test_range_and_admissibility(server):
    local, gradient = (
        MODELS["network"](),
        np.array([[1.0, 1.0, 0.0], [3.0, 1.0, 0.0], [np.nan, 1.0, 0.0], [1.0, -np.inf, 0.0]]),
    )
    with TritonSurrogate("network", server.address) as remote:
        answer, expected = remote.evaluate(gradient, None, 1.0), local.evaluate(gradient, None, 1.0)
    np.testing.assert_array_equal(answer.status, expected.status)
    np.testing.assert_array_equal(answer.uncertainty, expected.uncertainty)


def test_small_batches_are_the_same(server):
    with (
        TritonSurrogate("network", server.address) as whole,
        TritonSurrogate("network", server.address, batch=100) as parts,
    ):
        for surrogate in (whole, parts):
            assert surrogate.version == "1"
        assert_close(whole.evaluate(GRADIENT, None, 1.0), parts.evaluate(GRADIENT, None, 1.0))


def test_memory_is_given_back(server):
    """By a surrogate that grows, is closed, or is forgotten."""
    import tritonclient.grpc

    client = tritonclient.grpc.InferenceServerClient(server.address)

    def mapped():
        return len(client.get_system_shared_memory_status().regions)

    before = mapped()
    remote = TritonSurrogate("energy", server.address, memory="system")
    for n in (10, 10_000):
        remote.evaluate(np.tile(LAW.spec.reference, (n, 1)), None, 1.0)
        assert mapped() == before + 1
    remote.close()
    assert mapped() == before
    remote.evaluate(GRADIENT, None, 1.0)
    del remote
    assert mapped() == before
    client.close()


@pytest.mark.mpi
def test_every_rank_has_its_own_connection(tmp_path):
    """Uneven loads, a rank without points; then the server is killed, and all ranks take the fine scale together."""
    with shared_server(tmp_path) as (server, address):
        remote = TritonSurrogate("energy", address, timeout=5.0)
        closure = AcceleratedClosure(LAW, CollectiveSurrogate(remote, comm), gate=RangeGate())
        n = 700 * comm.rank + (0 if comm.size > 1 else 10)
        gradient = probes(LAW.spec, n, 0.1) if n else np.empty((0, 3))
        for _ in range(5):
            assert_right(closure.evaluate(gradient, None, 1.0), gradient)
        assert closure.ledger.counts["surrogate/points"] == 5 * n
        comm.barrier()
        if server is not None:
            server.end()
        comm.barrier()
        with pytest.warns(RuntimeWarning, match="the fine scale serves all its points"):
            answer = closure.evaluate(gradient, None, 1.0)
        assert (answer.status == Status.FALLBACK).all()
        assert closure.ledger.counts["surrogate/faults"] == 1


@contextmanager
def shared_server(folder):
    """A server that rank 0 runs for all ranks: (the server or None, its address)."""
    server, outcome = None, None
    with ExitStack() as stack:
        if comm.rank == 0:
            try:
                export_triton(own_energy(), folder, name="energy")
                server = stack.enter_context(triton(folder))
                outcome = "address", server.address
            except pytest.skip.Exception as skipped:
                outcome = "skip", skipped.msg
            except (Exception, pytest.fail.Exception) as error:  # the other ranks wait for the outcome
                outcome = "fail", repr(error)
        kind, text = comm.bcast(outcome)
        if kind != "address":
            getattr(pytest, kind)(text)
        yield server, text


# ---- what does not fit -----------------------------------------------------------------------------------------------


def test_unknown_models_and_versions(server):
    with pytest.raises(ServerRefusedError, match="unknown model: 'glass'"):
        TritonSurrogate("glass", server.address)
    with pytest.raises(ServerRefusedError, match="version 7"):
        TritonSurrogate("energy", server.address, version="7")


def test_models_that_do_not_fit(server):
    with pytest.raises(
        ServerRefusedError, match=r"must take one input, gradient \(-1, 4\) FP64.*it takes gradient \(-1, 3\)"
    ):
        TritonSurrogate("energy", server.address, spec=NeoHookean(1.0, 2.0).spec)
    with pytest.raises(ServerRefusedError, match=r"gradient \(-1, 3\) FP64.*it takes gradient \(-1, 3\) FP32"):
        TritonSurrogate("single", server.address, spec=LAW.spec)
    with pytest.raises(ServerRefusedError, match="does not say what single takes and gives.*pass spec="):
        TritonSurrogate("single", server.address)


def test_no_server():
    start = time.monotonic()
    with pytest.raises(ServerUnavailableError, match="UNAVAILABLE|DEADLINE"):
        TritonSurrogate("energy", "localhost:9", timeout=2.0)
    assert time.monotonic() - start < 4.0


def test_without_tritonclient(monkeypatch):
    monkeypatch.setitem(sys.modules, "tritonclient.grpc", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'twoscale\[triton\]'"):
        TritonSurrogate("energy")


def test_any_other_server_of_the_protocol():
    """One without shared memory and configuration, that sends numbers typed, an unpacked tangent and no status."""
    with kserve(LAW) as address:
        with pytest.raises(ServerRefusedError, match="pass spec="):
            TritonSurrogate("law", address)
        for memory in ("auto", "message"):
            with TritonSurrogate("law", address, spec=LAW.spec, memory=memory) as remote:
                answer, exact = remote.evaluate(GRADIENT, None, 1.0), LAW.evaluate(GRADIENT, None, 1.0)
                np.testing.assert_array_equal(answer.flux, exact.flux)
                np.testing.assert_array_equal(answer.tangent, exact.tangent)
                assert_conforms(remote)
        remote = TritonSurrogate("law", address, spec=LAW.spec, memory="system")
        with pytest.raises(ServerRefusedError, match="UNIMPLEMENTED"):
            remote.evaluate(GRADIENT, None, 1.0)


# ---- deaths ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def energy(repository, tmp_path):
    """A repository of this test's own."""
    shutil.copytree(repository / "energy", tmp_path / "repository" / "energy")
    return tmp_path / "repository"


@pytest.fixture
def mortal(energy):
    with triton(energy) as server:
        yield server


@pytest.mark.parametrize("memory", ["message", "system"])
def test_killed_and_started_again(mortal, memory):
    """In the middle of an evaluation: the local copy answers; after the restart the server does again."""
    many = np.tile(GRADIENT, (200, 1))
    with TritonSurrogate("energy", mortal.address, memory=memory, batch=500, timeout=60.0, attempts=1000) as remote:
        assert_right(remote.evaluate(many, None, 1.0), many)
        restart = threading.Timer(0.05, lambda: (mortal.end(), mortal.start()))
        restart.start()
        assert_right(remote.evaluate(many, None, 1.0), many)
        restart.join()
        assert remote.ledger.counts["server/losses"] >= 1
        assert remote.ledger.counts["server/sent again"] >= len(many)
        assert_right(remote.evaluate(GRADIENT, None, 1.0))


def test_the_local_copy_answers_then_the_breaker_opens(mortal):
    breaker = Breaker(losses=2, window=60.0, rest=0.5)
    with TritonSurrogate("energy", mortal.address, timeout=30.0, local=own_energy, breaker=breaker) as remote:
        mortal.end()
        for calls in (1, 2):
            start = time.monotonic()
            assert_right(remote.evaluate(GRADIENT, None, 1.0))
            assert time.monotonic() - start < 2.0
            assert remote.ledger.counts["server/local points"] == calls * len(GRADIENT)
        assert breaker.open
        start, losses = time.monotonic(), remote.ledger.counts["server/losses"]
        assert_right(remote.evaluate(GRADIENT, None, 1.0))
        assert time.monotonic() - start < 1.0
        assert remote.ledger.counts["server/losses"] == losses
        mortal.start()
        time.sleep(0.5)
        points = remote.ledger.counts["server/local points"]
        assert_right(remote.evaluate(GRADIENT, None, 1.0))
        assert remote.ledger.counts["server/local points"] == points


@pytest.mark.parametrize("memory", ["message", "system"])
def test_a_server_that_hangs_costs_the_deadline(mortal, memory):
    with TritonSurrogate("energy", mortal.address, timeout=0.7, memory=memory) as remote:
        assert_right(remote.evaluate(GRADIENT, None, 1.0))
        mortal.signal(signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(ServerUnavailableError):
            remote.evaluate(2.0 * GRADIENT, None, 1.0)
        assert 0.6 < time.monotonic() - start < 3.0
        mortal.signal(signal.SIGCONT)
        for _ in range(3):
            wait_for(lambda: remote.evaluate(GRADIENT, None, 1.0))
            assert_right(remote.evaluate(GRADIENT, None, 1.0))


# ---- versions, tokens, certificates ----------------------------------------------------------------------------------


def test_a_new_version_beside_the_one_in_use(energy):
    """A run goes on with the version that it began with."""
    polling = triton(energy, "--model-control-mode=poll", "--repository-poll-secs=1")
    with polling as server, TritonSurrogate("energy", server.address) as old:
        stiffer = own_energy()
        stiffer.function = scaled(stiffer.function, 2.0)
        assert export_triton(stiffer, energy, name="energy").name == "2"
        new = wait_for(lambda: newer(server.address))
        assert_right(old.evaluate(GRADIENT, None, 1.0))
        np.testing.assert_allclose(
            new.evaluate(GRADIENT, None, 1.0).flux,
            2.0 * LAW.evaluate(GRADIENT, None, 1.0).flux,
            rtol=1e-11,
            atol=1e-12,
        )
        new.close()


def scaled(function, factor):
    return lambda gradient: {name: factor * value for name, value in function(gradient).items()}


def newer(address):
    surrogate = TritonSurrogate("energy", address)
    if surrogate.version == "2":
        return surrogate
    surrogate.close()
    return None


def test_tokens_are_sent_with_every_request(energy):
    protected = "--grpc-restricted-protocol=inference,metadata,model-config,shared-memory:token=secret"
    with triton(energy, protected) as server:
        with pytest.raises(ServerUnavailableError, match="expecting header 'triton-grpc-protocol-token'"):
            TritonSurrogate("energy", server.address)
        with TritonSurrogate("energy", server.address, headers={"triton-grpc-protocol-token": "secret"}) as remote:
            assert_right(remote.evaluate(GRADIENT, None, 1.0))


def test_encrypted(energy, tmp_path):
    """Both sides show certificates; without them there is no answer."""
    certificate, key = str(tmp_path / "certificate.pem"), str(tmp_path / "key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        + ["-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    options = ["--grpc-use-ssl=true", "--grpc-use-ssl-mutual=true", f"--grpc-server-cert={certificate}"]
    options += [f"--grpc-server-key={key}", f"--grpc-root-cert={certificate}"]
    with triton(energy, *options) as server:
        for tls in (None, Tls(certificate)):
            with pytest.raises(ServerUnavailableError):
                TritonSurrogate("energy", server.address, tls=tls, timeout=2.0)
        with TritonSurrogate("energy", server.address, tls=Tls(certificate, key, certificate)) as remote:
            assert_right(remote.evaluate(GRADIENT, None, 1.0))


# ---- the repository --------------------------------------------------------------------------------------------------


def test_a_repository_keeps_models_apart(energy):
    with pytest.raises(ModelError, match="no older version of the same model"):
        export_triton(own_flux(), energy, name="energy")
    with pytest.raises(ModelError, match="letters, digits"):
        export_triton(own_flux(), energy, name="../law")
    assert sorted(path.name for path in energy.iterdir()) == ["energy"]
    assert sorted(path.name for path in (energy / "energy").iterdir()) == ["1", "config.pbtxt"]


def test_command(tmp_path):
    save_model(surrogate_of(random_polynomial(3, 3)), tmp_path / "cubic")
    line = [sys.executable, "-m", "coupling", "export", str(tmp_path / "cubic"), "--json"]
    line += ["--triton", str(tmp_path / "models"), "--program", str(tmp_path / "program")]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["triton"] == str(tmp_path / "models" / "cubic" / "1")
    assert (tmp_path / "models" / "cubic" / "1" / "model.onnx").exists()
    again = subprocess.run(
        [*line[:4], str(tmp_path / "program"), *line[5:8], "--name", "cubic"], capture_output=True, text=True
    )
    assert json.loads(again.stdout)["triton"] == str(tmp_path / "models" / "cubic" / "2"), again.stderr
    wrong = subprocess.run(
        [*line[:4], "tests.serving_models:linear_elastic", *line[6:8]], capture_output=True, text=True
    )
    assert wrong.returncode == 1
    assert "is a LinearElastic" in wrong.stderr

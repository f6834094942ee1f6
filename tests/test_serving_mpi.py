"""All ranks of a job ask one server."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

from mpi4py import MPI

import numpy as np
import pytest

from coupling import AcceleratedClosure, RangeGate
from coupling.closed_forms import StretchNeoHookean
from coupling.errors import RemoteRankError, ServerError
from coupling.serving import Breaker, CollectiveSurrogate, RemoteSurrogate, ask, device_of_rank
from coupling.serving.models import probes
from coupling.serving.starting import server_environment
from tests import serving_models
from tests.serving_processes import MODELS, NEO_HOOKEAN, SLOW, Running, kill, running, short_folder

comm = MPI.COMM_WORLD
pytestmark = [pytest.mark.mpi, pytest.mark.four_ranks, pytest.mark.timeout(60)]
LOCAL = serving_models.neo_hookean()


@pytest.fixture(scope="module")
def server():
    """Started by rank 0 with models for all tests; every rank has a handle."""
    if comm.rank:
        handle = comm.bcast(None)
        comm.barrier()
        yield handle
        comm.barrier()
        return
    with running(NEO_HOOKEAN, SLOW, f"{MODELS}Sensitive", f"{MODELS}linear_elastic", deaths=100) as server:
        comm.bcast(Handle(server))
        comm.barrier()
        yield Handle(server)
        comm.barrier()


class Handle:
    """What the other ranks need of the server."""

    def __init__(self, server: Running) -> None:
        self.address = server.address

    def surrogate(self, model=NEO_HOOKEAN, **options):
        return RemoteSurrogate(model, address=self.address, breaker=Breaker(1000), **options)

    def status(self):
        return ask(self.address, {"want": "status"})["status"]


def check(remote, n, seed=0):
    gradient = probes(remote.spec, n, 0.05 / (1 + seed))
    expected = LOCAL.evaluate(gradient, None, 1.0)
    answer = remote.evaluate(gradient, None, 1.0)
    np.testing.assert_allclose(answer.flux, expected.flux, rtol=1e-13)
    np.testing.assert_allclose(answer.tangent, expected.tangent, rtol=1e-13)


@pytest.mark.parametrize("uneven", [lambda r: 100, lambda r: 30_000 if r == 0 else 10, lambda r: 500 * r])
def test_uneven_loads_and_ranks_without_points(server, uneven):
    with server.surrogate() as remote:
        comm.barrier()
        for repeat in range(5):
            check(remote, uneven(comm.rank), comm.rank + repeat)
        if comm.rank == 0:
            assert server.status()["clients"] >= 1
        comm.barrier()


def test_a_different_model_on_each_rank(server):
    name = ("neo_hookean", "linear_elastic")[comm.rank % 2]
    local = getattr(serving_models, name)()
    with server.surrogate(MODELS + name) as remote:
        gradient = probes(local.spec, 3000, 0.05)
        np.testing.assert_allclose(
            remote.evaluate(gradient, None, 1.0).flux, local.evaluate(gradient, None, 1.0).flux, rtol=1e-13, atol=1e-16
        )


def test_the_server_dies_under_all_ranks(server):
    with server.surrogate() as remote:
        for repeat in range(3):
            comm.barrier()
            victim = comm.bcast(remote.server if comm.rank == 0 else None)
            if comm.rank == comm.size - 1:
                threading.Timer(0.002 * repeat, kill, (victim,)).start()
            for _ in range(5):
                check(remote, 5000)
        comm.barrier()


def test_all_ranks_fall_back_together(server):
    """The model fails on the last rank; with the collective surrogate all ranks have their fine scale serve."""
    with server.surrogate(f"{MODELS}Sensitive") as remote:
        gradient = probes(LOCAL.spec, 10)
        if comm.rank == comm.size - 1:
            gradient[0, 0] = 3.5
        with pytest.raises(ServerError if comm.rank == comm.size - 1 else RemoteRankError):
            CollectiveSurrogate(remote, comm).evaluate(gradient, None, 1.0)
        closure = AcceleratedClosure(StretchNeoHookean(1.0, 2.0), CollectiveSurrogate(remote, comm), gate=RangeGate())
        with pytest.warns(RuntimeWarning, match="the fine scale serves"):
            closure.evaluate(gradient, None, 1.0)
        assert closure.ledger.counts["fallback/points"] == 10


def test_all_ranks_adopt_the_same_version(server):
    with server.surrogate() as remote:
        comm.barrier()
        if comm.rank == 0:
            ask(server.address, {"want": "swap", "model": NEO_HOOKEAN, "source": f"{MODELS}stiffer"})
        number = remote.adopt(comm=comm)
        assert comm.allgather(number) == [number] * comm.size
        assert number > 1
        gradient = probes(LOCAL.spec, 100)
        expected = serving_models.stiffer().evaluate(gradient, None, 1.0).flux
        np.testing.assert_allclose(remote.evaluate(gradient, None, 1.0).flux, expected, rtol=1e-13)
        comm.barrier()
        if comm.rank == 0:
            ask(server.address, {"want": "rollback", "model": NEO_HOOKEAN})
        assert remote.adopt(comm=comm) < number
        comm.barrier()


def test_a_rank_dies(server):
    """A process with work under way is killed; the others are served, its work is forgotten."""
    script = (
        "import sys, os, numpy as np\n"
        "from coupling.serving import RemoteSurrogate\n"
        "from coupling.serving.models import probes\n"
        f"r = RemoteSurrogate({SLOW!r}, address=sys.argv[1])\n"
        "r.submit(probes(r.spec, 10000), None, 1.0)\n"
        "print('sent', flush=True)\n"
        "sys.stdin.read()\n"
    )
    comm.barrier()
    with server.surrogate() as remote:
        if comm.rank == 0:
            process = subprocess.Popen(
                [sys.executable, "-c", script, server.address],
                env=server_environment(1),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            assert process.stdout.readline() == b"sent\n"
            process.kill()
            process.communicate()
        comm.barrier()
        for _ in range(20):
            check(remote, 100)
        comm.barrier()
        if comm.rank == 0:
            assert server.status()["queue"]["points"] == 0
        comm.barrier()


def test_ranks_take_the_gpus_of_their_node_in_turn():
    assert comm.allgather(device_of_rank(comm, gpus=2)) == [f"cuda:{rank % 2}" for rank in range(comm.size)]
    assert device_of_rank(comm, gpus=0) == "cpu"


def test_two_jobs_share_the_server_of_the_node(monkeypatch):
    """The job of this test and another MPI program, each with all its ranks, find the same server."""
    with short_folder() as own:
        folder = comm.bcast(str(own))
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        monkeypatch.delenv("TWOSCALE_SERVER", raising=False)
        with RemoteSurrogate(NEO_HOOKEAN, device="cpu") as remote:
            check(remote, 1000)
            servers = comm.allgather(remote.server)
            if comm.rank == 0:
                script = (
                    "from coupling.serving import RemoteSurrogate\n"
                    "from coupling.serving.models import probes\n"
                    f"r = RemoteSurrogate({NEO_HOOKEAN!r}, device='cpu')\n"
                    "r.evaluate(probes(r.spec, 5000), None, 1.0)\n"
                    "print(r.server)\n"
                )
                environment = {**server_environment(1), "XDG_RUNTIME_DIR": folder}
                jobs = [
                    subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
                    for _ in range(2)
                ]
                servers += [int(job.communicate(timeout=30)[0]) for job in jobs]
            assert len(set(servers)) == 1
            comm.barrier()
            if comm.rank == 0:
                ask(remote.address, {"want": "stop"})
        comm.barrier()
    assert not os.path.exists(folder) or comm.rank

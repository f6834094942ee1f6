"""Which GPU serves a process, on machines that exist as files only; what serves there is a CPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path

from mpi4py import MPI

import numpy as np
import pytest
from typer.testing import CliRunner

from coupling.command_line import app
from coupling.errors import RemoteRankError, ServerError
from coupling.serving import CollectiveSurrogate, RemoteSurrogate, ask, device_of_rank
from coupling.serving.address import addresses_of_node, node_address
from coupling.serving.gpus import Gpu, chosen, numa_nodes, usable_gpus, visible_gpus
from coupling.serving.locality import LOCAL_RANKS, local_rank, nearest
from coupling.serving.models import probes
from coupling.serving.starting import server_environment
from tests import serving_models
from tests.serving_processes import (
    MODELS,
    NEO_HOOKEAN,
    alive,
    end_servers,
    kill,
    node_of_its_own,
    short_folder,
    wait_for,
)

comm = MPI.COMM_WORLD
pytestmark = pytest.mark.timeout(60)
STIFFER = f"{MODELS}stiffer"


def bus(root, number):
    """PCI address of a GPU, in a domain of this machine's own: tests that run at once do not take each other's."""
    return f"{zlib.crc32(bytes(root)) % (1 << 16):04x}:{16 * number + 7:02x}:00.0"


def machine(root, gpus, nodes=(), minors=None, uuids=None, extra=""):
    """Files of a machine with a GPU on each of these NUMA nodes, which have those cores and distances."""
    for number, (cores, distances) in enumerate(nodes):
        write(root / f"sys/devices/system/node/node{number}/cpulist", cores)
        write(root / f"sys/devices/system/node/node{number}/distance", distances)
    for number, node in enumerate(gpus):
        name, minor = bus(root, number), number if minors is None else minors[number]
        uuid = f"GPU-{number}0000000" if uuids is None else uuids
        text = f"Model: \t\t NVIDIA A100\nIRQ:   \t\t 33\nGPU UUID: \t {uuid}\nBus Location: \t {name}\n{extra}"
        write(root / f"proc/driver/nvidia/gpus/{name}/information", f"{text}Device Minor: \t {minor}\n")
        write(root / f"sys/bus/pci/devices/{name}/numa_node", str(node))
        write(root / f"dev/nvidia{minor}", "")
    write(root / "dev/nvidiactl", "")
    return root


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


ONE_SOCKET = [("0-7", "10")]
TWO_SOCKETS = [("0-7", "10 21"), ("8-15", "21 10")]
WITH_SMT = [("0-3,8-11", "10 21"), ("4-7,12-15", "21 10")]
QUARTERS = [
    ("0-3", "10 12 32 32"),
    ("4-7", "12 10 32 32"),
    ("8-11", "32 32 10 12"),
    ("12-15", "32 32 12 10"),
]
ALL = range(16)


@pytest.mark.parametrize(
    ("nodes", "gpus", "cores", "expected"),
    [
        (ONE_SOCKET, [0], {3}, [0]),
        (ONE_SOCKET, [0, 0], {3}, [0, 1]),
        (TWO_SOCKETS, [0, 1], {3}, [0]),
        (TWO_SOCKETS, [0, 1], {8, 9}, [1]),
        (TWO_SOCKETS, [1, 0], {8, 9}, [0]),
        (TWO_SOCKETS, [0, 1], ALL, [0, 1]),
        (TWO_SOCKETS, [0, 0, 1, 1], {15}, [2, 3]),
        (TWO_SOCKETS, [0, 0, 0, 0, 1, 1, 1, 1], {0}, [0, 1, 2, 3]),
        (TWO_SOCKETS, [0, 1, 0, 1, 0, 1, 0, 1], {9}, [1, 3, 5, 7]),
        (TWO_SOCKETS, [0, 1], {6, 7, 8}, [0]),  # most of its cores are there
        (TWO_SOCKETS, [0, 0], {12}, [0, 1]),  # none on its socket
        (WITH_SMT, [0, 1], {2, 10}, [0]),
        (WITH_SMT, [0, 1], {12}, [1]),
        (WITH_SMT, [0, 1], {8, 12}, [0, 1]),
        (QUARTERS, [1, 3], {0}, [0]),  # none on its node, one on its socket
        (QUARTERS, [1, 3], {8, 9}, [1]),
        (QUARTERS, [0, 1, 2, 3], {4, 5, 6, 7}, [1]),
        (TWO_SOCKETS, [-1, -1], {8}, [0, 1]),
        (TWO_SOCKETS, [0, -1], {8}, [0, 1]),
        (TWO_SOCKETS, [0, 7], {8}, [0, 1]),  # a node that is not shown
        (TWO_SOCKETS, [0, 1], {99}, [0, 1]),  # a core that is not shown
        ([], [0, 1], {8}, [0, 1]),
        (TWO_SOCKETS, [], {8}, []),
    ],
)
def test_the_nearest_gpus(tmp_path, monkeypatch, nodes, gpus, cores, expected):
    monkeypatch.setattr("coupling.serving.gpus.ROOT", machine(tmp_path, gpus, nodes))
    assert nearest(usable_gpus(), numa_nodes(), cores) == expected


def test_nodes_without_distances_are_far_from_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr("coupling.serving.gpus.ROOT", machine(tmp_path, [0, 1], [("0-7", ""), ("8-15", "")]))
    assert nearest(usable_gpus(), numa_nodes(), {8, 9, 0}) == [1]


def test_gpus_are_counted_in_the_order_of_their_addresses(tmp_path, monkeypatch):
    monkeypatch.setattr("coupling.serving.gpus.ROOT", machine(tmp_path, [0, -1, 1], TWO_SOCKETS, minors=[2, 0, 1]))
    assert usable_gpus() == [
        Gpu(bus(tmp_path, 0), 0, "GPU-00000000"),
        Gpu(bus(tmp_path, 1), None, "GPU-10000000"),
        Gpu(bus(tmp_path, 2), 1, "GPU-20000000"),
    ]
    (tmp_path / "dev/nvidia2").unlink()  # as in a container, or behind permissions
    assert [gpu.name for gpu in usable_gpus()] == [bus(tmp_path, 1), bus(tmp_path, 2)]


def test_gpus_that_the_driver_leaves_out_do_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr("coupling.serving.gpus.ROOT", machine(tmp_path, [0], extra="GPU Excluded:\t Yes\n"))
    (tmp_path / "dev/nvidia0").unlink()
    assert usable_gpus() == []


def test_where_the_driver_says_nothing_the_device_files_count(tmp_path, monkeypatch):
    monkeypatch.setattr("coupling.serving.gpus.ROOT", tmp_path)
    assert usable_gpus() == []
    for name in ("nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm"):
        write(tmp_path / f"dev/{name}", "")
    assert usable_gpus() == [Gpu("nvidia2"), Gpu("nvidia10")]


FOUR = [Gpu(f"0000:0{n}:00.0", 0, f"GPU-{n}f6d-11") for n in range(4)]


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        (None, FOUR),
        ("", []),
        ("-1", []),
        ("2,1", [FOUR[2], FOUR[1]]),
        ("0,2,-1,1", [FOUR[0], FOUR[2]]),  # the examples of the CUDA Programming Guide
        ("0,11,1", [FOUR[0]]),
        ("GPU-2f6d", [FOUR[2]]),
        ("GPU-9", [Gpu("GPU-9")]),
        ("MIG-41bd,MIG-9ad1", [Gpu("MIG-41bd")]),
        ("MIG-GPU-2f6d/1/0", [Gpu("MIG-GPU-2f6d/1/0")]),
    ],
)
def test_cuda_visible_devices(listed, expected):
    assert chosen(FOUR, listed) == expected


def test_a_uuid_that_the_driver_does_not_know_yet(tmp_path, monkeypatch):
    monkeypatch.setattr("coupling.serving.gpus.ROOT", machine(tmp_path, [0, 0], uuids="GPU-????????-????"))
    assert {gpu.uuid for gpu in usable_gpus()} == {""}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1")
    assert visible_gpus() == [Gpu("GPU-1")]


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, 0),
        ({"SLURM_LOCALID": "3"}, 3),
        ({"SLURM_LOCALID": "0", "OMPI_COMM_WORLD_LOCAL_RANK": "5"}, 5),  # mpirun in an allocation of Slurm
        ({"SLURM_LOCALID": "0", "MPI_LOCALRANKID": "2"}, 2),
        ({"PMI_LOCAL_RANK": ""}, 0),
    ],
)
def test_the_rank_in_the_node(environment, rank):
    assert local_rank(environment) == rank


# ---- who gets which --------------------------------------------------------------------------------------------------

TAKE = """
import os, sys
from pathlib import Path
from coupling.serving import gpus, locality
gpus.ROOT = Path(sys.argv[1])
os.sched_getaffinity = lambda pid: set(map(int, sys.argv[2].split(",")))  # this machine need not have these cores
print(locality.own_device(), locality.own_device(), flush=True)
assert "torch" not in sys.modules
sys.stdin.read()
"""


def take(root, cores, **environment):
    """A process that may run on those cores, and its device; it goes when its input is closed."""
    clean = {name: value for name, value in os.environ.items() if name not in (*LOCAL_RANKS, "CUDA_VISIBLE_DEVICES")}
    process = subprocess.Popen(
        [sys.executable, "-c", TAKE, str(root), cores],
        env=clean | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    device, again = process.stdout.readline().split()
    assert device == again
    return process, device


def go(*processes):
    for process in processes:
        process.communicate(timeout=10)
        assert process.returncode == 0


@pytest.mark.parametrize("launcher", [None, "OMPI_COMM_WORLD_LOCAL_RANK"])
def test_processes_spread_evenly_however_they_are_bound(tmp_path, launcher):
    """Ranks in turn on two sockets, as Open MPI maps them: in turn by rank, every second GPU would have nobody."""
    root = machine(tmp_path, [0, 0, 1, 1], TWO_SOCKETS)
    taken = [
        take(root, str(8 * (rank % 2) + rank), **({} if launcher is None else {launcher: str(rank)}))
        for rank in range(8)
    ]
    go(*(process for process, _ in taken))
    assert Counter(device for _, device in taken[::2]) == {"auto:0": 2, "auto:1": 2}
    assert Counter(device for _, device in taken[1::2]) == {"auto:2": 2, "auto:3": 2}


def test_the_rank_says_which_gpu_to_try_first_and_who_has_gone_does_not_count(tmp_path):
    root = machine(tmp_path, [-1, -1, -1], ONE_SOCKET)
    devices = []
    for rank in ("2", "2", "2"):
        process, device = take(root, "0", SLURM_LOCALID=rank)
        devices.append(device)
        go(process)
    first, device = take(root, "0")
    second, other = take(root, "0", CUDA_VISIBLE_DEVICES="2,0")
    go(first, second)
    assert devices == ["auto:2"] * 3
    assert (device, other) == ("auto:0", "auto:0")  # which is another one


@pytest.mark.mpi
def test_ranks_to_which_the_same_are_nearest_take_them_in_turn(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("coupling.serving.gpus.ROOT", machine(tmp_path, [0, 0, 1, 1], TWO_SOCKETS))
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {8 * (comm.rank % 2)})
    expected = ["cuda:0", "cuda:2", "cuda:1", "cuda:3"]
    assert comm.allgather(device_of_rank(comm)) == expected[: comm.size]


# ---- one server for each GPU -----------------------------------------------------------------------------------------


def test_a_gpu_has_one_address_whatever_its_number(tmp_path, monkeypatch):
    monkeypatch.setattr("coupling.serving.gpus.ROOT", machine(tmp_path, [0, 0, 0], ONE_SOCKET))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with node_of_its_own():
        whole = [node_address(f"cuda:{number}") for number in range(3)]
        assert [node_address(f"auto:{number}") for number in range(3)] == whole
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
        assert [node_address("cuda:0"), node_address("auto:1")] == [whole[2], whole[0]]
        assert node_address("cuda:2") not in whole
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-GPU-5/1/0")
        assert Path(node_address("cuda:0")).parent == Path(whole[0]).parent
        assert len({*whole, node_address("cuda:0"), node_address("cpu"), node_address("auto")}) == 6


def status(address):
    return ask(address, {"want": "status"})["status"]


COMMAND = """
import sys
from pathlib import Path
from coupling.serving import gpus
gpus.ROOT = Path(sys.argv.pop(1))
from coupling.command_line import app
app()()
"""


def serving(root, *models):
    """``twoscale serve`` on a machine."""
    line = [sys.executable, "-c", COMMAND, str(root), "serve", *models]
    return subprocess.Popen(line, env=server_environment(1), stderr=subprocess.DEVNULL)


def twoscale(*arguments):
    """Exit code, output and errors of ``twoscale serve``."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app(), ["serve", *arguments])
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


def test_the_command_serves_and_shows_and_changes_all_gpus(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("coupling.serving.gpus.ROOT", machine(tmp_path, [0, 1], TWO_SOCKETS))
    with node_of_its_own():
        code, _, error = twoscale("--status")
        assert code == 1 and "no model server of yours answers" in error
        server = serving(tmp_path, f"m={NEO_HOOKEAN}")
        try:
            addresses = [node_address("cuda:0"), node_address("cuda:1")]
            pids = [wait_for(lambda a=a: status(a)["pid"]) for a in addresses]
            assert len(set(pids)) == 2
            code, _, error = twoscale(f"m={NEO_HOOKEAN}")
            assert code == 1 and "a server is running" in error

            with RemoteSurrogate("m") as remote:  # by name: nobody would have to start a server
                assert remote.address in addresses
                remote.evaluate(probes(remote.spec, 64), None, 1.0)
                code, table, _ = twoscale("--status")
                assert code == 0 and all(str(pid) in table for pid in pids)
                states = json.loads(twoscale("--status", "--json")[1])
            assert sorted(state["pid"] for state in states) == sorted(pids)
            assert sorted(model["points"] for state in states for model in state["models"]) == [0, 64]
            one = json.loads(twoscale("--status", "--json", "--device", "cuda:1")[1])
            assert one["address"] == addresses[1]

            assert twoscale("--swap", f"m={STIFFER}")[0] == 0
            assert {status(a)["models"][0]["current"] for a in addresses} == {2}
            assert twoscale("--rollback", "m")[0] == 0
            assert {status(a)["models"][0]["current"] for a in addresses} == {1}
            assert twoscale("--swap", f"m={STIFFER}", "--device", "cuda:0")[0] == 0
            assert [status(a)["models"][0]["current"] for a in addresses] == [3, 1]
            code, _, error = twoscale("--rollback", "n")
            assert code == 1 and "no model 'n'" in error
            assert twoscale("--stop")[0] == 0
            assert server.wait(10) == 0
        finally:
            server.terminate()
            server.wait()


def test_all_servers_end_with_their_parent(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("coupling.serving.gpus.ROOT", machine(tmp_path, [0, 1], TWO_SOCKETS))
    with node_of_its_own():
        server = serving(tmp_path, NEO_HOOKEAN)
        pids = [wait_for(lambda k=k: status(node_address(f"cuda:{k}"))["pid"]) for k in range(2)]
        server.send_signal(signal.SIGTERM)
        assert server.wait(10) == 0
        assert not any(alive(pid) for pid in pids)
        assert addresses_of_node() == []


@pytest.fixture
def two_gpus(tmp_path, monkeypatch):
    """All ranks are on a machine of two GPUs, of which nothing else is known; the folder of its servers."""
    root = Path(comm.bcast(str(tmp_path)))
    if comm.rank == 0:
        machine(root, [-1, -1])
    comm.barrier()
    monkeypatch.setattr("coupling.serving.gpus.ROOT", root)
    for name in ("CUDA_VISIBLE_DEVICES", "TWOSCALE_SERVER"):
        monkeypatch.delenv(name, raising=False)
    with short_folder() as own:
        folder = comm.bcast(str(own))
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield
        comm.barrier()
        if comm.rank == 0:
            end_servers(own)
        comm.barrier()


def check(surrogate, law):
    gradient = probes(surrogate.spec, 100 + comm.rank)
    expected = law.evaluate(gradient, None, 1.0).flux
    np.testing.assert_allclose(surrogate.evaluate(gradient, None, 1.0).flux, expected, rtol=1e-13)


def swap(remote, source):
    ask(remote.address, {"want": "swap", "model": NEO_HOOKEAN, "source": source})


@pytest.mark.mpi
@pytest.mark.four_ranks
def test_the_ranks_of_a_job_start_and_share_a_server_for_each_gpu(two_gpus):
    with RemoteSurrogate(NEO_HOOKEAN) as remote, RemoteSurrogate(STIFFER) as other:
        assert other.server == remote.server
        check(remote, serving_models.neo_hookean())
        check(other, serving_models.stiffer())
        counts = Counter(comm.allgather(remote.server))
        assert len(counts) == min(2, comm.size)
        assert max(counts.values()) - min(counts.values()) <= 1
        assert set(comm.allgather(remote.address)) == set(addresses_of_node())
        comm.barrier()
        kill(remote.server)
        check(remote, serving_models.neo_hookean())
        comm.barrier()


@pytest.mark.mpi
@pytest.mark.four_ranks
def test_ranks_of_different_servers_adopt_the_same_version(two_gpus):
    """Their servers number it differently."""
    with RemoteSurrogate(NEO_HOOKEAN) as remote:
        first = comm.allgather(remote.server).index(remote.server) == comm.rank
        comm.barrier()
        if first and comm.rank:  # a version that the server of rank 0 never has
            swap(remote, f"{MODELS}slowly_loaded")
        if first:
            swap(remote, STIFFER)
        comm.barrier()
        number = remote.adopt(comm=comm)
        expected = 2 if remote.server == comm.bcast(remote.server) else 3
        assert number == remote.version == expected
        check(CollectiveSurrogate(remote, comm), serving_models.stiffer())

        comm.barrier()
        if comm.rank == 0:
            ask(remote.address, {"want": "rollback", "model": NEO_HOOKEAN})
        comm.barrier()
        assert remote.adopt(comm=comm) == 1 or comm.rank
        check(CollectiveSurrogate(remote, comm), serving_models.neo_hookean())


@pytest.mark.mpi
def test_no_rank_adopts_what_the_server_of_another_lacks(two_gpus):
    with RemoteSurrogate(NEO_HOOKEAN) as remote:
        comm.barrier()
        if comm.rank == 0:
            swap(remote, STIFFER)
        comm.barrier()
        if comm.size > 1:
            alone = remote.server != comm.bcast(remote.server)
            with pytest.raises(ServerError if alone else RemoteRankError):
                remote.adopt(comm=comm)
            assert comm.allgather(remote.version) == [1] * comm.size
            check(CollectiveSurrogate(remote, comm), serving_models.neo_hookean())
            comm.barrier()

"""Which GPU is a process's own: the nearest, and where several are, the one that fewest others have taken."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from itertools import count
from typing import Any

from coupling.serving.gpus import Gpu, NumaNode, numa_nodes, visible_gpus

LOCAL_RANKS = (
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "PALS_LOCAL_RANKID",
    "PMI_LOCAL_RANK",
    "MV2_COMM_WORLD_LOCAL_RANK",
    "FLUX_TASK_LOCAL_ID",
    "SLURM_LOCALID",
)
"""Where launchers tell a process its rank in its node; Slurm's last, as it may be that of another launcher."""


def nearest(gpus: Sequence[Gpu], nodes: Sequence[NumaNode], cores: Collection[int]) -> list[int]:
    """Numbers of the GPUs that are nearest to a process which may run on these cores; all where that is unknown.

    The distance of GPU g is Σ_c d(n(c), n(g)) over the cores c: d is the distance between two NUMA nodes, n the node of
    a core or GPU.
    """
    places = [gpu.node for gpu in gpus if gpu.node in {node.number for node in nodes}]
    if len(places) < len(gpus):
        return list(range(len(gpus)))
    shares = [(len(node.cores.intersection(cores)), node.distances) for node in nodes]
    lengths = [sum(share * distances[place] for share, distances in shares) for place in places]
    return [number for number, length in enumerate(lengths) if length == min(lengths)]


def own_device() -> str:
    """This process's own GPU of those it sees, as "auto:K"; "auto" where it sees none.

    Processes to which several GPUs are equally near spread evenly over them, whoever has started them, by taking the
    next that is free; the rank in the node, where the launcher tells it, says which to try first. Asked again, the
    answer is the same.
    """
    gpus = visible_gpus()
    near = _near(gpus)
    if not near:
        return "auto"
    turn = local_rank(os.environ) % len(near)
    names = [gpus[number].name for number in near[turn:] + near[:turn]]
    return f"auto:{[gpu.name for gpu in gpus].index(_taken(tuple(names)))}"


def local_rank(environment: Mapping[str, str]) -> int:
    """Rank of this process among those of its node, as launchers say; 0 where none does."""
    said = (environment.get(name, "") for name in LOCAL_RANKS)
    return next((int(text) for text in said if text.isdecimal()), 0)


def device_of_rank(comm: Any, gpus: int | None = None) -> str:
    """The GPU nearest to the rank, "cuda:0", "cuda:1", …; "cpu" where its node has none (collective).

    The ranks of a node to which the same are nearest take them in turn. A node is what MPI says shares memory. A
    :class:`coupling.serving.RemoteSurrogate` chooses by itself, among equally near GPUs in another order perhaps; pass
    the result as its ``device`` where the order matters.

    Args:
        comm: the communicator of the job.
        gpus: that the rank sees, all equally near, None to look for them.
    """
    node = node_of(comm)
    near = _near(visible_gpus()) if gpus is None else list(range(gpus))
    turn = node.allgather(near)[: node.rank].count(near)
    node.Free()
    return f"cuda:{near[turn % len(near)]}" if near else "cpu"


def device_in_turn(index: int) -> str:
    """The device of the process of that index among those of a node that take its GPUs in turn."""
    gpus = len(visible_gpus())
    return f"cuda:{index % gpus}" if gpus else "cpu"


def node_of(comm: Any) -> Any:
    """The ranks that share memory with this one, a new communicator (collective)."""
    from mpi4py import MPI

    return comm.Split_type(MPI.COMM_TYPE_SHARED)


def _near(gpus: Sequence[Gpu]) -> list[int]:
    return nearest(gpus, numa_nodes(), os.sched_getaffinity(0))


@cache
def _taken(names: tuple[str, ...]) -> str:
    """The GPU that fewest of the user's processes have taken, the first of several; this one has taken it for life."""
    return next(name for times in count() for name in names if _take(f"twoscale-{os.getuid()}-{name}-{times}"))


def _take(name: str) -> bool:
    """Whether no other process has that name, which this one has then until it ends: that of an abstract socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.bind(f"\0{name}")
        except OSError as error:
            return error.errno != errno.EADDRINUSE
        sock.detach()  # stays open
    return True

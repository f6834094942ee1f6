"""Which device a rank's server computes on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def device_of_rank(comm: Any, gpus: int | None = None) -> str:
    """The ranks of a node take the GPUs they see in turn, "cuda:0", "cuda:1", …; "cpu" where it has none (collective).

    A node is what MPI says shares memory. Pass the result as ``device`` of
    :class:`coupling.serving.RemoteSurrogate`: there is one server for every GPU then.

    Args:
        comm: the communicator of the job.
        gpus: that the rank sees, None to count them.
    """
    node = node_of(comm)
    rank = node.rank
    node.Free()
    return device_in_turn(rank, gpus)


def device_in_turn(index: int, gpus: int | None = None) -> str:
    """The device of the process of that index among those of a node that take its GPUs in turn."""
    there = sum(1 for _ in Path("/dev").glob("nvidia[0-9]*"))
    count = visible_gpus(there, os.environ.get("CUDA_VISIBLE_DEVICES")) if gpus is None else gpus
    return f"cuda:{index % count}" if count else "cpu"


def visible_gpus(there: int, listed: str | None) -> int:
    """GPUs that a process sees of those that are there, with that value of CUDA_VISIBLE_DEVICES."""
    return there if listed is None else min(there, sum(name.strip() not in ("", "-1") for name in listed.split(",")))


def node_of(comm: Any) -> Any:
    """The ranks that share memory with this one, a new communicator (collective)."""
    from mpi4py import MPI

    return comm.Split_type(MPI.COMM_TYPE_SHARED)

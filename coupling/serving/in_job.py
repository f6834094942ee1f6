"""Servers inside an MPI job, for machines that forbid processes beside it: some ranks of every node serve the others.

    from coupling.serving.in_job import in_job_servers

    with in_job_servers(MPI.COMM_WORLD, "path/to/model") as job:
        if job is not None:  # None on the ranks that have served
            solve(job.comm, job.surrogate())

The last ``per_node`` ranks of every node load the models, evaluate what the other ranks ask for in common batches, and
come out of the block with None when all the others have. These have a communicator of their own, in the order of their
ranks.

What a server outside the job does and this does not:

* **It is not fault tolerant.** A rank that dies takes the job with it, as in every MPI job; a server that hangs is
  waited for. Nothing is restarted, and no local copy steps in. A rank that raises leaves, and the servers serve the
  others; where these wait for it in a collective call, they wait for ever, unless the error ends the job
  (``python -m mpi4py script.py``).
* One job has the servers to itself, there are no versions to swap, no status to ask for.
* A server occupies a rank, and a core, also while nobody asks. Where ranks outnumber cores it looks for requests less
  and less often, up to a millisecond apart; else all the time, as MPI does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mpi4py import MPI

from coupling.agreement import together
from coupling.contract import Array, ClosureSpec
from coupling.errors import ContractError, ModelError, RemoteRankError
from coupling.serving.in_job_server import LEAVE, Channel, InJobServer
from coupling.serving.in_job_surrogate import InJobLink, InJobSurrogate
from coupling.serving.loading import canonical
from coupling.serving.locality import device_in_turn, node_of
from coupling.serving.models import Model, Version, prepare
from coupling.serving.segment import Layout
from coupling.serving.waiting import BackOff, crowded


@dataclass(frozen=True)
class Job:
    """What a rank that solves has.

    Args:
        comm: the communicator of the ranks that solve; it stays valid after the block.
        surrogates: one for each model, by name.
    """

    comm: Any
    surrogates: Mapping[str, InJobSurrogate]

    def surrogate(self, name: str | None = None) -> InJobSurrogate:
        """The surrogate of that name; of the only model without one.

        Raises:
            ModelError: where there is none of that name, or none is given and there are several.
        """
        if name is None and len(self.surrogates) == 1:
            return next(iter(self.surrogates.values()))
        if name is None or name not in self.surrogates:
            raise ModelError(f"there is no model {name!r}: give one of {', '.join(self.surrogates)}")
        return self.surrogates[name]


@contextmanager
def in_job_servers(
    comm: Any,
    models: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]],
    *,
    per_node: int = 1,
    device: str = "auto",
) -> Iterator[Job | None]:
    """Let the last ranks of every node serve the others inside this block (collective), see the module's docstring.

    Where a rank raises inside the block, its error goes on; servers and all ranks that come to the end of the block
    raise :class:`RemoteRankError`.

    Args:
        comm: the communicator of the job.
        models: path of a model folder or ``module:object``, or several by name.
        per_node: how many ranks of every node serve.
        device: that they compute on: "cpu", "cuda:K", or "auto", by which they take the node's GPUs in turn.

    Raises:
        ContractError: where a node has no rank left to solve.
        ModelError: where a model cannot be loaded.
        RemoteRankError: where either happens on another rank.
    """
    sources = {"": models} if isinstance(models, str | os.PathLike) else dict(models)
    node = node_of(comm)
    together(comm, lambda: _check_size(node.size, per_node))
    solving = node.size - per_node
    index = node.rank - solving
    team, waiting = comm.Split(int(index >= 0), comm.rank), BackOff(crowded(node))
    place = device_in_turn(index) if device == "auto" else device
    versions = together(comm, lambda: _loaded(sources, place) if index >= 0 else {})
    _check_same(comm.allgather([(v.source, v.fingerprint) for v in versions.values()]))
    offers = [_Offer(name, node, versions.get(name), solving) for name in sources]
    if index >= 0:
        clients = sum(client % per_node == index for client in range(solving))
        _serve(team, offers, clients, waiting)
        yield None
        return
    server = solving + node.rank % per_node
    surrogates = {offer.name: offer.surrogate(server, waiting) for offer in offers}
    try:
        yield Job(team, surrogates)
    except BaseException as error:
        _leave(surrogates, offers[0].comm, server, f"rank {comm.rank} of {comm.size} failed: {error!r}")
        raise
    _leave(surrogates, offers[0].comm, server, "")
    elsewhere = _farewell(offers[0].comm, server, waiting)
    if elsewhere:
        raise RemoteRankError(elsewhere)


class _Offer:
    """A model as all ranks of a node know it: its channel, specification and initial state (made collectively)."""

    def __init__(self, name: str, node: Any, version: Version | None, server: int) -> None:
        self.name, self.comm, self.version = name, node.Dup(), version
        what = None
        if version is not None:
            evaluator = version.evaluator
            layout = Layout.fitting(evaluator.spec, slot_bytes=evaluator.message_bytes)
            what = evaluator.spec, layout, version.optional, version.initial_state
        self.spec: ClosureSpec
        self.layout: Layout
        self.initial_state: Array | None
        self.spec, self.layout, self.optional, self.initial_state = self.comm.bcast(what, server)

    def surrogate(self, server: int, waiting: BackOff) -> InJobSurrogate:
        """The surrogate of a rank that solves."""
        link = InJobLink(self.comm, server, self.spec, self.layout, self.optional, waiting)
        return InJobSurrogate(link, self.initial_state)

    def channel(self) -> Channel:
        """What a server needs to serve it."""
        assert self.version is not None
        model = Model(self.name)
        model.switch(self.version)
        return Channel(self.comm, self.layout, model)


def _serve(team: Any, offers: list[_Offer], clients: int, waiting: BackOff) -> None:
    """Serve until all clients have left; tell them and the other servers what went wrong anywhere."""
    server = InJobServer([offer.channel() for offer in offers], clients, waiting)
    errors = [error for errors in team.allgather(server.run()) for error in errors]
    text = errors[0].encode() if errors else b""
    for client in server.left:
        offers[0].comm.Isend([text, MPI.BYTE], client, LEAVE).Free()
    if errors:
        raise RemoteRankError(errors[0])


def _leave(surrogates: Mapping[str, InJobSurrogate], comm: Any, server: int, error: str) -> None:
    for surrogate in surrogates.values():
        surrogate.close()
    comm.Send([error.encode(), MPI.BYTE], server, LEAVE)


def _farewell(comm: Any, server: int, waiting: BackOff) -> str:
    """What went wrong on other ranks, once all have left."""
    status = MPI.Status()
    waiting.reset()
    while (message := comm.Improbe(server, LEAVE, status)) is None:
        waiting.pause()
    text = bytearray(status.Get_count(MPI.BYTE))
    message.Recv([text, MPI.BYTE])
    return text.decode()


def _loaded(sources: Mapping[str, str | os.PathLike[str]], device: str) -> dict[str, Version]:
    return {name: prepare(canonical(os.fspath(source)), 1, device) for name, source in sources.items()}


def _check_size(size: int, per_node: int) -> None:
    if not 0 < per_node < size:
        raise ContractError(
            f"{per_node} of the {size} ranks of this node are to serve, and one at least has to solve: "
            "start more ranks, or use a server outside the job (RemoteSurrogate)"
        )


def _check_same(loaded: list[list[tuple[str, str]]]) -> None:
    """The same files on all nodes; on all ranks alike."""
    kinds = sorted({tuple(prints) for prints in loaded if prints})
    if len(kinds) > 1:
        raise ModelError(f"the nodes have different files under the same path: {kinds[0]} and {kinds[1]}")

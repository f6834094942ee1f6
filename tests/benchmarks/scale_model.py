"""A discrete-event model of ranks that ask a shared server in step: who waits for whom, and how long.

In every iterate each rank works by itself (assembly, its share of the solve), sends its points to its server in
requests of a slot each, and waits for the results; then all ranks of the job meet, as they do in the reductions of a
Newton iteration. A server forms batches with the queue of the real one (:class:`coupling.serving.batching.FairQueue`).

A batch goes through three stations that work at the same time on different batches: the way in, the computation, the
way out. On a CPU only the computation takes time; on a GPU the ways are its bus, and for GPUs elsewhere the network
interface of the rank's node comes before and after them. On a node with fewer cores than ranks and servers, whoever
computes holds a core (first come, first served).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import simpy

from coupling.contract import Array
from coupling.serving.batching import Batch, FairQueue, Piece
from coupling.serving.exchange import NEVER
from coupling.serving.frames import Request
from coupling.serving.models import Model, Version

Steps: TypeAlias = Generator[simpy.Event, Any, None]


@dataclass(frozen=True)
class Costs:
    """Seconds, per what is named.

    Args:
        service: of a batch of n points, as a rule; ``scatter`` gives factors by which that varies, drawn at random.
        per_batch: of the server, for what surrounds the computation of a batch; ``per_piece`` for each request in it.
        fill: of the client, per point, to hand it over.
        read: of the client, per point, to take its results.
        per_request: of the client.
        wake: until a process that sleeps goes on, no core being busy with it.
        way_in: per point, to where it is computed; ``way_out`` of its results.
        network_in: per point, of the interface of the rank's node; ``network_out`` of its results.
    """

    service: Callable[[int], float]
    scatter: Callable[[int], Array] = lambda n: np.ones(1)
    per_batch: float = 0.0
    per_piece: float = 0.0
    fill: float = 0.0
    read: float = 0.0
    per_request: float = 0.0
    wake: float = 0.0
    way_in: float = 0.0
    way_out: float = 0.0
    network_in: float = 0.0
    network_out: float = 0.0


@dataclass(frozen=True)
class Layout:
    """Who is where.

    Args:
        ranks: of the job.
        per_server: ranks that share a server.
        per_node: ranks that share a network interface and cores.
        cores: of a node for its ranks and servers, None for enough.
        slot: points of a request at most, and ``slots`` of a client under way.
    """

    ranks: int
    per_server: int
    per_node: int
    cores: int | None = None
    slot: int = 32_768
    slots: int = 8


@dataclass(frozen=True)
class Load:
    """What ranks do: ``iterates`` times ``work(rank, iterate)`` seconds by themselves, then a call for ``points``."""

    points: int
    work: Callable[[int, int], float]
    iterates: int


@dataclass
class Run:
    """What happened.

    Args:
        latencies: (iterates, ranks) seconds from first request to last result.
        iterates: (iterates,) seconds from meeting to meeting.
        busy: seconds that each server computed.
    """

    latencies: Array
    iterates: Array
    busy: list[float] = field(default_factory=list)


class Server:
    """One server: a real queue, and stations that take the time they cost."""

    def __init__(self, env: simpy.Environment, costs: Costs, version: Version, cores: simpy.Resource | None) -> None:
        self._env, self._costs, self._version, self._cores = env, costs, version, cores
        self._queue: FairQueue[int] = FairQueue()
        self._model = Model("model")
        self._done: dict[Piece[int], simpy.Event] = {}
        self._rung = env.event()
        self._in, self._out = simpy.Resource(env), simpy.Resource(env)
        self._ahead = simpy.Resource(env, 2)
        self.busy = 0.0
        self._random = np.random.default_rng(0)
        env.process(self._run())

    def ask(self, client: int, points: int) -> simpy.Event:
        """Ring with a request; the event of its answer."""
        request = Request(1, 1, 0, points, self._version.number, 0, 1.0, NEVER)
        piece: Piece[int] = Piece(client, request, None, self._model, self._version, 0)
        self._done[piece] = self._env.event()
        self._queue.add(piece)
        if not self._rung.triggered:
            self._rung.succeed()
        return self._done[piece]

    def _run(self) -> Steps:
        compute = simpy.Resource(self._env)
        while True:
            if not self._queue:
                self._rung = self._env.event()
                yield self._rung
                yield self._env.timeout(self._costs.wake)
            ahead = self._ahead.request()  # the next batch comes in while one is computed
            yield ahead
            batch = self._taken()
            self._env.process(self._through(batch, compute, ahead))
            if not self._costs.way_in:
                yield self._env.process(self._idle(compute))

    def _taken(self) -> Batch[int]:
        batch = self._queue.next_batch()
        for piece, part in zip(batch.pieces, batch.parts, strict=True):
            piece.done = part.stop
            if not piece.left:
                self._queue.finished(piece)
        return batch

    def _idle(self, compute: simpy.Resource) -> Steps:
        """Until what has been begun is computed: one thread does everything."""
        with compute.request() as turn:
            yield turn

    def _through(self, batch: Batch[int], compute: simpy.Resource, ahead: Any) -> Steps:
        costs, n = self._costs, batch.points
        finished = [piece for piece in batch.pieces if not piece.left]
        if costs.way_in:
            yield from _hold(self._env, self._in, costs.way_in * n)
        with compute.request() as turn:
            yield turn
            factor = float(self._random.choice(costs.scatter(n)))
            seconds = costs.per_batch + costs.per_piece * len(batch.pieces) + factor * costs.service(n)
            self.busy += seconds
            yield from _hold(self._env, self._cores, seconds)
        self._ahead.release(ahead)
        if costs.way_out:
            yield from _hold(self._env, self._out, costs.way_out * n)
        for piece in finished:
            self._done.pop(piece).succeed()


class Meeting:
    """Where all ranks wait for the last."""

    def __init__(self, env: simpy.Environment, ranks: int) -> None:
        self._env, self._ranks, self._there, self._event = env, ranks, 0, env.event()
        self.times = [env.now]

    def arrive(self) -> simpy.Event:
        """The event that all are there."""
        self._there += 1
        event = self._event
        if self._there == self._ranks:
            self._there, self._event = 0, self._env.event()
            self.times.append(self._env.now)
            event.succeed()
        return event


def simulate(layout: Layout, load: Load, costs: Costs, version: Version) -> Run:
    """Run the model.

    Args:
        layout: who is where.
        load: what the ranks do.
        costs: what that takes.
        version: of a model, whose batch size the servers use.
    """
    env = simpy.Environment()
    nodes = -(-layout.ranks // layout.per_node)
    cores = [None if layout.cores is None else simpy.Resource(env, layout.cores) for _ in range(nodes)]
    nets = [(simpy.Resource(env), simpy.Resource(env)) for _ in range(nodes)]
    firsts = range(0, layout.ranks, layout.per_server)
    servers = [Server(env, costs, version, cores[first // layout.per_node]) for first in firsts]
    meeting, run = Meeting(env, layout.ranks), Run(np.zeros((load.iterates, layout.ranks)), np.empty(0))

    def rank(number: int) -> Steps:
        server, node = servers[number // layout.per_server], number // layout.per_node
        for iterate in range(load.iterates):
            yield from _hold(env, cores[node], load.work(number, iterate))
            start = env.now
            yield from _evaluate(env, number, load.points, layout, costs, server, cores[node], nets[node])
            run.latencies[iterate, number] = env.now - start
            yield meeting.arrive()

    for number in range(layout.ranks):
        env.process(rank(number))
    env.run()
    run.iterates, run.busy = np.diff(meeting.times), [server.busy for server in servers]
    return run


def _evaluate(
    env: simpy.Environment,
    number: int,
    points: int,
    layout: Layout,
    costs: Costs,
    server: Server,
    cores: simpy.Resource | None,
    nets: tuple[simpy.Resource, simpy.Resource],
) -> Steps:
    """One call of a client: requests while there are slots, results in the order they come."""
    left, under_way = points, list[tuple[simpy.Event, int]]()
    while left or under_way:
        while left and len(under_way) < layout.slots:
            n = min(left, layout.slot)
            yield from _hold(env, cores, costs.per_request + costs.fill * n)
            yield from _hold(env, nets[0], costs.network_in * n)
            under_way.append((server.ask(number, n), n))
            left -= n
        done, n = under_way.pop(0)
        if not done.processed:
            yield done
            yield env.timeout(costs.wake)
        yield from _hold(env, nets[1], costs.network_out * n)
        yield from _hold(env, cores, costs.read * n)


def _hold(env: simpy.Environment, resource: simpy.Resource | None, seconds: float) -> Steps:
    """Have one of what there is for so long."""
    if not seconds:
        return
    if resource is None:
        yield env.timeout(seconds)
        return
    with resource.request() as turn:
        yield turn
        yield env.timeout(seconds)

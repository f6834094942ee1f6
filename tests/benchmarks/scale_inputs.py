"""What the scale plan takes from measurement: the costs of a server on this machine, and runs to check the model by."""

from __future__ import annotations

import multiprocessing
import os
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np

from coupling.contract import Array
from coupling.serving import RemoteSurrogate
from coupling.serving.evaluation import Part
from coupling.serving.models import Version, probes
from coupling.serving.segment import Layout, create
from tests.benchmarks.scale_model import Costs, Load, Run
from tests.benchmarks.serve_crews import MODEL

_LEADING = 256
SIZES = (1, 16, 64, 256, 512, 1024, 2048)
_INPUTS = 0.2
"""Share of the client's copying that comes before the request: 24 of 137 bytes a point in 2D."""


class Service:
    """Seconds of batches, evaluated as the server does, and by which factors they vary."""

    def __init__(self, version: Version, repeats: int = 15, calls: int = 3) -> None:
        segment, descriptor = create(Layout.fitting(version.evaluator.spec))
        os.close(descriptor)
        slot = segment.slots[0]
        slot.gradient[:] = probes(version.evaluator.spec, len(slot.gradient), 0.05)
        times = np.zeros((repeats * calls, len(SIZES)))
        for repeat in range(repeats):
            for column, n in enumerate(SIZES):
                for call in range(calls):
                    start = time.perf_counter()
                    version.evaluator.evaluate([Part(slot, 0, n)], 1.0, False)
                    times[repeat * calls + call, column] = time.perf_counter() - start
        self.medians = np.median(times, axis=0)
        self.factors = times / self.medians

    def __call__(self, n: int) -> float:
        """Median seconds of a batch of n points."""
        return float(np.interp(n, SIZES, self.medians))

    def scatter(self, n: int) -> Array:
        """Factors by which batches of about n points varied."""
        factors: Array = self.factors[:, int(np.abs(np.log(np.array(SIZES) / n)).argmin())]
        return factors


def measured_costs(version: Version, address: str) -> Costs:
    """The costs of a server at an address.

    What surrounds a batch is told from what surrounds each request in it by requests of one point that arrive while the
    server is busy with a larger one, and then are a batch.
    """
    service = Service(version)
    with RemoteSurrogate(MODEL, address=address) as remote:
        one, many, eight = (_Call.median(remote, sizes) for sizes in ([1], [2048], [_LEADING] + 7 * [1]))
    single = max(0.0, one.server - service(1))
    pieces = eight.server - service(_LEADING) - service(7) - 2.0 * single
    piece = float(np.clip(pieces / 6.0, 0.0, single))
    copying = max(0.0, many.client - one.client) / 2047.0
    return Costs(
        service,
        service.scatter,
        per_batch=single - piece,
        per_piece=piece,
        fill=_INPUTS * copying,
        read=(1.0 - _INPUTS) * copying,
        per_request=one.client,
        wake=max(0.0, one.trip - one.client - one.server) / 2.0,
    )


def as_numbers(costs: Costs) -> dict[str, Any]:
    """Measured costs for JSON."""
    assert isinstance(costs.service, Service)
    medians = dict(zip(map(str, SIZES), costs.service.medians.tolist(), strict=True))
    spread = {str(n): np.percentile(costs.scatter(n), (50, 90, 99)).tolist() for n in SIZES}
    names = ("per_batch", "per_piece", "fill", "read", "per_request", "wake")
    return {"service": medians, "scatter": spread, **{name: getattr(costs, name) for name in names}}


class _Call:
    """Seconds of a call: from begin to end, and of both processes at work."""

    def __init__(self, trip: float, client: float, server: float) -> None:
        self.trip, self.client, self.server = trip, client, server

    @classmethod
    def median(cls, remote: RemoteSurrogate, sizes: list[int], blocks: int = 9, calls: int = 40) -> _Call:
        gradients, found = [probes(remote.spec, n, 0.05) for n in sizes], []
        assert remote.server is not None
        for _ in range(blocks):
            start = time.perf_counter(), time.process_time(), _on_core(remote.server)
            for _ in range(calls):
                tickets = [remote.submit(gradient, None, 1.0) for gradient in gradients]
                for ticket in tickets:
                    remote.collect(ticket)
            end = time.perf_counter(), time.process_time(), _on_core(remote.server)
            found.append([(b - a) / calls for a, b in zip(start, end, strict=True)])
        return cls(*map(float, np.median(found, axis=0)))


def _on_core(pid: int) -> float:
    """Seconds that a process has been running."""
    return 1e-9 * int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def measured_run(address: str, ranks: int, load: Load) -> Run:
    """The same as :func:`tests.benchmarks.scale_model.simulate`, by processes."""
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(ranks), context.SimpleQueue()
    processes = [context.Process(target=_rank, args=(r, address, load, barrier, results)) for r in range(ranks)]
    for process in processes:
        process.start()
    found = dict(results.get() for _ in processes)
    for process in processes:
        process.join()
    latencies = np.array([found[rank][0] for rank in range(ranks)]).T
    return Run(latencies, np.diff(found[0][1]))


def _rank(number: int, address: str, load: Load, barrier: Barrier, results: Any) -> None:
    with RemoteSurrogate(MODEL, address=address) as remote:
        gradient: Array = probes(remote.spec, load.points, 0.05)
        remote.evaluate(gradient, None, 1.0)
        barrier.wait()
        latencies, times = [], [time.perf_counter()]
        for iterate in range(load.iterates):
            end = time.process_time() + load.work(number, iterate)
            while time.process_time() < end:
                pass
            start = time.perf_counter()
            remote.evaluate(gradient, None, 1.0)
            latencies.append(time.perf_counter() - start)
            barrier.wait()
            times.append(time.perf_counter())
    results.put((number, (latencies, times)))

"""What the scale plan takes from measurement: the costs of a server on this machine, and runs to check the model by."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
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
from tests.benchmarks.timing import interleaved

SIZES = (1, 16, 64, 256, 512, 1024, 2048)
_INPUTS = 0.2
"""Share of the client's copying that comes before the request: 24 of 137 bytes a point in 2D."""


def service_times(version: Version, repeats: int = 15) -> dict[int, float]:
    """Seconds of a batch of each size, evaluated as the server does."""
    segment, descriptor = create(Layout.fitting(version.evaluator.spec))
    os.close(descriptor)
    slot = segment.slots[0]
    slot.gradient[:] = probes(version.evaluator.spec, len(slot.gradient), 0.05)

    def task(n: int) -> Callable[[], None]:
        parts = [Part(slot, 0, n)]
        return lambda: version.evaluator.evaluate(parts, 1.0, False)

    found = interleaved({str(n): task(n) for n in SIZES}, repeats=repeats, calls=3)
    return {n: found[str(n)] for n in SIZES}


def measured_costs(version: Version, address: str) -> tuple[Costs, dict[str, Any]]:
    """The costs of a server at an address, and the numbers they come from."""
    times = service_times(version)

    def service(n: int) -> float:
        return float(np.interp(n, SIZES, list(times.values())))

    with RemoteSurrogate(MODEL, address=address) as remote:
        one, many = (_Call.median(remote, n, 1) for n in (1, 2048))
        eight = _Call.median(remote, 1, 8)
    single = max(0.0, one.server - service(1))
    piece = float(np.clip((eight.server - service(8) - single) / 7.0, 0.0, single))
    copying = max(0.0, many.client - one.client) / 2047.0
    costs = Costs(
        service,
        per_batch=single - piece,
        per_piece=piece,
        fill=_INPUTS * copying,
        read=(1.0 - _INPUTS) * copying,
        per_request=one.client,
        wake=max(0.0, one.trip - one.client - one.server) / 2.0,
    )
    numbers = {name: value for name, value in vars(costs).items() if name != "service"}
    return costs, {"service": times, **numbers}


class _Call:
    """Seconds of a call: from begin to end, and of both processes at work."""

    def __init__(self, trip: float, client: float, server: float) -> None:
        self.trip, self.client, self.server = trip, client, server

    @classmethod
    def median(cls, remote: RemoteSurrogate, points: int, at_once: int, blocks: int = 9, calls: int = 60) -> _Call:
        gradient, found = probes(remote.spec, points, 0.05), []
        assert remote.server is not None
        for _ in range(blocks):
            start = time.perf_counter(), time.process_time(), _on_core(remote.server)
            for _ in range(calls):
                tickets = [remote.submit(gradient, None, 1.0) for _ in range(at_once)]
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
